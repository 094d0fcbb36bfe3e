"""Measure error and bytes of each method as the number of users grows.

The ratings are synthetic, so the least error is known: the variance of the noise.

    .venv/bin/python -m benchmarks growth
"""

import math
import tempfile
from functools import cache
from itertools import product
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from tqdm import tqdm

from benchmarks.machine import spread, versions
from benchmarks.streaming import kept
from memembed import HashEmbedding, MDEmbedding, QREmbedding, compress, pack
from memembed.compression import num_bytes
from memembed.data import RatingShards, Vocabulary, write_synthetic_shards
from memembed.experiments.evidence import walk
from memembed.experiments.results import stored
from memembed.models import dot_product_model, penalize
from memembed.optimizers import RowwiseAdagrad

__all__ = ["measure", "section", "versions"]

USERS = {10**5: 3, 10**6: 1, 10**7: 1}  # users: number of seeds
MOVIES, RATINGS_OF_A_USER, NOISE = 1000, 20, 0.8
COLUMNS, BATCH_SIZE, EPOCHS = 16, 4096, 5
# The penalty and the learning rate at step 0, the factor between two steps, and the
# pairs of steps with which the search starts.
PENALTY, RATE, FACTOR = 0.03, 0.1, 3
STARTS = tuple(product((-9, -3, 0), (0, 1)))
HELD_OUT = 5 * 10**5


def columns(width):
    """Return a function that makes a plain table, and its number of columns."""
    return lambda ids: _plain(ids, width), width


def _plain(ids, width):
    return keras.layers.Embedding(ids, width, name="user_embedding")


