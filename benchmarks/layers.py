"""Time the layers on each backend, each in its own process and environment."""

import os
import subprocess
import tempfile
from pathlib import Path

import pandas as pd

from benchmarks.machine import PYTHONS, ROOT, backend_versions, spread
from memembed.experiments.results import stored

versions = backend_versions

# For glibc: keep the memory that a call frees, up to half a gigabyte at a time.
# Otherwise some calls, by chance, get fresh pages from the system, and on a virtual
# machine the first touch of a page can cost more than the work that is measured.
KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(2**29),
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "MALLOC_ARENA_MAX": "1",
}


def measure(repeats):
    """Yield both tables after each backend. `one_backend.py` ignores `repeats`."""
    for backend, python in PYTHONS.items():
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(
                [python, "-m", "benchmarks.one_backend", folder],
                env=os.environ | KEEP_MEMORY | {"KERAS_BACKEND": backend},
                cwd=ROOT,
                check=True,
            )
            tables = {}
            for name in ("layers", "layers_bars"):
                others = stored(name).query("backend != @backend")
                found = pd.read_csv(Path(folder) / f"{name}.csv")
                tables[name] = pd.concat([others, found])
            yield tables


def section():
    """Render the stored tables."""
    bars = stored("layers_bars")
    summary = bars.groupby(["bar", "bound", "backend"], sort=False).apply(
        lambda cells: pd.Series(
            {
                "sizes": len(cells),
                "met": cells.met.sum(),
                "ratio": spread(cells["median"]),
                "worst at": _size(cells.loc[cells["median"].idxmax()]),
            }
        ),
        include_groups=False,
    )
    sections = [
        "## Layers: lookups and steps",
        "Each ratio is the median over turns in which both ran. The table shows the "
        "median and the range of these ratios over the sizes, and at how many sizes "
        "the bar is met.",
        summary.reset_index().to_markdown(index=False),
    ]
    times = stored("layers").assign(
        milliseconds=lambda rows: [
            f"{row.median:.3g} ({row.low:.3g} to {row.high:.3g})"
            for row in rows[["low", "median", "high"]].itertuples()
        ]
    )
    for backend, rows in times.groupby("backend", sort=False):
        wide = rows.pivot_table(
            index=["what", "vocabulary", "batch"],
            columns="variant",
            values="milliseconds",
            aggfunc="first",
            sort=False,
        )
        sections += [
            f"### Milliseconds on {backend}: median and quartiles",
            wide.fillna("").reset_index().to_markdown(index=False),
        ]
    return sections


def _size(cell):
    return f"{cell.vocabulary:,} ids, batch {cell.batch:,}"
