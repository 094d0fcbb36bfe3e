"""Time `import memembed.layers` in fresh processes, after Keras is imported."""

import os
import subprocess

import pandas as pd
from tqdm import tqdm

from benchmarks.machine import PYTHONS, ROOT, backend_versions
from memembed.experiments.results import stored

versions = backend_versions

SCRIPT = """
import time
start = time.perf_counter()
import keras
between = time.perf_counter()
import memembed.layers
print(between - start, time.perf_counter() - between)
"""


def measure(repeats):
    """Yield a table of seconds: Keras with its backend, and then memembed."""
    rows = []
    for repeat in tqdm(range(repeats), "imports"):
        for backend, python in PYTHONS.items():
            said = subprocess.check_output(
                [python, "-c", SCRIPT],
                env=os.environ | {"KERAS_BACKEND": backend},
                cwd=ROOT,
                text=True,
            )
            keras, own = map(float, said.split())
            rows.append((repeat, backend, keras, own))
    columns = ["repeat", "backend", "keras", "memembed"]
    yield {"imports": pd.DataFrame(rows, columns=columns)}


def section():
    """Render the stored table."""
    found = stored("imports").groupby("backend", sort=False)
    table = found[["keras", "memembed"]].median().map("{:.3g}".format).reset_index()
    return [
        "## Imports",
        "Seconds to import Keras with a backend, and then `memembed.layers`. Medians "
        f"of {found.size().iloc[0]} fresh processes.",
        table.to_markdown(index=False),
    ]
