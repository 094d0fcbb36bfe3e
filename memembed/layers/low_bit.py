"""Embeddings whose numbers take a few bits each."""

import keras
import numpy as np
from keras import ops

from memembed.layers._common import table_of
from memembed.layers.packed import BlockedEmbedding, PackedEmbedding, of_block
from memembed.shapes import block_slices
from memembed.tables import as_weights, check_table, even_steps


@keras.saving.register_keras_serializable(package="memembed")
class LowBitEmbedding(BlockedEmbedding):
    """Embedding whose numbers take a few bits each.

    A number of column `j` is one of `2 ** bits[j]` values, evenly spaced::

        numbers(i)[j] = offsets[j] + scales[j] * codes[i, j]

    An embedding is these numbers, and zeros after them if there are fewer than
    `output_dim`; with `use_projection`, it is `numbers(i) @ projection`.

    With `block_sizes`, the ids are in blocks, and each block has bits, offsets and
    scales of its own, so that more bits go to the ids that are looked up most. The ids
    are cut into blocks in order, most popular first. With `store_blocks` they may be in
    any order, and it is stored which block each of them is in.

    This layer is the one to be trained. It holds rows of floats, and rounds those that
    are looked up. Gradients pass through the rounding as if it were not there, which is
    known as the straight-through estimator. With `train_steps`, the offsets and the
    logarithms of the scales are trained too. Their gradients, sums over many numbers,
    are divided by the root of the look-ups in a batch times the greatest code.

    `pack` returns the layer to be stored and served, a `PackedEmbedding`.

    Args:
        input_dim: size of the vocabulary.
        output_dim: length of an embedding.
        bits: bits of a number, from 0 to 8: one for all of `output_dim` columns, or one
            for each column that is held, `output_dim` of them at most. With blocks: one
            for all, or for each block an entry like that, all blocks with as many
            columns. In a column of no bits, all ids of a block have the same number.
        block_sizes: how many ids each block holds. Default: one block.
        store_blocks: whether it is stored which block an id is in, a weight `blocks`
            that is not trained. It begins in order, as if it were not stored; for
            another, see `from_embedding`. There are 16 blocks at most then.
        use_projection: whether a projection makes `output_dim` numbers of those that
            are held. It begins with the first rows of the identity, and is trained.
        train_steps: whether the offsets and the scales are trained. On sparse data,
            where an id is looked up a few times, it may be better if they are not.
        embeddings_initializer: initializer of the rows of floats. The offsets and the
            scales begin with what covers them.
        embeddings_regularizer: regularizer of the rows of floats.
        embeddings_constraint: constraint of the rows of floats.
        mask_zero: whether id 0 is padding to be masked, as in
            `keras.layers.Embedding`.
        **kwargs: arguments of `keras.layers.Layer`, such as `name` and `dtype`. The
            dtype is that of the rows of floats and of the output. What lies between is
            computed in float32, and offsets, scales and projection are float32.

    Raises:
        TypeError: a size, or a number of bits, is not an integer.
        ValueError: a size is not positive, or `block_sizes` do not sum to `input_dim`,
            or are too many to be stored, or `bits` is not from 0 to 8, or not as above,
            or 0 for all of a block.

    Input shape:
        Integers of any shape and dtype. Floats are truncated. JAX cuts 64-bit ids to 32
        bits before a model sees them, unless `jax_enable_x64` is on, and a vocabulary
        past 2**31 needs it.

    Output shape:
        The input's shape followed by `output_dim`. An id outside `[0, input_dim)`
        yields NaN, never another id's embedding.

        In training, one such id makes the loss NaN and, after a step, the weights that
        ids share, so that the model is lost. Encode ids by `memembed.data.Vocabulary`,
        which raises on unknown ones, and stop by `keras.callbacks.TerminateOnNaN`.

    Example:
        >>> import numpy as np
        >>> from memembed.layers import LowBitEmbedding
        >>> layer = LowBitEmbedding(6040, 8, bits=3)
        >>> tuple(layer(np.array([[0, 6039]])).shape)
        (1, 2, 8)
        >>> packed = layer.pack()
        >>> sum(weight.nbytes for weight in packed.get_weights())  # as floats: 193,280
        18184

    References:
        Esser et al., Learned Step Size Quantization, 2019, arXiv:1902.08153, section 2,
        on training the scale through the rounding, and 2.2, on its gradient.
    """

    # Not that of the layer that trained the scales, not their logarithms.
    layout_key = "layout_log_scales"

    def __init__(
        self,
        input_dim,
        output_dim,
        bits=4,
        block_sizes=None,
        embeddings_initializer="uniform",
        embeddings_regularizer=None,
        embeddings_constraint=None,
        mask_zero=False,
        store_blocks=False,
        use_projection=False,
        train_steps=True,
        **kwargs,
    ):
        super().__init__(
            input_dim,
            output_dim,
            bits,
            block_sizes,
            store_blocks,
            use_projection,
            embeddings_initializer=embeddings_initializer,
            embeddings_regularizer=embeddings_regularizer,
            embeddings_constraint=embeddings_constraint,
            mask_zero=mask_zero,
            **kwargs,
        )
        self.train_steps = bool(train_steps)
        self.tables = self.make_tables({"table": (self.input_dim, self._columns)})

    def table_arguments(self, names):
        for arguments in super().table_arguments(names):
            # Were the rows cast to the output's dtype, they would be rounded twice.
            yield {**arguments, "dtype": self.variable_dtype}

    @classmethod
    def from_embedding(
        cls,
        embedding,
        bits=4,
        popularity=None,
        block_sizes=None,
        output_dim=None,
        projection=None,
        blocks=None,
        **kwargs,
    ):
        """Round a trained full table, with the offsets and scales that fit it best.

        Training goes on from its rows. To keep the rounded table as it is, `pack` it.

        Args:
            embedding: the table: a built `keras.layers.Embedding`, or an array of
                shape `(input_dim, columns)`, in float16, bfloat16 or any other dtype.
            bits: as of the layer. If `columns` are fewer than `output_dim`, it must be
                given for each column.
            popularity: how often each id occurs, in any unit. The errors of an id count
                in proportion. Default: all ids alike.
            block_sizes: as of the layer. Not to be given with `blocks`.
            output_dim: as of the layer. Default: that of `projection`, or `columns`.
            projection: what the rows are multiplied by, an array of shape
                `(columns, output_dim)`. It implies `use_projection`.
            blocks: the block of each id, an array of integers from 0, which leaves none
                out. It implies `store_blocks`.
            **kwargs: further arguments of the layer. `mask_zero` is by default that of
                `embedding`.

        Returns:
            A `LowBitEmbedding` to be trained, built, with weights.

        Raises:
            TypeError: as of the layer.
            ValueError: as of the layer, or the table is not finite, or `popularity` is
                not a count for each id, or `projection` or `blocks` is not as above.

        Example:
            >>> import numpy as np
            >>> from keras import ops
            >>> from memembed.layers import LowBitEmbedding
            >>> full = np.array([[-1, 10], [0, 20], [1, 30], [2, 40]])
            >>> layer = LowBitEmbedding.from_embedding(full, bits=2)
            >>> ops.convert_to_numpy(layer(np.array([0, 3]))).round(3).tolist()
            [[-1.0, 10.0], [2.0, 40.0]]
        """
        table = check_table(table_of(embedding))
        input_dim, columns = table.shape
        if projection is not None:
            projection = _check_projection(projection, columns, output_dim)
            output_dim = projection.shape[1]
            kwargs["use_projection"] = True
        if blocks is not None:
            blocks = _check_blocks(blocks, input_dim, block_sizes)
            block_sizes = np.bincount(blocks)
            kwargs["store_blocks"] = True
        kwargs.setdefault("mask_zero", getattr(embedding, "mask_zero", False))
        output_dim = columns if output_dim is None else output_dim
        layer = cls(input_dim, output_dim, bits, block_sizes, **kwargs)
        if layer._columns != columns:
            raise ValueError(
                f"`bits` must be given for each of the {columns} columns of "
                f"`embedding`. Received: bits={bits!r}, output_dim={output_dim!r}"
            )
        # To draw random numbers would take the memory of four tables, for nothing.
        drawn = layer.tables[0].embeddings_initializer
        layer.tables[0].embeddings_initializer = keras.initializers.Zeros()
        layer.build()
        layer.tables[0].embeddings_initializer = drawn
        weights = as_weights(popularity, table)
        members = block_slices(layer._sizes)
        if layer._stored and blocks is not None:
            layer.blocks.assign(blocks)
            members = [np.flatnonzero(blocks == i) for i in range(len(block_sizes))]
        steps = [
            even_steps(table[ids], each, weights[ids])
            for ids, each in zip(members, layer._bits, strict=True)
        ]
        offsets, scales, _ = zip(*steps, strict=True)
        layer.offsets.assign(np.stack(offsets))
        layer.log_scales.assign(np.log(scales))
        layer.tables[0].set_weights([table])
        if projection is not None:
            layer.projection.assign(projection)
        return layer

    def build(self, input_shape=None):
        super().build(input_shape)
        shape = (len(self._sizes), self._columns)

        def ends():
            # Drawn again, which gives the same values, unless the initializer has a
            # SeedGenerator: the table cannot be read in a traced first call.
            table = self.tables[0].embeddings_initializer(
                (self.input_dim, self._columns), dtype=self.variable_dtype
            )
            blocks = [ops.cast(table[x], "float32") for x in block_slices(self._sizes)]
            return [
                ops.stack([reduce(x, axis=0) for x in blocks])
                for reduce in (ops.min, ops.max)
            ]

        def least(shape, dtype=None):
            return ends()[0]

        def log_step(shape, dtype=None):
            low, high = ends()
            steps = ops.maximum(ops.convert_to_tensor(self._tops, dtype), 1)
            # A little more, so that a compiler's last digit cannot cut off the highest.
            return ops.log(ops.where(high > low, (high - low) / steps, 1)) + 2e-6

        def in_order(shape, dtype=None):
            blocks = np.repeat(np.arange(len(self._sizes)), self._sizes)
            return ops.convert_to_tensor(blocks, dtype)

        self.offsets = self.add_float32("offsets", shape, least, self.train_steps)
        self.log_scales = self.add_float32(
            "log_scales", shape, log_step, self.train_steps
        )
        self.add_projection(trainable=True)
        if self._stored:
            self.blocks = self.add_weight(
                (self.input_dim,), in_order, "uint8", trainable=False, name="blocks"
            )

    def look_up(self, ids):
        block = self._block_of(ids)
        offsets, log_scales = self.offsets, self.log_scales
        if self.train_steps:
            numbers = ops.cast(ops.maximum(ops.size(ids), 1), "float32")
            levels = ops.maximum(ops.convert_to_tensor(self._tops, "float32"), 1)
            factor = ops.rsqrt(numbers * levels)
            offsets = _with_gradient(offsets, factor)
            log_scales = _with_gradient(log_scales, factor)
        offsets = of_block(block, offsets)
        scales = of_block(block, _exp(log_scales))
        steps = self._steps(self.tables[0](ids), offsets, scales, block)
        codes = steps + ops.stop_gradient(ops.round(steps) - steps)
        return self.from_codes(codes, offsets, scales)

    def pack(self):
        """Return the layer that holds codes only, and gives the same embeddings.

        Returns:
            A `PackedEmbedding` of the same name, built, with weights.

        Raises:
            ValueError: this layer has not been built, or Keras has quantised it, or
                its codes would take more than 2**31 bytes.
        """
        (table,) = self.tables
        if not self.built or table.quantization_mode is not None:
            raise ValueError(
                "Only a layer that has been built, and not quantised, can be packed. "
                f"Received: built={self.built}, "
                f"quantization_mode={table.quantization_mode!r}"
            )
        packed = PackedEmbedding(
            self.input_dim,
            self.output_dim,
            self.bits,
            self.block_sizes,
            mask_zero=self.mask_zero,
            store_blocks=self.store_blocks,
            use_projection=self.use_projection,
            name=self.name,
            dtype=self.dtype_policy,
        )
        packed.build()
        scales = _exp(self.log_scales)

        def codes_of(ids):
            block = self._block_of(np.arange(self.input_dim)[ids])
            offset, scale = of_block(block, self.offsets), of_block(block, scales)
            steps = self._steps(table.embeddings[ids], offset, scale, block)
            return ops.convert_to_numpy(ops.round(steps))

        if self._stored:
            blocks = ops.convert_to_numpy(self.blocks)
        else:
            blocks = np.repeat(np.arange(len(self._sizes)), self._sizes)
        packed.fill(codes_of, blocks)
        # Copies: JAX deletes a variable's own array when training replaces it.
        packed.offsets.assign(np.array(ops.convert_to_numpy(self.offsets)))
        packed.scales.assign(np.array(ops.convert_to_numpy(scales)))
        if self.use_projection:
            packed.projection.assign(np.array(ops.convert_to_numpy(self.projection)))
        return packed

    def _block_of(self, ids):
        if not self._stored:
            return self.block_in_order(ids)
        return ops.cast(ops.take(self.blocks, ids, axis=0), "int32")

    def _steps(self, rows, offsets, scales, block):
        """Return how many steps rows are from their offsets, before rounding."""
        steps = (ops.cast(rows, "float32") - offsets) / scales
        tops = ops.convert_to_tensor(self._tops, "float32")
        return ops.clip(steps, 0, of_block(block, tops))

    def get_config(self):
        return {**super().get_config(), "train_steps": self.train_steps}


