"""How many parameters and bytes an embedding takes, and plans that fit a budget.

It imports only NumPy itself. All counts are exact: they are what Keras stores.

The bytes are those of a layer in use, not in training. For `"int8"` and `"int4"` they
are what the layer holds after its model's `quantize("int8")` or `quantize("int4")`, as
of Keras 3.15:

- `"int8"`: a byte per number, and a float32 scale per row of a table and per column of
  a projection.
- `"int4"`: half a byte per number, each row filled up to a whole byte. The numbers that
  are scaled together are those of `"int8"`, but at most 128: they share a float32 scale
  and an int8 zero point. A float32 per column of a table, and per row of a projection,
  stores the group of 128 that it belongs to.
- A projection's bias stays in float32.
"""

import itertools
import math
import numbers
import operator

import numpy as np

from memembed.shapes import (
    CHUNK_IDS,
    check_size,
    check_sizes,
    low_bit_blocks,
    md_shapes,
    min_buckets,
    qr_shapes,
)

__all__ = [
    "alpha_power_dims",
    "block_bytes",
    "code_bytes",
    "low_bit_bytes",
    "md_bytes",
    "md_parameters",
    "md_plan",
    "min_buckets",
    "plain_bytes",
    "plain_parameters",
    "qr_bytes",
    "qr_parameters",
    "training_bytes",
]

BITS = {"float32": 32, "float16": 16, "bfloat16": 16, "int8": 8, "int4": 4}
INT4_GROUP = 128  # numbers that share a scale
MAX_WIDTHS = 12  # that give 4,095 subsets to try

# How many arrays as large as the weights an optimizer keeps between steps.
OPTIMIZER_SLOTS = {
    "sgd": 0,
    "rowwise_adagrad": 0,
    "adagrad": 1,
    "adam": 2,
    "adafactor": 1,
}


def plain_parameters(input_dim, output_dim):
    """Count the parameters of one full table, `keras.layers.Embedding`.

    Args:
        input_dim: size of the vocabulary.
        output_dim: length of an embedding.

    Raises:
        TypeError: a size is not an integer.
        ValueError: a size is not positive.

    Example:
        >>> plain_parameters(6040, 64)
        386560
    """
    return check_size("input_dim", input_dim) * check_size("output_dim", output_dim)


def plain_bytes(input_dim, output_dim, dtype="float32"):
    """Count the bytes of one full table, `keras.layers.Embedding`.

    Args:
        input_dim: size of the vocabulary.
        output_dim: length of an embedding.
        dtype: `"float32"`, `"float16"`, `"bfloat16"`, `"int8"` or `"int4"`.

    Raises:
        TypeError: a size is not an integer.
        ValueError: a size is not positive, or `dtype` is none of these.

    Example:
        >>> plain_bytes(6040, 64)
        1546240

        In a narrow row, the scale takes a large part: 64 numbers shrink to 27% in int8,
        8 numbers only to 38%, and a single number grows.

        >>> [plain_bytes(1, dim, "int8") / plain_bytes(1, dim) for dim in (64, 8, 1)]
        [0.265625, 0.375, 1.25]
    """
    input_dim = check_size("input_dim", input_dim)
    output_dim = check_size("output_dim", output_dim)
    return _table_bytes(input_dim, output_dim, _check_dtype(dtype))


def low_bit_bytes(
    input_dim,
    output_dim,
    bits=4,
    block_sizes=None,
    store_blocks=False,
    use_projection=False,
):
    """Count the bytes of a packed `LowBitEmbedding` with these arguments.

    They are the sum, over the blocks, of `code_bytes` and of an offset and a scale in
    float32 for each column. If the block of each id is stored, `block_bytes` are added;
    if there is a projection, its bytes in float32. Which id is in which block makes no
    difference.

    Args:
        input_dim: size of the vocabulary.
        output_dim: length of an embedding.
        bits: bits of a number: one for all columns, or one for each column that is
            held. With blocks: one number for all, or one such entry for each block.
        block_sizes: how many ids each block holds. Default: one block.
        store_blocks: whether the block of each id is stored.
        use_projection: whether a projection turns the columns that are held into
            `output_dim` numbers.

    Raises:
        TypeError: a size, or a number of bits, is not an integer.
        ValueError: a size is not positive, or `block_sizes` do not sum to `input_dim`,
            or are too many to be stored, or `bits` is not from 0 to 8, or not as above,
            or 0 for all columns of a block.

    Example:
        >>> low_bit_bytes(6040, 8, bits=3)
        18184
        >>> low_bit_bytes(6040, 3, bits=[4, 2, 1])
        5309
        >>> low_bit_bytes(6040, 3, bits=[[4, 2, 1], 1], block_sizes=[1000, 5040])
        2813
        >>> low_bit_bytes(6040, 8, bits=[4, 2, 1], use_projection=True)
        5405
    """
    blocks = low_bit_blocks(input_dim, output_dim, bits, block_sizes, store_blocks)
    columns = len(blocks[0][1])
    total = sum(code_bytes(rows, each) + 2 * 4 * columns for rows, each in blocks)
    if store_blocks:
        total += block_bytes(input_dim, len(blocks))
    return total + 4 * columns * output_dim * bool(use_projection)


