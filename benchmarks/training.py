"""Time the Keras example's experiment, in its way and in ours, in turn."""

import pandas as pd
from tqdm import tqdm

from benchmarks import keras_example, ours
from benchmarks.machine import spread, versions
from memembed.experiments.results import stored

__all__ = ["measure", "section", "versions"]

BAR = 10  # how many times faster ours must be, in total


def measure(repeats):
    """Yield a table with a row for each trained model."""
    ways = {"Keras example": keras_example.run, "memembed": ours.run}
    runs = [(pair, way) for pair in range(repeats) for way in ways]
    rows = [
        {"pair": pair, "way": way, **row}
        for pair, way in tqdm(runs, "training")
        for row in ways[way](ours.ratings())
    ]
    yield {"training": pd.DataFrame(rows)}


def ratios(rows):
    """Return, for each pair, how many times faster ours was: by model, and for both."""
    seconds = rows.pivot(index="pair", columns=["way", "model"], values="seconds")
    theirs, ours = seconds["Keras example"], seconds["memembed"]
    by_model = (theirs / ours)[rows["model"].unique()]
    return by_model.assign(both=theirs.sum(axis=1) / ours.sum(axis=1))


def section():
    """Render the stored table."""
    rows = stored("training")
    found = ratios(rows)
    means = rows.groupby(["model", "way"], sort=False)[
        ["parameters", "seconds", "MSE", "MAE"]
    ].mean()
    return [
        "## Training: the Keras example's experiment, in its way and in ours",
        f"Both models, {len(found)} pairs of runs, in turn. Mean seconds to train, "
        "including compilation, and evaluation errors:",
        means.round({"seconds": 1, "MSE": 4, "MAE": 4})
        .reset_index()
        .to_markdown(index=False),
        "How many times faster ours was, pair by pair:",
        found.round(1).reset_index().to_markdown(index=False),
        f"Bar: at least {BAR} times in total. Found: {spread(found['both'])}.",
    ]
