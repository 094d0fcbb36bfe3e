"""A table of results that grows row by row, and survives an interruption."""

import argparse
import csv
import io
import os
import sys
from pathlib import Path


class Journal:
    """Results that come one by one. Each is written to disk immediately.

    The file is a CSV table to which rows are only added. If the machine stops while a
    row or the header is being written, only this line is lost.

    Args:
        path: the file. It is created if it does not exist.
        columns: the names of its columns.
        key: the columns that identify a row.

    Raises:
        FileNotFoundError: the folder of `path` does not exist.
        ValueError: the file exists, but is not such a table. It is not changed.
    """

    def __init__(self, path, columns, key):
        self.path, self.columns, self.key = Path(path), list(columns), list(key)
        if not self.path.parent.is_dir():
            raise FileNotFoundError(
                f"`path` must be in a folder that exists. Received: path={str(path)!r}"
            )
        header = _line(self.columns)
        found = self.path.read_bytes() if self.path.exists() else b""
        if not found.startswith(header):
            if not header.startswith(found):
                raise ValueError(
                    f"{self.path} must be a table with the columns {self.columns}. "
                    f"Received: a file that starts with {found[:80]!r}"
                )
            found = header
            self._add(header, at=0)
        whole = found.rfind(b"\n") + 1
        if whole < len(found):
            os.truncate(self.path, whole)
        rows = csv.DictReader(io.StringIO(found[:whole].decode("utf-8")))
        self._rows = {self._key_of(row): row for row in rows}

    def __len__(self):
        """Return how many rows there are."""
        return len(self._rows)

    def __contains__(self, key):
        """Return whether there is a row with this key, a dict."""
        return self._key_of(key) in self._rows

    def __getitem__(self, key):
        """Return the row with this key, a dict, as a dict of strings."""
        return self._rows[self._key_of(key)]

    def append(self, row):
        """Add a row: a dict from columns to values, None for a missing value."""
        if set(row) != set(self.columns):
            raise ValueError(
                f"`row` must have the columns {self.columns}. Received: {list(row)}"
            )
        self._add(_line([row[column] for column in self.columns]))
        self._rows[self._key_of(row)] = {key: _text(row[key]) for key in row}

    def _key_of(self, row):
        return tuple(_text(row[column]) for column in self.key)

    def _add(self, line, at=None):
        with self.path.open("ab") as file:
            if at is not None:
                file.truncate(at)
            file.write(line)
            file.flush()
            os.fsync(file.fileno())


def _text(value):
    return "" if value is None else str(value)


def _line(values):
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(values)
    return line.getvalue().encode("utf-8")


def measure_and_keep(name, description, columns, key, measure):
    """Run an experiment from the command line, and keep its rows.

    They go to the file that the option `--path` names, or to the stored table of the
    checkout that the command is run in: never to a file of an installed package.

    Args:
        name: name of the table.
        description: what the command does, for `--help`.
        columns: as in `Journal`.
        key: as in `Journal`.
        measure: a function of a `Journal`, which adds the rows that it lacks.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--path",
        type=Path,
        default=Path("memembed", "experiments", "results", f"{name}.csv"),
        help="the file of results (default: %(default)s)",
    )
    path = parser.parse_args().path
    if not path.parent.is_dir():
        parser.error(
            f"there is no folder {path.parent}: run this in a checkout, or give --path"
        )
    journal = Journal(path, columns, key)
    try:
        measure(journal)
    except KeyboardInterrupt:
        sys.exit(
            f"\nInterrupted. {path} has {len(journal)} rows. The same command goes on "
            "from there."
        )
