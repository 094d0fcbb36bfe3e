"""Compress a trained rating model to as few bytes as its errors allow."""

import heapq

import keras
import numpy as np
from keras import ops

from memembed.layers import LowBitEmbedding
from memembed.models import MAX_RATING, dot_product_model, embeddings_of
from memembed.shapes import check_size
from memembed.sizing import code_bytes, low_bit_bytes
from memembed.tables import even_steps

MOST_BITS = 7  # an eighth never lowers an error by what it costs
MOST_COLUMNS = 40  # further principal axes of a model of ratings hold next to nothing


def compress(model, examples, max_bytes, num_blocks=5):
    """Return a rating model whose tables take few bits, to be trained on and packed.

    1. The two tables are turned to their principal axes (`principal_axes`), which
       changes no rating, and leaves little in the last columns.
    2. Users and movies are cut into blocks that have an equal share of the ratings.
    3. Every column of every block, and every block of biases, is given some bits for
       each of its numbers. It begins with none, and one value for all. Then those bits
       are added, one step after another, that lower the error most for what they cost,
       until the budget is spent. What rounding costs is known from the ratings: the
       square of a number's rounding error, times the mean square of the slopes that
       its ratings have in it.

    To get back most of what was lost, train the result for some epochs, at a lower
    learning rate than the first, and `pack` it then.

    Args:
        model: a `dot_product_model`, trained.
        examples: `memembed.data.Examples`, the training split. Users and movies are
            numbered by popularity, most popular first.
        max_bytes: how many bytes all tables may take when they are packed.
        num_blocks: how many blocks there are of users, and of movies.

    Returns:
        A new `dot_product_model`. Its embeddings and biases are `LowBitEmbedding`
        layers, each with the activity regularizer of the layer that it is made
        from.

    Raises:
        TypeError: `max_bytes` or `num_blocks` is not an integer.
        ValueError: `model` is not a `dot_product_model`, `num_blocks` is not positive
            or more than there are movies or users with ratings, or `max_bytes` is less
            than one column of one bit takes.

    Example:
        >>> import keras
        >>> from memembed.compression import compress
        >>> from memembed.data import prepare, synthetic_ratings
        >>> from memembed.layers import pack
        >>> data = prepare(synthetic_ratings(50, 40, num_ratings=1200))
        >>> users, movies = keras.layers.Embedding(50, 8), keras.layers.Embedding(40, 8)
        >>> model = dot_product_model(users, movies, biases=True)  # and train it
        >>> small = compress(model, data.train, max_bytes=500, num_blocks=2)
        >>> 480 < sum(weight.nbytes for weight in pack(small).get_weights()) <= 500
        True

    References:
        Gersho and Gray, Vector Quantization and Signal Compression, 1992, on the
        allocation of bits; Esser et al., Learned Step Size Quantization, 2019,
        arXiv:1902.08153, on training through the rounding.
    """
    max_bytes = check_size("max_bytes", max_bytes)
    num_blocks = check_size("num_blocks", num_blocks)
    layers = embeddings_of(model)
    tables = {name: _rows(layer) for name, layer in layers.items()}
    for side, turned in zip(
        ("user", "movie"), principal_axes(tables["user"], tables["movie"]), strict=True
    ):
        tables[side] = turned[:, :MOST_COLUMNS]
    weights = sensitivities(tables, examples)
    counts, sizes = {}, {}
    for name, table in tables.items():
        ids = getattr(examples, name.removesuffix("_bias"))
        counts[name] = np.bincount(ids, minlength=len(table))
        sizes[name] = equal_shares(counts[name], num_blocks)

    rank, bits = _best_rank(tables, weights, sizes, max_bytes)
    made = [
        LowBitEmbedding.from_embedding(
            table[:, :rank],
            [bits[name, block] for block in range(num_blocks)],
            counts[name],
            sizes[name],
            activity_regularizer=layers[name].activity_regularizer,
        )
        for name, table in tables.items()
    ]
    return dot_product_model(made[0], made[1], biases=made[2:])


def average(models):
    """Return one model whose scores, before the sigmoid, are the mean of several.

    Models that differ in their seed err in different directions, and their mean errs
    less. It has all of their columns, side by side; `compress` keeps the strong axes,
    so that the mean takes no more memory than one of them.

    Args:
        models: models of `dot_product_model`, all with biases or all without.

    Returns:
        A `dot_product_model` of plain tables, with the activity regularizers of the
        first.

    Raises:
        ValueError: there is no model, or they differ in their users, movies or biases,
            or one is not made by `dot_product_model`.

    Example:
        >>> import keras
        >>> from memembed.compression import average
        >>> tables = [keras.layers.Embedding(size, 4) for size in (9, 7, 9, 7, 9, 7)]
        >>> models = [dot_product_model(*tables[i : i + 2]) for i in (0, 2, 4)]
        >>> average(models).get_layer("dot_product").input[0].shape
        (None, 12)

    References:
        Dietterich, Ensemble Methods in Machine Learning, 2000, section 1.
    """
    models = list(models)
    parts = [embeddings_of(model) for model in models]
    sizes = [{name: layer.input_dim for name, layer in each.items()} for each in parts]
    if not models or any(each != sizes[0] for each in sizes):
        raise ValueError(
            "`models` must be one or more with the same users, movies and biases. "
            f"Received: {sizes}"
        )
    made = []
    for name, first in parts[0].items():
        tables = np.stack([_rows(each[name]) for each in parts])
        if name.endswith("bias"):
            table = tables.mean(axis=0)
        else:  # each side's share of the mean is the root of 1 / len(models)
            table = np.concatenate(tables, axis=1) / np.sqrt(len(models))
        layer = keras.layers.Embedding(
            *table.shape, activity_regularizer=first.activity_regularizer
        )
        layer.build()
        layer.set_weights([table])
        made.append(layer)
    return dot_product_model(made[0], made[1], biases=made[2:])


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


