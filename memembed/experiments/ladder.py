"""The ladder of chapter 6: from the full tables to a hundredth of them.

`make study` climbs it for several splits and seeds, and keeps what it finds in
`memembed/experiments/results/ladder.csv`. The chapter climbs it once.
"""

import argparse
import warnings
from pathlib import Path

import keras
from tqdm import tqdm

from memembed.compression import average, compress
from memembed.data import load_ratings, prepare
from memembed.experiments.journal import Journal
from memembed.experiments.study import PLAIN, Configuration, split_hash, versions
from memembed.layers import pack
from memembed.models import LookupL2, embeddings_of
from memembed.sizing import md_plan
from memembed.training import cosine, evaluate, train

# The settings were chosen on the validation part of the first split, those of the
# baseline are the Keras example's.
EXAMPLE = {"epochs": 3, "batch_size": 128, "learning_rate": 1e-3}
HUBER = keras.losses.Huber(1.5)
FULL = {"epochs": 8, "batch_size": 1024, "learning_rate": cosine(3e-3, 8)}
FULL |= {"loss": HUBER}
ROUNDED = FULL | {"learning_rate": cosine(2e-3, 8)}
FINE = FULL | {"epochs": 4, "learning_rate": cosine(5e-4, 4)}
AVERAGED = 2  # full models, of seeds that no other climb has

BASELINE = 2_494_976  # bytes
FULL_AND_BIASES = 2_533_960

LAST = "few bits of an average, a hundredth"
SPLITS, SEEDS = range(3), range(5)
KEY = ["rung", "split_seed", "seed", "split"]
COLUMNS = [*KEY, "bytes", "val_mse", "val_mae", "mse", "mae", "versions"]
PATH = Path(__file__).parent / "results" / "ladder.csv"


def plain(data, columns, biases=True, l2=0.0):
    """Return a model of plain tables, untrained.

    Args:
        data: `memembed.data.RatingData`.
        columns: length of an embedding.
        biases: whether there are biases.
        l2: see `memembed.experiments.study.Configuration.build`.
    """
    names = ["user", "movie", "user_bias", "movie_bias"][: 4 if biases else 2]
    layers = {name: PLAIN for name in names}
    return Configuration("plain", "both", "", columns, layers).build(data, l2)


def mixed(data, columns, l2):
    """Return a model of mixed dimensions on both sides, and biases, untrained.

    Args:
        data: `memembed.data.RatingData`.
        columns: the tables are as large as plain ones of so many columns.
        l2: see `memembed.experiments.study.Configuration.build`.
    """
    layers = {"user_bias": PLAIN, "movie_bias": PLAIN}
    for name, vocabulary in (("user", data.users), ("movie", data.movies)):
        budget = columns * len(vocabulary)
        plan = md_plan(vocabulary.counts, 32, max_parameters=budget, alpha=0.8)
        blocks = {key: plan[key] for key in ("block_sizes", "block_dims")}
        layers[name] = {"layer": "MDEmbedding", **blocks}
    return Configuration("MD", "both", "", 32, layers).build(data, l2)


def hold_back(model, l2):
    """Penalise a model's embeddings by `l2`, and its biases by a twelfth of it.

    Args:
        model: a `dot_product_model`. It is changed.
        l2: how much the squares of what is looked up add to the loss.
    """
    for name, layer in embeddings_of(model).items():
        strength = l2 / 12 if name.endswith("bias") else l2
        layer.activity_regularizer = LookupL2(strength)


def in_int8(model):
    """Return a copy of a model in Keras's int8, which has a scale for each row."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    with warnings.catch_warnings():  # that layers without weights cannot be quantised
        warnings.filterwarnings("ignore", "Layer .* does not have a `quantize` method")
        copy.quantize("int8")
    return copy


def stored_bytes(model):
    """Count the bytes of a model's weights, each in the type that it has."""
    return sum(weight.nbytes for weight in model.get_weights())


def climb(data, seed, all_rungs=True):
    """Yield the rungs: the name of each, and its model as it would be stored.

    Args:
        data: `memembed.data.RatingData`.
        seed: seed of the initial weights and of the order of the batches.
        all_rungs: or else, only those that the bars are about.
    """

    def trained(build, settings, seed=seed):
        keras.utils.set_random_seed(seed)
        model = build()
        train(model, data, **settings)
        return model

    def full(seed):
        return trained(lambda: plain(data, 64, l2=0.02), FULL, seed)

    def rounded(model, max_bytes, l2, settings):
        def build():
            small = compress(model, data.train, max_bytes)
            hold_back(small, l2)
            return small

        return pack(trained(build, settings))

    yield "full tables", trained(lambda: plain(data, 64, biases=False), EXAMPLE)
    best = full(seed)
    yield "full tables at their best", best
    if all_rungs:
        narrow = trained(lambda: plain(data, 12, l2=0.005), FULL)
        yield "12 columns", narrow
        yield "12 columns in int8", in_int8(narrow)
        dimensions = trained(lambda: mixed(data, 6, l2=0.005), FULL)
        yield "mixed dimensions", dimensions
        yield "mixed dimensions in int8", in_int8(dimensions)
        yield "few bits, not trained", pack(compress(best, data.train, BASELINE // 100))
        yield "few bits", rounded(best, BASELINE // 100, 0.01, ROUNDED)
    others = [full(seed + 100 * i) for i in range(1, AVERAGED)]
    mean = average([best, *others])
    yield (
        "few bits of an average, a thirtieth",
        rounded(mean, FULL_AND_BIASES // 30, 0.02, FINE),
    )
    if all_rungs:
        yield (
            "few bits of an average, a 120th",
            rounded(mean, BASELINE // 120, 0.01, ROUNDED),
        )
    yield LAST, rounded(mean, BASELINE // 100, 0.01, ROUNDED)


def ladder(ratings, journal, progress=tqdm):
    """Climb the ladder for each split and seed that the journal does not have yet.

    Args:
        ratings: as `memembed.data.load_ratings` returns.
        journal: `memembed.experiments.journal.Journal` with the columns `COLUMNS`.
        progress: `tqdm`, or what takes its place.
    """
    with progress(total=len(SPLITS) * len(SEEDS), desc="ladder", unit="climb") as bar:
        for split_seed in SPLITS:
            data = prepare(ratings, seed=split_seed)
            last = {"rung": LAST, "split_seed": split_seed}
            last["split"] = split_hash(data)
            for seed in SEEDS:
                if last | {"seed": seed} not in journal:
                    for rung, model in climb(data, seed, all_rungs=split_seed == 0):
                        row = last | {"seed": seed, "rung": rung}
                        if row not in journal:
                            journal.append(row | measured(model, data))
                bar.update()


def measured(model, data):
    """Return what the ladder keeps of a model, a dict."""
    before, after = evaluate(model, data.validation), evaluate(model, data.evaluation)
    return {
        "bytes": stored_bytes(model),
        **{f"val_{name}": error for name, error in before.items()},
        **after,
        "versions": versions(),
    }


def main():
    """Run `python -m memembed.experiments.ladder`."""
    parser = argparse.ArgumentParser(description=ladder.__doc__.splitlines()[0])
    parser.add_argument("--path", type=Path, default=PATH, help="the file of results")
    ladder(load_ratings(), Journal(parser.parse_args().path, COLUMNS, KEY))


if __name__ == "__main__":
    main()
