"""The lowest error of each method at each size, for a figure that grows."""

import pandas as pd

from memembed.experiments.results import stored

# By method: a pattern for the names of its rows, in the study or the evidence.
METHODS = {
    "plain tables": "plain|biases alone",
    "hashing": "hashing",
    "quotient and remainder": "QR, |quotient and remainder",
    "mixed dimensions": "MD ",
    "few bits": "few bits$",
}


def frontiers(*methods):
    """Return each method's tuned models that are better than all its smaller ones.

    All were chosen on validation data, and measured on MovieLens 1M. An error is the
    mean of the stored seeds, which is only one seed for some models.

    Args:
        *methods: names of `METHODS`. Default: all.

    Returns:
        A dict from methods to DataFrames with columns `bytes` and `mse`, smallest model
        first.

    Raises:
        ValueError: there is no such method.

    Example:
        >>> from memembed.experiments.frontiers import frontiers
        >>> list(frontiers("hashing")["hashing"].columns)
        ['bytes', 'mse']
    """
    if unknown := set(methods) - set(METHODS):
        raise ValueError(
            f"`methods` must be in {list(METHODS)}. Received: {sorted(unknown)}"
        )
    study = stored("study").query("stage == 'report'")
    # At a quarter of the bytes, hashing and QR share hardly any rows.
    evidence = stored("evidence").query("task == 'ratings' and size >= 10")
    models = pd.concat(
        rows.groupby(["method", by])[["bytes", "mse"]].mean().reset_index()
        for rows, by in ((study, "configuration"), (evidence, "size"))
    )
    return {
        method: _frontier(models[models.method.str.match(METHODS[method])])
        for method in methods or METHODS
    }


def _frontier(models):
    models = models.sort_values(["bytes", "mse"])
    least = models.mse.cummin().shift(fill_value=float("inf"))
    return models.loc[models.mse < least, ["bytes", "mse"]].reset_index(drop=True)


def references():
    """Return the full tables: bytes and mean squared error, by how they are trained.

    Returns:
        A dict from names to pairs of bytes and error, means of the stored seeds.

    Example:
        >>> from memembed.experiments.frontiers import references
        >>> list(references())
        ['full tables, as the example trains them', 'full tables, tuned']
    """
    example = stored("study").query("stage == 'example' and name == '64 columns'")
    tuned = stored("evidence").query("task == 'ratings' and method == 'full tables'")
    return {
        name: tuple(rows[["bytes", "mse"]].mean())
        for name, rows in (
            ("full tables, as the example trains them", example),
            ("full tables, tuned", tuned),
        )
    }
