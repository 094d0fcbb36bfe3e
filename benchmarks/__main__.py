"""Run the benchmarks and store their results: `make bench`.

Each part is a module with two functions: `measure` yields tables by name, and `section`
renders the stored tables. The tables are written to `memembed/experiments/results/`,
where the chapters read them.
"""

import argparse
import os
import sys

import pandas as pd

from benchmarks import (
    compression,
    data,
    epoch,
    growth,
    imports,
    layers,
    streaming,
    training,
    vocabulary,
)
from benchmarks.machine import ROOT, machine
from memembed.experiments.results import stored

RESULTS = ROOT / "memembed" / "experiments" / "results"
PAGE = ROOT / "benchmarks" / "results.md"
PARTS = {
    "data": data,
    "training": training,
    "epoch": epoch,
    "layers": layers,
    "compression": compression,
    "vocabulary": vocabulary,
    "streaming": streaming,
    "growth": growth,
    "imports": imports,
}


def keep(part, tables):
    """Write a part's tables, the machine and versions of its run, and the page."""
    for name, table in tables.items():
        table.to_csv(RESULTS / f"{name}.csv", index=False, float_format="%.6g")
    row = {"part": part, "machine": machine(), "versions": PARTS[part].versions()}
    others = stored("machine").query("part != @part")
    taken_on = pd.concat([others, pd.DataFrame([row])])
    taken_on.to_csv(RESULTS / "machine.csv", index=False)
    PAGE.write_text(page(), encoding="utf-8")


def page():
    """Render the stored tables, with a section for each part."""
    taken_on = stored("machine").set_index("part")
    lines = ["# Results", "Written by `make bench`."]
    for name in filter(taken_on.index.__contains__, PARTS):
        part = PARTS[name]
        where, what = taken_on.loc[name]
        lines += [*part.section(), f"Taken on {where}; {what}."]
    return "\n\n".join(lines) + "\n"


def main():
    """Run the requested parts, and store each table as soon as it is measured."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="part", help=", ".join(PARTS))
    parser.add_argument(
        "--repeats", type=int, default=3, help="of all parts except layers and growth"
    )
    arguments = parser.parse_args()
    if not {*arguments.parts} <= {*PARTS}:
        parser.error(f"the parts are {', '.join(PARTS)}")
    os.environ.setdefault("MEMEMBED_DATASET", "ml-1m")  # never synthetic ratings
    parts = list(arguments.parts or PARTS)
    for i, part in enumerate(parts):
        try:
            for tables in PARTS[part].measure(arguments.repeats):
                keep(part, tables)
        except KeyboardInterrupt:
            left = " ".join(parts[i:])
            sys.exit(f"\nInterrupted. To go on: python -m benchmarks {left}")
    print(f"Written to {RESULTS} and {PAGE}.", file=sys.stderr)


if __name__ == "__main__":
    main()
