"""Embeddings whose numbers take a few bits each."""

import keras
import numpy as np
from keras import ops

from memembed.layers._common import CompressedEmbedding, table_of
from memembed.shapes import (
    block_slices,
    check_block_bits,
    check_size,
    low_bit_shapes,
)
from memembed.sizing import code_bytes
from memembed.tables import as_weights, check_table, even_steps


class BlockedEmbedding(CompressedEmbedding):
    """What the two layers share: blocks of ids, and the bits of their columns."""

    def __init__(self, input_dim, output_dim, bits, block_sizes, **kwargs):
        super().__init__(output_dim, **kwargs)
        self.input_dim = check_size("input_dim", input_dim)
        shapes = low_bit_shapes(self.input_dim, self.output_dim, block_sizes)
        by_block = block_sizes is not None
        bits = check_block_bits(bits, shapes, by_block)
        sizes = [rows for rows, _ in shapes]
        self.bits = bits if by_block else bits[0]
        self.block_sizes = sizes if by_block else None
        # An entry for each block. Tuples, because Torch's compiler knows no arrays.
        self._sizes = tuple(sizes)
        self._bits = tuple(map(tuple, bits))
        self._tops = tuple(tuple(2**each - 1 for each in bits) for bits in self._bits)

    def add_steps(self, offsets_initializer, scales_initializer, trainable):
        """Make the offsets and scales, a row for each block."""
        shape = (len(self._sizes), self.output_dim)
        self.offsets = self.add_weight(
            shape, offsets_initializer, trainable=trainable, name="offsets"
        )
        self.scales = self.add_weight(
            shape, scales_initializer, trainable=trainable, name="scales"
        )

    def block_of(self, ids):
        """Return the block of each id, or None if there is one for all."""
        if len(self._sizes) == 1:
            return None
        starts = [ids.start for ids in block_slices(self._sizes)[1:]]
        past = ops.expand_dims(ids, -1) >= ops.convert_to_tensor(starts, ids.dtype)
        return ops.sum(ops.cast(past, "int32"), axis=-1)

    def from_codes(self, codes, scales, block):
        """Return the embeddings that have these codes."""
        codes = ops.cast(codes, self.offsets.dtype)
        embeddings = of_block(block, self.offsets) + of_block(block, scales) * codes
        return ops.cast(embeddings, self.compute_dtype)

    def _layout(self):
        return np.array(
            [[size, *bits] for size, bits in zip(self._sizes, self._bits, strict=True)]
        )

    def save_own_variables(self, store):
        super().save_own_variables(store)
        store["layout"] = self._layout()

    def load_own_variables(self, store):
        # Codes of other blocks or bits may have the same shape, and another meaning.
        weights = {name: store[name] for name in store.keys()}  # noqa: SIM118
        layout = weights.pop("layout", None)
        if layout is None or not np.array_equal(layout, self._layout()):
            raise ValueError(
                f"The weights of layer {self.name!r} must have been saved by a layer "
                f"with its blocks and bits, bits={self.bits}, block_sizes="
                f"{self.block_sizes}. Received: size and bits of each block "
                f"{None if layout is None else np.asarray(layout).tolist()}"
            )
        super().load_own_variables(weights)

    def get_config(self):
        return {
            **super().get_config(),
            "input_dim": self.input_dim,
            "bits": self.bits,
            "block_sizes": self.block_sizes,
        }


def of_block(block, values):
    """Return the values, a row for each block, of the blocks of some ids."""
    return values[0] if block is None else ops.take(values, block, axis=0)


