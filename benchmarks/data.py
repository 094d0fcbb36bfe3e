"""Time reading, splitting and encoding the ratings."""

import time

import pandas as pd
from tqdm import tqdm

from benchmarks.machine import spread, versions
from memembed.data import load_ratings, prepare
from memembed.experiments.results import stored

__all__ = ["measure", "section", "versions"]


def measure(repeats):
    """Yield a table of the seconds that each repeat took."""
    rows = []
    for repeat in tqdm(range(repeats), "data"):
        start = time.perf_counter()
        ratings = load_ratings()
        read = time.perf_counter()
        prepare(ratings)
        end = time.perf_counter()
        rows.append((repeat, len(ratings), read - start, end - read))
    columns = ["repeat", "ratings", "read", "split and encode"]
    yield {"data": pd.DataFrame(rows, columns=columns)}


def section():
    """Render the stored table."""
    found = stored("data")
    total = found["read"] + found["split and encode"]
    return [
        "## Data: reading, splitting and encoding",
        f"{found.ratings[0]:,} ratings, {len(found)} times: read in "
        f"{spread(found.read)} s, split and encoded in "
        f"{spread(found['split and encode'])} s. "
        f"Bar: at most 2 s in total. Found: {spread(total)} s.",
    ]
