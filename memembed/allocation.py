"""Which columns of which ids get how many bits: the numbers behind `compress`.

All of it is plain NumPy, and knows tables, how much their errors count, and bytes.
"""

import heapq

import numpy as np

from memembed.sizing import code_bytes, low_bit_bytes
from memembed.tables import even_steps

MAX_BITS = 7  # of the 8 that a layer may have: the last never gains what it costs
MAX_COLUMNS = 40  # further principal axes of a model of ratings hold next to nothing


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


def sensitivities(tables, ids, max_rating):
    """Return how much a small error of each number raises the squared errors.

    To second order, an error `e` of one number raises the mean squared error by its
    sensitivity times `e ** 2`, were the ratings predicted well: the mean, over all
    ratings, of the square of the rating's slope in the number.

    Args:
        tables: a dict of arrays: `"user"` and `"movie"`, and if there are biases,
            `"user_bias"` and `"movie_bias"`.
        ids: a dict of the rows of each rating: `"user"` and `"movie"`.
        max_rating: what the sigmoid of a score is multiplied by.

    Returns:
        A dict of arrays of the same shapes.

    Raises:
        ValueError: most ratings are 0 or `max_rating`, and have no slope.

    Example:
        >>> tables = {"user": np.array([[1.0], [2.0]]), "movie": np.array([[0.0]])}
        >>> sensitivities(tables, {"user": [0, 1], "movie": [0, 0]}, 5)["movie"]
        array([[3.90625]])
    """
    # A column at a time: all of them, for each rating, might not fit in memory.
    columns = {name: np.array(table.T) for name, table in tables.items()}
    score = np.zeros(len(ids["user"]))
    for users, movies in zip(columns["user"], columns["movie"], strict=True):
        score += users[ids["user"]] * movies[ids["movie"]]
    if "user_bias" in tables:
        score += columns["user_bias"][0, ids["user"]]
        score += columns["movie_bias"][0, ids["movie"]]
    with np.errstate(over="ignore"):
        probability = 1 / (1 + np.exp(-score))
    slopes = (max_rating * probability * (1 - probability)) ** 2 / len(score)
    if np.median(slopes) == 0:
        raise ValueError(
            "`model` must give most ratings a slope, from which it is known what an "
            "error does; its weights are too large. Received: scores from "
            f"{score.min():.3g} to {score.max():.3g}"
        )

    found = {}
    for name, table in tables.items():
        side = name.removesuffix("_bias")
        other = "movie" if side == "user" else "user"
        # What a number is multiplied by in the score, squared. A bias, by one.
        factors = [None] if name != side else columns[other] ** 2
        found[name] = np.empty(table.shape)
        for j, factor in enumerate(factors):
            squares = slopes if factor is None else slopes * factor[ids[other]]
            found[name][:, j] = np.bincount(ids[side], squares, len(table))
    return found


def rounding_errors(table, weights):
    """Return the error that rounding makes, for each column and number of bits.

    Args:
        table: array of shape `(ids, columns)`.
        weights: array of the same shape: how much the square of an error counts.

    Returns:
        An array of shape `(columns, MAX_BITS + 1)`.
    """
    return even_steps(table, np.arange(MAX_BITS + 1)[:, None], weights)[2].T


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
        >>> bits, error = plan_bits(errors, {"block": 8}, max_bytes=16 + 3)
        >>> bits, float(error)
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

    # For each column and its bits: what the further bits gain that gain most for each
    # of them, and how many bits it has then.
    gains, targets = {}, {}
    for block, error in errors.items():
        further = np.arange(error.shape[1]) - np.arange(error.shape[1])[:, None]
        gain = error[:, :, None] - error[:, None, :]
        gain = np.where(further > 0, gain / (np.maximum(further, 1) * rows[block]), 0)
        gains[block], targets[block] = gain.max(axis=2), gain.argmax(axis=2)

    def step(block, column):
        return -gains[block][column, bits[block][column]], block, column

    steps = [step(block, j) for block in errors for j in range(len(bits[block]))]
    heapq.heapify(steps)
    while steps:
        loss, block, column = heapq.heappop(steps)
        if loss >= 0:
            break
        now, before = bits[block][column], code_bytes(rows[block], bits[block])
        bits[block][column] = int(targets[block][column, now])
        extra = code_bytes(rows[block], bits[block]) - before
        if extra > left:
            bits[block][column] = now  # another column's step may fit still
            continue
        left -= extra
        heapq.heappush(steps, step(block, column))
    error = sum(errors[block][range(len(b)), b].sum() for block, b in bits.items())
    return bits, error


def allot(tables, weights, sizes, max_bytes, progress=lambda numbers: None):
    """Choose how many columns all tables keep, and the bits of each of their blocks'.

    Every column has an offset and a scale in each block, whether it has bits or not.

    Args:
        tables: a dict of arrays of shape `(ids, columns)`.
        weights: a dict of arrays of the same shapes: how much the square of an error
            counts.
        sizes: a dict of the sizes of the blocks.
        max_bytes: how many bytes all tables may take: see `sizing.low_bit_bytes`.
        progress: called for each block, with how many numbers it has.

    Returns:
        A dict with a list for each block, which has the bits of each column that is
        kept. These are the first columns of a table.

    Raises:
        ValueError: `max_bytes` is less than one bit in each block takes.
    """
    most = max(table.shape[1] for table in tables.values())
    errors, rows, left_out = {}, {}, np.zeros(most + 1)
    for name, table in tables.items():
        cuts = np.cumsum(sizes[name])[:-1]
        blocks = zip(np.split(table, cuts), np.split(weights[name], cuts), strict=True)
        for block, (numbers, weight) in enumerate(blocks):
            errors[name, block] = rounding_errors(numbers, weight)
            rows[name, block] = len(numbers)
            without = np.einsum("ij,ij->j", weight, numbers**2)
            left_out += [without[rank:].sum() for rank in range(most + 1)]
            progress(numbers.size)

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
    return {name: [bits[name, i] for i in range(len(sizes[name]))] for name in tables}
