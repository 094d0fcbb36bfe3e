"""Checks shared by the layers and `memembed.sizing`."""

import itertools
import math
import operator

MAX_BITS = 8  # of a number in a LowBitEmbedding
MAX_STORED_BLOCKS = 16  # of a LowBitEmbedding: the block of an id takes 4 bits
CHUNK_IDS = 256  # stored together, with the byte where their codes start
COMBINERS = ("multiply", "add", "concatenate")


def check_size(name, value, least=1):
    """Return `value` as a Python int.

    Args:
        name: the argument's name, for the error.
        value: what was received for it.
        least: the least that it may be, 1 or 0.

    Raises:
        TypeError: `value` is not an integer. A bool does not count as one.
        ValueError: `value` is less than `least`.
    """

    def message():
        kind = "a positive integer" if least else "an integer of at least 0"
        return f"`{name}` must be {kind}. Received: {name}={value!r}"

    if isinstance(value, bool):
        raise TypeError(message())
    try:
        size = operator.index(value)
    except TypeError:
        raise TypeError(message()) from None
    if size < least:
        raise ValueError(message())
    return size


def check_sizes(name, values):
    """Return `values` as a list of Python ints, at least one.

    Args:
        name: the argument's name, for the error.
        values: what was received for it.

    Raises:
        TypeError: `values` is not a sequence, or does not hold integers only.
        ValueError: `values` is empty, or holds an integer that is not positive.
    """
    if not _is_sequence(values):
        raise TypeError(
            f"`{name}` must be a sequence of positive integers. "
            f"Received: {name}={values!r}"
        )
    sizes = [check_size(f"{name}[{i}]", value) for i, value in enumerate(values)]
    if not sizes:
        raise ValueError(f"`{name}` must not be empty. Received: {name}={values!r}")
    return sizes


def block_slices(sizes):
    """Return the slice of each of several consecutive blocks.

    Args:
        sizes: how long each block is.

    Example:
        >>> block_slices([2, 3])
        [slice(0, 2, None), slice(2, 5, None)]
    """
    ends = itertools.pairwise(itertools.accumulate(sizes, initial=0))
    return [slice(*each) for each in ends]


def check_bits(bits, columns):
    """Return the bits of each column as a list.

    Args:
        bits: one number for all columns, or one for each.
        columns: how many columns there are.

    Raises:
        TypeError: `bits` is neither an integer nor a sequence of them.
        ValueError: a number is not from 0 to 8, or there is not one number for each
            column, or all numbers are 0.
    """
    received = bits
    if not _is_sequence(bits):
        bits = [bits] * columns
    bits = [check_size("bits", each, least=0) for each in bits]
    if len(bits) != columns or max(bits) > MAX_BITS or not any(bits):
        raise ValueError(
            f"`bits` must be from 0 to {MAX_BITS}, one number for all {columns} "
            "columns or one for each, and not all of them 0. "
            f"Received: bits={received!r}"
        )
    return bits


def _is_sequence(value):
    return hasattr(value, "__iter__") and not isinstance(value, (str, bytes))


def low_bit_blocks(input_dim, output_dim, bits, block_sizes, store_blocks=False):
    """Return the size of each block of a `LowBitEmbedding`, and its columns' bits.

    Args:
        input_dim: size of the vocabulary.
        output_dim: length of an embedding.
        bits: one number for all `output_dim` columns, or one for each column that is
            held, `output_dim` of them at most. With `block_sizes`: one number, or one
            such entry for each block.
        block_sizes: None for one block, or how many ids each block holds.
        store_blocks: whether the block of each id is stored.

    Returns:
        A list of pairs, of an int and a list of ints.

    Raises:
        TypeError: a size, or a number of bits, is not an integer, or the blocks are not
            a sequence.
        ValueError: a size is not positive, or the blocks do not sum to `input_dim`, or
            are too many to be stored, or `bits` is not as above, or not from 0 to 8, or
            0 for all columns of a block.

    Example:
        >>> low_bit_blocks(9, 4, bits=[3, [2, 0]], block_sizes=[2, 7])
        [(2, [3, 3]), (7, [2, 0])]
    """
    input_dim = check_size("input_dim", input_dim)
    output_dim = check_size("output_dim", output_dim)
    sizes = [input_dim]
    if block_sizes is not None:
        sizes = check_sizes("block_sizes", block_sizes)
    if sum(sizes) != input_dim:
        raise ValueError(
            "`block_sizes` must sum to `input_dim`. "
            f"Received: block_sizes={block_sizes!r}, input_dim={input_dim!r}"
        )
    if store_blocks and len(sizes) > MAX_STORED_BLOCKS:
        raise ValueError(
            f"`block_sizes` must be {MAX_STORED_BLOCKS} at most with `store_blocks`. "
            f"Received: {len(sizes)} blocks"
        )
    entries = [bits] * len(sizes)
    if block_sizes is not None and _is_sequence(bits):
        entries = list(bits)
    if len(entries) != len(sizes):
        raise ValueError(
            "`bits` must be one number, or an entry for each of the "
            f"{len(sizes)} blocks. Received: bits={bits!r}"
        )
    lengths = {len(each) for each in entries if _is_sequence(each)} or {output_dim}
    if len(lengths) > 1 or not 0 < max(lengths) <= output_dim:
        raise ValueError(
            "`bits` must be one number, or one for each column, as many in each block "
            "and `output_dim` at most. "
            f"Received: bits={bits!r}, output_dim={output_dim!r}"
        )
    (columns,) = lengths
    return [
        (size, check_bits(each, columns))
        for size, each in zip(sizes, entries, strict=True)
    ]


