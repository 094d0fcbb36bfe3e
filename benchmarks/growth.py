"""See what each method loses, as the number of users grows: error and bytes.

The ratings are synthetic, so that the least error is known: the variance of the noise.

    .venv/bin/python -m benchmarks growth --repeats 1
"""

import math
import tempfile
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from benchmarks.machine import versions
from benchmarks.streaming import kept
from memembed.experiments.results import stored

__all__ = ["measure", "section", "versions"]

USERS = 10**5, 10**6
MOVIES, RATINGS_OF_A_USER, NOISE = 1000, 20, 0.8
COLUMNS, BATCH_SIZE, EPOCHS, RATE = 16, 4096, 5, 0.1
PENALTIES = 0.03, 0.1, 0.3  # of which the best is chosen, for the fewest users
HELD_OUT = 5 * 10**5


def columns(width):
    """Return a function that makes a plain table, and its columns."""
    return lambda ids: _plain(ids, width), width


def _plain(ids, width):
    import keras

    return keras.layers.Embedding(ids, width, name="user_embedding")


def mixed_dimensions(ids):
    """Return tables of 16 columns for few users, and of one for most."""
    from memembed import MDEmbedding

    sizes = [ids // 100, ids // 25]
    sizes.append(ids - sum(sizes))
    return MDEmbedding(sizes, (16, 4, 1), COLUMNS, name="user_embedding")


def hashing(numbers):
    """Return a function that makes a table of so many numbers for each id."""
    from memembed import HashEmbedding

    return lambda ids: HashEmbedding(
        ids, COLUMNS, int(ids * numbers / COLUMNS), name="user_embedding"
    )


def quotient_remainder(numbers):
    """Return a function that makes two tables of so many numbers for each id."""
    from memembed import QREmbedding

    def make(ids):
        rows = ids * numbers / COLUMNS  # of both tables; either may be the larger one
        buckets = int((rows + math.sqrt(rows**2 - 4 * ids)) / 2)
        return QREmbedding(ids, COLUMNS, buckets, name="user_embedding")

    return make


METHODS = {
    "full table": columns(COLUMNS),
    "4 columns": columns(4),
    "1 column": columns(1),
    "mixed dimensions": (mixed_dimensions, COLUMNS),
    **{
        f"{name}, {numbers:g} numbers": (method(numbers), COLUMNS)
        for name, method in (
            ("hashing", hashing),
            ("quotient and remainder", quotient_remainder),
        )
        for numbers in (1, 1 / 4, 1 / 8)
    },
}
FEW_BITS = 4, 16, 64  # times fewer bytes than the full table


def measure(repeats):
    """Yield the table after each model. One seed for each repeat."""
    found, chosen = [], {}
    for users in USERS:
        with tempfile.TemporaryDirectory() as folder:
            data = Data(Path(folder), users)
            for seed in range(repeats):
                for name in tqdm(METHODS, f"{users:,} users, seed {seed}"):
                    if name not in chosen:
                        tried = {l2: data.trained(name, l2, 0) for l2 in PENALTIES}
                        chosen[name] = min(
                            tried, key=lambda l2: data.error(tried[l2], "validation")
                        )
                    model = data.trained(name, chosen[name], seed)
                    models = {name: model}
                    if name == "full table":
                        models |= data.compressed(model)
                    for each, small in models.items():
                        error, size = data.error(small, "evaluation"), _bytes(small)
                        row = [users, seed, each, chosen[name], size, error]
                        found.append(row)
                    columns = ["users", "seed", "method", "l2", "bytes", "mse"]
                    yield {"growth": pd.DataFrame(found, columns=columns)}


class Data:
    """Ratings of so many users, in files."""

    def __init__(self, folder, users):
        import numpy as np

        from memembed.data import RatingShards, Vocabulary, write_synthetic_shards

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
        """Return the batches of a part, as a method's tables number the users."""
        users = self.shuffled if "quotient" in name else self.users
        return self.shards[part].batches(users, self.movies, BATCH_SIZE)

    def trained(self, name, l2, seed):
        """Return a model, trained."""
        import keras

        from memembed.models import dot_product_model, penalize
        from memembed.optimizers import RowwiseAdagrad

        keras.utils.clear_session()
        keras.utils.set_random_seed(seed)
        make, width = METHODS[name]
        movies = keras.layers.Embedding(len(self.movies), width, name="movie_embedding")
        model = dot_product_model(
            make(len(self.users)), movies, biases=False, mean_rating=3.5, max_rating=7.0
        )
        penalize(model, l2)
        batches = self.batches(name, "train")
        rate = keras.optimizers.schedules.CosineDecay(RATE, EPOCHS * len(batches))
        options = {"jit_compile": True, "steps_per_execution": 8}
        model.compile(RowwiseAdagrad(rate), "mse", **options)
        model.fit(**kept(batches, BATCH_SIZE), epochs=EPOCHS, verbose=0)
        model.method = name
        return model

    def compressed(self, model):
        """Return few bits made of full tables, in several sizes."""
        import numpy as np

        from memembed import compress, pack

        batches = self.batches("full table", "train")
        inputs = [batches[i][0] for i in range(min(len(batches), 256))]
        examples = {
            name: np.concatenate([each[name] for each in inputs])
            for name in ("user", "movie")
        }
        found = {}
        for times in FEW_BITS:
            small = pack(compress(model, examples, _bytes(model) // times, verbose=0))
            small.method = "full table"
            found[f"few bits, {COLUMNS / times:g} numbers"] = small
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


def _bytes(model):
    from memembed.compression import num_bytes

    return num_bytes(model)


def _silent(values, *_, **__):
    return values


def section():
    """Render the stored table."""
    found = stored("growth").groupby(["users", "method"], sort=False)
    table = found.agg({"bytes": "mean", "mse": "mean", "l2": "first"}).reset_index()
    table["bytes for each user"] = (table["bytes"] / table.users).map("{:.2f}".format)
    table["MSE"] = table.mse.map("{:.4f}".format)
    shown = table[["users", "method", "l2", "bytes for each user", "MSE"]]
    return [
        "## What each method loses as the number of users grows",
        f"Synthetic ratings, {RATINGS_OF_A_USER} of a user, of {MOVIES:,} movies. "
        f"The least error that a model can reach is {NOISE**2:.2f}. "
        f"Numbers are those that a user takes, where a full table has {COLUMNS}. The "
        f"penalty is chosen on validation data, for {USERS[0]:,} users.",
        shown.to_markdown(index=False),
    ]
