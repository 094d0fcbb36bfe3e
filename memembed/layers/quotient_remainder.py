"""Quotient-remainder embeddings."""

import functools
import operator

import keras
from keras import ops

from memembed.layers._common import CompressedEmbedding
from memembed.shapes import qr_shapes


@keras.saving.register_keras_serializable(package="memembed")
class QREmbedding(CompressedEmbedding):
    """Embedding that combines two small tables instead of storing one row per id.

    An id `i` is split into a quotient and a remainder, `i = q * num_buckets + r`. Each
    of the two has its own table, and the embedding of `i` is::

        combine(remainder_table[i % num_buckets], quotient_table[i // num_buckets])

    No two ids share both rows, so every id keeps a vector of its own, while the tables
    hold `num_buckets + ceil(input_dim / num_buckets)` rows instead of `input_dim`.

    For very large vocabularies there may be more than two tables. With
    `num_buckets=(m_0, ..., m_k)`, an id is written in the mixed radix of these numbers,
    least significant digit first, and each digit has a table: `i % m_0`,
    `i // m_0 % m_1`, `i // (m_0 * m_1) % m_2` and so on.

    Args:
        input_dim: size of the vocabulary: ids run from 0 to `input_dim - 1`.
        output_dim: length of an embedding.
        num_buckets: rows of the remainder table. The quotient table has
            `ceil(input_dim / num_buckets)`. Default: `ceil(sqrt(input_dim))`, which
            needs the fewest rows in total. Or a sequence with the rows of each table;
            their product must be at least `input_dim`.
        combiner: `"multiply"` or `"add"`, element by element, or `"concatenate"`, for
            which each of the tables has an equal share of the `output_dim` columns.
        embeddings_initializer: initializer of the tables. With `"multiply"`, the
            scale of an embedding is the product of the tables' scales: see chapter 3 of
            the book.
        embeddings_regularizer: regularizer of the tables.
        embeddings_constraint: constraint of the tables.
        mask_zero: whether id 0 is padding to be masked, as in
            `keras.layers.Embedding`.
        **kwargs: arguments of `keras.layers.Layer`, such as `name` and `dtype`.

    Raises:
        TypeError: a size is not an integer.
        ValueError: a size is not positive, the product of `num_buckets` is less than
            `input_dim`, `combiner` is unknown, or `combiner` is `"concatenate"` and
            `output_dim` is not a multiple of the number of tables.

    Input shape:
        Integers of any shape and dtype. Floats are truncated. Unless `jax_enable_x64`
        is on, JAX cuts 64-bit ids to 32 bits before a model sees them. A vocabulary
        above 2**31 needs this setting.

    Output shape:
        The input's shape followed by `output_dim`, in the layer's compute dtype. An id
        outside `[0, input_dim)` yields NaN, never another id's embedding.

        In training, one such id makes the loss NaN, and after one step also the weights
        that ids share: the model is lost. Encode ids with `memembed.data.Vocabulary`,
        which raises an error for unknown ids, and stop training with
        `keras.callbacks.TerminateOnNaN`.

    Example:
        >>> import numpy as np
        >>> from memembed.layers import QREmbedding
        >>> layer = QREmbedding(input_dim=6040, output_dim=64)
        >>> tuple(layer(np.array([[0, 1, 6039]])).shape)
        (1, 3, 64)
        >>> layer.count_params()  # (78 + 78) * 64; a full table: 386,560
        9984

        A hundred million ids, from three tables of 465 rows:

        >>> layer = QREmbedding(100_000_000, 64, num_buckets=(465, 465, 465))
        >>> layer.build()
        >>> layer.count_params()  # two tables: 1,280,000
        89280

    References:
        Shi et al., Compositional Embeddings Using Complementary Partitions for
        Memory-Efficient Recommendation Systems, 2020, arXiv:1909.02107, section 2
        (the quotient-remainder trick), section 3 (more than two tables) and section 4
        (the combiners).
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
        shapes = qr_shapes(input_dim, output_dim, num_buckets, combiner)
        self.table_sizes = [rows for rows, _ in shapes]
        self.input_dim = operator.index(input_dim)
        self.combiner = combiner
        self.num_buckets = self.table_sizes[0]
        if hasattr(num_buckets, "__iter__"):
            self.num_buckets = self.table_sizes
        names = ["remainder", "quotient"]
        if len(shapes) != 2:
            names = [f"digit_{j}" for j in range(len(shapes))]
        self.tables = self.make_tables(dict(zip(names, shapes, strict=True)))

    def look_up(self, ids):
        rows = []
        for size, table in zip(self.table_sizes[:-1], self.tables[:-1], strict=True):
            quotient = ops.floor_divide(ids, size)
            rows.append(table(ids - quotient * size))
            ids = quotient
        rows.append(self.tables[-1](ids))
        if self.combiner == "concatenate":
            return ops.concatenate(rows, axis=-1)
        combine = operator.mul if self.combiner == "multiply" else operator.add
        return functools.reduce(combine, rows)

    def get_config(self):
        return {
            **super().get_config(),
            "input_dim": self.input_dim,
            "num_buckets": self.num_buckets,
            "combiner": self.combiner,
        }
