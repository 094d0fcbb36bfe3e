"""Compress a trained table without training: the numbers behind a warm start.

All of it is plain NumPy. The layers put the results into their weights.
"""

import numpy as np

from memembed.shapes import check_size

CHUNK = 2**15  # rows that are worked on in float64 at a time
LEAST_WEIGHT = 1e-9  # of an id, where the most popular one has 1


def low_rank(table, dim, popularity=None, use_bias=False):
    """Approximate a table by a narrower one and a projection.

    No other `rows @ projection` (`+ bias`) of these shapes has a smaller squared error,
    summed over the ids with their popularity as weights. Without weights and bias, it
    is the truncated singular value decomposition (Eckart and Young).

    The rows of the projection are orthonormal, the strongest direction first, and the
    scale is all in the narrow table. A step of Adam's is as large as the learning rate,
    whatever the gradient: on a narrow row, it moves the embedding no further than on a
    full one. Were the scale shared out between the two, it would depend on the number
    of ids and the unit of `popularity` how far that is.

    Args:
        table: array of shape `(ids, columns)`.
        dim: columns of the narrow table, at most those of `table`.
        popularity: how often each id occurs, in any unit. None: all alike. An id that
            never occurs gets the row that is best for it, too.
        use_bias: whether to add one vector to all embeddings.

    Returns:
        The narrow table, `(ids, dim)`, the projection, `(dim, columns)`, and, if there
        is one, the bias, `(columns,)`. They are float32, or float64 if `table` is.

    Raises:
        TypeError: `dim` is not an integer.
        ValueError: `table` or `popularity` is no such array, or `dim` is not positive
            or more than the columns.

    Example:
        >>> rows, projection = low_rank([[0.6, 0.8], [1.2, 1.6], [1.8, 2.4]], dim=1)
        >>> rows.ravel().round(6).tolist(), projection.round(6).tolist()
        ([1.0, 2.0, 3.0], [[0.6, 0.8]])
    """
    table = check_table(table)
    ids, columns = table.shape
    if check_size("dim", dim) > columns:
        raise ValueError(
            f"`dim` must be at most {columns}, the columns of `table`. "
            f"Received: dim={dim!r}"
        )
    weights = as_weights(popularity, table)
    chunks = [slice(start, start + CHUNK) for start in range(0, ids, CHUNK)]
    bias = np.zeros(columns)
    if use_bias:  # the best affine fit passes through the mean, whatever its rank
        bias = sum(weights[c] @ table[c] for c in chunks) / weights.sum()

    # The triangle of a QR decomposition has the table's singular values and right
    # vectors. Found chunk by chunk, it keeps ten million rows in float64 out of memory,
    # and it does not lose half of the digits, as the Gram matrix would.
    triangle = np.empty((0, columns))
    for c in chunks:
        scaled = np.sqrt(weights[c])[:, None] * (table[c] - bias)
        triangle = np.linalg.qr(np.concatenate([triangle, scaled]), mode="r")
    # All right vectors, even if the table has fewer rows, or a lower rank, than `dim`.
    # The narrow table's last columns are then zero, and can still be trained, because
    # their projection is not. Were both zero, both gradients would be, for ever.
    _, _, directions = np.linalg.svd(triangle, full_matrices=True)
    projection = np.stack([_with_sign(direction) for direction in directions[:dim]])

    dtype = _result_type(table)
    rows = np.empty((ids, dim), dtype)
    for c in chunks:
        rows[c] = (table[c] - bias) @ projection.T
    results = (rows, projection, bias) if use_bias else (rows, projection)
    return tuple(result.astype(dtype, copy=False) for result in results)


