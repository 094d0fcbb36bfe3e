"""Mixed-dimension embeddings."""

import keras
from keras import initializers, ops

from memembed.layers._common import CompressedEmbedding, split_initializer, table_of
from memembed.shapes import block_slices, check_sizes, md_shapes
from memembed.tables import as_weights, check_table, low_rank


@keras.saving.register_keras_serializable(package="memembed")
class MDEmbedding(CompressedEmbedding):
    """Embedding in which rare ids have narrower rows than popular ids.

    The ids are divided, in order, into blocks. Block `b` has its own table,
    `block_dims[b]` wide, and a projection that widens its rows to `output_dim`::

        embedding(i) = tables[b][i - start[b]] @ projections[b]

    A block that is `output_dim` wide needs no projection and has none. If the ids are
    in order of popularity, most popular first, the wide rows go to the ids with enough
    data to train them.

    Args:
        block_sizes: how many ids each block holds, the first ids first.
        block_dims: width of each block's table, at most `output_dim`.
        output_dim: length of an embedding.
        use_bias: whether a projection adds a bias.
        embeddings_initializer: initializer of the tables.
        embeddings_regularizer: regularizer of the tables.
        embeddings_constraint: constraint of the tables.
        projection_initializer: initializer of the projections.
        mask_zero: whether id 0 is padding to be masked, as in
            `keras.layers.Embedding`.
        **kwargs: arguments of `keras.layers.Layer`, such as `name` and `dtype`.

    Raises:
        TypeError: a size is not an integer, or the blocks are not given as sequences.
        ValueError: a size is not positive, there is no block, `block_sizes` and
            `block_dims` differ in length, or a block is wider than `output_dim`.

    Input shape:
        Integers of any shape and dtype. Floats are truncated. Unless `jax_enable_x64`
        is on, JAX cuts 64-bit ids to 32 bits before a model sees them. A vocabulary
        above 2**31 needs this setting.

    Output shape:
        The input's shape followed by `output_dim`. An id outside `[0, input_dim)`,
        where `input_dim` is `sum(block_sizes)`, yields NaN, never another id's
        embedding.

        In training, one such id makes the loss NaN, and after one step also the weights
        that ids share: the model is lost. Encode ids with `memembed.data.Vocabulary`,
        which raises an error for unknown ids, and stop training with
        `keras.callbacks.TerminateOnNaN`.

    Example:
        >>> import numpy as np
        >>> from memembed.layers import MDEmbedding
        >>> layer = MDEmbedding([400, 1300, 2006], [64, 32, 16], output_dim=64)
        >>> tuple(layer(np.array([[0, 399, 3705]])).shape)
        (1, 3, 64)
        >>> layer.count_params()  # a full table: 237,184
        102368

    References:
        Ginart et al., Mixed Dimension Embeddings with Application to Memory-Efficient
        Recommendation Systems, 2019, arXiv:1909.11810, on the mixed dimension embedding
        layer.
    """

    def __init__(
        self,
        block_sizes,
        block_dims,
        output_dim,
        use_bias=False,
        embeddings_initializer="uniform",
        embeddings_regularizer=None,
        embeddings_constraint=None,
        projection_initializer="glorot_uniform",
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
        shapes = md_shapes(block_sizes, block_dims, output_dim)
        self.block_sizes, self.block_dims = map(list, zip(*shapes, strict=True))
        self.input_dim = sum(self.block_sizes)
        self.use_bias = use_bias
        self.projection_initializer = initializers.get(projection_initializer)

        self.tables = self.make_tables(
            {f"block_{b}": shape for b, shape in enumerate(shapes)}
        )
        different = split_initializer(self.projection_initializer, len(self.block_dims))
        self.projections = [
            keras.layers.Dense(
                self.output_dim,
                use_bias=use_bias,
                kernel_initializer=initializer,
                dtype=self.dtype_policy,
                name=f"projection_{b}",
            )
            if dim < self.output_dim
            else None
            for b, (dim, initializer) in enumerate(
                zip(self.block_dims, different, strict=True)
            )
        ]

    @classmethod
    def from_embedding(
        cls,
        embedding,
        block_sizes,
        block_dims,
        popularity=None,
        use_bias=False,
        **kwargs,
    ):
        """Compress a trained full table, without training again.

        Each block's table and projection are the best approximation of its rows at this
        width: the truncated singular value decomposition. A short training afterwards,
        at a low learning rate, recovers part of the lost accuracy.

        Args:
            embedding: the table: a built `keras.layers.Embedding`, or an array of
                shape `(input_dim, output_dim)`. Its ids are in the order of the blocks.
            block_sizes: how many ids each block holds.
            block_dims: width of each block's table.
            popularity: how often each id occurs, as counts or as shares. The errors of
                an id are weighted by it. Default: all ids count equally.
            use_bias: whether a projection adds a bias.
            **kwargs: further arguments of the layer. Default of `mask_zero`: that of
                `embedding`.

        Returns:
            An `MDEmbedding`, built, with its weights set.

        Raises:
            TypeError: as in the layer.
            ValueError: as in the layer, or the table is not finite, `block_sizes` do
                not sum to its ids, or `popularity` is not a count for each of them.

        Example:
            >>> import numpy as np
            >>> from keras import ops
            >>> from memembed.layers import MDEmbedding
            >>> full = np.array([[5, 1], [2, 7], [3, 4], [6, 8], [30, 40]])
            >>> layer = MDEmbedding.from_embedding(full, [2, 3], [2, 1])
            >>> layer.count_params()
            9
            >>> ops.convert_to_numpy(layer(np.array([0, 3]))).round(3).tolist()
            [[5.0, 1.0], [6.0, 8.0]]

        References:
            Eckart and Young, The approximation of one matrix by another of lower rank,
            1936, doi:10.1007/BF02288367.
        """
        table = check_table(table_of(embedding))
        weights = as_weights(popularity, table)
        block_sizes = check_sizes("block_sizes", block_sizes)
        if sum(block_sizes) != len(table):
            raise ValueError(
                "`block_sizes` must sum to the number of ids of `embedding`. "
                f"Received: block_sizes={block_sizes!r}, {len(table)} ids"
            )
        kwargs.setdefault("mask_zero", getattr(embedding, "mask_zero", False))
        layer = cls(block_sizes, block_dims, table.shape[1], use_bias, **kwargs)
        layer.build()
        for ids, block, projection in layer.blocks():
            if projection is None:
                block.set_weights([table[ids]])
            else:
                dim = block.output_dim
                rows, *dense = low_rank(table[ids], dim, weights[ids], use_bias)
                block.set_weights([rows])
                projection.set_weights(dense)
        return layer

    def blocks(self):
        """Return each block's ids (a slice), table, and projection (or None)."""
        return zip(
            block_slices(self.block_sizes), self.tables, self.projections, strict=True
        )

    @property
    def parts(self):
        return self.tables + [each for each in self.projections if each is not None]

    def build(self, input_shape=None):
        super().build(input_shape)
        for dim, projection in zip(self.block_dims, self.projections, strict=True):
            if projection is not None:
                projection.build((None, dim))

    def look_up(self, ids):
        # One matrix product widens the rows of all projected blocks. The rows lie side
        # by side, and are zero unless the id is in their block. Projecting each block
        # and choosing afterwards takes 1.1 to 1.3 times as long for a look-up
        # (TensorFlow, JAX), and up to 4 times for 65,536 ids on two axes.
        flat = ops.reshape(ids, (-1,))
        embeddings, rows, kernels = 0.0, [], []
        for block, table, projection in self.blocks():
            in_block = ops.logical_and(flat >= block.start, flat < block.stop)
            narrow = table(ops.where(in_block, flat - block.start, 0))
            in_block = ops.expand_dims(in_block, -1)
            narrow = ops.where(in_block, narrow, 0.0)
            if projection is None:
                embeddings += narrow
                continue
            # The rows are those of the kernel plus the bias. The last row is the bias.
            # This works for quantised layers too.
            widened = projection(ops.eye(table.output_dim + 1, table.output_dim))
            kernels += [widened[:-1] - widened[-1:], widened[-1:]]
            rows += [narrow, ops.cast(in_block, narrow.dtype)]
        if rows:
            rows, kernel = ops.concatenate(rows, axis=-1), ops.concatenate(kernels)
            embeddings += ops.matmul(rows, kernel)
        return ops.reshape(embeddings, (*ops.shape(ids), self.output_dim))

    def get_config(self):
        return {
            **super().get_config(),
            "block_sizes": self.block_sizes,
            "block_dims": self.block_dims,
            "use_bias": self.use_bias,
            "projection_initializer": initializers.serialize(
                self.projection_initializer
            ),
        }
