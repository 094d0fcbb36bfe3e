"""Which columns of which ids get how many bits: the numbers behind `compress`.

All of it is plain NumPy, and knows tables, how much their errors count, and bytes.
"""

import heapq

import numpy as np

from memembed.sizing import code_bytes, low_bit_bytes
from memembed.tables import even_steps

MAX_BITS = 7  # of the 8 a layer may have: the last never gains what it costs
MAX_COLUMNS = 40  # further principal axes of a model of ratings hold next to nothing


def nothing():
    """Do what there is to do after each column when nobody asks for progress."""


def equal_shares(counts, num_blocks):
    """Cut ids in order of popularity into blocks with an equal share of the counts.

    Args:
        counts: how often each id occurs.
        num_blocks: how many blocks to make.

    Returns:
        The sizes of the blocks, a list of positive ints.

    Raises:
        ValueError: a block would have no id.

    Example:
        >>> equal_shares([6, 3, 3, 2, 1, 1, 1, 1], num_blocks=3)
        [1, 2, 5]
    """
    share = np.cumsum(counts) / np.sum(counts)
    cuts = np.searchsorted(share, np.arange(1, num_blocks) / num_blocks) + 1
    sizes = np.diff([0, *cuts, len(share)])
    if not (sizes > 0).all():
        raise ValueError(
            "`num_blocks` must leave each block an id. "
            f"Received: num_blocks={num_blocks}, which gives {sizes.tolist()}"
        )
    return sizes.tolist()


def sensitivities(tables, ids, max_rating, progress=nothing):
    """Return how much a small error of each number raises the squared errors.

    To second order, an error `e` of one number raises the mean squared error by its
    sensitivity times `e ** 2`, were the ratings predicted well: the mean, over all
    ratings, of the square of the rating's slope in the number.

    Args:
        tables: a dict of arrays: `"user"` and `"movie"`, and if there are biases,
            `"user_bias"` and `"movie_bias"`.
        ids: a dict of the rows of each rating, `"user"` and `"movie"`.
        max_rating: what the sigmoid of a score is multiplied by.
        progress: called after each column.

    Returns:
        A dict of arrays of the same shapes.

    Raises:
        ValueError: most ratings are so near 0 or `max_rating` that they have no slope.

    Example:
        >>> tables = {"user": np.array([[1.0], [2.0]]), "movie": np.array([[0.0]])}
        >>> found = sensitivities(tables, {"user": [0, 1], "movie": [0, 0]}, 5)
        >>> found["movie"]  # the mean of (5 / 4 * user) ** 2
        array([[3.90625]])
    """
    # A column at a time: all of them, for each rating, might not fit in memory.
    columns = {name: np.array(table.T) for name, table in tables.items()}
    score = sum(
        users[ids["user"]] * movies[ids["movie"]]
        for users, movies in zip(columns["user"], columns["movie"], strict=True)
    )
    if "user_bias" in tables:
        score += columns["user_bias"][0, ids["user"]]
        score += columns["movie_bias"][0, ids["movie"]]
    with np.errstate(over="ignore"):
        probability = 1 / (1 + np.exp(-score))
    slopes = (max_rating * probability * (1 - probability)) ** 2 / len(score)
    flat = np.mean(slopes == 0)
    if flat > 0.5:
        raise ValueError(
            "The tables must give most ratings a slope, which tells what an error does "
            "to them; their numbers are too large. Received: tables that give "
            f"{flat:.0%} of the ratings none, with scores from {score.min():.3g} to "
            f"{score.max():.3g}"
        )

    found = {}
    for name, table in tables.items():
        side = name.removesuffix("_bias")
        other = "movie" if side == "user" else "user"
        found[name] = np.empty(table.shape)
        for j in range(table.shape[1]):
            squares = slopes  # what a bias is multiplied by is one
            if name == side:
                squares = slopes * (columns[other][j] ** 2)[ids[other]]
            found[name][:, j] = np.bincount(ids[side], squares, len(table))
            progress()
    return found


def rounding_errors(table, weights, progress=nothing):
    """Return the error that rounding makes, for each column and number of bits.

    Args:
        table: array of shape `(ids, columns)`.
        weights: array of the same shape: how much the square of an error counts.
        progress: called after each column.

    Returns:
        An array of shape `(columns, MAX_BITS + 1)`.

    Example:
        >>> rounding_errors(np.array([[0.0], [1.0], [3.0]]), np.ones((3, 1))).round(3)
        array([[4.667, 0.5  , 0.   , 0.   , 0.   , 0.   , 0.   , 0.   ]])
    """
    errors = np.empty((table.shape[1], MAX_BITS + 1))
    choices = np.arange(MAX_BITS + 1)[:, None]
    for j in range(len(errors)):
        column = slice(j, j + 1)
        errors[j] = even_steps(table[:, column], choices, weights[:, column])[2][:, 0]
        progress()
    return errors


