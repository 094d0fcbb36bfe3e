"""Compress a trained table without training: the numbers behind a warm start.

All of it is plain NumPy. The layers put the results into their weights.
"""

import numpy as np

from memembed.shapes import check_size

CHUNK = 2**15  # rows that are worked on in float64 at a time
MIN_WEIGHT = 1e-9  # of an id, where the most popular one has 1


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


def principal_axes(users, movies):
    """Turn two tables so that their columns are orthogonal, the strongest first.

    All products of a row of the one with a row of the other stay the same. Of all pairs
    of tables with these products, it is the one whose squares have the least sum; a
    column is as large in the one as in the other.

    Args:
        users: array of shape `(users, columns)`.
        movies: array of shape `(movies, columns)`.

    Returns:
        The two tables, in float64. Columns past the rank of the products are left out.

    Example:
        >>> users, movies = principal_axes([[3, 3], [0, 0], [4, 4]], [[1, 0], [0, 1]])
        >>> (users @ movies.T).round(6).tolist()
        [[3.0, 3.0], [0.0, 0.0], [4.0, 4.0]]
        >>> users.shape
        (3, 1)

    References:
        The singular value decomposition of the products, found from the tables alone:
        Golub and Van Loan, Matrix Computations, on the QR and singular value
        decompositions.
    """
    user_basis, user_rest = np.linalg.qr(np.asarray(users, "float64"))
    movie_basis, movie_rest = np.linalg.qr(np.asarray(movies, "float64"))
    left, strengths, right = np.linalg.svd(user_rest @ movie_rest.T)
    rank = max(1, np.sum(strengths > strengths.max() * 1e-6))
    scale = np.sqrt(strengths[:rank])
    return user_basis @ left[:, :rank] * scale, movie_basis @ right[:rank].T * scale


def even_steps(table, bits, popularity=None):
    """Choose the evenly spaced values to which a table is rounded.

    A column's values begin at its offset and are a scale apart. A narrow range rounds
    the many small numbers finely and cuts the few large ones off. So several ranges are
    tried, each fitted to the numbers that were rounded in it, and the one with the
    least squared error is kept, with the popularity of the ids as weights.

    Args:
        table: array of shape `(ids, columns)`.
        bits: for each column, the bits of a number: `2 ** bits` values. With no bits,
            that is one value, the mean. An array of shape `(choices, columns)`, or
            `(choices, 1)`, gives several choices for each column.
        popularity: how often each id occurs, in any unit. None: all alike. Or the
            weight of each number, an array of the shape of `table`.

    Returns:
        The offsets, the scales, and the squared errors, summed over the ids with their
        weights: by popularity, the largest weight is 1. Each is of shape `(columns,)`,
        or `(choices, columns)`, in float64.

    Example:
        >>> table = [[-1.0], [0.1], [0.9], [2.0]]
        >>> offsets, scales, errors = even_steps(table, bits=[2])
        >>> offsets.round(2).tolist(), scales.round(2).tolist()
        ([-0.97], [0.98])
    """
    table = check_table(table)
    if np.ndim(popularity) < 2:
        popularity = as_weights(popularity, table)[:, None]
    weights = np.broadcast_to(popularity, table.shape)
    bits = np.broadcast_to(bits, np.broadcast_shapes(np.shape(bits), table.shape[1:]))
    columns = [
        _column_steps(
            *(x[:, j].astype("float64") for x in (table, weights)), bits[..., j]
        )
        for j in range(table.shape[1])
    ]
    return tuple(np.stack(columns, axis=-1))


def _column_steps(values, weights, bits):
    """Return a column's offset, scale and error, for each of some bits."""
    most = max(weights.max(), np.finfo("float64").tiny)
    shares = np.maximum(weights / most, MIN_WEIGHT)
    shares /= shares.sum()
    # Sums by einsum: BLAS would start threads, which take longer than the sum.
    centre = np.einsum("i,i", shares, values)
    # Numbers of the same code follow each other in order. The sums of the shares, and
    # of the shares times the numbers, from each number on, are all that it takes to try
    # a range and to fit it.
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
        starts = -np.geomspace(0.1, 1, 24)[:, None] * widest
        steps = -2 * starts / top
        tried = []
        for _ in range(3):
            firsts = np.searchsorted(deviations, starts + steps * (codes - 0.5))
            # A code is the number of codes from 1 on that are reached, and its square
            # is the sum of as many odd numbers.
            reached, products = sums[:, firsts]
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
        codes = errors / scale  # in place from here: new memory would take most time
        np.rint(codes, out=codes).clip(0, top, out=codes)
        errors -= np.multiply(codes, scale, out=codes)
        found.append((offset, scale, np.einsum("i,i,i", weights, errors, errors)))
    return np.transpose(found).reshape(3, *bits.shape)


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
    return np.maximum(popularity / popularity.max(), MIN_WEIGHT)


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
