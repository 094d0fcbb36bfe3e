"""An embedding that is stored in a few bits per number."""

import keras
import numpy as np
from keras import ops

from memembed.layers._common import INT32_IDS, CompressedEmbedding
from memembed.shapes import CHUNK_IDS, block_slices, check_size, low_bit_blocks
from memembed.sizing import code_bytes
from memembed.tables import CHUNK


class BlockedEmbedding(CompressedEmbedding):
    """Base class of two layers: blocks of ids, the bits of columns, a projection."""

    def __init__(
        self,
        input_dim,
        output_dim,
        bits,
        block_sizes,
        store_blocks,
        use_projection,
        **kwargs,
    ):
        super().__init__(output_dim, **kwargs)
        blocks = low_bit_blocks(input_dim, output_dim, bits, block_sizes, store_blocks)
        sizes, bits = zip(*blocks, strict=True)
        by_block = block_sizes is not None
        self.input_dim = check_size("input_dim", input_dim)
        self.bits = list(bits) if by_block else bits[0]
        self.block_sizes = list(sizes) if by_block else None
        self.store_blocks = bool(store_blocks)
        self.use_projection = bool(use_projection)
        # An entry for each block. Tuples: Torch's compiler does not support arrays.
        self._sizes = sizes
        self._bits = tuple(map(tuple, bits))
        self._tops = tuple(tuple(2**each - 1 for each in bits) for bits in self._bits)
        self._columns = len(self._bits[0])
        self._stored = self.store_blocks and len(sizes) > 1

    def add_float32(self, name, shape, initializer, trainable):
        """Add a weight in float32. It is so small that fewer bits would save little."""
        return self.add_weight(
            shape,
            initializer,
            dtype="float32",
            trainable=trainable,
            autocast=False,
            name=name,
        )

    def add_projection(self, trainable):
        """Add the projection, which starts as the first rows of the identity matrix."""
        shape = (self._columns, self.output_dim)
        self.projection = None
        if self.use_projection:
            self.projection = self.add_float32(
                "projection", shape, "identity", trainable
            )

    def block_in_order(self, ids):
        """Return the block of each id, or None if there is only one block."""
        if len(self._sizes) == 1:
            return None
        starts = [ids.start for ids in block_slices(self._sizes)[1:]]
        past = ops.expand_dims(ids, -1) >= ops.convert_to_tensor(starts, ids.dtype)
        return ops.sum(ops.cast(past, "int32"), axis=-1)

    def from_codes(self, codes, offsets, scales):
        """Return the embeddings that have these codes."""
        embeddings = offsets + scales * ops.cast(codes, "float32")
        if self.use_projection:
            embeddings = ops.matmul(embeddings, self.projection)
        elif self._columns < self.output_dim:
            zeros = [(0, 0)] * (len(embeddings.shape) - 1)
            zeros.append((0, self.output_dim - self._columns))
            embeddings = ops.pad(embeddings, zeros)
        return ops.cast(embeddings, self.compute_dtype)

    def _layout(self):
        return np.array(
            [[size, *bits] for size, bits in zip(self._sizes, self._bits, strict=True)]
        )

    def save_own_variables(self, store):
        super().save_own_variables(store)
        store[self.layout_key] = self._layout()

    def load_own_variables(self, store):
        # Codes of other blocks or bits may have the same shape but another meaning.
        weights = {name: store[name] for name in store.keys()}  # noqa: SIM118
        layout = weights.pop(self.layout_key, None)
        if layout is None or not np.array_equal(layout, self._layout()):
            raise ValueError(
                f"The weights of layer {self.name!r} must have been saved by a layer "
                f"with the same blocks and bits: bits={self.bits}, block_sizes="
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
            "store_blocks": self.store_blocks,
            "use_projection": self.use_projection,
        }


def of_block(block, values):
    """Return, for each id, the row of `values` of its block."""
    return values[0] if block is None else ops.take(values, block, axis=0)


