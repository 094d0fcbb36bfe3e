"""The map between raw ids and the rows of a table."""

import numpy as np
import pandas as pd


class Vocabulary:
    """A two-way map between raw ids and rows, the most popular id first.

    Popularity is counted only on the training ids, so that test data does not affect
    the tables. Equally popular ids are in ascending order. The length is the number of
    rows, including the out-of-vocabulary row if there is one.

    Args:
        train_ids: the ids to count, one for each training rating.
        catalogue: all ids. Those without a rating in `train_ids` have rows of their
            own, at the end. Default: the ids in `train_ids`.
        num_oov_indices: 1 to add a last row for ids outside the catalogue, 0 to
            refuse them.

    Attributes:
        ids: the raw ids in row order; read-only.
        counts: how often each row occurs in `train_ids`, 0 for the out-of-vocabulary
            row; read-only.

    Raises:
        ValueError: an id is missing, or is a float so large that several integers are
            the same float; an id of `train_ids` is not in `catalogue`; or
            `num_oov_indices` is neither 0 nor 1.

    Example:
        >>> movies = Vocabulary([50, 7, 50, 9], catalogue=[1, 7, 9, 50])
        >>> movies
        Vocabulary(4 rows, most popular first: 50, 7, 9, ...)
        >>> movies.encode([[50, 1]])
        array([[0, 3]], dtype=int32)
        >>> movies.decode([0, 3])
        array([50,  1])
    """

    def __init__(self, train_ids, catalogue=None, num_oov_indices=0):
        ids, counts = np.unique(_checked("train_ids", train_ids), return_counts=True)
        if catalogue is not None:
            trained, trained_counts = ids, counts
            ids = np.unique(_checked("catalogue", catalogue))
            where = pd.Index(ids).get_indexer(trained)
            if (where < 0).any():
                raise ValueError(
                    "train_ids must all be in catalogue. Not in it: "
                    f"{_abridged(trained[where < 0])}"
                )
            counts = np.zeros(len(ids), dtype="int64")
            counts[where] = trained_counts
        self._set(ids, counts, num_oov_indices)

    @classmethod
    def from_counts(cls, ids, counts, num_oov_indices=0):
        """Make a vocabulary of ids that have been counted elsewhere.

        Args:
            ids: the ids, each only once, in ascending order.
            counts: how often each id occurs in the training data.
            num_oov_indices: as in the class.

        Returns:
            A `Vocabulary`.

        Raises:
            ValueError: `ids` are not in ascending order, or do not have one count each,
                or a count is negative; or as in the class.

        Example:
            >>> Vocabulary.from_counts([7, 9, 50], [1, 1, 2])
            Vocabulary(3 rows, most popular first: 50, 7, 9)
        """
        ids, counts = _checked("ids", ids), np.asarray(counts, dtype="int64")
        if ids.shape != counts.shape or (ids[1:] <= ids[:-1]).any():
            raise ValueError(
                "`ids` must be in ascending order, each once and with one count. "
                f"Received: {_abridged(ids)} with {len(counts)} counts"
            )
        if (counts < 0).any():
            raise ValueError(f"`counts` must not be negative. Received: {counts.min()}")
        self = cls.__new__(cls)
        self._set(ids, counts, num_oov_indices)
        return self

    def _set(self, ids, counts, num_oov_indices):
        if isinstance(num_oov_indices, bool) or num_oov_indices not in (0, 1):
            raise ValueError(
                "`num_oov_indices` must be 0 or 1. "
                f"Received: num_oov_indices={num_oov_indices!r}"
            )
        order = np.argsort(-counts, kind="stable")
        self.num_oov_indices = num_oov_indices
        self.ids = ids[order]
        self.counts = np.append(counts[order], np.zeros(num_oov_indices, dtype="int64"))
        self.ids.flags.writeable = self.counts.flags.writeable = False
        self._kind = _kind(self.ids)
        self._rows = pd.Index(self.ids)

    def __len__(self):
        return len(self.counts)

    def __repr__(self):
        first = _abridged(self.ids, limit=3)
        return f"Vocabulary({len(self)} rows, most popular first: {first})"

    def encode(self, ids):
        """Map raw ids to rows.

        Args:
            ids: an id or an array of ids, of any shape.

        Returns:
            The rows as int32, in the shape of `ids`.

        Raises:
            ValueError: an id is unknown and there is no out-of-vocabulary row; or the
                ids are strings and those of the vocabulary are numbers, or the other
                way around; or as in the class for large floats.
        """
        ids = _check_exact("ids", np.asarray(ids))
        kind = _kind(ids)
        if ids.size and kind != self._kind and "other" not in (kind, self._kind):
            raise ValueError(
                f"`ids` must be {self._kind}, like the ids of the vocabulary. "
                f"Received: {kind}, such as {_abridged(ids.ravel(), limit=3)}"
            )
        rows = self._rows.get_indexer(ids.ravel()).astype("int32")
        unknown = rows < 0
        if unknown.any():
            if not self.num_oov_indices:
                raise ValueError(
                    f"ids not in the vocabulary: {_abridged(ids.ravel()[unknown])}"
                )
            rows[unknown] = len(self) - 1
        return rows.reshape(ids.shape)[()]  # a scalar for a scalar, as NumPy does

    def decode(self, rows):
        """Map rows back to raw ids.

        Args:
            rows: a row or an array of rows, of any shape.

        Returns:
            The raw ids, in the shape of `rows`.

        Raises:
            TypeError: a row is not an integer.
            ValueError: a row has no id: it is outside the table, or is the
                out-of-vocabulary row.
        """
        rows = np.asarray(rows)
        if rows.size and rows.dtype.kind not in "iu":
            raise TypeError(
                f"`rows` must be integers. Received: {_abridged(rows.ravel())}"
            )
        rows = rows.astype("int64")
        without_id = (rows < 0) | (rows >= len(self.ids))
        if without_id.any():
            raise ValueError(
                f"rows must be from 0 to {len(self.ids) - 1} to have an id. Received: "
                f"{_abridged(rows[without_id])}"
            )
        return self.ids[rows]


def _checked(name, ids):
    """Return ids as an array, none of which is missing."""
    ids = np.asarray(ids)
    if missing := int(pd.isna(ids).sum()):
        raise ValueError(f"`{name}` must not have missing ids. Received: {missing}")
    return _check_exact(name, ids)


def _check_exact(name, ids):
    """Return ids. Integers that have become floats may no longer be different."""
    if ids.dtype.kind == "f":
        exact = 2 ** (np.finfo(ids.dtype).nmant + 1)
        if (large := np.abs(ids) >= exact).any():
            raise ValueError(
                f"`{name}` must be integers if they are large: from {exact:,} on, "
                f"several integers are the same {ids.dtype}. "
                f"Received: {_abridged(ids[large])}"
            )
    return ids


def _kind(ids):
    if ids.dtype.kind == "O":
        found = pd.api.types.infer_dtype(ids.ravel(), skipna=True)
        kinds = {"string": "strings", "bytes": "bytes"}
        kinds |= dict.fromkeys(("integer", "floating"), "numbers")
        return kinds.get(found, "other")
    return {"U": "strings", "T": "strings", "S": "bytes"}.get(ids.dtype.kind, "numbers")


def _abridged(values, limit=5):
    """Return the first few distinct values as text."""
    values = pd.unique(values)
    shown = ", ".join(repr(value) for value in values[:limit].tolist())
    return shown + ", ..." * (len(values) > limit)
