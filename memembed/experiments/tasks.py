"""The tasks on which few bits and their rivals are compared."""

from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np

from memembed.experiments.ladder import FULL
from memembed.models import (
    InBatchSoftmax,
    dot_product_model,
    mlp_model,
    two_tower_model,
)
from memembed.ranking import recall_and_ndcg, train_two_tower
from memembed.training import TWO_TOWER, Settings, evaluate, train


@dataclass(frozen=True, eq=False)
class Task:
    """Something to predict from a user and a movie.

    Attributes:
        name: name of the task.
        dataset: which ratings, see `memembed.data.load_ratings`.
        builds: the models to choose from: a dict from names to functions. A function
            takes an embedding layer for users, one for movies, and the data, and if the
            model has biases, `biases` as in `dot_product_model`. It returns a model.
        columns: number of columns of the full tables.
        settings: `Settings` for a model that is trained from scratch. The search for a
            better penalty and learning rate starts from these.
        train: a function of a model, the data and `Settings`, which trains the model.
        labels: a function from the data and one part of it to the labels for `fit`.
        loss: the loss for `fit`.
        errors: a function from a model, the data and the name of a part to a dict of
            the measures.
        score: the measure that settings are chosen by, and 1 to minimise it, or -1 to
            maximise it.
        bar: how many times fewer bytes few bits should take without a loss.
        sizes: how many times fewer bytes to try for few bits and rivals.
        splits: seeds of the splits.
        biases: whether the model has biases.
        averages: whether `memembed.compression.average` accepts such models.
    """

    name: str
    dataset: str
    builds: dict
    columns: int
    settings: Settings
    train: Callable
    labels: Callable
    loss: keras.losses.Loss
    errors: Callable
    score: tuple
    bar: int
    sizes: tuple = (4, 10, 20, 40, 100)
    splits: tuple = (0,)
    biases: bool = False
    averages: bool = True

    def plain(self, data, build):
        """Return a model of full tables, untrained, made by one of `builds`."""
        tables = (
            keras.layers.Embedding(len(each), self.columns, name=f"{side}_embedding")
            for side, each in (("user", data.users), ("movie", data.movies))
        )
        return self.builds[build](*tables, data)

    def arrays(self, data, part):
        """Return a part of the data as `fit` takes it."""
        examples = getattr(data, part)
        return examples.inputs, self.labels(data, examples)

    def validation_score(self, data):
        """Return a function from a model to its validation measure, to be minimised."""
        measure, sign = self.score
        return lambda model: sign * self.errors(model, data, "validation")[measure]


def _ratings(name, dataset, builds, columns, settings, **options):
    return Task(
        name,
        dataset,
        builds,
        columns,
        settings,
        train,
        lambda data, examples: examples.rating,
        keras.losses.Huber(settings.huber_delta),
        lambda model, data, part: evaluate(model, getattr(data, part)),
        ("mse", 1),
        **options,
    )


def _mean(data):
    return float(np.mean(data.train.rating))


def _dot_products(name, dataset, **options):
    def without(users, movies, data, biases=True):
        return dot_product_model(users, movies, biases)

    def with_constant(users, movies, data, biases=True):
        return dot_product_model(users, movies, biases, mean_rating=_mean(data))

    return _ratings(
        name,
        dataset,
        {"no constant": without, "a constant": with_constant},
        64,
        FULL,
        biases=True,
        **options,
    )


RATINGS = _dot_products("ratings", "ml-1m", bar=40, splits=(0, 1, 2))
BOOKS = _dot_products("ratings of books", "goodbooks", bar=30)
NETWORK = _ratings(
    "ratings by a network",
    "ml-1m",
    {
        "a constant": lambda users, movies, data: mlp_model(
            users, movies, mean_rating=_mean(data)
        )
    },
    32,
    Settings(1e-3, "cosine", epochs=6, batch_size=256, l2=0.5, huber_delta=1.5),
    bar=20,
    sizes=(4, 10, 20),  # all but the tables takes a fiftieth
    averages=False,
)
RANKING = Task(
    "ranking",
    "ml-1m",
    {"two towers": lambda users, movies, data: two_tower_model(users, movies)},
    64,
    TWO_TOWER,
    train_two_tower,
    lambda data, examples: data.movies.counts[examples.movie] / len(data.train),
    InBatchSoftmax(),
    lambda model, data, part: recall_and_ndcg(model, data, part=part),
    ("ndcg", -1),
    bar=20,
)
TASKS = (RATINGS, BOOKS, RANKING, NETWORK)
