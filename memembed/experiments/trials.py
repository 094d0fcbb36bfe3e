"""What did not help the few bits of chapter 6, compared with the ladder's way.

`make study` keeps the rows in `results/trials.csv`.
"""

from dataclasses import replace

from memembed.compression import compress, num_bytes, pack
from memembed.data import load_ratings
from memembed.experiments.journal import measure_and_keep
from memembed.experiments.ladder import (
    COLUMNS,
    KEY,
    ROUNDED,
    full,
    ladder,
    plain,
    trained,
)
from memembed.layers import LowBitEmbedding
from memembed.training import measure

LAST = "ratings of the full model"


def trials(data, seed, all_rungs=True):
    """Yield models of a hundredth of the example's bytes, made in several ways.

    Args:
        data: `memembed.data.RatingData`.
        seed: seed of the initial weights and of the order of the ratings.
        all_rungs: ignored. `ladder` passes it.

    Yields:
        `memembed.training.Result` objects.
    """
    best = full(data, seed)
    max_bytes = num_bytes(plain(data, 64, biases=False)) // 100
    predicted = best.predict(data.train.inputs, batch_size=8192, verbose=0)[:, 0]
    taught = replace(data, train=replace(data.train, rating=predicted))

    def trial(name, settings=ROUNDED, ratings=data, num_blocks=5, train_steps=False):
        def build():
            inputs = data.train.inputs
            small = compress(best, inputs, max_bytes, num_blocks, verbose=0)
            for layer in small.layers:
                if train_steps and isinstance(layer, LowBitEmbedding):
                    layer.train_steps = True
                    layer.offsets.trainable = layer.log_scales.trainable = True
            return small

        model = pack(trained(build, ratings, settings, seed))
        return measure(name, model, data, settings=settings, seed=seed, verbose=False)

    yield trial("as in this chapter")
    for num_blocks in (1, 3, 8):
        yield trial(f"blocks: {num_blocks} in place of 5", num_blocks=num_blocks)
    for epochs in (8, 12):
        longer = replace(ROUNDED, epochs=epochs)
        yield trial(f"epochs: {epochs} in place of 4", longer)
    yield trial("offsets and scales trained", train_steps=True)
    yield trial(LAST, ratings=taught)


def main():
    """Run `python -m memembed.experiments.trials`."""

    def measure(journal):
        ladder(load_ratings(), journal, range(1), range(3), trials, last=LAST)

    measure_and_keep("trials", __doc__.splitlines()[0], COLUMNS, KEY, measure)


if __name__ == "__main__":
    main()
