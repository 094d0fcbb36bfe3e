"""Read 1 million to 100 million ratings from Parquet: speed and memory.

Each run has its own process, so that its peak memory can be measured:

    .venv/bin/python -m benchmarks.streaming files /tmp/ratings 1000000
"""

import subprocess
import sys
import tempfile
import time

import keras
import numpy as np
import pandas as pd
from tqdm import tqdm

from benchmarks.machine import ROOT, peak_bytes, spread, versions
from memembed.data import RatingShards, write_synthetic_shards
from memembed.experiments.results import stored
from memembed.models import dot_product_model
from memembed.optimizers import RowwiseAdagrad

__all__ = ["measure", "section", "versions"]

RATINGS = (10**6, 10**7, 10**8)
USERS, COLUMNS, BATCH_SIZE = 10**6, 16, 4096
STEPS = 2000  # of training, at most


def measure(repeats):
    """Yield the table after each number of ratings."""
    found = []
    for ratings in RATINGS:
        with tempfile.TemporaryDirectory() as folder:
            ask("write", folder, ratings)
            for repeat in tqdm(range(repeats), f"{ratings:,} ratings"):
                for way in ("files", "memory"):
                    numbers = ask(way, folder, ratings)
                    found.append([ratings, repeat, way, *numbers])
        columns = ["ratings", "repeat", "way"]
        columns += ["vocabularies", "reading", "training", "peak"]
        yield {"streaming": pd.DataFrame(found, columns=columns)}


def ask(way, folder, ratings):
    """Run one way in its own process, and return the numbers that it prints."""
    command = [sys.executable, "-m", "benchmarks.streaming", way, folder, str(ratings)]
    said = subprocess.run(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, check=True
    )
    return [float(each) for each in said.stdout.split()]


def section():
    """Render the stored table."""
    found = stored("streaming").pivot(index=["ratings", "repeat"], columns="way")
    lines = []
    for ratings, turns in found.groupby("ratings"):
        rate, peak = ratings / turns["reading"]["files"] / 1e6, turns["peak"] / 1e6
        training = turns["training"]["files"] / turns["training"]["memory"]
        lines.append(
            {
                "ratings": f"{ratings:,}",
                "vocabularies, s": spread(turns["vocabularies"]["files"]),
                "read, millions per second": spread(rate),
                "step, ratio to memory": spread(training),
                "from files, MB": spread(peak["files"], "{:,.0f}"),
                "from memory, MB": spread(peak["memory"], "{:,.0f}"),
            }
        )
    return [
        "## Ratings from files",
        f"Synthetic ratings of {USERS:,} users in Parquet, by `RatingShards`: making "
        "both vocabularies, one epoch of reading without training, and a training step "
        f"of a dot-product model of {COLUMNS} columns on {BATCH_SIZE:,} ratings, "
        "compared with a step on arrays in memory. MB is the peak memory of the "
        "process, including imports.",
        pd.DataFrame(lines).to_markdown(index=False),
    ]


def write(folder, ratings):
    """Write the files."""
    write_synthetic_shards(folder, ratings, num_users=USERS)


def read(folder, keep):
    """Return seconds for the vocabularies, for an epoch of reading, and for a step."""
    start = time.perf_counter()
    shards = RatingShards(folder)
    users, movies = map(shards.vocabulary, ("user_id", "movie_id"))
    counted = time.perf_counter()
    batches = shards.batches(users, movies, BATCH_SIZE)
    steps = min(len(batches), STEPS)
    data = {"x": batches, "shuffle": False}
    if keep:
        data = kept(batches, BATCH_SIZE)
    else:
        for i in range(len(batches)):
            batches[i]
    done = time.perf_counter()

    model = untrained(users, movies)
    model.fit(**data, steps_per_epoch=5, verbose=0)  # compilation is not counted
    begun = time.perf_counter()
    model.fit(**data, steps_per_epoch=steps, verbose=0)
    trained = (time.perf_counter() - begun) / steps
    return counted - start, done - counted, trained


def kept(batches, batch_size):
    """Return arguments of `fit`: all batches as arrays."""
    count = len(batches) * batch_size
    x = {name: np.empty(count, "int32") for name in ("user", "movie")}
    y = np.empty(count, "float32")
    for i in range(len(batches)):
        inputs, ratings = batches[i]
        place = slice(i * batch_size, (i + 1) * batch_size)
        y[place] = ratings
        for name, rows in inputs.items():
            x[name][place] = rows
    return {"x": x, "y": y, "batch_size": batch_size}


def untrained(users, movies):
    """Return a compiled model of full tables."""
    tables = (
        keras.layers.Embedding(len(each), COLUMNS, name=name)
        for each, name in ((users, "user_embedding"), (movies, "movie_embedding"))
    )
    model = dot_product_model(*tables)
    model.compile(RowwiseAdagrad(), "mse", jit_compile=True)
    return model


def main():
    """Run one way, and print its numbers."""
    way, folder, ratings = sys.argv[1], sys.argv[2], int(sys.argv[3])
    if way == "write":
        write(folder, ratings)
        return
    seconds = read(folder, keep=way == "memory")
    print(*seconds, peak_bytes())


if __name__ == "__main__":
    main()
