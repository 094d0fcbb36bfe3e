"""Measure time and memory of `compress` and of product quantisation, at equal bytes.

Each run has its own process, so that its peak memory can be measured:

    .venv/bin/python -m benchmarks.compression compress 100000
"""

import subprocess
import sys
import time

import keras
import numpy as np
import pandas as pd
from tqdm import tqdm

from benchmarks.machine import ROOT, peak_bytes, spread, versions
from memembed import compression
from memembed.experiments.results import stored

__all__ = ["measure", "section", "versions"]

ROWS = (10**4, 10**5, 10**6, 10**7)
COLUMNS = 64
TIMES_FEWER = 16
EXAMPLES = 10**6


def table(rows):
    """Return a table whose columns get weaker, as in trained tables."""
    random = np.random.default_rng(0)
    strength = np.geomspace(1, 0.1, COLUMNS, dtype="float32")
    return random.standard_normal((rows, COLUMNS), dtype="float32") * strength


def compress(embeddings):
    """Return a function that compresses and packs a model, and returns its bytes."""
    layer = keras.layers.Embedding(*embeddings.shape, "zeros")
    model = keras.Sequential([keras.Input(()), layer, keras.layers.Dense(1)])
    layer.set_weights([embeddings])
    ids = (len(embeddings) * np.random.default_rng(1).random(EXAMPLES) ** 3).astype(int)
    max_bytes = embeddings.nbytes // TIMES_FEWER

    def run():
        small = compression.compress(model, ids, max_bytes, verbose=0)
        return compression.num_bytes(compression.pack(small))

    return run


def quantize(embeddings):
    """Return a function that quantises parts of the table, and returns the bytes."""
    import faiss  # the memory of `compress` is measured without it

    bits, parts = 8, COLUMNS * 4 // TIMES_FEWER
    index = faiss.IndexPQ(embeddings.shape[1], parts, bits)

    def run():
        index.train(embeddings)
        index.add(embeddings)
        return index.codes.size() + 4 * index.pq.centroids.size()

    return run


WAYS = {"compress": compress, "faiss": quantize}


def measure(repeats):
    """Yield a table of seconds and peak memory, after each number of rows."""
    found = []
    for rows in ROWS:
        for repeat in tqdm(range(repeats), f"{rows:,} rows"):
            for way in WAYS:
                command = [sys.executable, "-m", "benchmarks.compression", way]
                said = subprocess.check_output(
                    [*command, str(rows)], cwd=ROOT, text=True
                )
                found.append((rows, repeat, way, *map(float, said.split()[-3:])))
        columns = ["rows", "repeat", "way", "seconds", "peak", "bytes"]
        yield {"compression": pd.DataFrame(found, columns=columns)}


def section():
    """Render the stored table."""
    found = stored("compression").pivot(index=["rows", "repeat"], columns="way")
    seconds, peak = found["seconds"], found["peak"]
    lines = []
    for rows, turns in seconds.groupby("rows"):
        lines.append(
            {
                "rows": f"{rows:,}",
                "table, MB": f"{4 * COLUMNS * rows / 1e6:,.0f}",
                "compress, s": spread(turns["compress"]),
                "ratio to faiss's seconds": spread(turns["compress"] / turns["faiss"]),
                "compress, MB": spread(peak["compress"][rows], "{:,.0f}"),
                "faiss, MB": spread(peak["faiss"][rows], "{:,.0f}"),
            }
        )
    return [
        "## Compression: seconds and memory",
        f"A table of {COLUMNS} columns in a model with one dense layer, compressed by "
        f"`compress` and packed in {TIMES_FEWER} times fewer bytes, from {EXAMPLES:,} "
        "examples. faiss applies product quantisation to the same table, at the same "
        "number of bytes. MB is the peak memory of the process, including imports.",
        pd.DataFrame(lines).to_markdown(index=False),
    ]


def main():
    """Run one way on one size; print seconds, peak MB, and bytes."""
    way, rows = WAYS[sys.argv[1]], int(sys.argv[2])
    way(table(1000))()  # so that imports and compilation are not counted
    run = way(table(rows))
    start = time.perf_counter()
    size = run()
    seconds = time.perf_counter() - start
    print(seconds, peak_bytes() / 1e6, size)


if __name__ == "__main__":
    main()