def plan_bits(errors, rows, max_bytes):
    """Choose the bits of each column of each block, for the least error in a budget.

    Args:
        errors: a dict from a block to an array of shape `(columns, most bits + 1)`: the
            error of a column at each number of bits.
        rows: a dict from a block to its number of rows.
        max_bytes: how many bytes all blocks may take: see `sizing.low_bit_bytes`.

    Returns:
        A dict from a block to the bits of its columns, a list; and the error.

    Raises:
        ValueError: `max_bytes` is less than one bit in each block takes.

    Example:
        >>> errors = {"block": np.array([[8.0, 2.0, 0.5], [4.0, 1.0, 0.3]])}
        >>> plan_bits(errors, {"block": 8}, max_bytes=19)  # 16 for offsets and scales
        ({'block': [2, 1]}, 1.5)
    """
    # A block needs a bit: in the column where it gains most.
    bits = {block: [0] * len(error) for block, error in errors.items()}
    for block, error in errors.items():
        bits[block][np.argmax(error[:, 0] - error[:, 1])] = 1

    least = sum(low_bit_bytes(rows[x], len(bits[x]), bits[x]) for x in errors)
    left = max_bytes - least
    if left < 0:
        raise ValueError(
            f"`max_bytes` must be at least {least}, which one bit in each block takes. "
            f"Received: max_bytes={max_bytes}"
        )

    best = {block: _best_steps(error, rows[block]) for block, error in errors.items()}

    def step(block, column):
        gains, _ = best[block]
        return -gains[column][bits[block][column]], block, column

    steps = [
        step(block, column) for block in errors for column in range(len(bits[block]))
    ]
    heapq.heapify(steps)
    while steps:
        loss, block, column = heapq.heappop(steps)
        if loss >= 0:
            break
        now, before = bits[block][column], code_bytes(rows[block], bits[block])
        bits[block][column] = best[block][1][column][now]
        extra = code_bytes(rows[block], bits[block]) - before
        if extra > left:
            bits[block][column] = now  # another column's step may fit still
            continue
        left -= extra
        heapq.heappush(steps, step(block, column))
    error = sum(errors[block][range(len(b)), b].sum() for block, b in bits.items())
    return bits, error


def _best_steps(errors, rows):
    """Return, for each column and its bits, what the best step gains, and leads to.

    It is the step to more bits that gains most for each of them.
    """
    bits = np.arange(errors.shape[1])
    extra = bits - bits[:, None]
    gains = errors[:, :, None] - errors[:, None, :]
    gains = np.where(extra > 0, gains / (np.maximum(extra, 1) * rows), -np.inf)
    return gains.max(axis=2).tolist(), gains.argmax(axis=2).tolist()


def allot(tables, weights, sizes, max_bytes, progress=nothing):
    """Choose how many columns to keep, and the bits of each column of each block.

    Of wide tables all keep the same columns, the first. Every column has an offset and
    a scale in each block, whether it has bits or not.

    Args:
        tables: a dict of arrays of shape `(ids, columns)`.
        weights: a dict of arrays of the same shapes: how much the square of an error
            counts.
        sizes: a dict of how many ids each block of a table holds.
        max_bytes: how many bytes all tables may take: see `sizing.low_bit_bytes`.
        progress: called after each column of each block.

    Returns:
        A dict from a table to its blocks' bits: a list for each block, with an entry
        for each column that is kept.

    Raises:
        ValueError: `max_bytes` is less than one bit in each block takes.
    """
    most = max(table.shape[1] for table in tables.values())
    errors, rows, left_out = {}, {}, np.zeros(most + 1)
    for name, table in tables.items():
        stops = np.cumsum(sizes[name])
        for block, size in enumerate(sizes[name]):
            ids = slice(stops[block] - size, stops[block])
            numbers, weight = table[ids], weights[name][ids]
            errors[name, block] = rounding_errors(numbers, weight, progress)
            rows[name, block] = size
            without = np.einsum("ij,ij->j", weight, numbers**2)
            left_out += [without[rank:].sum() for rank in range(most + 1)]

    plans = []
    for rank in range(1, most + 1):
        kept = {block: error[:rank] for block, error in errors.items()}
        try:
            bits, error = plan_bits(kept, rows, max_bytes)
        except ValueError:
            if not plans:
                raise
            break  # nor will more columns fit
        plans.append((error + left_out[rank], rank, bits))
    *_, bits = min(plans, key=lambda plan: plan[:2])
    return {
        name: [bits[name, block] for block in range(len(blocks))]
        for name, blocks in sizes.items()
    }
