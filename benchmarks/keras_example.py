"""The Keras example's training, reimplemented to be timed against ours.

"Memory-efficient embeddings for recommendation systems" (Khalid Salama, 2021) writes
the ratings to CSV files, reads them back in shuffled batches with `make_csv_dataset`,
looks the ids up as strings inside the model, and calls `fit` with its defaults. The
tables have the example's shapes.
"""

import contextlib
import tempfile
import time
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

WIDTH = 64
NUM_BUCKETS = 120
CUTS = (400, 1700)  # positions that cut the movies, by popularity, into blocks
BLOCK_DIMS = (64, 32, 16)


class QuotientRemainder(keras.layers.Layer):
    """Turns a user's name into a row, its quotient and remainder, and an embedding."""

    def __init__(self, vocabulary):
        super().__init__()
        self.lookup = keras.layers.StringLookup(
            vocabulary=vocabulary, num_oov_indices=0, mask_token=None
        )
        self.quotients = keras.layers.Embedding(NUM_BUCKETS, WIDTH)
        self.remainders = keras.layers.Embedding(NUM_BUCKETS, WIDTH)

    def call(self, names):
        rows = self.lookup(names)
        quotient = tf.math.floordiv(rows, NUM_BUCKETS)
        remainder = tf.math.floormod(rows, NUM_BUCKETS)
        return self.quotients(quotient) * self.remainders(remainder)


class MixedDimensions(keras.layers.Layer):
    """Each block looks up every movie, and a mask keeps the movies of the block."""

    def __init__(self, vocabularies, widths):
        super().__init__()
        names = [name for names in vocabularies for name in names]
        blocks = [b for b, names in enumerate(vocabularies) for _ in names]
        self.block_of = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(names, blocks), default_value=-1
        )
        self.lookups = [
            keras.layers.StringLookup(
                vocabulary=names, num_oov_indices=1, mask_token=None
            )
            for names in vocabularies
        ]
        self.tables = [
            keras.layers.Embedding(len(names) + 1, width)
            for names, width in zip(vocabularies, widths, strict=True)
        ]
        self.projections = [
            keras.layers.Dense(WIDTH) if width < WIDTH else None for width in widths
        ]

    def call(self, names):
        block = self.block_of.lookup(names)
        total = 0.0
        for b, (lookup, table, projection) in enumerate(
            zip(self.lookups, self.tables, self.projections, strict=True)
        ):
            rows = table(lookup(names))
            if projection is not None:
                rows = projection(rows)
            mask = tf.cast(tf.equal(block, b), "float32")
            total += rows * tf.expand_dims(mask, -1)
        return total


def rating_model(users, movies):
    """Build the example's model from two functions that embed an input of names."""
    inputs = {
        name: keras.Input((), dtype="string", name=name) for name in ("user", "movie")
    }
    score = keras.layers.Dot(axes=1)([users(inputs["user"]), movies(inputs["movie"])])
    return keras.Model(inputs, keras.ops.sigmoid(score) * 5)


def full_table(vocabulary):
    """Return a lookup of names followed by a full table."""
    return keras.Sequential(
        [
            keras.layers.StringLookup(
                vocabulary=vocabulary, num_oov_indices=0, mask_token=None
            ),
            keras.layers.Embedding(len(vocabulary), WIDTH),
        ]
    )


def builders(data):
    """Return, by name, functions that build the example's two models."""
    users = [f"user_{i}" for i in data.users.ids]
    movies = [f"movie_{i}" for i in data.movies.ids]
    blocks = [list(part) for part in np.split(movies, CUTS)]
    return {
        "baseline": lambda: rating_model(full_table(users), full_table(movies)),
        "QR and MD": lambda: rating_model(
            QuotientRemainder(users), MixedDimensions(blocks, BLOCK_DIMS)
        ),
    }


def run(data, epochs=3, batch_size=128):
    """Train the example's two models.

    Args:
        data: `memembed.data.RatingData`; uses `train` and `evaluation`.
        epochs: passes over the training split.
        batch_size: ratings per step.

    Returns:
        For each model, a dict of its name, parameters, seconds and evaluation errors.
        The seconds are those of training, including compilation, without writing the
        files.
    """
    results = []
    with datasets(data, batch_size) as (train, evaluation):
        for name, build in builders(data).items():
            keras.utils.set_random_seed(0)
            model = build()
            start = time.perf_counter()
            model.compile(keras.optimizers.Adam(1e-3), "mse", metrics=["mse", "mae"])
            history = model.fit(
                train,
                epochs=epochs,
                validation_data=evaluation,
                shuffle=False,  # the dataset shuffles
                verbose=0,
            ).history
            results.append(
                {
                    "model": name,
                    "parameters": model.count_params(),
                    "seconds": time.perf_counter() - start,
                    "MSE": history["val_mse"][-1],
                    "MAE": history["val_mae"][-1],
                }
            )
    return results


@contextlib.contextmanager
def datasets(data, batch_size=128):
    """Write both splits to files, and yield datasets that read them."""
    with tempfile.TemporaryDirectory() as folder:
        yield tuple(
            _csv_dataset(part, data, Path(folder) / f"{name}.csv", batch_size)
            for name, part in (("train", data.train), ("eval", data.evaluation))
        )


def _csv_dataset(part, data, path, batch_size):
    """Write a split to a file, and return a dataset that reads it."""
    table = pd.DataFrame(
        {
            "user": data.users.decode(part.user),
            "movie": data.movies.decode(part.movie),
            "rating": part.rating,
        }
    )
    table["user"] = "user_" + table["user"].astype(str)
    table["movie"] = "movie_" + table["movie"].astype(str)
    table.to_csv(path, sep="|", index=False, header=False)
    dataset = tf.data.experimental.make_csv_dataset(
        str(path),
        batch_size=batch_size,
        column_names=list(table),
        label_name="rating",
        column_defaults=["", "", 0.0],
        num_epochs=1,
        header=False,
        field_delim="|",
        shuffle=True,
    )
    # Keras sorts a dict's entries by name, but keeps the order of an OrderedDict.
    dataset = dataset.map(lambda names, rating: (dict(names), rating))
    steps = -(-len(table) // batch_size)
    return dataset.apply(tf.data.experimental.assert_cardinality(steps))
