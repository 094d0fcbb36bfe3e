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

    An embedding consists of these numbers, followed by zeros if there are fewer than
    `output_dim`. With `use_projection`, it is `numbers(i) @ projection`.

    With `block_sizes`, the ids are divided into blocks. Each block has its own bits,
    offsets and scales, so that the ids that are looked up most can have more bits. The
    ids are cut into blocks in order, most popular first. With `store_blocks`, they may
    be in any order, and the layer stores the block of each id.

    This layer is the one to train. It holds rows of floats, and rounds the rows that
    are looked up. Gradients pass through the rounding as if it were not there: this is
    the straight-through estimator. With `train_steps`, the offsets and the logarithms
    of the scales are trained too. Their gradients are sums over many numbers, so they
    are divided by `sqrt(n * top)`, with `n` look-ups in a batch and `top` the largest
    code.

    `pack` returns the layer to store and serve, a `PackedEmbedding`.

    Args:
        input_dim: size of the vocabulary.
        output_dim: length of an embedding.
        bits: bits of a number, from 0 to 8: an integer for all of `output_dim` columns,
            or a sequence with one for each stored column, at most `output_dim` of them.
            With blocks: an integer for all blocks, or a sequence with such an entry for
            each block, all with the same number of columns. In a column of 0 bits, all
            ids of a block have the same number.
        block_sizes: how many ids each block holds. Default: one block.
        store_blocks: whether the block of each id is stored, in a weight `blocks` that
            is not trained. At first, the ids are in blocks in order, as without this
            argument; for other blocks, see `from_embedding`. At most 16 blocks can be
            stored.
        use_projection: whether a trained projection turns the stored numbers into
            `output_dim` numbers. It starts as the first rows of the identity matrix.
        train_steps: whether the offsets and the scales are trained. On sparse data,
            where each id is looked up only a few times, False may be better.
        embeddings_initializer: initializer of the rows of floats. The offsets and the
            scales start so that they cover the range of these rows.
        embeddings_regularizer: regularizer of the rows of floats.
        embeddings_constraint: constraint of the rows of floats.
        mask_zero: whether id 0 is padding to be masked, as in
            `keras.layers.Embedding`.
        **kwargs: arguments of `keras.layers.Layer`, such as `name` and `dtype`. The
            dtype is that of the rows of floats and of the output. All steps in between
            are computed in float32, and offsets, scales and projection are float32.

    Raises:
        TypeError: a size, or a number of bits, is not an integer.
        ValueError: a size is not positive, `block_sizes` do not sum to `input_dim` or
            are too many to be stored, or `bits` are not as described above, not from 0
            to 8, or 0 in all columns of a block.

    Input shape:
        Integers of any shape and dtype. Floats are truncated. Unless `jax_enable_x64`
        is on, JAX cuts 64-bit ids to 32 bits before a model sees them. A vocabulary
        above 2**31 needs this setting.

    Output shape:
        The input's shape followed by `output_dim`. An id outside `[0, input_dim)`
        yields NaN, never another id's embedding.

        In training, one such id makes the loss NaN, and after one step also the weights
        that ids share: the model is lost. Encode ids with `memembed.data.Vocabulary`,
        which raises an error for unknown ids, and stop training with
        `keras.callbacks.TerminateOnNaN`.

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

    # An earlier version trained the scales, not their logarithms. With another key, its
    # saved weights are refused.
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
            # If the rows were cast to the output's dtype, they would be rounded twice.
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

        Training continues from its rows. To use the rounded table without training,
        call `pack`.

        Args:
            embedding: the table: a built `keras.layers.Embedding`, or an array of
                shape `(input_dim, columns)`, in float16, bfloat16 or any other dtype.
            bits: as in the layer. If `columns` is less than `output_dim`, give a number
                for each column.
            popularity: how often each id occurs, as counts or as shares. The errors of
                an id are weighted by it. Default: all ids count equally.
            block_sizes: as in the layer. Must not be given with `blocks`.
            output_dim: as in the layer. Default: that of `projection`, or `columns`.
            projection: the matrix that the rows are multiplied by, of shape
                `(columns, output_dim)`. It implies `use_projection`.
            blocks: the block of each id, an array of integers from 0 without gaps. It
                implies `store_blocks`.
            **kwargs: further arguments of the layer. Default of `mask_zero`: that of
                `embedding`.

        Returns:
            A `LowBitEmbedding`, built, with its weights set, ready to be trained.

        Raises:
            TypeError: as in the layer.
            ValueError: as in the layer, or the table is not finite, `popularity` is not
                a count for each id, or `projection` or `blocks` is not as above.

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
        # Drawing random rows takes the memory of 4 tables, and they are overwritten.
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
            # The table cannot be read in a traced first call. So its values are drawn
            # again: the same ones, unless the initializer has a SeedGenerator.
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
            # Slightly more, so that rounding in compiled code cannot clip the largest.
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
        """Return a layer that holds only codes and gives the same embeddings.

        Returns:
            A `PackedEmbedding` of the same name, built, with its weights set.

        Raises:
            ValueError: this layer has not been built, or Keras has quantised it, or
                its codes would take more than 2**31 bytes.
        """
        (table,) = self.tables
        if not self.built or table.quantization_mode is not None:
            raise ValueError(
                "To be packed, a layer must be built, and must not be quantised. "
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
        """Return how many steps rows are above their offsets, before rounding."""
        steps = (ops.cast(rows, "float32") - offsets) / scales
        tops = ops.convert_to_tensor(self._tops, "float32")
        return ops.clip(steps, 0, of_block(block, tops))

    def get_config(self):
        return {**super().get_config(), "train_steps": self.train_steps}


def _with_gradient(weight, factor):
    """Return a weight unchanged, with its gradient multiplied by a factor."""
    part = weight * factor
    return ops.stop_gradient(weight) + (part - ops.stop_gradient(part))


def _exp(log_scales):
    """Return the scales, large enough that they and their squares are not zero.

    Rows are divided by a scale, and the derivative divides by its square.
    """
    return ops.exp(ops.maximum(log_scales, -40.0))


def _check_projection(projection, columns, output_dim):
    array = np.asarray(projection)
    width = array.shape[-1] if output_dim is None else output_dim
    if array.shape != (columns, width) or not np.isfinite(array).all():
        raise ValueError(
            f"`projection` must be finite and of shape ({columns}, output_dim). "
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
            "without gaps, and be given without `block_sizes`. Received: "
            f"blocks={array!r}, block_sizes={block_sizes!r}"
        )
    return array
