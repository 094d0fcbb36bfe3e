"""The Keras example's experiment, its way and ours, one after the other."""

import dataclasses

import keras
import numpy as np
import pandas as pd

from benchmarks import keras_example
from memembed.data import Examples
from memembed.experiments.study import combined
from memembed.models import dot_product_model
from memembed.training import Settings, experiment

BAR = 10  # how many times faster ours has to be, in total


def like_the_example(data):
    """Train on what the example trains on, 85%, and validate on the other 15%."""
    train = Examples(
        *(
            np.concatenate([getattr(data.train, name), getattr(data.validation, name)])
            for name in ("user", "movie", "rating")
        )
    )
    return dataclasses.replace(data, train=train, validation=data.evaluation)


def builders(data):
    """Return, by name, functions that build models of the example's parameters."""
    users, movies = len(data.users), len(data.movies)
    return {
        "baseline": lambda: dot_product_model(
            keras.layers.Embedding(users, 64), keras.layers.Embedding(movies, 64)
        ),
        "QR and MD": lambda: combined(data).build(data),
    }


def run(data, epochs=3):
    """Train them in this package's way; return what `keras_example.run` does."""
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


def measure(data, repeats, epochs=3, progress=iter):
    """Run both ways in turn.

    Args:
        data: what `like_the_example` returns.
        repeats: how many pairs of runs.
        epochs: passes over the training split.
        progress: wraps the sequence of runs, such as `tqdm.tqdm`.

    Returns:
        A DataFrame with a row for each model that was trained: pair, way, model,
        parameters, seconds, and the evaluation errors MSE and MAE.
    """
    ways = {"Keras example": keras_example.run, "memembed": run}
    runs = [(pair, way) for pair in range(repeats) for way in ways]
    rows = [
        {"pair": pair, "way": way, **row}
        for pair, way in progress(runs)
        for row in ways[way](data, epochs=epochs)
    ]
    return pd.DataFrame(rows)


def ratios(rows):
    """Return, for each pair, how many times faster ours was: each model, and both."""
    seconds = rows.pivot_table(index="pair", columns=["model", "way"], values="seconds")
    by_model = {
        model: seconds[model]["Keras example"] / seconds[model]["memembed"]
        for model in rows["model"].unique()
    }
    total = rows.groupby(["pair", "way"])["seconds"].sum().unstack()
    return pd.DataFrame(
        {**by_model, "both": total["Keras example"] / total["memembed"]}
    )
