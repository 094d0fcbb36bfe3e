"""Embeddings whose numbers take a few bits each."""

import itertools

import keras
import numpy as np
from keras import ops

from memembed.layers._common import CompressedEmbedding, table_of
from memembed.shapes import check_block_bits, check_size, low_bit_shapes
from memembed.sizing import code_bytes
from memembed.tables import as_weights, check_table, even_steps


def pack(model):
    """Return a model whose embeddings of few bits hold codes only.

    Args:
        model: a functional `keras.Model` with layers `LowBitEmbedding`.

    Returns:
        A new model with the same predictions. Other layers are copied.

    Raises:
        ValueError: as of `LowBitEmbedding.pack`, or there is no such layer.

    Example:
        >>> import keras
        >>> from memembed.layers import LowBitEmbedding, pack
        >>> layer = LowBitEmbedding(1000, 4, bits=2)
        >>> model = keras.Sequential([keras.Input(()), layer])
        >>> model.count_params(), pack(model).count_params()
        (4008, 1008)
    """
    if not any(isinstance(layer, LowBitEmbedding) for layer in model.layers):
        raise ValueError(
            "`model` must have a layer LowBitEmbedding. "
            f"Received: a model of {[type(layer).__name__ for layer in model.layers]}"
        )

    def clone(layer):
        if isinstance(layer, LowBitEmbedding):
            return layer.pack()
        copy = type(layer).from_config(layer.get_config())
        if layer.built:
            copy.build_from_config(layer.get_build_config() or {})
            copy.set_weights(layer.get_weights())
        return copy

    return keras.models.clone_model(model, clone_function=clone)