def mixed_dimensions(ids):
    """Return tables of 16 columns for few users, and of 1 for most."""
    sizes = [ids // 100, ids // 25]
    sizes.append(ids - sum(sizes))
    return MDEmbedding(sizes, (16, 4, 1), COLUMNS, name="user_embedding")


def hashing(numbers):
    """Return a function that makes a hashed table of `numbers` numbers per id."""
    return lambda ids: _hashed(ids, int(ids * numbers / COLUMNS))


def _hashed(ids, rows):
    return HashEmbedding(ids, COLUMNS, rows, name="user_embedding")


def quotient_remainder(numbers):
    """Return a function that makes two tables of `numbers` numbers per id."""

    def make(ids):
        rows = ids * numbers / COLUMNS  # of both tables; either may be the larger one
        buckets = int((rows + math.sqrt(rows**2 - 4 * ids)) / 2)
        return QREmbedding(ids, COLUMNS, buckets, name="user_embedding")

    return make


# One for each user and each movie. Methods with this in their name have them.
BIAS = "bias"
FULL = f"full table and {BIAS}"
METHODS = {
    "no user table": (lambda ids: _hashed(ids, 1), COLUMNS),  # one row for all
    BIAS: (lambda ids: _hashed(ids, 1), COLUMNS),
    f"{BIAS} and quotient and remainder, 1.25 numbers": (
        quotient_remainder(1 / 4),
        COLUMNS,
    ),
    "full table": columns(COLUMNS),
    FULL: columns(COLUMNS),
    f"4 columns and {BIAS}": columns(4),
    f"1 column and {BIAS}": columns(1),
    f"mixed dimensions and {BIAS}": (mixed_dimensions, COLUMNS),
    **{
        f"{name}, {numbers:g} numbers": (method(numbers), COLUMNS)
        for name, method in (
            ("hashing", hashing),
            ("quotient and remainder", quotient_remainder),
        )
        for numbers in (1, 1 / 4, 1 / 8)
    },
}
# What is compressed to few bits afterwards. For each: the name of the results, how
# many numbers an id has before, and the bytes an id may take, in numbers of 4 bytes.
COMPRESSED = {
    BIAS: ("bias in few bits", 1, (1 / 4, 1 / 8)),
    FULL: ("few bits", COLUMNS + 1, (4, 1, 1 / 4)),
}


# With ten million users, a training takes up to an hour, and 10 GB: only these.
LONG = 10**7
OF_LONG = (
    "no user table",
    BIAS,
    FULL,
    f"1 column and {BIAS}",
    f"mixed dimensions and {BIAS}",
    "hashing, 1 numbers",
    "quotient and remainder, 1 numbers",
)


def measure(repeats):
    """Yield the table after each model. `USERS` has the number of seeds."""
    found, chosen = [], {}
    for users, seeds in USERS.items():
        names = METHODS if users < LONG else OF_LONG
        with tempfile.TemporaryDirectory() as folder:
            data = Data(Path(folder), users)
            for seed in range(seeds):
                for name in tqdm(names, f"{users:,} users, seed {seed}"):
                    if name not in chosen:
                        chosen[name] = choose(data, name)
                    model = data.trained(name, *chosen[name], seed)
                    models = {name: model}
                    if name in COMPRESSED:
                        models |= data.compressed(model)
                    for each, small in models.items():
                        error, size = data.error(small, "evaluation"), num_bytes(small)
                        found.append([users, seed, each, *chosen[name], size, error])
                    columns = ["users", "seed", "method", "l2", "rate", "bytes", "mse"]
                    yield {"growth": pd.DataFrame(found, columns=columns)}


def choose(data, name):
    """Return the penalty and the learning rate with the least validation error.

    The search starts at the best of `STARTS`. From there it moves the penalty, and then
    the rate, up and down for as long as the error falls.
    """

    @cache
    def loss(penalty, rate):
        settings = PENALTY * FACTOR**penalty, RATE * FACTOR**rate
        return data.error(data.trained(name, *settings, seed=0), "validation")

    penalty, rate = min(STARTS, key=lambda start: loss(*start))
    tried = walk(lambda step: loss(penalty + step, rate))
    penalty += min(tried, key=tried.get)
    tried = walk(lambda step: loss(penalty, rate + step))
    rate += min(tried, key=tried.get)
    return PENALTY * FACTOR**penalty, RATE * FACTOR**rate


class Data:
    """Ratings of `users` users, in files."""

    def __init__(self, folder, users):
        self.shards = {}
        parts = ("train", "validation", "evaluation")
        for seed, part in enumerate(parts):
            count = HELD_OUT if seed else users * RATINGS_OF_A_USER
            write_synthetic_shards(
                folder / part, count, users, MOVIES, NOISE, seed, progress=_silent
            )
            self.shards[part] = RatingShards(folder / part)
        train = self.shards["train"]
        self.movies = train.vocabulary("movie_id", progress=_silent)
        self.users = train.vocabulary("user_id", min_count=2, progress=_silent)
        places = np.random.default_rng(0).permutation(len(self.users.ids))
        self.shuffled = Vocabulary.from_counts(np.sort(self.users.ids), places, 1)

    def batches(self, name, part):
        """Return the batches of a part, with the user rows that the method needs."""
        users = self.shuffled if "quotient" in name else self.users
        return self.shards[part].batches(users, self.movies, BATCH_SIZE)

    def trained(self, name, l2, rate, seed):
        """Return a trained model."""
        keras.utils.clear_session()
        keras.utils.set_random_seed(seed)
        make, width = METHODS[name]
        movies = keras.layers.Embedding(len(self.movies), width, name="movie_embedding")
        model = dot_product_model(
            make(len(self.users)),
            movies,
            biases=BIAS in name,
            mean_rating=3.5,
            max_rating=7.0,
        )
        penalize(model, l2)
        batches = self.batches(name, "train")
        rate = keras.optimizers.schedules.CosineDecay(rate, EPOCHS * len(batches))
        options = {"jit_compile": True, "steps_per_execution": 8}
        model.compile(RowwiseAdagrad(rate), "mse", **options)
        model.fit(**kept(batches, BATCH_SIZE), epochs=EPOCHS, verbose=0)
        model.method = name
        return model

    def compressed(self, model):
        """Return a model compressed to few bits, in several sizes."""
        batches = self.batches(model.method, "train")
        inputs = [batches[i][0] for i in range(min(len(batches), 256))]
        examples = {
            name: np.concatenate([each[name] for each in inputs])
            for name in ("user", "movie")
        }
        found = {}
        title, numbers, sizes = COMPRESSED[model.method]
        for each in sizes:
            limit = int(num_bytes(model) * each / numbers)
            small = pack(compress(model, examples, limit, verbose=0))
            small.method = model.method
            found[f"{title}, {each:g} numbers"] = small
        return found

    def error(self, model, part):
        """Return the mean squared error of a model."""
        batches = self.batches(model.method, part)
        total = count = 0
        for i in range(len(batches)):
            inputs, ratings = batches[i]
            predicted = model.predict_on_batch(inputs)[:, 0]
            total += float(((predicted - ratings) ** 2).sum())
            count += len(ratings)
        return total / count


def _silent(values, *_, **__):
    return values


def section():
    """Render the stored table."""
    found = stored("growth").groupby(["users", "method"], sort=False)
    table = found.agg({"bytes": "mean", "l2": "first", "rate": "first"})
    table["bytes for each user"] = table["bytes"] / table.index.get_level_values(0)
    table["MSE"] = found.mse.agg(lambda values: spread(values, "{:.4f}"))
    shown = table.drop(columns="bytes").rename(columns={"rate": "learning rate"})
    return [
        "## What each method loses as the number of users grows",
        f"Synthetic ratings, {RATINGS_OF_A_USER} per user, of {MOVIES:,} movies. The "
        f'least error that a model can reach is {NOISE**2:.2f}. "Numbers" are those '
        f"per user, 4 bytes each; a full table has {COLUMNS}, and a bias is one more. "
        "Without a user table, all users share one row. Penalty and learning rate are "
        f"chosen on validation data, for {min(USERS):,} users.",
        shown.reset_index().to_markdown(index=False, floatfmt=".3g"),
    ]
