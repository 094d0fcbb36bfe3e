"""Run the benchmarks, and keep what they found: `make bench`.

Each part writes a table to `memembed/experiments/results/`, from where the chapters
read it, and `benchmarks/results.md` shows them all.
"""

import argparse
import functools
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from memembed.experiments.results import stored

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "memembed" / "experiments" / "results"
BACKENDS = {"tensorflow": ".venv", "jax": ".venv-jax", "torch": ".venv-torch"}
# For glibc: keep what a call gives back, up to half a gigabyte at a time. Buffers would
# else come fresh from the system at every call, or not, by chance, and on a virtual
# machine the first touch of a fresh page can cost more than the work that is measured.
KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(2**29),
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "MALLOC_ARENA_MAX": "1",
}


# Parts: functions from the arguments that yield tables, by name. What they have yielded
# is kept if they are interrupted.


@functools.cache
def ratings():
    """Return the data that the example trains on."""
    from benchmarks.training import like_the_example
    from memembed.data import load_ratings, prepare

    return like_the_example(prepare(load_ratings()))


def data(arguments):
    from memembed.data import load_ratings, prepare

    rows = []
    for repeat in tqdm(range(arguments.repeats), "data"):
        start = time.perf_counter()
        frame = load_ratings()
        read = time.perf_counter()
        prepare(frame)
        end = time.perf_counter()
        rows.append((repeat, len(frame), read - start, end - read))
    columns = ["repeat", "ratings", "read", "split and encode"]
    yield {"data": pd.DataFrame(rows, columns=columns)}


def epoch(arguments):
    from benchmarks.epoch import measure

    yield {"epoch": measure(ratings(), arguments.repeats, _bar("epoch"))}


def training(arguments):
    from benchmarks.training import measure

    yield {"training": measure(ratings(), arguments.repeats, progress=_bar("training"))}


def layers(arguments):
    """Time the layers on each backend, in a process and an environment of its own."""
    for backend, venv in BACKENDS.items():
        with tempfile.TemporaryDirectory() as folder:
            command = ["-m", "benchmarks.layers", "--folder", folder]
            subprocess.run(
                [ROOT / venv / "bin" / "python", *command, *arguments.layers],
                env=os.environ | KEEP_MEMORY | {"KERAS_BACKEND": backend},
                cwd=ROOT,
                check=True,
            )
            yield {
                name: with_other_backends(
                    name, pd.read_csv(Path(folder) / f"{name}.csv")
                )
                for name in ("layers", "layers_bars")
            }


def with_other_backends(name, table):
    """Replace what was stored of a table's backend."""
    if not (RESULTS / f"{name}.csv").exists():
        return table
    others = stored(name)
    return pd.concat([others[~others.backend.isin(table.backend)], table])


PARTS = {part.__name__: part for part in (data, epoch, training, layers)}


def _bar(name):
    return functools.partial(tqdm, desc=name)


def machine():
    """Describe what the figures are taken on."""
    try:
        cpus = Path("/proc/cpuinfo").read_text()
        name = next(x for x in cpus.splitlines() if x.startswith("model name"))
        processor = name.partition(": ")[2]
    except (OSError, StopIteration):
        processor = platform.processor() or platform.machine()
    return f"{len(os.sched_getaffinity(0))} cores of {processor}"


def versions(part):
    """Name the versions that a part ran on, those of each backend for the layers."""
    if part != "layers":
        packages = ("keras", "tensorflow", "numpy", "memembed")
        found = [f"{package} {version(package)}" for package in packages]
    else:
        ask = "from importlib.metadata import version as v; print(v('keras'), v('{}'))"
        found = []
        for backend, venv in BACKENDS.items():
            python = ROOT / venv / "bin" / "python"
            said = subprocess.check_output(
                [python, "-c", ask.format(backend)], text=True
            )
            keras, own = said.split()
            found += [f"keras {keras} on {backend} {own}"]
    return ", ".join([f"Python {platform.python_version()}", *found])


