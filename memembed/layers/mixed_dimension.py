"""Mixed-dimension embeddings."""

import itertools

import keras
from keras import initializers, ops

from memembed.layers._common import (
    CompressedEmbedding,
    as_ids,
    check_size,
    split_initializer,
)


@keras.saving.register_keras_serializable(package="memembed")
class MDEmbedding(CompressedEmbedding):
    """Embedding whose rare ids have narrower rows than its popular ones.

    The ids are cut, in order, into blocks. Block `b` has a table of its own,
    `block_dims[b]` wide, and a projection that widens its rows to `output_dim`::

        embedding(i) = tables[b][i - start[b]] @ projections[b]

    A block that is `output_dim` wide needs no projection and has none. With the ids in
    order of popularity, most popular first, wide rows go to the ids with the data to
    fill them.

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
        Integers of any shape.

    Output shape:
        The input's shape followed by `output_dim`. An id outside `[0, input_dim)`,
        where `input_dim` is `sum(block_sizes)`, yields NaN, never another id's
        embedding.

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
        self.block_sizes = _check_sizes("block_sizes", block_sizes)
        self.block_dims = _check_sizes("block_dims", block_dims)
        if len(self.block_sizes) != len(self.block_dims):
            raise ValueError(
                "`block_sizes` and `block_dims` must have the same length. "
                f"Received: block_sizes={block_sizes!r}, block_dims={block_dims!r}"
            )
        if max(self.block_dims) > self.output_dim:
            raise ValueError(
                "No block may be wider than `output_dim`. "
                f"Received: block_dims={block_dims!r}, output_dim={output_dim!r}"
            )
        self.input_dim = sum(self.block_sizes)
        self.use_bias = use_bias
        self.projection_initializer = initializers.get(projection_initializer)

        shapes = zip(self.block_sizes, self.block_dims, strict=True)
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

    def build(self, input_shape=None):
        for dim, table, projection in zip(
            self.block_dims, self.tables, self.projections, strict=True
        ):
            table.build(input_shape)
            if projection is not None:
                projection.build((None, dim))
        self.built = True

    def call(self, inputs):
        ids = as_ids(inputs)
        starts = itertools.accumulate(self.block_sizes, initial=0)
        embeddings = float("nan")  # what an id in no block is left with
        for start, size, table, projection in zip(
            starts, self.block_sizes, self.tables, self.projections, strict=False
        ):
            in_block = ops.logical_and(ids >= start, ids < start + size)
            rows = table(ops.where(in_block, ids - start, 0))
            if projection is not None:
                rows = projection(rows)
            embeddings = ops.where(ops.expand_dims(in_block, -1), rows, embeddings)
        return embeddings

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


def _check_sizes(name, values):
    """Return `values` as a list of Python ints, at least one."""
    if isinstance(values, (str, bytes)) or not hasattr(values, "__iter__"):
        raise TypeError(
            f"`{name}` must be a sequence of positive integers. "
            f"Received: {name}={values!r}"
        )
    sizes = [check_size(f"{name}[{i}]", value) for i, value in enumerate(values)]
    if not sizes:
        raise ValueError(f"`{name}` must not be empty. Received: {name}={values!r}")
    return sizes
