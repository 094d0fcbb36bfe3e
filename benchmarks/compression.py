"""Time `compress`, and see its memory, beside product quantisation of the same bytes.

Each run is a process of its own, so that its peak of memory is its own:

    .venv/bin/python -m benchmarks.compression compress 100000
"""

import resource
import subprocess
import sys
import time

import pandas as pd
from tqdm import tqdm

from benchmarks.machine import ROOT, spread, versions
from memembed.experiments.results import stored

__all__ = ["measure", "section", "versions"]

ROWS = (10**4, 10**5, 10**6, 10**7)
COLUMNS = 64
TIMES_FEWER = 16
EXAMPLES = 10**6


def table(rows):
    """Return a table whose columns get weaker, as those of trained tables do."""
    import numpy as np

    random = np.random.default_rng(0)
    strength = np.geomspace(1, 0.1, COLUMNS, dtype="float32")
    return random.standard_normal((rows, COLUMNS), dtype="float32") * strength


def compress(embeddings):
    """Return a function that compresses and packs a model, and returns its bytes."""
    import keras
    import numpy as np

    from memembed.compression import compress, num_bytes, pack

    layer = keras.layers.Embedding(*embeddings.shape, "zeros")
    model = keras.Sequential([keras.Input(()), layer, keras.layers.Dense(1)])
    layer.set_weights([embeddings])
    ids = (len(embeddings) * np.random.default_rng(1).random(EXAMPLES) ** 3).astype(int)
    max_bytes = embeddings.nbytes // TIMES_FEWER
    return lambda: num_bytes(pack(compress(model, ids, max_bytes, verbose=0)))


def quantize(embeddings):
    """Return a function that quantises parts of the table, and returns the bytes."""
    import faiss

    bits, parts = 8, COLUMNS * 4 // TIMES_FEWER
    index = faiss.IndexPQ(embeddings.shape[1], parts, bits)

    def run():
        index.train(embeddings)
        index.add(embeddings)
        return index.codes.size() + 4 * index.pq.centroids.size()

    return run


WAYS = {"compress": compress, "faiss": quantize}


def measure(repeats):
    """Yield a table of seconds and peaks of memory, after each number of rows."""
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
                "times faiss's seconds": spread(turns["compress"] / turns["faiss"]),
                "compress, MB": spread(peak["compress"][rows], "{:,.0f}"),
                "faiss, MB": spread(peak["faiss"][rows], "{:,.0f}"),
            }
        )
    return [
        "## Compression: seconds and memory",
        f"A table of {COLUMNS} columns in a model with one dense layer, compressed by "
        f"`compress` and packed in {TIMES_FEWER} times fewer bytes, from {EXAMPLES:,} "
        "examples; beside it, product quantisation of the same table by faiss, in as "
        "many bytes. MB are the peak of the process, with all that it imports.",
        pd.DataFrame(lines).to_markdown(index=False),
    ]


def main():
    """Run one way on one size; print seconds, MB at the peak, and bytes."""
    way, rows = WAYS[sys.argv[1]], int(sys.argv[2])
    way(table(1000))()  # so that imports and what is compiled once are not counted
    run = way(table(rows))
    start = time.perf_counter()
    size = run()
    seconds = time.perf_counter() - start
    print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000, size)


if __name__ == "__main__":
    main()