def keep(part, tables):
    """Write a part's tables, and what they were taken on."""
    for name, table in tables.items():
        table.to_csv(RESULTS / f"{name}.csv", index=False, float_format="%.6g")
    taken_on = pd.DataFrame(
        [(part, machine(), versions(part))], columns=["part", "machine", "versions"]
    )
    if (RESULTS / "machine.csv").exists():
        others = stored("machine").query("part != @part")
        taken_on = pd.concat([others, taken_on])
    taken_on.to_csv(RESULTS / "machine.csv", index=False)


# The page: a section for each part, from its tables.


def spread(values, form="{:.3g}"):
    """Write a median and a range."""
    median, least, most = values.median(), values.min(), values.max()
    return " ".join(
        [form.format(median), f"({form.format(least)} to {form.format(most)})"]
    )


def data_section():
    found = stored("data")
    total = found["read"] + found["split and encode"]
    return [
        "## Data: reading, splitting and encoding",
        f"{found.ratings[0]:,} ratings, {len(found)} times: read in "
        f"{spread(found.read)} s, split and encoded in "
        f"{spread(found['split and encode'])} s. "
        f"Bar: at most 2 s in all. Found: {spread(total)} s.",
    ]


def epoch_section():
    found = stored("epoch").groupby("what", sort=False).seconds
    table = found.apply(spread).rename("seconds").reset_index()
    return [
        "## An epoch of the baseline",
        f"Everything compiled before, {found.size().iloc[0]} times each, median and "
        "range. What each line is, the README says.",
        table.to_markdown(index=False),
    ]


def training_section():
    from benchmarks.training import BAR, ratios

    rows = stored("training")
    found = ratios(rows)
    means = rows.groupby(["model", "way"], sort=False)[
        ["parameters", "seconds", "MSE", "MAE"]
    ].mean()
    return [
        "## Training: the Keras example's experiment, its way and ours",
        f"Both models, {len(found)} pairs of runs, one after the other. Mean "
        "seconds to train, compiling included, and evaluation errors:",
        means.round({"seconds": 1, "MSE": 4, "MAE": 4})
        .reset_index()
        .to_markdown(index=False),
        "How many times faster ours was, pair by pair:",
        found.round(1).reset_index().to_markdown(index=False),
        f"Bar: at least {BAR} times in total. Found: {spread(found['both'])}.",
    ]


def layers_section():
    bars = stored("layers_bars")
    by_bar = bars.groupby(["bar", "bound", "backend"], sort=False)
    summary = by_bar.apply(
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
        "Each ratio is the median of turns in which both ran. The table has the "
        "median, the least and the most of these ratios over the sizes, and how many "
        "of the sizes meet the bar.",
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


def page():
    """Render the page of the parts that have been run."""
    lines = ["# Results", "Written by `make bench`."]
    for _, (part, where, what) in stored("machine").iterrows():
        lines += globals()[f"{part}_section"]()
        lines += [f"Taken on {where}; {what}."]
    return "\n\n".join(lines) + "\n"


def main():
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("parts", nargs="*", default=[*PARTS], help=", ".join(PARTS))
    parser.add_argument("--repeats", type=int, default=3, help="of all but layers")
    arguments, arguments_of_layers = parser.parse_known_args()
    arguments.layers = arguments_of_layers
    for part in arguments.parts:
        if part not in PARTS:
            parser.error(f"no part {part!r}: there are {', '.join(PARTS)}")
    if arguments.layers and "layers" not in arguments.parts:
        parser.error(f"unrecognized arguments: {' '.join(arguments.layers)}")
    os.environ.setdefault("MEMEMBED_DATASET", "ml-1m")  # not the stand-in by chance
    for part in arguments.parts:
        for tables in PARTS[part](arguments):
            keep(part, tables)
            (ROOT / "benchmarks" / "results.md").write_text(page(), encoding="utf-8")
    print(f"Written to {RESULTS} and benchmarks/results.md.", file=sys.stderr)


if __name__ == "__main__":
    main()