@keras.saving.register_keras_serializable(package="memembed")
class LowBitEmbedding(BlockedEmbedding):
    """Embedding whose numbers take a few bits each.

    A number of column `j` is one of `2 ** bits[j]` values, evenly spaced::

        embedding(i)[j] = offsets[j] + scales[j] * codes[i, j]

    With `block_sizes`, the ids are cut, in order, into blocks, and each block has bits,
    offsets and scales of its own. With the ids in order of popularity, most popular
    first, more bits go to the ids that are looked up most.

    This layer is the one to be trained. It holds rows of floats, and rounds those that
    are looked up. Gradients pass through the rounding as if it were not there, which is
    known as the straight-through estimator, and train the offsets and the scales too.
    `pack` returns the layer to be stored and served, a `PackedEmbedding`.

    Args:
        input_dim: size of the vocabulary.
        output_dim: length of an embedding.
        bits: bits of a number, from 0 to 8: one for all columns, or one for each. With
            blocks: one for all, or for each block one or one for each column. In a
            column of no bits, all ids of a block have the same number.
        block_sizes: how many ids each block holds, the first ids first. Default: one
            block.
        embeddings_initializer: initializer of the rows of floats. The offsets and the
            scales begin with what covers them.
        embeddings_regularizer: regularizer of the rows of floats.
        embeddings_constraint: constraint of the rows of floats.
        mask_zero: whether id 0 is padding to be masked, as in
            `keras.layers.Embedding`.
        **kwargs: arguments of `keras.layers.Layer`, such as `name` and `dtype`.

    Raises:
        TypeError: a size, or a number of bits, is not an integer.
        ValueError: a size is not positive, or `block_sizes` do not sum to `input_dim`,
            or `bits` is not from 0 to 8, or not as above, or 0 for all of a block.

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
        on training the scale through the rounding.
    """

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
        **kwargs,
    ):
        super().__init__(
            input_dim,
            output_dim,
            bits,
            block_sizes,
            embeddings_initializer=embeddings_initializer,
            embeddings_regularizer=embeddings_regularizer,
            embeddings_constraint=embeddings_constraint,
            mask_zero=mask_zero,
            **kwargs,
        )
        self.tables = self.make_tables({"table": (self.input_dim, self.output_dim)})

    @classmethod
    def from_embedding(
        cls, embedding, bits=4, popularity=None, block_sizes=None, **kwargs
    ):
        """Round a trained full table, with the offsets and scales that fit it best.

        Training goes on from its rows. To keep the rounded table as it is, `pack` it.

        Args:
            embedding: the table: a built `keras.layers.Embedding`, or an array of
                shape `(input_dim, output_dim)`.
            bits: as of the layer.
            popularity: how often each id occurs, in any unit. The errors of an id count
                in proportion. Default: all ids alike.
            block_sizes: as of the layer.
            **kwargs: further arguments of the layer. `mask_zero` is by default that of
                `embedding`.

        Returns:
            A `LowBitEmbedding` to be trained, built, with weights.

        Raises:
            TypeError: as of the layer.
            ValueError: as of the layer, or the table is not finite, or `popularity` is
                not a count for each id.

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
        kwargs.setdefault("mask_zero", getattr(embedding, "mask_zero", False))
        layer = cls(*table.shape, bits, block_sizes, **kwargs)
        layer.build()
        weights = as_weights(popularity, table)
        steps = [
            even_steps(table[ids], each, weights[ids])
            for ids, each in zip(block_slices(layer._sizes), layer._bits, strict=True)
        ]
        offsets, scales, _ = zip(*steps, strict=True)
        layer.set_weights([np.stack(offsets), np.stack(scales), table])
        return layer

    def build(self, input_shape=None):
        super().build(input_shape)

        def ends(dtype):
            # Drawn again, which gives the same values, unless the initializer has a
            # SeedGenerator: the table cannot be read in a traced first call.
            table = self.tables[0].embeddings_initializer(
                (self.input_dim, self.output_dim), dtype=dtype
            )
            blocks = [table[ids] for ids in block_slices(self._sizes)]
            return [
                ops.stack([reduce(x, axis=0) for x in blocks])
                for reduce in (ops.min, ops.max)
            ]

        def least(shape, dtype=None):
            return ends(dtype)[0]

        def step(shape, dtype=None):
            low, high = ends(dtype)
            steps = ops.maximum(ops.convert_to_tensor(self._tops, dtype), 1)
            return ops.where(high > low, (high - low) / steps, 1)

        self.add_steps(least, step, trainable=True)

    def look_up(self, ids):
        block = self.block_of(ids)
        rows = ops.cast(self.tables[0](ids), self.offsets.dtype)
        steps = self._steps(rows, block)
        codes = steps + ops.stop_gradient(ops.round(steps) - steps)
        return self.from_codes(codes, self._widths(), block)

    def pack(self):
        """Return the layer that holds codes only, and gives the same embeddings.

        Returns:
            A `PackedEmbedding` of the same name, built, with weights.

        Raises:
            ValueError: this layer has not been built, or Keras has quantised it.
        """
        (table,) = self.tables
        if not self.built or table.quantization_mode is not None:
            raise ValueError(
                "Only a layer that has been built, and not quantised, can be packed. "
                f"Received: built={self.built}, "
                f"quantization_mode={table.quantization_mode!r}"
            )
        rows = ops.cast(table.embeddings, "float32")
        codes = ops.round(self._steps(rows, self.block_of(np.arange(self.input_dim))))
        codes = ops.convert_to_numpy(codes).astype("uint8")
        packed = PackedEmbedding(
            self.input_dim,
            self.output_dim,
            self.bits,
            self.block_sizes,
            mask_zero=self.mask_zero,
            name=self.name,
            dtype=self.dtype_policy,
        )
        packed.build()
        packed.set_weights(
            [
                packed.side_by_side(codes),
                # Copies: JAX deletes a variable's own array when training replaces it.
                np.array(ops.convert_to_numpy(self.offsets)),
                np.array(ops.convert_to_numpy(self._widths())),
            ]
        )
        return packed

    def _widths(self):
        # Training may take a scale through zero, where no row could be divided by it.
        least = ops.cast(keras.backend.epsilon(), self.scales.dtype)
        return ops.maximum(ops.abs(self.scales), least)

    def _steps(self, rows, block):
        """Return how many steps rows are from the offsets, before rounding."""
        steps = rows - of_block(block, self.offsets)
        steps = steps / of_block(block, self._widths())
        tops = ops.convert_to_tensor(self._tops, steps.dtype)
        return ops.clip(steps, 0, of_block(block, tops))


@keras.saving.register_keras_serializable(package="memembed")
class PackedEmbedding(BlockedEmbedding):
    """Embedding that is stored in a few bits a number, and trained no more.

    `LowBitEmbedding.pack` makes one that computes the same embeddings. Instead of rows
    of floats it holds their codes, side by side without a gap: `sum(bits)` bits a row,
    in uint8. Each column of each block has an offset and a scale in float32.
    `memembed.sizing.low_bit_bytes` counts the bytes.

    Args:
        input_dim: size of the vocabulary.
        output_dim: length of an embedding.
        bits: as of `LowBitEmbedding`.
        block_sizes: as of `LowBitEmbedding`.
        mask_zero: whether id 0 is padding to be masked, as in
            `keras.layers.Embedding`.
        **kwargs: arguments of `keras.layers.Layer`, such as `name` and `dtype`.

    Raises:
        TypeError: as of `LowBitEmbedding`.
        ValueError: as of `LowBitEmbedding`.

    Input shape:
        As of `LowBitEmbedding`.

    Output shape:
        As of `LowBitEmbedding`.

    Example:
        >>> import numpy as np
        >>> from memembed.layers import LowBitEmbedding
        >>> layer = LowBitEmbedding.from_embedding([[0.0], [3.0], [7.0]], bits=3)
        >>> packed = layer.pack()
        >>> [f"{byte:08b}" for byte in packed.get_weights()[0]]  # 111, 011, 000
        ['11011000', '00000001']
    """

    def __init__(
        self, input_dim, output_dim, bits=4, block_sizes=None, mask_zero=False, **kwargs
    ):
        super().__init__(
            input_dim, output_dim, bits, block_sizes, mask_zero=mask_zero, **kwargs
        )
        self.tables = []
        sizes = [
            code_bytes(*each) for each in zip(self._sizes, self._bits, strict=True)
        ]
        self._num_bytes = sum(sizes)
        # Of each block: its first id and byte, and a row's whole bytes and other bits.
        self._places = tuple(
            (ids.start, codes.start, *divmod(sum(bits), 8))
            for ids, codes, bits in zip(
                block_slices(self._sizes), block_slices(sizes), self._bits, strict=True
            )
        )
        self._columns = tuple(
            tuple(column.start for column in block_slices(bits)) for bits in self._bits
        )

    def build(self, input_shape=None):
        super().build(input_shape)
        self.codes = self.add_weight(
            (self._num_bytes,), "zeros", "uint8", trainable=False, name="codes"
        )
        self.add_steps("zeros", "ones", trainable=False)

    def look_up(self, ids):
        block = self.block_of(ids)
        places, columns, tops = (
            of_block(block, ops.convert_to_tensor(values, ids.dtype))
            for values in (self._places, self._columns, self._tops)
        )
        first_id, first_byte, whole, rest = ops.split(places, 4, axis=-1)
        row = ops.expand_dims(ids, -1) - first_id
        # Bytes and bits apart: the number of a bit might not fit in an int32.
        bit = row * rest + columns
        byte = first_byte + row * whole + bit // 8
        # A code may go on in the next byte. After the last byte none does, and there a
        # column of no bits may begin.
        low, high = (
            ops.take(self.codes, ops.minimum(index, self._num_bytes - 1), axis=0)
            for index in (byte, byte + 1)
        )
        both = ops.cast(low, "int32") + 256 * ops.cast(high, "int32")
        codes = ops.right_shift(both, ops.cast(bit % 8, "int32"))
        codes = ops.bitwise_and(codes, ops.cast(tops, "int32"))
        return self.from_codes(codes, self.scales, block)

    def side_by_side(self, codes):
        """Pack codes, a uint8 array of shape `(input_dim, output_dim)`, into bytes."""
        packed = []
        for ids, bits in zip(block_slices(self._sizes), self._bits, strict=True):
            columns = [
                codes[ids, j, None] >> np.arange(each, dtype="uint8") & 1
                for j, each in enumerate(bits)
            ]
            columns = np.concatenate(columns, axis=1)
            packed.append(np.packbits(columns, bitorder="little"))
        return np.concatenate(packed)

    def get_config(self):
        return {
            name: value
            for name, value in super().get_config().items()
            if not name.startswith("embeddings_")
        }