def even_steps(table, bits, popularity=None):
    """Choose the evenly spaced values to which a table is rounded.

    A column's values begin at its offset and are a scale apart. A narrow range rounds
    the many small numbers finely and cuts the few large ones off. So several ranges are
    tried, each fitted to the numbers that were rounded in it, and the one with the
    least squared error is kept, with the popularity of the ids as weights.

    Args:
        table: array of shape `(ids, columns)`.
        bits: for each column, the bits of a number: `2 ** bits` values. With no bits,
            that is one value, the mean.
        popularity: how often each id occurs, in any unit. None: all alike. Or the
            weight of each number, an array of the shape of `table`.

    Returns:
        The offsets and the scales, each of shape `(columns,)`, in float64.

    Example:
        >>> offsets, scales = even_steps([[-1.0], [0.1], [0.9], [2.0]], bits=[2])
        >>> offsets.round(2).tolist(), scales.round(2).tolist()
        ([-0.97], [0.98])
    """
    table = check_table(table)
    if np.ndim(popularity) < 2:
        popularity = as_weights(popularity, table)[:, None]
    most = np.maximum(np.max(popularity, axis=0), np.finfo("float64").tiny)
    weights = np.maximum(popularity / most, LEAST_WEIGHT)
    weights = np.broadcast_to(weights / weights.sum(axis=0), table.shape)
    top = 2.0 ** np.asarray(bits) - 1
    values = table.astype("float64")
    centre = _column_sums(weights, values)
    widest = np.abs(values - centre).max(axis=0)
    constant = (widest == 0) | (top == 0)
    widest[constant] = 1.0
    top[constant] = 1.0
    best_error = np.full(table.shape[1], np.inf)
    best = np.empty((2, table.shape[1]))
    for share in np.geomspace(0.1, 1, 24):
        offsets, scales = centre - share * widest, 2 * share * widest / top
        for _ in range(3):
            codes = np.round((values - offsets) / scales).clip(0, top)
            errors = values - offsets - scales * codes
            error = _column_sums(weights, errors**2)
            better = error < best_error
            best_error[better] = error[better]
            best[:, better] = offsets[better], scales[better]
            # The line that fits the numbers best, given their codes.
            mean = _column_sums(weights, codes)
            spread = _column_sums(weights, (codes - mean) ** 2)
            slope = _column_sums(weights, (codes - mean) * (values - centre))
            fits = (spread > 0) & (slope > 0)
            scales = np.where(fits, slope / np.where(fits, spread, 1), scales)
            offsets = np.where(fits, centre - scales * mean, offsets)
    # The first value, not between two of them, and the only one of no bits.
    best[:, constant] = centre[constant], np.ones(constant.sum())
    return tuple(best)


def _column_sums(weights, values):
    return np.einsum("ij,ij->j", weights, values)


def as_weights(popularity, table):
    """Return one weight for each row of `table`, the largest of them 1, in float64.

    What this returns may be passed as `popularity`, and so may a part of it.

    Args:
        popularity: how often each id occurs, in any unit. None, or zeros: all alike.
        table: array of shape `(ids, columns)`.

    Raises:
        ValueError: `popularity` has another length than `table`, or holds a number that
            is negative or not finite.
    """
    ids = len(table)
    if popularity is None:
        return np.ones(ids)
    popularity = np.asarray(popularity, "float64")
    if popularity.shape != (ids,):
        raise ValueError(
            f"`popularity` must hold one number for each of the {ids} rows of `table`. "
            f"Received: popularity of shape {popularity.shape}"
        )
    bad = ~(np.isfinite(popularity) & (popularity >= 0))
    if bad.any():
        raise ValueError(
            "`popularity` must be finite and not negative. "
            f"Received: popularity[{bad.argmax()}]={popularity[bad][0]}"
        )
    if not popularity.any():
        return np.ones(ids)
    # Never quite zero, so that an id without weight has the last say where no other id
    # has one: which direction is left to a narrow table, what a row of its own holds.
    return np.maximum(popularity / popularity.max(), LEAST_WEIGHT)


def _with_sign(direction):
    """Return the one of `direction` and `-direction` whose largest entry is positive.

    Which of them a decomposition finds depends on the machine.
    """
    return direction * np.sign(direction[np.abs(direction).argmax()])


def _result_type(table):
    return np.result_type(table.dtype, "float32")


def check_table(table):
    """Return `table` as an array of two axes and finite numbers, at least one."""
    table = np.asarray(table)
    if table.ndim != 2 or not table.size:
        raise ValueError(
            "`table` must have rows and columns. "
            f"Received: table of shape {table.shape}"
        )
    if not np.isfinite([table.min(), table.max()]).all():  # no copy as large as a table
        row, column = np.argwhere(~np.isfinite(table))[0]
        raise ValueError(
            "`table` must be finite. "
            f"Received: table[{row}, {column}]={table[row, column]}"
        )
    return table
