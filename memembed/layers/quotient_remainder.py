"""Quotient-remainder embeddings."""

import math

import keras
from keras import ops

from memembed.layers._common import CompressedEmbedding, as_ids, check_size

COMBINERS = ("multiply", "add", "concatenate")


@keras.saving.register_keras_serializable(package="memembed")
class QREmbedding(CompressedEmbedding):
    """Embedding that combines two small tables instead of storing one row per id.

    An id `i` is split into a quotient and a remainder, `i = q * num_buckets + r`. Each
    of the two has a table of its own, and the embedding of `i` is::

        combine(quotient_table[i // num_buckets], remainder_table[i % num_buckets])

    No two ids share both rows, so that every id keeps a vector of its own, while the
    tables hold `num_buckets + ceil(input_dim / num_buckets)` rows instead of
    `input_dim`.

    Args:
        input_dim: size of the vocabulary: ids run from 0 to `input_dim - 1`.
        output_dim: length of an embedding.
        num_buckets: rows of the remainder table. The quotient table has
            `ceil(input_dim / num_buckets)`. Default: `ceil(sqrt(input_dim))`, which
            needs the fewest rows in total.
        combiner: `"multiply"` or `"add"`, element by element, or `"concatenate"`, for
            which each table is `output_dim / 2` wide.
        embeddings_initializer: initializer of both tables. With `"multiply"`, the
            scale of an embedding is the square of a table's: see chapter 3 of the book.
        embeddings_regularizer: regularizer of both tables.
        embeddings_constraint: constraint of both tables.
        mask_zero: whether id 0 is padding to be masked, as in
            `keras.layers.Embedding`.
        **kwargs: arguments of `keras.layers.Layer`, such as `name` and `dtype`.

    Raises:
        TypeError: a size is not an integer.
        ValueError: a size is not positive, `combiner` is unknown, or `output_dim` is
            odd while `combiner` is `"concatenate"`.

    Input shape:
        Integers of any shape.

    Output shape:
        The input's shape followed by `output_dim`. An id outside `[0, input_dim)`
        yields NaN, never another id's embedding.

    Example:
        >>> import numpy as np
        >>> from memembed.layers import QREmbedding
        >>> layer = QREmbedding(input_dim=6040, output_dim=64)
        >>> tuple(layer(np.array([[0, 1, 6039]])).shape)
        (1, 3, 64)
        >>> layer.count_params()  # (78 + 78) * 64; a full table: 386,560
        9984

    References:
        Shi et al., Compositional Embeddings Using Complementary Partitions for
        Memory-Efficient Recommendation Systems, 2020, arXiv:1909.02107, section 2
        (the quotient-remainder trick) and section 4 (the combiners).
    """

    def __init__(
        self,
        input_dim,
        output_dim,
        num_buckets=None,
        combiner="multiply",
        embeddings_initializer="uniform",
        embeddings_regularizer=None,
        embeddings_constraint=None,
        mask_zero=False,
        **kwargs,
    ):
        super().__init__(
            output_dim,
            embeddings_initializer,
            embeddings_regularizer,
            embeddings_constraint,
            mask_zero,
            **kwargs,
        )
        self.input_dim = check_size("input_dim", input_dim)
        if num_buckets is None:
            num_buckets = math.isqrt(self.input_dim - 1) + 1
        self.num_buckets = check_size("num_buckets", num_buckets)
        if combiner not in COMBINERS:
            raise ValueError(
                f"`combiner` must be one of {', '.join(map(repr, COMBINERS))}. "
                f"Received: combiner={combiner!r}"
            )
        if combiner == "concatenate" and self.output_dim % 2:
            raise ValueError(
                "`output_dim` must be even when `combiner` is 'concatenate', because "
                f"each table holds half of it. Received: output_dim={output_dim!r}"
            )
        self.combiner = combiner

        width = self.output_dim // 2 if combiner == "concatenate" else self.output_dim
        quotients = -(-self.input_dim // self.num_buckets)
        self.remainder_table, self.quotient_table = self.make_tables(
            {"remainder": (self.num_buckets, width), "quotient": (quotients, width)}
        )

    def build(self, input_shape=None):
        self.remainder_table.build(input_shape)
        self.quotient_table.build(input_shape)
        self.built = True

    def call(self, inputs):
        ids = as_ids(inputs)
        known = ops.logical_and(ids >= 0, ids < self.input_dim)
        ids = ops.where(known, ids, 0)
        quotient = ops.floor_divide(ids, self.num_buckets)
        remainder = ids - quotient * self.num_buckets
        embeddings = self._combine(
            self.remainder_table(remainder), self.quotient_table(quotient)
        )
        return ops.where(ops.expand_dims(known, -1), embeddings, float("nan"))

    def _combine(self, remainder, quotient):
        if self.combiner == "multiply":
            return remainder * quotient
        if self.combiner == "add":
            return remainder + quotient
        return ops.concatenate([remainder, quotient], axis=-1)

    def get_config(self):
        return {
            **super().get_config(),
            "input_dim": self.input_dim,
            "num_buckets": self.num_buckets,
            "combiner": self.combiner,
        }
