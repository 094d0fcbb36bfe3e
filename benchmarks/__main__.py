"""Run the benchmarks, and write what they found beside them: `make bench`.

The results go to `benchmarks/results/`, as CSV and as a page of tables.
"""

import argparse
import os
import platform
from importlib.metadata import version
from pathlib import Path

import pandas as pd
from tqdm import tqdm

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("keras", "tensorflow", "numpy", "memembed")


def machine():
    """Describe what the figures were taken on."""
    try:
        cpus = Path("/proc/cpuinfo").read_text()
        name = next(x for x in cpus.splitlines() if x.startswith("model name"))
        processor = name.partition(": ")[2]
    except (OSError, StopIteration):
        processor = platform.processor() or platform.machine()
    versions = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    return (
        f"{len(os.sched_getaffinity(0))} cores of {processor}; "
        f"Python {platform.python_version()}, {versions}."
    )


def training(data, repeats):
    """Time the Keras example's experiment, its way and ours; return a section."""
    from benchmarks.training import BAR, measure, ratios

    rows = measure(data, repeats, progress=lambda runs: tqdm(runs, "training"))
    rows.to_csv(RESULTS / "training.csv", index=False)
    found = ratios(rows)
    means = rows.groupby(["model", "way"], sort=False)[
        ["parameters", "seconds", "MSE", "MAE"]
    ].mean()
    least, most = found["both"].min(), found["both"].max()
    return "\n\n".join(
        [
            "## Training: the Keras example's experiment, its way and ours",
            f"Both models, {len(found)} pairs of runs, one after the other. Mean "
            "seconds to train, compiling included, and evaluation errors:",
            means.round({"seconds": 1, "MSE": 4, "MAE": 4})
            .reset_index()
            .to_markdown(index=False),
            "How many times faster ours was, pair by pair:",
            found.round(1).reset_index().to_markdown(index=False),
            f"Bar: at least {BAR} times in total. Found: {found['both'].median():.1f} "
            f"({least:.1f} to {most:.1f}).",
        ]
    )


def floor(data):
    """Compute the least time of an epoch from the bandwidth; return a section."""
    from benchmarks.floor import bandwidth, bytes_per_epoch
    from benchmarks.training import builders

    rows = []
    for model, build in builders(data).items():
        parameters = build().count_params()
        moved = bytes_per_epoch(parameters, len(data.train))
        speed = bandwidth(parameters)
        rows.append((model, parameters, moved / 1e9, speed / 1e9, moved / speed))
    columns = ["model", "parameters", "GB moved", "GB/s", "seconds"]
    return "\n\n".join(
        [
            "## Floor: an epoch of dense Adam that did nothing but move its bytes",
            pd.DataFrame(rows, columns=columns).round(1).to_markdown(index=False),
        ]
    )


def main():
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--repeats", type=int, default=3, help="pairs of runs")
    arguments = parser.parse_args()
    from benchmarks.training import like_the_example
    from memembed.data import load_ratings, prepare

    RESULTS.mkdir(exist_ok=True)
    data = like_the_example(prepare(load_ratings()))
    sections = ["# Results", machine(), floor(data), training(data, arguments.repeats)]
    page = "\n\n".join(sections) + "\n"
    (RESULTS / "README.md").write_text(page, encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()
