"""Train tables of 1,000 to 1 billion ids: bytes, seconds per step, peak memory.

Each run has its own process, so that its peak memory can be measured:

    .venv/bin/python -m benchmarks.vocabulary "full table" adam 1000000
"""

import math
import re
import resource
import subprocess
import sys
import time

import keras
import numpy as np
import pandas as pd
from tqdm import tqdm

from benchmarks.machine import ROOT, peak_bytes, spread, versions
from memembed import HashEmbedding, LowBitEmbedding, MDEmbedding, QREmbedding
from memembed.experiments.results import stored
from memembed.optimizers import RowwiseAdagrad

__all__ = ["measure", "section", "versions"]

IDS = tuple(10**power for power in range(3, 10))
COLUMNS = 64
BATCH_SIZE, STEPS = 1024, 50
FEW_BITS = [3] * 16 + [2] * 16 + [1] * 16 + [0] * 16  # 96 for each id, instead of 2048
BUCKETS = 100_000


def full_table(ids):
    """Return a plain table."""
    return keras.layers.Embedding(ids, COLUMNS, "ones")


def hashing(ids):
    """Return a table of at most 100,000 rows that ids share."""
    buckets = min(ids, BUCKETS)
    return HashEmbedding(ids, COLUMNS, buckets, embeddings_initializer="ones")


def quotient_remainder(ids, tables=2):
    """Return `tables` tables with `ids ** (1 / tables)` rows each."""
    buckets = [math.ceil(round(ids ** (1 / tables), 6))] * tables
    return QREmbedding(ids, COLUMNS, buckets, embeddings_initializer="ones")


def mixed_dimensions(ids):
    """Return tables of 64 columns for the most popular ids, and of 1 for most ids."""
    sizes = [math.ceil(ids * share) for share in (1e-4, 1e-3, 1e-2)]
    sizes.append(ids - sum(sizes))
    return MDEmbedding(sizes, (64, 16, 4, 1), COLUMNS, embeddings_initializer="ones")


def few_bits(ids):
    """Return a table that is rounded to few bits during training."""
    return LowBitEmbedding(ids, COLUMNS, FEW_BITS, embeddings_initializer="ones")


METHODS = {
    "full table": full_table,
    "hashing": hashing,
    "quotient and remainder": quotient_remainder,
    "three tables": lambda ids: quotient_remainder(ids, tables=3),
    "mixed dimensions": mixed_dimensions,
    "few bits": few_bits,
}
OPTIMIZERS = "sgd", "rowwise_adagrad", "adagrad", "adafactor", "adam"
RUNS = [
    *(("full table", optimizer) for optimizer in OPTIMIZERS),
    *((method, "adam") for method in METHODS if method != "full table"),
    ("mixed dimensions", "rowwise_adagrad"),
]


def measure(repeats):
    """Yield the table after each number of ids."""
    found = []
    for ids in IDS:
        for repeat in tqdm(range(repeats), f"{ids:,} ids"):
            for method, optimizer in RUNS:
                numbers = run(method, optimizer, ids)
                found.append([ids, repeat, method, optimizer, *numbers])
        columns = ["ids", "repeat", "method", "optimizer"]
        columns += ["seconds", "peak", "weights", "slots"]
        yield {"vocabulary": pd.DataFrame(found, columns=columns)}


def run(method, optimizer, ids):
    """Return the numbers that `main` prints, or NaN if the run does not fit."""
    command = [sys.executable, "-m", "benchmarks.vocabulary", method, optimizer]
    said = subprocess.run(
        [*command, str(ids)], cwd=ROOT, text=True, capture_output=True
    )
    if said.returncode:
        # Out of memory: the allocator reports it, or the system kills the process.
        if said.returncode > 0 and not re.search("memory|OOM", said.stderr):
            raise RuntimeError(said.stderr)
        return [math.nan] * 4
    return [float(each) for each in said.stdout.split()]


def section():
    """Render the stored table."""
    found = stored("vocabulary")
    beside = found[found.method == "hashing"].set_index(["ids", "repeat"]).seconds
    lines = []
    for (ids, method, optimizer), turns in found.groupby(
        ["ids", "method", "optimizer"], sort=False
    ):
        fits = turns.seconds.notna().all()
        times = turns.set_index(["ids", "repeat"]).seconds
        ratio = (times / beside.reindex(times.index)).reset_index(drop=True)
        lines.append(
            {
                "ids": f"{ids:,}",
                "method": method,
                "optimizer": optimizer,
                "weights, MB": _megabytes(turns.weights),
                "slots, MB": _megabytes(turns.slots),
                "peak, MB": _megabytes(turns.peak),
                "ms per step": spread(times * 1000) if fits else "does not fit",
                "ratio to hashing": spread(ratio) if fits else "",
            }
        )
    return [
        "## Vocabularies of a thousand to a billion ids",
        f"A table of {COLUMNS} columns and one dense layer, {BATCH_SIZE:,} ids a step, "
        "by Keras's `fit` on TensorFlow. The peak is that of the process, including "
        'imports. Each run may use all free memory; "does not fit" means that it ran '
        "out of memory.",
        pd.DataFrame(lines).to_markdown(index=False),
    ]


def _megabytes(values):
    return f"{values.median() / 1e6:,.1f}" if values.notna().all() else ""


def free_memory():
    """Return the bytes of memory that a process can get, on Linux."""
    with open("/proc/meminfo") as lines:
        sizes = dict(line.split(":") for line in lines)
    return 1024 * int(sizes["MemAvailable"].split()[0])


def main():
    """Run one; print seconds per step, and bytes: peak, weights, slots."""
    method, optimizer, ids = sys.argv[1], sys.argv[2], int(sys.argv[3])
    memory = free_memory()
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))

    made = RowwiseAdagrad() if optimizer == "rowwise_adagrad" else optimizer
    layer = METHODS[method](ids)
    model = keras.Sequential(
        [keras.Input((), dtype="int32"), layer, keras.layers.Dense(1)]
    )
    model.compile(made, "mse", jit_compile=True)
    random = np.random.default_rng(0)
    x = (ids * random.random(BATCH_SIZE * STEPS) ** 3).astype("int32")
    y = random.random(len(x)).astype("float32")
    few = slice(3 * BATCH_SIZE)  # so that compilation is not counted
    model.fit(x[few], y[few], batch_size=BATCH_SIZE, verbose=0)
    start = time.perf_counter()
    model.fit(x, y, batch_size=BATCH_SIZE, verbose=0)
    seconds = (time.perf_counter() - start) / STEPS
    peak = peak_bytes()
    weights, slots = (
        sum(4 * math.prod(variable.shape) for variable in variables)
        for variables in (model.weights, model.optimizer.variables)
    )
    print(seconds, peak, weights, slots)


if __name__ == "__main__":
    main()
