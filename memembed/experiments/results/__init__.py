"""Results of `make bench` and `make study`, which take too long for a chapter."""

from importlib import resources

import pandas as pd


def stored(name):
    """Read stored results.

    Args:
        name: name of a table, such as `study`. `machine` says on which machines the
            times were measured.

    Returns:
        A DataFrame.

    Raises:
        ValueError: there is no such table.

    Example:
        >>> from memembed.experiments.results import stored
        >>> list(stored("machine").columns)
        ['part', 'machine', 'versions']
    """
    folder = resources.files(__name__)
    tables = sorted(
        path.name.removesuffix(".csv")
        for path in folder.iterdir()
        if path.name.endswith(".csv")
    )
    if name not in tables:
        raise ValueError(f"`name` must be one of {tables}. Received: name={name!r}")
    with (folder / f"{name}.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file)
