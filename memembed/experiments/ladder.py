"""The ladder of chapter 6: from the full tables to a hundredth of their bytes.

A rung of it is one model. `make study` climbs the ladder for several splits and seeds,
and keeps the rows in `results/ladder.csv`. The chapter climbs it once, with the
functions of this module.
"""

import warnings
from dataclasses import replace

import keras
from tqdm import tqdm

from memembed.compression import average, compress, pack
from memembed.data import load_ratings, prepare
from memembed.experiments.journal import measure_and_keep
from memembed.layers import MDEmbedding
from memembed.models import dot_product_model
from memembed.sizing import md_plan
from memembed.training import (
    EXAMPLE,
    RESULT_COLUMNS,
    Settings,
    measure,
    split_hash,
    train,
)

# Chosen on the validation part of the first split.
FULL = Settings(3e-3, "cosine", epochs=8, batch_size=1024, l2=0.02, huber_delta=1.5)
NARROW = replace(FULL, l2=0.005)
ROUNDED = replace(FULL, learning_rate=1e-3, epochs=4, l2=0.01)

LAST = "few bits of an average, a hundredth"
KEY = ["name", "split_seed", "seed", "split"]
COLUMNS = ["split_seed", *RESULT_COLUMNS]


def plain(data, columns, biases=True):
    """Return a model of plain tables, untrained.

    Args:
        data: `memembed.data.RatingData`.
        columns: length of an embedding.
        biases: whether there are biases.
    """
    users, movies = (
        keras.layers.Embedding(len(vocabulary), columns, name=f"{side}_embedding")
        for side, vocabulary in (("user", data.users), ("movie", data.movies))
    )
    return dot_product_model(users, movies, biases=biases)


def mixed(data, columns):
    """Return a model of mixed dimensions on both sides, and biases, untrained.

    Args:
        data: `memembed.data.RatingData`.
        columns: the tables are as large as plain tables with this many columns.
    """
    layers = []
    for side, vocabulary in (("user", data.users), ("movie", data.movies)):
        budget = columns * len(vocabulary)
        plan = md_plan(vocabulary.counts, 32, max_parameters=budget, alpha=0.8)
        layers.append(MDEmbedding(**plan, name=f"{side}_embedding"))
    return dot_product_model(*layers, biases=True)


def trained(build, data, settings, seed=0):
    """Build a model and train it.

    Args:
        build: a function without arguments that returns a rating model.
        data: `memembed.data.RatingData`.
        settings: `memembed.training.Settings`.
        seed: seed of the initial weights and of the order of the ratings.
    """
    keras.utils.set_random_seed(seed)
    model = build()
    train(model, data, settings)
    return model


def full(data, seed=0):
    """Return the full tables, trained with the settings `FULL`.

    Args:
        data: `memembed.data.RatingData`.
        seed: seed of the initial weights and of the order of the ratings.
    """
    return trained(lambda: plain(data, 64), data, FULL, seed)


def in_int8(model):
    """Return a copy of a model in Keras's int8, which has a scale for each row."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    with warnings.catch_warnings():  # about layers without weights
        warnings.filterwarnings("ignore", "Layer .* does not have a `quantize` method")
        copy.quantize("int8")
    return copy


def few_bits(model, data, max_bytes, settings, seed=0):
    """Compress a model, train it through the rounding, and pack it.

    Args:
        model: a trained `dot_product_model`.
        data: `memembed.data.RatingData`.
        max_bytes: how many bytes the packed model may take.
        settings: `memembed.training.Settings`.
        seed: seed of the order of the ratings.
    """
    return pack(
        trained(
            lambda: compress(model, data.train.inputs, max_bytes, verbose=0),
            data,
            settings,
            seed,
        )
    )


def climb(data, seed, all_rungs=True):
    """Yield the rungs: results of models as they would be stored.

    Args:
        data: `memembed.data.RatingData`.
        seed: seed of the initial weights and of the order of the ratings.
        all_rungs: False gives only the rungs that the bars are about.

    Yields:
        `memembed.training.Result` objects.
    """

    def rung(name, model, settings=None):
        return measure(name, model, data, settings=settings, seed=seed, verbose=False)

    start = trained(lambda: plain(data, 64, biases=False), data, EXAMPLE, seed)
    yield (first := rung("full tables", start, EXAMPLE))
    best = full(data, seed)
    yield (second := rung("full tables at their best", best, FULL))
    hundredth = first.bytes // 100
    if all_rungs:
        narrow = trained(lambda: plain(data, 12), data, NARROW, seed)
        yield rung("12 columns", narrow, NARROW)
        yield rung("12 columns in int8", in_int8(narrow))
        dimensions = trained(lambda: mixed(data, 6), data, NARROW, seed)
        yield rung("mixed dimensions", dimensions, NARROW)
        yield rung("mixed dimensions in int8", in_int8(dimensions))
        untrained = pack(compress(best, data.train.inputs, hundredth, verbose=0))
        yield rung("few bits, not trained", untrained)
        small = few_bits(best, data, hundredth, ROUNDED, seed)
        yield rung("few bits", small, ROUNDED)
    mean = average([best, full(data, seed + 100)])  # a seed that no other climb has
    budgets = [("few bits of an average, a thirtieth", second.bytes // 30)]
    if all_rungs:
        name = "few bits of an average, a 120th"
        budgets.append((name, first.bytes // 120))
    for name, max_bytes in [*budgets, (LAST, hundredth)]:
        small = few_bits(mean, data, max_bytes, ROUNDED, seed)
        yield rung(name, small, ROUNDED)


def ladder(
    ratings,
    journal,
    splits=range(3),
    seeds=range(5),
    climb=climb,
    progress=tqdm,
    last=LAST,
):
    """Climb the ladder for each split and seed that the journal does not have yet.

    Args:
        ratings: as `memembed.data.load_ratings` returns.
        journal: `memembed.experiments.journal.Journal` with the columns `COLUMNS`.
        splits: seeds of the splits. Only the split of seed 0 has all rungs.
        seeds: seeds of the models.
        climb: this module's `climb`, or a replacement.
        progress: `tqdm`, or a replacement.
        last: name of the last rung.
    """
    with progress(total=len(splits) * len(seeds), desc="ladder", unit="climb") as bar:
        for split_seed in splits:
            data = prepare(ratings, seed=split_seed)
            key = {"split_seed": split_seed, "split": split_hash(data)}
            for seed in seeds:
                if key | {"name": last, "seed": seed} not in journal:
                    for result in climb(data, seed, all_rungs=split_seed == 0):
                        row = key | result.row()
                        if row not in journal:
                            journal.append(row)
                bar.update()


def main():
    """Run `python -m memembed.experiments.ladder`."""
    measure_and_keep(
        "ladder",
        ladder.__doc__.splitlines()[0],
        COLUMNS,
        KEY,
        lambda journal: ladder(load_ratings(), journal),
    )


if __name__ == "__main__":
    main()