def min_buckets(input_dim):
    """Return the `num_buckets` for which a `QREmbedding`'s two tables have fewest rows.

    There are `m + ceil(input_dim / m)` rows, fewest for `m = ceil(sqrt(input_dim))`.

    Args:
        input_dim: size of the vocabulary.

    Raises:
        TypeError: `input_dim` is not an integer.
        ValueError: `input_dim` is not positive.

    Example:
        >>> min_buckets(6040)
        78
    """
    return math.isqrt(check_size("input_dim", input_dim) - 1) + 1


def qr_shapes(input_dim, output_dim, num_buckets, combiner):
    """Return the shapes of a `QREmbedding`'s tables, the remainder's first.

    Args:
        input_dim: size of the vocabulary.
        output_dim: length of an embedding.
        num_buckets: None, an int, or the rows of each table.
        combiner: one of `COMBINERS`.

    Raises:
        TypeError: a size is not an integer.
        ValueError: a size is not positive, the product of `num_buckets` is less than
            `input_dim`, `combiner` is unknown, or the tables cannot share `output_dim`
            equally while `combiner` is `"concatenate"`.
    """
    input_dim = check_size("input_dim", input_dim)
    width = check_size("output_dim", output_dim)
    if hasattr(num_buckets, "__iter__"):
        rows = check_sizes("num_buckets", num_buckets)
        if math.prod(rows) < input_dim:
            raise ValueError(
                "The product of `num_buckets` must be at least `input_dim`, or ids "
                "would share all of their rows. Received: "
                f"num_buckets={num_buckets!r}, input_dim={input_dim!r}"
            )
    else:
        if num_buckets is None:
            num_buckets = min_buckets(input_dim)
        buckets = check_size("num_buckets", num_buckets)
        rows = [buckets, -(-input_dim // buckets)]
    if combiner not in COMBINERS:
        raise ValueError(
            f"`combiner` must be one of {', '.join(map(repr, COMBINERS))}. "
            f"Received: combiner={combiner!r}"
        )
    if combiner == "concatenate":
        width, rest = divmod(width, len(rows))
        if rest:
            raise ValueError(
                f"`output_dim` must be a multiple of {len(rows)} when `combiner` is "
                "'concatenate', because each table holds an equal share of it. "
                f"Received: output_dim={output_dim!r}"
            )
    return [(size, width) for size in rows]


def md_shapes(block_sizes, block_dims, output_dim):
    """Return the shapes of an `MDEmbedding`'s tables, one for each block.

    Args:
        block_sizes: how many ids each block holds.
        block_dims: width of each block's table.
        output_dim: length of an embedding.

    Raises:
        TypeError: a size is not an integer, or the blocks are not given as sequences.
        ValueError: a size is not positive, there is no block, `block_sizes` and
            `block_dims` differ in length, or a block is wider than `output_dim`.
    """
    output_dim = check_size("output_dim", output_dim)
    sizes = check_sizes("block_sizes", block_sizes)
    dims = check_sizes("block_dims", block_dims)
    if len(sizes) != len(dims):
        raise ValueError(
            "`block_sizes` and `block_dims` must have the same length. "
            f"Received: block_sizes={block_sizes!r}, block_dims={block_dims!r}"
        )
    if max(dims) > output_dim:
        raise ValueError(
            "No block may be wider than `output_dim`. "
            f"Received: block_dims={block_dims!r}, output_dim={output_dim!r}"
        )
    return list(zip(sizes, dims, strict=True))
