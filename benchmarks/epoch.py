"""Where the time of one epoch of the baseline goes, in the Keras example and here.

The floor is the least time that an epoch of dense Adam could take. Adam reads and
writes every weight and both of its slots at every step, whichever ids are in the batch,
and the gradient is written and read once: 8 floats for each parameter. The memory
bandwidth is measured on arrays as large as those of the model, because the arrays of a
small model stay in the processor's cache.
"""

import statistics
import time

import keras
import numpy as np
import pandas as pd
from tqdm import tqdm

from benchmarks import keras_example, ours
from benchmarks.machine import spread, versions
from memembed.experiments.results import stored
from memembed.models import dot_product_model
from memembed.training import Settings, train

__all__ = ["measure", "section", "versions"]

FLOATS_MOVED = 8  # weight, two slots and gradient, each of them read and written
REPEATS = 200


def bytes_per_epoch(parameters, ratings, batch_size=128):
    """Count the bytes that Adam moves in one pass over the ratings."""
    return 4 * FLOATS_MOVED * parameters * -(-ratings // batch_size)


def bandwidth(parameters):
    """Measure bytes per second of a sum on three arrays, on one core.

    Args:
        parameters: number of parameters of a model. The arrays together are as large
            as its weights, slots and gradients.
    """
    a, b, total = (np.ones(4 * parameters // 3, "float32") for _ in range(3))
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        np.add(a, b, out=total)
        seconds.append(time.perf_counter() - start)
    return 3 * a.nbytes / statistics.median(seconds)


class EpochSeconds(keras.callbacks.Callback):
    """Stores the seconds of each epoch."""

    def on_train_begin(self, logs=None):
        self.seconds = []

    def on_epoch_begin(self, epoch, logs=None):
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds.append(time.perf_counter() - self.start)


def seconds_of(run):
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def second_epoch(model, *data, steps_per_execution=1, **settings):
    """Return the seconds of an epoch of `fit`, after everything is compiled."""
    clock = EpochSeconds()
    model.compile(
        keras.optimizers.Adam(1e-3), "mse", steps_per_execution=steps_per_execution
    )
    model.fit(*data, epochs=2, verbose=0, callbacks=[clock], **settings)
    return clock.seconds[1]


def ways(data):
    """Return, by name, functions that run an epoch and return its seconds.

    The seconds do not include compilation.
    """
    arrays = data.train.inputs, data.train.rating
    users, movies = len(data.users), len(data.movies)
    baseline = ours.builders(data)["baseline"]

    def example():
        with keras_example.datasets(data) as (dataset, _):
            model = keras_example.builders(data)["baseline"]()
            return second_epoch(model, dataset, shuffle=False)

    def example_input():
        with keras_example.datasets(data) as (dataset, _):
            # TensorFlow counts batches: a loop in Python would take longer than fit.
            return seconds_of(lambda: dataset.reduce(0, lambda count, _: count + 1))

    def one_column():
        model = dot_product_model(
            keras.layers.Embedding(users, 1), keras.layers.Embedding(movies, 1)
        )
        return second_epoch(model, *arrays, batch_size=128)

    def on_arrays(steps_per_execution=1):
        return second_epoch(
            baseline(),
            *arrays,
            batch_size=128,
            steps_per_execution=steps_per_execution,
        )

    def memembed():
        once, compiled = Settings(epochs=1), {}
        train(baseline(), data, once, compiled=compiled)
        return seconds_of(lambda: train(baseline(), data, once, compiled=compiled))

    def floor():
        parameters = baseline().count_params()
        return bytes_per_epoch(parameters, len(data.train)) / bandwidth(parameters)

    return {
        "the Keras example": example,
        "its input alone": example_input,
        "fit on arrays": on_arrays,
        "fit on arrays, 64 steps a call": lambda: on_arrays(64),
        "fit on arrays, 1 column": one_column,
        "memembed": memembed,
        "floor": floor,
    }


def measure(repeats):
    """Yield a table of the seconds of an epoch, for each way and repeat."""
    data = ours.ratings()
    rows = [
        {"repeat": repeat, "what": what, "seconds": run()}
        for repeat in tqdm(range(repeats), "epoch")
        for what, run in ways(data).items()
    ]
    yield {"epoch": pd.DataFrame(rows)}


def section():
    """Render the stored table."""
    found = stored("epoch").groupby("what", sort=False).seconds
    table = found.apply(spread).rename("seconds").reset_index()
    return [
        "## An epoch of the baseline",
        f"Median and range of {found.size().iloc[0]} epochs each, after compilation. "
        "README.md explains each line.",
        table.to_markdown(index=False),
    ]
