"""How many parameters and bytes an embedding takes. NumPy only."""

import math

import numpy as np

# Numbers as large as the weights that an optimizer keeps between steps.
OPTIMIZER_SLOTS = {"sgd": 0, "adagrad": 1, "adam": 2}
BYTES_PER_FLOAT = 4


def plain_parameters(input_dim, output_dim):
    """Count the parameters of one full table, `keras.layers.Embedding`.

    Example:
        >>> plain_parameters(6040, 64)
        386560
    """
    return input_dim * output_dim


def fewest_buckets(input_dim):
    """Return the `num_buckets` for which the two tables have the fewest rows.

    The rows are `m + ceil(input_dim / m)`; `m = ceil(sqrt(input_dim))` is the least.

    Example:
        >>> fewest_buckets(6040)
        78
    """
    return math.isqrt(input_dim - 1) + 1


def qr_parameters(input_dim, output_dim, num_buckets=None, combiner="multiply"):
    """Count the parameters of a `QREmbedding` with these arguments.

    Example:
        >>> qr_parameters(6040, 64)
        9984
        >>> qr_parameters(6040, 64, num_buckets=120)
        10944
    """
    num_buckets = num_buckets or fewest_buckets(input_dim)
    rows = num_buckets + -(-input_dim // num_buckets)
    width = output_dim // 2 if combiner == "concatenate" else output_dim
    return rows * width


def md_parameters(block_sizes, block_dims, output_dim, use_bias=False):
    """Count the parameters of an `MDEmbedding` with these arguments.

    The projections are counted: every block narrower than `output_dim` has one.

    Example:
        >>> md_parameters([401, 1301, 2007], [64, 32, 16], 64, use_bias=True)
        102608
    """
    total = 0
    for size, dim in zip(block_sizes, block_dims, strict=True):
        total += size * dim
        if dim < output_dim:
            total += (dim + use_bias) * output_dim
    return total


def training_bytes(parameters, optimizer="adam"):
    """Count the bytes that training holds for so many parameters, in float32.

    They are those of the weights, their gradients and the optimizer's slots. The
    activations of a batch come on top; they depend on the batch, not on the tables.

    Args:
        parameters: how many there are.
        optimizer: `"sgd"` (without momentum), `"adagrad"` or `"adam"`.

    Returns:
        A dict of the bytes of `"weights"`, `"gradients"` and `"slots"`, and of their
        `"total"`.

    Raises:
        ValueError: `optimizer` is none of these.

    Example:
        >>> training_bytes(1000)
        {'weights': 4000, 'gradients': 4000, 'slots': 8000, 'total': 16000}
    """
    if optimizer not in OPTIMIZER_SLOTS:
        raise ValueError(
            f"`optimizer` must be one of {', '.join(map(repr, OPTIMIZER_SLOTS))}. "
            f"Received: optimizer={optimizer!r}"
        )
    weights = parameters * BYTES_PER_FLOAT
    slots = weights * OPTIMIZER_SLOTS[optimizer]
    return {
        "weights": weights,
        "gradients": weights,
        "slots": slots,
        "total": 2 * weights + slots,
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
        ValueError: the lists differ in length, a size is not positive, or a count
            or `alpha` is negative.

    Example:
        >>> alpha_power_dims([9000, 4000, 1000], [10, 40, 100], 64, alpha=0.3)
        [64, 33, 17]

    References:
        Ginart et al., Mixed Dimension Embeddings, 2019, arXiv:1909.11810, on
        sizing blocks by a power of their popularity.
    """
    counts = np.asarray(block_counts, dtype="float64")
    sizes = np.asarray(block_sizes, dtype="float64")
    if counts.shape != sizes.shape or counts.ndim != 1 or not len(counts):
        raise ValueError(
            "`block_counts` and `block_sizes` must be lists of the same length. "
            f"Received: block_counts={block_counts!r}, block_sizes={block_sizes!r}"
        )
    if (sizes <= 0).any():
        raise ValueError(
            f"`block_sizes` must be positive. Received: block_sizes={block_sizes!r}"
        )
    if (counts < 0).any() or not counts.any():
        raise ValueError(
            "`block_counts` must not be negative, nor all zero. "
            f"Received: block_counts={block_counts!r}"
        )
    if alpha < 0:
        raise ValueError(f"`alpha` must not be negative. Received: alpha={alpha!r}")
    popularity = counts / sizes
    dims = np.rint(output_dim * (popularity / popularity.max()) ** alpha)
    return [max(1, int(dim)) for dim in dims]