def equal_shares(counts, num_blocks):
    """Cut ids in order of popularity into blocks with an equal share of the counts.

    Args:
        counts: how often each id occurs.
        num_blocks: how many blocks to make.

    Returns:
        The sizes of the blocks, a list of positive ints.

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


def sensitivities(tables, examples):
    """Return how much a small error of each number raises the squared errors.

    To second order, an error `e` of one number raises the mean squared error by its
    sensitivity times `e ** 2`, were the ratings predicted well: the sum, over the
    ratings that meet the number, of the square of the rating's slope in it.

    Args:
        tables: a dict of arrays: `"user"` and `"movie"`, and if there are biases,
            `"user_bias"` and `"movie_bias"`.
        examples: `memembed.data.Examples`.

    Returns:
        A dict of arrays of the same shapes.
    """
    user, movie = examples.user, examples.movie
    # A column at a time: all of them, for each rating, might not fit in memory.
    score = sum(
        users[user] * movies[movie]
        for users, movies in zip(tables["user"].T, tables["movie"].T, strict=True)
    )
    if "user_bias" in tables:
        score += tables["user_bias"][user, 0] + tables["movie_bias"][movie, 0]
    probability = 1 / (1 + np.exp(-score))
    slopes = (MAX_RATING * probability * (1 - probability)) ** 2 / len(score)

    def summed(name, ids, others, other_ids):
        return np.stack(
            [
                np.bincount(ids, slopes * column[other_ids] ** 2, len(tables[name]))
                for column in others.T
            ],
            axis=1,
        )

    one = np.ones((1, 1))  # what a bias is multiplied by
    found = {
        "user": summed("user", user, tables["movie"], movie),
        "movie": summed("movie", movie, tables["user"], user),
    }
    if "user_bias" in tables:
        found["user_bias"] = summed("user_bias", user, one, 0)
        found["movie_bias"] = summed("movie_bias", movie, one, 0)
    return found


def _best_rank(tables, weights, sizes, max_bytes):
    """Return how many columns to keep, and the bits of each block's columns.

    Every column has an offset and a scale in each block, whether it has bits or not.
    """
    most = tables["user"].shape[1]
    errors, left_out = {}, np.zeros(most + 1)
    for name, table in tables.items():
        for block, ids in enumerate(_slices(sizes[name])):
            numbers, weight = table[ids], weights[name][ids]
            errors[name, block] = rounding_errors(numbers, weight)
            if "bias" not in name:
                without = np.einsum("ij,ij->j", weight, numbers**2)
                left_out += [without[rank:].sum() for rank in range(most + 1)]
    rows = {(name, block): sizes[name][block] for name, block in errors}

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
    _, rank, bits = min(plans, key=lambda plan: plan[:2])
    return rank, bits


def plan_bits(errors, rows, max_bytes):
    """Choose the bits of each column of each block, for the least error in a budget.

    Args:
        errors: a dict from a block to an array of shape `(columns, most bits + 1)`: the
            error of a column at each number of bits.
        rows: a dict from a block to its number of rows.
        max_bytes: how many bytes all blocks may take: see `sizing.low_bit_bytes`.

    Returns:
        A dict from a block to the bits of its columns, a list; and the error.
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

    def best_step(block, column):
        """Return the further bits that gain most for each of them, and that gain."""
        error, now = errors[block][column], bits[block][column]
        more = np.arange(now + 1, len(error))
        gains = (error[now] - error[more]) / ((more - now) * rows[block])
        best = np.argmax(gains)
        return -gains[best], block, column, int(more[best])

    steps = [
        best_step(block, column)
        for block, error in errors.items()
        for column in range(len(error))
    ]
    heapq.heapify(steps)
    while steps:
        gain, block, column, more = heapq.heappop(steps)
        now, before = bits[block][column], code_bytes(rows[block], bits[block])
        bits[block][column] = more
        extra = code_bytes(rows[block], bits[block]) - before
        if gain >= 0 or extra > left:
            bits[block][column] = now  # another column's step may fit still
            continue
        left -= extra
        if more < errors[block].shape[1] - 1:
            heapq.heappush(steps, best_step(block, column))
    error = sum(errors[block][range(len(b)), b].sum() for block, b in bits.items())
    return bits, error


def rounding_errors(table, weights):
    """Return the error that rounding makes, for each column and number of bits.

    Args:
        table: array of shape `(ids, columns)`.
        weights: array of the same shape: how much the square of an error counts.

    Returns:
        An array of shape `(columns, MOST_BITS + 1)`.
    """
    columns = range(table.shape[1])
    errors = np.empty((len(columns), MOST_BITS + 1))
    for bits in range(MOST_BITS + 1):
        offsets, scales = even_steps(table, [bits for _ in columns], weights)
        codes = np.round((table - offsets) / scales).clip(0, 2**bits - 1)
        rounded = offsets + scales * codes
        errors[:, bits] = np.einsum("ij,ij->j", weights, (table - rounded) ** 2)
    return errors


def _slices(sizes):
    stops = np.cumsum(sizes)
    return [slice(stop - size, stop) for stop, size in zip(stops, sizes, strict=True)]


def _rows(layer):
    """Return all embeddings of a layer, in float64."""
    rows = layer(np.arange(layer.input_dim))
    return ops.convert_to_numpy(rows).astype("float64")