def code_bytes(rows, bits):
    """Count the bytes of the codes of one block, without anything else.

    Args:
        rows: how many ids the block holds.
        bits: the bits of each column.

    Raises:
        TypeError: `rows`, or one of `bits`, is not an integer.
        ValueError: `rows` is not positive.

    Example:
        >>> code_bytes(1000, [2, 1])
        375
    """
    return -(-check_size("rows", rows) * sum(map(operator.index, bits)) // 8)


def block_bytes(input_dim, num_blocks):
    """Count the bytes that say which block each id of a packed layer is in.

    The ids are stored in chunks of 256, each with `ceil(log2(num_blocks))` bits an id.
    So that a row is found without reading all rows before it, the codes of a chunk
    start at a whole byte, after at most 7 empty bits, and an int32 stores the position
    of this byte. With one block, nothing is stored.

    Args:
        input_dim: size of the vocabulary.
        num_blocks: how many blocks there are.

    Raises:
        TypeError: one of the two is not an integer.
        ValueError: one of the two is not positive.

    Example:
        >>> block_bytes(6040, 4)  # 24 chunks of 2 * 32 + 4 bytes, and 24 * 7 bits
        1653
    """
    chunks = -(-check_size("input_dim", input_dim) // CHUNK_IDS)
    each = (check_size("num_blocks", num_blocks) - 1).bit_length()
    if not each:
        return 0
    return chunks * (each * CHUNK_IDS // 8 + 4) + chunks * 7 // 8


def qr_parameters(input_dim, output_dim, num_buckets=None, combiner="multiply"):
    """Count the parameters of a `QREmbedding` with these arguments.

    Args:
        input_dim: size of the vocabulary.
        output_dim: length of an embedding.
        num_buckets: rows of the remainder table; the quotient table has
            `ceil(input_dim / num_buckets)`. Default: `min_buckets(input_dim)`. Or a
            sequence with the rows of each table.
        combiner: `"multiply"`, `"add"` or `"concatenate"`.

    Raises:
        TypeError: a size is not an integer.
        ValueError: a size is not positive, the product of `num_buckets` is less than
            `input_dim`, `combiner` is unknown, or the tables cannot share `output_dim`
            equally while `combiner` is `"concatenate"`.

    Example:
        >>> qr_parameters(6040, 64)
        9984
        >>> qr_parameters(6040, 64, num_buckets=120)
        10944
        >>> qr_parameters(6040, 64, num_buckets=(19, 18, 18))
        3520

    References:
        Shi et al., Compositional Embeddings Using Complementary Partitions for
        Memory-Efficient Recommendation Systems, 2020, arXiv:1909.02107, sections 2
        and 3.
    """
    shapes = qr_shapes(input_dim, output_dim, num_buckets, combiner)
    return sum(rows * width for rows, width in shapes)


def qr_bytes(
    input_dim, output_dim, num_buckets=None, combiner="multiply", dtype="float32"
):
    """Count the bytes of a `QREmbedding` with these arguments.

    Args:
        input_dim: size of the vocabulary.
        output_dim: length of an embedding.
        num_buckets: as in `qr_parameters`.
        combiner: `"multiply"`, `"add"` or `"concatenate"`.
        dtype: `"float32"`, `"float16"`, `"bfloat16"`, `"int8"` or `"int4"`.

    Raises:
        TypeError: as in `qr_parameters`.
        ValueError: as in `qr_parameters`, or `dtype` is none of these.

    Example:
        >>> qr_bytes(6040, 64)
        39936
        >>> qr_bytes(6040, 64, dtype="int8")
        10608

    References:
        Shi et al., 2020, arXiv:1909.02107, sections 2 and 3.
    """
    shapes = qr_shapes(input_dim, output_dim, num_buckets, combiner)
    dtype = _check_dtype(dtype)
    return sum(_table_bytes(rows, width, dtype) for rows, width in shapes)


def md_parameters(block_sizes, block_dims, output_dim, use_bias=False):
    """Count the parameters of an `MDEmbedding` with these arguments.

    The projections are counted: every block narrower than `output_dim` has one.

    Args:
        block_sizes: how many ids each block holds.
        block_dims: width of each block's table.
        output_dim: length of an embedding.
        use_bias: whether a projection adds a bias.

    Raises:
        TypeError: a size is not an integer, or the blocks are not given as sequences.
        ValueError: a size is not positive, there is no block, `block_sizes` and
            `block_dims` differ in length, or a block is wider than `output_dim`.

    Example:
        >>> md_parameters([401, 1301, 2007], [64, 32, 16], 64, use_bias=True)
        102608

    References:
        Ginart et al., Mixed Dimension Embeddings with Application to Memory-Efficient
        Recommendation Systems, 2019, arXiv:1909.11810.
    """
    total = 0
    for rows, width in md_shapes(block_sizes, block_dims, output_dim):
        total += rows * width
        if width < output_dim:
            total += (width + bool(use_bias)) * int(output_dim)
    return total


def md_bytes(block_sizes, block_dims, output_dim, use_bias=False, dtype="float32"):
    """Count the bytes of an `MDEmbedding` with these arguments.

    Args:
        block_sizes: how many ids each block holds.
        block_dims: width of each block's table.
        output_dim: length of an embedding.
        use_bias: whether a projection adds a bias.
        dtype: `"float32"`, `"float16"`, `"bfloat16"`, `"int8"` or `"int4"`.

    Raises:
        TypeError: as in `md_parameters`.
        ValueError: as in `md_parameters`, or `dtype` is none of these.

    Example:
        >>> md_bytes([401, 1301, 2007], [64, 32, 16], 64, use_bias=True)
        410432
        >>> md_bytes([401, 1301, 2007], [64, 32, 16], 64, use_bias=True, dtype="int4")
        71577

    References:
        Ginart et al., 2019, arXiv:1909.11810.
    """
    dtype = _check_dtype(dtype)
    total = 0
    for rows, width in md_shapes(block_sizes, block_dims, output_dim):
        total += _table_bytes(rows, width, dtype)
        if width < output_dim:
            total += dense_bytes(width, output_dim, use_bias, dtype)
    return total


def _check_dtype(dtype):
    dtype = getattr(dtype, "name", dtype)  # of a NumPy dtype
    if dtype not in tuple(BITS):
        raise ValueError(
            f"`dtype` must be one of {', '.join(map(repr, BITS))}. "
            f"Received: dtype={dtype!r}"
        )
    return dtype


def _table_bytes(rows, width, dtype):
    return rows * _row_bytes(width, dtype) + _scale_bytes(rows, width, dtype)


def dense_bytes(input_dim, units, use_bias=True, dtype="float32"):
    """Count the bytes of a `keras.layers.Dense`, such as a projection.

    Args:
        input_dim: length of its inputs.
        units: length of its outputs.
        use_bias: whether it adds a bias.
        dtype: as in `plain_bytes`.

    Example:
        >>> dense_bytes(16, 64, dtype="int8")
        1536
    """
    kernel = int(input_dim) * _row_bytes(int(units), _check_dtype(dtype))
    bias = _row_bytes(int(units), "float32" if dtype in ("int8", "int4") else dtype)
    return kernel + _scale_bytes(units, input_dim, dtype) + bool(use_bias) * bias


def _row_bytes(width, dtype):
    return -(-width * BITS[dtype] // 8)


def _scale_bytes(vectors, length, dtype):
    """Count the bytes of the scales that turn vectors of integers back into floats."""
    if dtype == "int8":
        return 4 * vectors
    if dtype == "int4":
        groups = -(-length // INT4_GROUP)
        return (4 + 1) * groups * vectors + 4 * length
    return 0


def training_bytes(shapes, optimizer="adam"):
    """Count the bytes that training holds for weights of these shapes, in float32.

    They are those of the weights, their gradients and the optimizer's slots. The
    activations of a batch are not counted: they depend on the batch, not on the tables.

    Args:
        shapes: shapes of the trainable weights, such as
            `[weight.shape for weight in model.trainable_weights]`.
        optimizer: `"sgd"` (without momentum), `"rowwise_adagrad"` (that of
            `memembed.optimizers`), `"adagrad"`, `"adam"` or `"adafactor"`. Keras's
            Adafactor holds more than Adagrad: it keeps the row and the column
            factors, which could replace a slot as large as the weights, and this
            slot, too.

    Returns:
        A dict of the bytes of `"weights"`, `"gradients"` and `"slots"`, and of their
        `"total"`.

    Raises:
        TypeError: `shapes` is not a list of shapes, or a size is not an integer.
        ValueError: a size is not positive, or `optimizer` is none of these.

    Example:
        >>> training_bytes([(1000, 64), (64,)])
        {'weights': 256256, 'gradients': 256256, 'slots': 512512, 'total': 1025024}
        >>> training_bytes([(1000, 64)], "adafactor")["slots"]  # 4 * (64000 + 1064)
        260256

    References:
        Duchi et al., Adaptive Subgradient Methods, 2011 (Adagrad); Kingma and Ba, Adam,
        2014, arXiv:1412.6980, algorithm 1; Shazeer and Stern, Adafactor, 2018,
        arXiv:1804.04235, algorithm 4.
    """
    try:
        shapes = [tuple(shape) for shape in shapes]
    except TypeError:
        raise TypeError(
            "`shapes` must be a list of shapes, such as [(1000, 64), (64,)]. "
            f"Received: shapes={shapes!r}"
        ) from None
    if optimizer not in tuple(OPTIMIZER_SLOTS):
        raise ValueError(
            f"`optimizer` must be one of {', '.join(map(repr, OPTIMIZER_SLOTS))}. "
            f"Received: optimizer={optimizer!r}"
        )
    weights = slots = 0
    for i, shape in enumerate(shapes):
        shape = [check_size(f"shapes[{i}][{j}]", dim) for j, dim in enumerate(shape)]
        size = math.prod(shape)
        weights += size
        slots += size * OPTIMIZER_SLOTS[optimizer]
        if optimizer == "rowwise_adagrad":
            slots += shape[0] if len(shape) > 1 else size
        if optimizer == "adafactor" and len(shape) > 1:
            slots += size // shape[-1] + size // shape[-2]
    return {
        "weights": 4 * weights,
        "gradients": 4 * weights,
        "slots": 4 * slots,
        "total": 4 * (2 * weights + slots),
    }


def alpha_power_dims(block_counts, block_sizes, output_dim, alpha):
    """Return each block's width by the alpha-power rule.

    A block's popularity `p` is the mean count of its ids. Its width is `output_dim`
    for the most popular block, and falls with the power `alpha` of the popularity
    for the others: `output_dim * (p / max(p)) ** alpha`, rounded, at least 1.

    Args:
        block_counts: how often the ids of each block occur, summed over the block.
        block_sizes: how many ids each block holds.
        output_dim: width of the most popular block.
        alpha: 0 gives every block the same width, 1 a width in proportion to its
            popularity.

    Returns:
        The widths, a list of ints.

    Raises:
        TypeError: `output_dim` is not an integer.
        ValueError: the lists differ in length, a size is not positive, or a count
            or `alpha` is negative.

    Example:
        >>> alpha_power_dims([9000, 4000, 1000], [10, 40, 100], 64, alpha=0.3)
        [64, 33, 17]

    References:
        Ginart et al., Mixed Dimension Embeddings, 2019, arXiv:1909.11810, on
        sizing blocks by a power of their popularity.
    """
    output_dim = check_size("output_dim", output_dim)
    sizes = np.array(check_sizes("block_sizes", block_sizes))
    counts = np.asarray(block_counts, dtype="float64")
    if counts.shape != sizes.shape or not (counts >= 0).all() or not counts.any():
        raise ValueError(
            "`block_counts` must hold a count for each of `block_sizes`, none of them "
            "negative, and not all zero. "
            f"Received: block_counts={block_counts!r}, block_sizes={block_sizes!r}"
        )
    if not isinstance(alpha, numbers.Real) or not alpha >= 0:
        raise ValueError(f"`alpha` must not be negative. Received: alpha={alpha!r}")
    popularity = counts / sizes
    dims = np.rint(output_dim * (popularity / popularity.max()) ** alpha)
    return [max(1, int(dim)) for dim in dims]


def md_plan(
    counts,
    output_dim,
    *,
    max_parameters,
    alpha=0.3,
    widths=None,
    use_bias=False,
):
    """Return the arguments of the `MDEmbedding` that makes the most of a budget.

    An embedding of width `d`, of an id that occurs with probability `p`, is assumed to
    cause a loss of `p * d ** -(1 / alpha - 1)`. If widths could be fractions and
    projections were free, the sum of these losses would be least for `d` proportional
    to `p ** alpha`: the alpha-power rule. Here the tables, projections and biases are
    counted exactly, and the plan never exceeds the budget.

    For every subset of `widths`, all ids start at the smallest width. Then one id at a
    time is raised to the next width: the id that gains most for its cost, until the
    next step does not fit. The best of these plans is returned. Its loss is at most
    that of the best possible plan for a slightly smaller budget: smaller by the cost of
    raising one id from the smallest width to the greatest. A larger budget never makes
    the plan worse.

    Args:
        counts: how often each id occurs, most frequent first. Ids that never occur get
            a row too.
        output_dim: length of an embedding.
        max_parameters: how many parameters the layer may have.
        alpha: between 0 and 1. The nearer to 0, the more similar the widths are.
        widths: widths that a block may have, 12 at most. Default: `output_dim` and the
            powers of two below it, the greatest 12.
        use_bias: whether a projection adds a bias.

    Returns:
        A dict of the layer's arguments. `MDEmbedding(**plan)` makes the layer, and
        `md_parameters(**plan)` counts its parameters.

    Raises:
        TypeError: a size or the budget is not an integer, or `counts` are not numbers.
        ValueError: `counts` are not sorted, `alpha` or `widths` are not as above, or no
            plan fits the budget.

    Example:
        >>> counts = [6000 // rank for rank in range(1, 3001)]
        >>> plan = md_plan(counts, 32, max_parameters=20_000)
        >>> plan["block_sizes"], plan["block_dims"]
        ([14, 132, 1282, 1572], [32, 16, 8, 4])
        >>> md_parameters(**plan)  # a full table: 96,000
        20000

    References:
        Ginart et al., Mixed Dimension Embeddings with Application to Memory-Efficient
        Recommendation Systems, 2019, arXiv:1909.11810, on the alpha-power rule. The
        search under a budget is this package's own.
    """
    counts = _check_counts(counts)
    output_dim = check_size("output_dim", output_dim)
    widths = _check_widths(widths, output_dim)
    use_bias = bool(use_bias)
    if not isinstance(alpha, numbers.Real) or not 0 < alpha < 1:
        raise ValueError(f"`alpha` must be between 0 and 1. Received: alpha={alpha!r}")

    def cost(rows, width):
        return md_parameters([rows], [width], output_dim, use_bias)

    budget = check_size("max_parameters", max_parameters)
    least = min(cost(len(counts), width) for width in widths)
    if budget < least:
        raise ValueError(
            f"`max_parameters` must be at least {least}, the fewest parameters that "
            f"any plan needs. Received: max_parameters={budget}"
        )
    # No plan costs more than this, and NumPy's integers could overflow.
    budget = min(budget, sum(cost(len(counts), width) for width in widths))
    row_costs = np.array([cost(2, width) - cost(1, width) for width in widths])
    block_costs = np.array([cost(1, width) for width in widths]) - row_costs
    # In logarithms, because a width to a high power is more than a float can hold.
    losses = -(1 / alpha - 1) * np.log(widths)
    with np.errstate(divide="ignore"):  # the rarity of unused ids is infinity
        rarity = np.log(counts[counts > 0][-1]) - np.log(counts) - 1
    # Summed up from the rarest ids: at small widths, their small counts matter most.
    tails = np.cumsum(counts[::-1])[::-1]

    def plans():
        for number in range(1, len(widths) + 1):
            for chosen in itertools.combinations(range(len(widths)), number):
                chosen = np.array(chosen)
                left = budget - block_costs[chosen].sum()
                sizes = _greedy_sizes(rarity, losses[chosen], row_costs[chosen], left)
                if sizes is None:
                    continue
                chosen, sizes = chosen[sizes > 0], sizes[sizes > 0]
                starts = np.cumsum(sizes) - sizes
                with np.errstate(divide="ignore"):
                    popularity = np.log(-np.diff(tails[starts], append=0))
                loss = np.logaddexp.reduce(popularity + losses[chosen])
                yield loss, len(sizes), sizes, chosen

    _, _, sizes, chosen = min(plans(), key=lambda plan: plan[:2])
    return {
        "block_sizes": sizes.tolist(),
        "block_dims": [widths[i] for i in chosen],
        "output_dim": output_dim,
        "use_bias": use_bias,
    }


def _greedy_sizes(rarity, losses, row_costs, budget):
    """Return how many ids get each of some widths, the greatest width first.

    Args:
        rarity: minus the logarithm of each id's count, in ascending order, shifted so
            that it is at most -1; infinity for ids that never occur.
        losses: for each width, the logarithm of the loss of an id each time it occurs.
        row_costs: what a row of each width costs.
        budget: what all rows may cost.

    Returns:
        An array that sums to the number of ids. Or None if the budget is too small, or
        one of the widths is not worth its cost, so that another choice is better.
    """
    ids = len(rarity)
    steps = row_costs[:-1] - row_costs[1:]
    left = budget - ids * row_costs[-1]
    if left < 0:
        return None
    gains = losses[1:] + np.log(-np.expm1(losses[:-1] - losses[1:])) - np.log(steps)
    if not (np.diff(gains) > 0).all():
        return None
    gains -= gains.min(initial=0)

    def raised(threshold):
        """Count, for each step, the ids that gain at least this much per cost."""
        return np.searchsorted(rarity, gains - threshold, side="right")

    low, high = -np.inf, 0  # at 0, every step that gains is taken
    if raised(high) @ steps > left:
        low, high = high, gains[-1] - rarity[0] + 1
        while low < (middle := (low + high) / 2) < high:
            if raised(middle) @ steps > left:
                low = middle
            else:
                high = middle

    # The remaining budget goes to ids that gain the same, in the same order for every
    # budget: a larger budget only adds steps to those of a smaller one.
    stops = raised(high)
    left -= stops @ steps
    ties = raised(low) - stops
    for step in reversed(range(len(steps))):
        taken = min(ties[step], left // steps[step])
        stops[step] += taken
        left -= taken * steps[step]
        if taken < ties[step]:
            break
    return np.diff(stops, prepend=0, append=ids)


def _check_counts(counts):
    """Return `counts` as an array of floats, most frequent first."""
    try:
        array = np.asarray(counts, dtype="float64")
    except (TypeError, ValueError):
        raise TypeError(
            f"`counts` must be a list of numbers. Received: counts={counts!r}"
        ) from None
    if array.ndim != 1 or not len(array):
        raise ValueError(
            f"`counts` must be a list of numbers, at least one. Received: {array!r}"
        )
    if not (np.isfinite(array).all() and (array >= 0).all() and array.any()):
        raise ValueError(
            "`counts` must be finite, not negative, and not all zero. "
            f"Received: counts={array!r}"
        )
    rises = array[1:] > array[:-1]
    if rises.any():
        i = int(rises.argmax())
        raise ValueError(
            "`counts` must be sorted, most frequent first, by np.sort(counts)[::-1], "
            "and ids must be numbered in that order. "
            f"Received: counts[{i}]={array[i]:g}, counts[{i + 1}]={array[i + 1]:g}"
        )
    return array


def _check_widths(widths, output_dim):
    """Return the widths that a block may have, the greatest first."""
    if widths is None:
        powers = [2**k for k in range((output_dim - 1).bit_length())]
        return [output_dim, *reversed(powers)][:MAX_WIDTHS]
    checked = sorted(set(check_sizes("widths", widths)), reverse=True)
    if len(checked) > MAX_WIDTHS:
        raise ValueError(
            f"`widths` must hold at most {MAX_WIDTHS} widths, because every subset of "
            f"them is tried. Received: widths={widths!r}"
        )
    if checked[0] > output_dim:
        raise ValueError(
            "`widths` must not exceed `output_dim`. "
            f"Received: widths={widths!r}, output_dim={output_dim!r}"
        )
    return checked