def _with_gradient(weight, factor):
    """Return a weight as it is, but its gradient is multiplied by a factor."""
    part = weight * factor
    return ops.stop_gradient(weight) + (part - ops.stop_gradient(part))


def _exp(log_scales):
    """Return the scales, never zero, because rows are divided by them.

    Nor is the square of one, by which the derivative divides.
    """
    return ops.exp(ops.maximum(log_scales, -40.0))


def _check_projection(projection, columns, output_dim):
    array = np.asarray(projection)
    width = array.shape[-1] if output_dim is None else output_dim
    if array.shape != (columns, width) or not np.isfinite(array).all():
        raise ValueError(
            f"`projection` must be finite, of shape ({columns}, output_dim). "
            f"Received: projection of shape {array.shape}, output_dim={output_dim!r}, "
            f"finite: {bool(np.isfinite(array).all())}"
        )
    return array


def _check_blocks(blocks, input_dim, block_sizes):
    array = np.asarray(blocks)
    if (
        block_sizes is not None
        or array.shape != (input_dim,)
        or array.dtype.kind not in "iu"
        or array.min() < 0
        or array.max() >= input_dim
        or not np.bincount(array).all()
    ):
        raise ValueError(
            f"`blocks` must be the block of each of {input_dim} ids, integers from 0 "
            "that leave none out, and be given without `block_sizes`. Received: "
            f"blocks={array!r}, block_sizes={block_sizes!r}"
        )
    return array
