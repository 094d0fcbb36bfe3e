"""Compress a trained table without training: the numbers behind a warm start.

This is plain NumPy. The layers put the results into their weights.
"""

import numpy as np

from memembed.shapes import check_size

CHUNK = 2**15  # rows that are worked on in float64 at a time
MAX_FITTED = 2**17  # rows that are used to choose the steps of a larger table
MIN_WEIGHT = 1e-9  # of an id, if the most popular id has 1
RANGES = np.geomspace(0.1, 1, 24)[:, None]  # tried, as shares of the widest


def low_rank(table, dim, popularity=None, use_bias=False):
    """Approximate a table by a narrower one and a projection.

    The result, `rows @ projection` (`+ bias`), has the smallest squared error that is
    possible with these shapes, summed over the ids with their popularity as weights.
    Without popularity and bias, it is the truncated singular value decomposition
    (Eckart and Young).

    The rows of the projection are orthonormal, the strongest direction first, and only
    the narrow table has a scale. A step of Adam is as large as the learning rate,
    whatever the gradient: on a narrow row, it moves the embedding no further than on a
    full row. If both shared the scale, this distance would depend on the number of ids
    and on the unit of `popularity`.

    Args:
        table: array of shape `(ids, columns)`.
        dim: columns of the narrow table, at most those of `table`.
        popularity: how often each id occurs; only ratios matter. None: all ids count
            equally. An id that never occurs still gets the row that is best for it.
        use_bias: whether to add one vector to all embeddings.

    Returns:
        The narrow table, `(ids, dim)`, the projection, `(dim, columns)`, and, if there
        is one, the bias, `(columns,)`. They are float32, or float64 if `table` is.

    Raises:
        TypeError: `dim` is not an integer.
        ValueError: `table` or `popularity` is not such an array, or `dim` is not
            positive, or more than the columns.

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
    bias = np.zeros(columns)
    if use_bias:  # the best affine fit passes through the mean, whatever its rank
        bias = sum(weights[c] @ table[c] for c in chunks(ids)) / weights.sum()

    triangle = weighted_triangle(table, weights, bias)
    # All right singular vectors, even if the table has fewer rows, or a lower rank,
    # than `dim`. Then the narrow table's last columns are zero, but their projection is
    # not, so they can be trained. If both were zero, both gradients would stay zero.
    _, _, directions = np.linalg.svd(triangle, full_matrices=True)
    projection = np.stack([_with_sign(direction) for direction in directions[:dim]])

    dtype = _result_type(table)
    rows = np.empty((ids, dim), dtype)
    for c in chunks(ids):
        rows[c] = (table[c] - bias) @ projection.T
    results = (rows, projection, bias) if use_bias else (rows, projection)
    return tuple(result.astype(dtype, copy=False) for result in results)


def weighted_triangle(table, weights, bias=0):
    """Return the triangle of the QR decomposition of a table, with weights.

    It has the table's singular values and right singular vectors: its square,
    `triangle.T @ triangle`, holds the weighted sums of the products of any two columns.
    It is computed chunk by chunk, so that ten million rows are never all in float64 at
    once. Computing that square directly would lose half of the digits.

    Args:
        table: array of shape `(ids, columns)`.
        weights: array of shape `(ids,)`.
        bias: a vector that is subtracted from every row.

    Returns:
        An array of shape `(columns, columns)`, or of fewer rows if there are fewer ids.
    """
    triangle = np.empty((0, table.shape[1]))
    for c in chunks(len(table)):
        scaled = np.sqrt(weights[c])[:, None] * (table[c] - bias)
        triangle = np.linalg.qr(np.concatenate([triangle, scaled]), mode="r")
    return triangle


def principal_axes(triangle, other):
    """Find the axes in which two tables are smallest, with the same dot products.

    `one @ turn` and `two @ back` have the same products, row by row, as the tables
    `one` and `two`. Their columns are orthogonal, the strongest first, and equally
    large in both tables: of all pairs of tables with these products, this pair has the
    least sum of squares, weighted as the triangles are.

    Args:
        triangle: the `weighted_triangle` of the first table.
        other: the `weighted_triangle` of the second table. Or, for a single table: any
            matrix whose square says how much an error of its embeddings counts.

    Returns:
        `turn` and `back`, arrays of shape `(columns, rank)`, with the rank of the
        products. `turn @ back.T` is a projection. It does not change the first table if
        that table has the same rank.

    Example:
        >>> one, two = np.array([[3.0, 3.0], [4.0, 4.0]]), np.eye(2)
        >>> triangles = [weighted_triangle(table, np.ones(2)) for table in (one, two)]
        >>> turn, back = principal_axes(*triangles)
        >>> turn.shape, ((one @ turn) @ (two @ back).T).round(6).tolist()
        ((2, 1), [[3.0, 3.0], [4.0, 4.0]])

    References:
        The singular value decomposition of the products, found from the tables alone:
        Golub and Van Loan, Matrix Computations, on the QR and singular value
        decompositions.
    """
    left, strengths, right = np.linalg.svd(triangle @ other.T, full_matrices=False)
    rank = max(1, np.sum(strengths > strengths.max() * 1e-6))
    scale = np.sqrt(strengths[:rank])
    turn = np.linalg.pinv(triangle, rcond=1e-8) @ left[:, :rank] * scale
    back = np.linalg.pinv(other, rcond=1e-8) @ right[:rank].T * scale
    return turn, back


def turned(table, turn):
    """Return `table @ turn` in float32, without a copy of the table in float64."""
    rows = np.empty((len(table), turn.shape[1]), "float32")
    for c in chunks(len(table)):
        rows[c] = table[c] @ turn
    return rows


def even_steps(table, bits, popularity=None):
    """Choose the evenly spaced values to which a table is rounded.

    The values of a column start at its offset, and its scale is the distance between
    them. A narrow range rounds the many small numbers finely, but clips the few large
    ones. So several ranges are tried, each is fitted to the numbers rounded in it, and
    the range with the least squared error is kept. The popularity of the ids gives the
    weights of the errors.

    Args:
        table: array of shape `(ids, columns)`.
        bits: for each column, the bits of a number: `2 ** bits` values. With 0 bits,
            that is one value, the mean. An array of shape `(choices, columns)`, or
            `(choices, 1)`, gives several choices for each column.
        popularity: how often each id occurs; only ratios matter. None: all ids count
            equally.

    Returns:
        The offsets, the scales, and the squared errors, summed over the ids with their
        weights, the largest of which is 1. Of more than 131,072 ids, only that many are
        used, to estimate the errors of all. Each result has shape `(columns,)`, or
        `(choices, columns)`, in float64.

    Example:
        >>> table = [[-1.0], [0.1], [0.9], [2.0]]
        >>> offsets, scales, errors = even_steps(table, bits=[2])
        >>> offsets.round(2).tolist(), scales.round(2).tolist()
        ([-0.97], [0.98])
    """
    table = check_table(table)
    weights = as_weights(popularity, table)
    whole = weights.sum()
    if len(table) > MAX_FITTED:
        picked = np.linspace(0, len(table) - 1, MAX_FITTED).astype("int64")
        table, weights = table[picked], weights[picked]
    bits = np.broadcast_to(bits, np.broadcast_shapes(np.shape(bits), table.shape[1:]))
    columns = [
        _column_steps(table[:, j].astype("float64"), weights, bits[..., j])
        for j in range(table.shape[1])
    ]
    offsets, scales, errors = (np.stack(x, axis=-1) for x in zip(*columns, strict=True))
    return offsets, scales, errors * (whole / weights.sum())


def _column_steps(values, weights, bits):
    """Return a column's offset, scale and error, for each of some bits."""
    shares = weights / weights.sum()
    # Sums by einsum: BLAS would start threads, which take longer than the sum.
    centre = np.einsum("i,i", shares, values)
    # In sorted order, numbers with the same code are neighbours. To try a range and to
    # fit it, two sums from each number on are enough: of the shares, and of the shares
    # times the numbers.
    order = np.argsort(values)
    deviations, shares = values[order] - centre, shares[order]
    variance = np.einsum("i,i,i", shares, deviations, deviations)
    widest = np.abs(deviations[[0, -1]]).max()
    sums = np.zeros((2, len(values) + 1))
    np.cumsum([shares[::-1], (shares * deviations)[::-1]], axis=1, out=sums[:, -2::-1])

    def best_range(top):
        if not top or not widest:
            return centre, 1.0
        codes = np.arange(1, top + 1)
        starts = -RANGES * widest
        steps = -2 * starts / top
        tried = []
        for _ in range(3):
            firsts = np.searchsorted(deviations, starts + steps * (codes - 0.5))
            # A number with code k reaches the k codes from 1 to k, and k**2 is the sum
            # of the first k odd numbers.
            reached, products = sums.take(firsts, axis=1)
            mean = reached.sum(axis=1, keepdims=True)
            spread = (reached @ (2 * codes - 1))[:, None] - mean**2
            slope = products.sum(axis=1, keepdims=True)
            errors = variance - 2 * steps * slope + steps**2 * spread
            errors += (starts + steps * mean) ** 2
            best = errors.argmin()
            tried.append((errors[best, 0], starts[best, 0], steps[best, 0]))
            # The line that fits the numbers best, given their codes.
            fits = (spread > 0) & (slope > 0)
            steps = np.where(fits, slope / np.where(fits, spread, 1), steps)
            starts = np.where(fits, -steps * mean, starts)
        _, start, step = min(tried)
        return centre + start, step

    found = []
    for top in 2 ** bits.ravel() - 1:
        offset, scale = best_range(top)
        errors = values - offset
        codes = errors / scale  # in place from here: new memory would be slow
        np.rint(codes, out=codes).clip(0, top, out=codes)
        errors -= np.multiply(codes, scale, out=codes)
        found.append((offset, scale, np.einsum("i,i,i", weights, errors, errors)))
    return np.transpose(found).reshape(3, *bits.shape)


def chunks(ids):
    """Return slices that cut this number of rows into chunks."""
    return [slice(start, start + CHUNK) for start in range(0, ids, CHUNK)]


def as_weights(popularity, table):
    """Return one weight for each row of `table`, the largest of them 1, in float64.

    The result, or a part of it, can be passed as `popularity` again.

    Args:
        popularity: how often each id occurs; only ratios matter. None, or all zeros:
            all ids count equally.
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
    # Never 0: ids without weight then decide what no other id decides, such as the last
    # directions of a narrow table, or a row that no other id uses.
    return np.maximum(popularity / popularity.max(), MIN_WEIGHT)


def _with_sign(direction):
    """Return `direction` or `-direction`, so that its largest entry is positive.

    The sign that a decomposition returns depends on the machine.
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
