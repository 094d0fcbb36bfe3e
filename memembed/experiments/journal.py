"""A table of results that grows row by row, and survives an interruption."""

import csv
import io
import os
from pathlib import Path


class Journal:
    """Results that come one by one, each on the disk as soon as it is there.

    The file is a CSV table that is only ever added to. A row that was being written
    when the machine went down is dropped, and those before it are as they were.

    Args:
        path: the file. It is made if there is none.
        columns: the names of its columns.
        key: the columns that tell one row from all others.

    Raises:
        ValueError: there is a file, and it has other columns.
    """

    def __init__(self, path, columns, key):
        self.path, self.columns, self.key = Path(path), list(columns), list(key)
        if not self.path.exists():
            self._write(self.columns)
        text = self.path.read_bytes()
        whole = text.rfind(b"\n") + 1
        if whole < len(text):
            os.truncate(self.path, whole)
        with self.path.open(encoding="utf-8", newline="") as file:
            table = csv.DictReader(file)
            if table.fieldnames != self.columns:
                raise ValueError(
                    f"{self.path} must have the columns {self.columns}. "
                    f"Received: {table.fieldnames}"
                )
            self._rows = {self._key_of(row): row for row in table}

    def __contains__(self, key):
        """Return whether there is a row with this key, a dict."""
        return self._key_of(key) in self._rows

    def __getitem__(self, key):
        """Return the row with this key, a dict, as a dict of strings."""
        return self._rows[self._key_of(key)]

    def append(self, row):
        """Add a row: a dict from columns to values, None where there is none."""
        if set(row) != set(self.columns):
            raise ValueError(
                f"`row` must have the columns {self.columns}. Received: {list(row)}"
            )
        self._write([row[column] for column in self.columns])
        self._rows[self._key_of(row)] = {
            name: "" if value is None else str(value) for name, value in row.items()
        }

    def _key_of(self, row):
        return tuple(str(row[column]) for column in self.key)

    def _write(self, values):
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(values)
        with self.path.open("a", encoding="utf-8", newline="") as file:
            file.write(line.getvalue())
            file.flush()
            os.fsync(file.fileno())