@keras.saving.register_keras_serializable(package="memembed")
class LowBitEmbedding(CompressedEmbedding):
    """Embedding whose numbers take a few bits each.

    A number of column `j` is one of `2 ** bits[j]` values, evenly spaced::

        embedding(i)[j] = offsets[j] + scales[j] * codes[i, j]

    With `block_sizes`, the ids are cut, in order, into blocks, and each block has bits,
    offsets and scales of its own. With the ids in order of popularity, most popular
    first, more bits go to the ids that are looked up most.

    The layer has two forms. The one to be trained holds rows of floats, and rounds
    those that are looked up. Gradients pass through the rounding as if it were not
    there, which is known as the straight-through estimator, and train the offsets and
    the scales too. The other form, which `pack` returns, holds the codes instead, side
    by side without a gap, `sum(bits)` bits a row. It computes the same embeddings and
    is trained no more.

    Args:
        input_dim: size of the vocabulary.
        output_dim: length of an embedding.
        bits: bits of a number, from 0 to 8: one for all columns, or one for each. With
            blocks: one for all, or for each block one or one for each column. In a
            column of no bits, all ids of a block have the same number.
        block_sizes: how many ids each block holds, the first ids first. Default: one
            block.
        packed: whether to hold codes only. Most are made by `pack`.
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
        packed=False,
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
        shapes = low_bit_shapes(self.input_dim, self.output_dim, block_sizes)
        by_block = block_sizes is not None
        block_bits = check_block_bits(bits, shapes, by_block)
        rows = [rows for rows, _ in shapes]
        self.bits = block_bits if by_block else block_bits[0]
        self.block_sizes = rows if by_block else None
        self.packed = packed
        sizes = [code_bytes(*each) for each in zip(rows, block_bits, strict=True)]
        self._ids = tuple(itertools.accumulate(rows, initial=0))
        self._bytes = tuple(itertools.accumulate(sizes, initial=0))
        # A row for each block. Tuples, because Torch's compiler knows no other arrays.
        self._bits = tuple(map(tuple, block_bits))
        self._tops = tuple(tuple(2**each - 1 for each in bits) for bits in self._bits)
        self._columns = tuple(
            tuple(itertools.accumulate(bits[:-1], initial=0)) for bits in self._bits
        )
        self.tables = (
            []
            if packed
            else self.make_tables({"table": (self.input_dim, self.output_dim)})
        )

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
        layer.fit_steps(table, as_weights(popularity, table))
        return layer

    def fit_steps(self, table, weights):
        """Take these rows, with the offsets and scales that fit them best.

        Args:
            table: array of shape `(input_dim, output_dim)`.
            weights: array of shape `(input_dim,)`: how much the errors of a row count.
        """
        steps = [
            even_steps(table[ids], bits, weights[ids])
            for ids, bits in zip(self._slices(), self._bits, strict=True)
        ]
        offsets, scales = zip(*steps, strict=True)
        self.tables[0].set_weights([table])
        self.offsets.assign(np.stack(offsets))
        self.scales.assign(np.stack(scales))

    def build(self, input_shape=None):
        super().build(input_shape)
        shape = (len(self._bits), self.output_dim)
        if self.packed:
            self.codes = self.add_weight(
                (self._bytes[-1],), "zeros", "uint8", trainable=False, name="codes"
            )
            covering = ["zeros", "ones"]
        else:

            def ends(dtype):
                # Drawn a second time, which gives the same values: what the table holds
                # cannot be read while a model's first call is traced.
                table = self.tables[0].embeddings_initializer(
                    (self.input_dim, self.output_dim), dtype=dtype
                )
                blocks = [table[ids] for ids in self._slices()]
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

            covering = [least, step]
        self.offsets, self.scales = (
            self.add_weight(shape, initializer, trainable=not self.packed, name=name)
            for name, initializer in zip(("offsets", "scales"), covering, strict=True)
        )

    def look_up(self, ids):
        dtype = self.offsets.dtype
        block = self._block_of(ids)
        if self.packed:
            codes = ops.cast(self._unpack(ids, block), dtype)
        else:
            codes = self._steps(ops.cast(self.tables[0](ids), dtype), block)
            codes += ops.stop_gradient(ops.round(codes) - codes)
        offsets, widths = (_of(block, x) for x in (self.offsets, self._widths()))
        return ops.cast(offsets + widths * codes, self.compute_dtype)

    def pack(self):
        """Return the layer that holds codes only.

        Returns:
            A `LowBitEmbedding` of the same name with `packed=True`, built, with
            weights: the codes in uint8, the offsets and the scales.

        Raises:
            ValueError: this layer is packed already, or has not been built.
        """
        if self.packed or not self.built:
            raise ValueError(
                "Only a layer that has been built, and not packed, can be packed. "
                f"Received: built={self.built}, packed={self.packed}"
            )
        table = ops.cast(self.tables[0].embeddings, "float32")
        codes = ops.round(self._steps(table, self._block_of(np.arange(self.input_dim))))
        codes = ops.convert_to_numpy(codes).astype("uint8")
        packed = []
        for ids, bits in zip(self._slices(), self._bits, strict=True):
            columns = [
                codes[ids, j, None] >> np.arange(each, dtype="uint8") & 1
                for j, each in enumerate(bits)
            ]
            columns = np.concatenate(columns, axis=1)
            packed.append(np.packbits(columns, bitorder="little"))
        config = self.get_config()
        config.pop("activity_regularizer", None)  # of use in training alone
        layer = type(self).from_config({**config, "packed": True})
        layer.build()
        layer.set_weights(
            [
                np.concatenate(packed),
                # Copies: JAX deletes a variable's own array when training replaces it.
                np.array(ops.convert_to_numpy(self.offsets)),
                np.array(ops.convert_to_numpy(self._widths())),
            ]
        )
        return layer

    def _widths(self):
        # Training may take a scale through zero, where no row could be divided by it.
        least = keras.backend.epsilon()
        return ops.maximum(ops.abs(self.scales), ops.cast(least, self.scales.dtype))

    def _slices(self):
        return [slice(*ends) for ends in itertools.pairwise(self._ids)]

    def _block_of(self, ids):
        """Return the block of each id, or None if there is one for all."""
        if len(self._bits) == 1:
            return None
        starts = ops.convert_to_tensor(self._ids[1:-1], ids.dtype)
        past = ops.expand_dims(ids, -1) >= starts
        return ops.sum(ops.cast(past, "int32"), axis=-1)

    def _steps(self, rows, block):
        """Return how many steps rows are from the offsets, before rounding."""
        steps = (rows - _of(block, self.offsets)) / _of(block, self._widths())
        tops = ops.convert_to_tensor(self._tops, steps.dtype)
        return ops.clip(steps, 0, _of(block, tops))

    def _unpack(self, ids, block):
        """Return the codes of rows that lie at any bit of the packed bytes."""
        row_bits = [sum(bits) for bits in self._bits]
        first_id, whole, rest, first_byte, column = (
            _of(block, ops.convert_to_tensor(values, ids.dtype))
            for values in (
                [[first] for first in self._ids[:-1]],
                [[bits // 8] for bits in row_bits],
                [[bits % 8] for bits in row_bits],
                [[first] for first in self._bytes[:-1]],
                self._columns,
            )
        )
        ids = ops.expand_dims(ids, -1) - first_id
        # Bytes and bits apart: the number of a bit might not fit in an int32.
        bit = ids * rest + column
        byte = first_byte + ids * whole + bit // 8
        # A code may go on in the next byte. After the last byte none does, and there a
        # column of no bits may begin.
        last = self.codes.shape[0] - 1
        low, high = (
            ops.cast(ops.take(self.codes, ops.minimum(index, last), axis=0), "int32")
            for index in (byte, byte + 1)
        )
        codes = ops.right_shift(low + 256 * high, ops.cast(bit % 8, "int32"))
        return ops.bitwise_and(
            codes, _of(block, ops.convert_to_tensor(self._tops, "int32"))
        )

    def get_config(self):
        return {
            **super().get_config(),
            "input_dim": self.input_dim,
            "bits": self.bits,
            "block_sizes": self.block_sizes,
            "packed": self.packed,
        }


def _of(block, values):
    """Return the values, a row for each block, of the blocks of some ids."""
    return values[0] if block is None else ops.take(values, block, axis=0)
