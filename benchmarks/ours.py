"""The Keras example's experiment as this package does it; see `keras_example.py`."""

import dataclasses
import functools

import keras
import numpy as np

from memembed.data import Examples, load_ratings, prepare
from memembed.experiments.study import combined
from memembed.models import dot_product_model
from memembed.training import Settings, experiment


@functools.cache
def ratings():
    """Return the ratings, split as the example splits them."""
    return like_the_example(prepare(load_ratings()))


def like_the_example(data):
    """Return data to train on 85%, as in the example, and validate on the other 15%."""
    train = Examples(
        *(
            np.concatenate([getattr(data.train, name), getattr(data.validation, name)])
            for name in ("user", "movie", "rating")
        )
    )
    return dataclasses.replace(data, train=train, validation=data.evaluation)


def builders(data):
    """Return, by name, functions that build models with the example's parameters."""
    users, movies = len(data.users), len(data.movies)
    return {
        "baseline": lambda: dot_product_model(
            keras.layers.Embedding(users, 64), keras.layers.Embedding(movies, 64)
        ),
        "QR and MD": lambda: combined(data).build(data),
    }


def run(data, epochs=3):
    """Train both models; return rows as `keras_example.run` does."""
    results = (
        experiment(name, build, data, Settings(epochs=epochs), verbose=False)
        for name, build in builders(data).items()
    )
    return [
        {
            "model": result.name,
            "parameters": result.parameters,
            "seconds": result.seconds,
            "MSE": result.mse,
            "MAE": result.mae,
        }
        for result in results
    ]
