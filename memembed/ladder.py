"""The ladder of chapter 6: from the full tables to a hundredth of them.

`make study` climbs it for several splits and seeds, after the study of chapter 5, and
keeps what it finds in `memembed/results/ladder.csv`. The chapter climbs it once.
"""

import time
from pathlib import Path

import keras
from tqdm import tqdm

from memembed.compress import compress
from memembed.data import prepare
from memembed.layers import pack
from memembed.models import dot_product_model
from memembed.results import Journal
from memembed.sizing import md_plan
from memembed.study import PLAIN, Configuration, split_hash, versions
from memembed.training import cosine, evaluate, train

BASELINE_BYTES = 4 * 64 * (6040 + 3706)

EXAMPLE = {"epochs": 3, "batch_size": 128, "learning_rate": 1e-3}
# Chosen on the validation part of the first split.
HUBER = keras.losses.Huber(2.0)
LONGER = {"epochs": 12, "batch_size": 1024, "learning_rate": cosine(1e-2, 12)}
LONGER |= {"loss": HUBER}
ROUNDED = LONGER | {"learning_rate": cosine(3e-3, 12)}
L2 = 0.03

SPLITS, SEEDS = range(3), range(5)
KEY = ["rung", "split_seed", "seed", "split"]
COLUMNS = [*KEY, "bytes", "val_mse", "val_mae", "mse", "mae", "seconds", "versions"]
PATH = Path(__file__).parent / "results" / "ladder.csv"


def plain(data, columns, biases=False, l2=0.0):
    """Return a model of plain tables, untrained.

    Args:
        data: `memembed.data.RatingData`.
        columns: length of an embedding.
        biases: whether there are biases.
        l2: see `memembed.study.Configuration.build`.
    """
    names = ["user", "movie", "user_bias", "movie_bias"][: 4 if biases else 2]
    layers = {name: PLAIN for name in names}
    return Configuration("plain", "both", "", columns, layers).build(data, l2)


def mixed(data, columns, most, l2):
    """Return a model with biases and mixed dimensions on both sides, untrained.

    Args:
        data: `memembed.data.RatingData`.
        columns: the tables are as large as plain ones with so many columns.
        most: columns of the widest block.
        l2: see `memembed.study.Configuration.build`.
    """
    layers = {"user_bias": PLAIN, "movie_bias": PLAIN}
    for name, vocabulary in (("user", data.users), ("movie", data.movies)):
        budget = columns * len(vocabulary)
        plan = md_plan(vocabulary.counts, most, max_parameters=budget, alpha=0.4)
        layers[name] = {"layer": "MDEmbedding", **plan}
        del layers[name]["output_dim"]
    return Configuration("MD", "both", "", most, layers).build(data, l2)


def quantized(model):
    """Return a copy of a model in the int8 of Keras: a scale for each row."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    copy.quantize("int8")
    return copy


def stored_bytes(model):
    """Count the bytes of a model's weights, in the types that they have."""
    return sum(weight.nbytes for weight in model.get_weights())


def climb(data, seed):
    """Yield each rung: its name and its model, as it would be stored.

    Args:
        data: `memembed.data.RatingData`.
        seed: seed of the initial weights and of the order of the batches.
    """

    def trained(build, **settings):
        keras.utils.set_random_seed(seed)
        model = build()
        train(model, data, **settings)
        return model

    def rounded(model, max_bytes):
        return compress(model, data.train, max_bytes)

    yield "full tables", trained(lambda: plain(data, 64), **EXAMPLE)
    yield "12 columns", trained(lambda: plain(data, 12), **EXAMPLE)
    yield "and biases", trained(lambda: plain(data, 12, biases=True), **EXAMPLE)
    narrow = trained(lambda: plain(data, 12, biases=True, l2=L2), **LONGER)
    yield "held back", narrow
    ...