@keras.saving.register_keras_serializable(package="memembed")
class PackedEmbedding(BlockedEmbedding):
    """Embedding that is stored in a few bits per number and is not trained.

    `LowBitEmbedding.pack` returns this layer, which computes the same embeddings.
    Instead of rows of floats it holds their codes, side by side without gaps:
    `sum(bits)` bits per row, in uint8. Each column of each block has an offset and a
    scale in float32. A projection is in float32 too. `memembed.sizing.low_bit_bytes`
    counts the bytes.

    With `store_blocks`, the rows are in the order of the ids, in chunks of 256 ids. The
    layer stores the byte at which each chunk starts, and the block of each id. A row
    starts after the rows of all earlier ids in its chunk.

    Args:
        input_dim: size of the vocabulary.
        output_dim: length of an embedding.
        bits: as in `LowBitEmbedding`.
        block_sizes: as in `LowBitEmbedding`.
        mask_zero: whether id 0 is padding to be masked, as in
            `keras.layers.Embedding`.
        store_blocks: as in `LowBitEmbedding`.
        use_projection: as in `LowBitEmbedding`.
        **kwargs: arguments of `keras.layers.Layer`, such as `name` and `dtype`. The
            dtype is that of the output.

    Raises:
        TypeError: as in `LowBitEmbedding`.
        ValueError: as in `LowBitEmbedding`, or the codes take more than 2**31 bytes.

    Input shape:
        As in `LowBitEmbedding`.

    Output shape:
        As in `LowBitEmbedding`.

    Example:
        >>> import numpy as np
        >>> from memembed.layers import LowBitEmbedding
        >>> layer = LowBitEmbedding.from_embedding([[0.0], [3.0], [7.0]], bits=3)
        >>> packed = layer.pack()
        >>> [f"{byte:08b}" for byte in packed.get_weights()[0]]  # 111, 011, 000
        ['11011000', '00000001']
    """

    layout_key = "layout"

    def __init__(
        self,
        input_dim,
        output_dim,
        bits=4,
        block_sizes=None,
        mask_zero=False,
        store_blocks=False,
        use_projection=False,
        **kwargs,
    ):
        super().__init__(
            input_dim,
            output_dim,
            bits,
            block_sizes,
            store_blocks,
            use_projection,
            mask_zero=mask_zero,
            **kwargs,
        )
        self.tables = []
        sizes = [
            code_bytes(*each) for each in zip(self._sizes, self._bits, strict=True)
        ]
        self._num_chunks = -(-self.input_dim // CHUNK_IDS)
        # With stored blocks, add room for the unused bits at the end of chunks.
        self._num_bytes = sum(sizes) + self._stored * (self._num_chunks * 7 // 8)
        if self._num_bytes > INT32_IDS and (
            self._stored or self.input_dim <= INT32_IDS
        ):
            raise ValueError(
                f"The codes must take at most {INT32_IDS} bytes, because int32 holds "
                f"their positions. Received: codes of {self._num_bytes} bytes"
            )
        # For each block: its first id and its first byte, and the length of a row in
        # whole bytes and remaining bits.
        self._places = tuple(
            (ids.start, codes.start, *divmod(sum(bits), 8))
            for ids, codes, bits in zip(
                block_slices(self._sizes), block_slices(sizes), self._bits, strict=True
            )
        )
        self._starts = tuple(
            tuple(column.start for column in block_slices(bits)) for bits in self._bits
        )

    def build(self, input_shape=None):
        super().build(input_shape)
        shape = (len(self._sizes), self._columns)
        self.codes = self.add_weight(
            (self._num_bytes,), "zeros", "uint8", trainable=False, name="codes"
        )
        self.offsets = self.add_float32("offsets", shape, "zeros", trainable=False)
        self.scales = self.add_float32("scales", shape, "ones", trainable=False)
        self.add_projection(trainable=False)
        if self._stored:
            each = (len(self._sizes) - 1).bit_length()
            # For each chunk, the first bits of its ids' blocks, then the second bits...
            self.blocks = self.add_weight(
                (self._num_chunks, each, CHUNK_IDS // 32),
                "zeros",
                "int32",
                trainable=False,
                name="blocks",
            )
            self.chunk_starts = self.add_weight(
                (self._num_chunks,),
                "zeros",
                "int32",
                trainable=False,
                name="chunk_starts",
            )

    def look_up(self, ids):
        place = self._place_in_chunk if self._stored else self._place_in_block
        block, byte, bit = place(ids)
        columns, tops = (
            of_block(block, ops.convert_to_tensor(values, bit.dtype))
            for values in (self._starts, self._tops)
        )
        bit = bit + columns
        byte = byte + bit // 8
        # A code may continue in the next byte. No code continues after the last byte,
        # but a column of 0 bits may start there.
        low, high = (
            ops.take(self.codes, ops.minimum(index, self._num_bytes - 1), axis=0)
            for index in (byte, byte + 1)
        )
        both = ops.cast(low, "int32") + 256 * ops.cast(high, "int32")
        codes = ops.right_shift(both, ops.cast(bit % 8, "int32"))
        codes = ops.bitwise_and(codes, ops.cast(tops, "int32"))
        return self.from_codes(
            codes, of_block(block, self.offsets), of_block(block, self.scales)
        )

    def _place_in_block(self, ids):
        """Return the block of each id, and the byte and the bit where its row starts.

        The bit is counted from that byte, and may be in a later byte. Counted from the
        first byte of all, its number might not fit in an int32.
        """
        block = self.block_in_order(ids)
        places = of_block(block, ops.convert_to_tensor(self._places, ids.dtype))
        first_id, first_byte, whole, rest = ops.split(places, 4, axis=-1)
        row = ops.expand_dims(ids, -1) - first_id
        return block, first_byte + row * whole, row * rest

    def _place_in_chunk(self, ids):
        """Return the same as `_place_in_block`, for stored blocks."""
        chunk = ids // CHUNK_IDS
        index = ops.expand_dims(ops.cast(ids % CHUNK_IDS, "int32"), -1)
        word = ops.arange(CHUNK_IDS // 32, dtype="int32")
        # A chunk's ids are the bits of 8 words. `before` has the ids before this one,
        # and `members` has, in a row for each block, those of them in the block.
        place = index - 32 * word
        before = ops.left_shift(1, ops.clip(place, 0, 31)) - 1
        before = ops.where(place > 31, -1, before)
        block, members = 0, ops.expand_dims(before, -2)
        planes = ops.take(self.blocks, chunk, axis=0)
        for i, plane in enumerate(ops.unstack(planes, axis=-2)):
            bit = ops.bitwise_and(ops.right_shift(plane, index % 32), 1)
            bit = ops.sum(ops.where(word == index // 32, bit, 0), axis=-1)
            block = block + 2**i * ops.cast(bit, "int32")
            flips = [[-(1 - (j >> i & 1))] for j in range(len(self._sizes))]
            flips = ops.convert_to_tensor(flips, "int32")
            plane = ops.bitwise_xor(ops.expand_dims(plane, -2), flips)
            members = ops.bitwise_and(members, plane)
        counts = _count_ones(members)
        widths = ops.convert_to_tensor([sum(bits) for bits in self._bits], "int32")
        bit = ops.sum(counts * widths, axis=-1, keepdims=True)
        start = ops.expand_dims(ops.take(self.chunk_starts, chunk, axis=0), -1)
        return block, start, bit

    def fill(self, codes_of, blocks):
        """Put the codes, and the block of each id, into the weights.

        Args:
            codes_of: a function from a slice of ids to an array of their codes, of
                shape `(ids, columns)`.
            blocks: the block of each id, an array.
        """
        # Rows follow each other. Each block, or each chunk, starts at a whole byte.
        groups = np.array(self._sizes)
        if self._stored:
            firsts = np.arange(0, self.input_dim, CHUNK_IDS)
            groups = np.diff(firsts, append=self.input_dim)
        widths = np.array([sum(bits) for bits in self._bits])[blocks]
        bits = np.cumsum(widths) - widths
        firsts = np.cumsum(groups) - groups
        sizes = -(-np.add.reduceat(widths, firsts) // 8)
        starts = np.cumsum(sizes) - sizes
        bits += np.repeat(8 * starts - bits[firsts], groups)

        columns = np.array(self._starts)
        packed = np.zeros(self._num_bytes + 2, "uint8")
        for first in range(0, self.input_dim, CHUNK):
            ids = slice(first, min(first + CHUNK, self.input_dim))
            bit = bits[ids, None] + columns[blocks[ids]]
            codes = codes_of(ids).astype("int64") << bit % 8
            start = bit[0, 0] // 8
            # A code may be in two bytes. No two codes share a bit, so a sum joins them.
            for more in (0, 1):
                part = codes >> 8 * more & 255
                part = np.bincount((bit // 8 + more - start).ravel(), part.ravel())
                packed[start : start + len(part)] += part.astype("uint8")
        self.codes.assign(packed[: self._num_bytes])
        if self._stored:
            padded = np.zeros(self._num_chunks * CHUNK_IDS, "uint8")
            padded[: self.input_dim] = blocks
            planes = padded.reshape(-1, 1, CHUNK_IDS) >> np.arange(
                self.blocks.shape[1], dtype="uint8"
            ).reshape(-1, 1)
            planes = np.packbits(planes & 1, axis=-1, bitorder="little")
            self.blocks.assign(planes.view("<i4").astype("int32"))
            self.chunk_starts.assign(starts)

    def get_config(self):
        return {
            name: value
            for name, value in super().get_config().items()
            if not name.startswith("embeddings_")
        }


def _count_ones(words):
    """Count the bits that are 1 along the last axis of int32, at most 8 words.

    Count them in pairs of bits, then in 4 bits, then in bytes, and add up all bytes.
    """
    for shift, mask in ((1, 0x55555555), (2, 0x33333333), (4, 0x0F0F0F0F)):
        upper = ops.bitwise_and(ops.right_shift(words, shift), mask)
        words = ops.bitwise_and(words, mask) + upper
    total = ops.cast(ops.sum(words, axis=-1), "int32")
    return sum(ops.bitwise_and(ops.right_shift(total, i), 255) for i in (0, 8, 16, 24))
