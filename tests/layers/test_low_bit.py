import keras
import numpy as np
import pytest
from keras import ops

from memembed import sizing
from memembed.compression import pack
from memembed.layers import LowBitEmbedding, PackedEmbedding, QREmbedding
from standards import BACKEND, EmbeddingStandards, arrays, embed, model_of, predict


def by_name(layer, weights=None):
    """Return the weights, in float64, by their names."""
    names = [weight.name for weight in layer.weights]
    return dict(zip(names, arrays(layer) if weights is None else weights, strict=True))


def block_of(layer):
    """Return the block of each id."""
    if getattr(layer, "blocks", None) is None:
        sizes = layer.block_sizes or [layer.input_dim]
        return np.repeat(np.arange(len(sizes)), sizes)
    blocks = ops.convert_to_numpy(layer.blocks)
    if isinstance(layer, PackedEmbedding):  # for each chunk, first the lowest bits
        blocks = blocks.astype("<i4").view("uint8")
        bits = np.unpackbits(blocks, axis=-1, bitorder="little").astype(int)
        blocks = sum(bits[:, i] << i for i in range(bits.shape[1])).ravel()
    return blocks[: layer.input_dim].astype(int)


def bits_of(layer):
    """Return the bits of each id's columns."""
    bits = np.array(layer.bits if layer.block_sizes else [layer.bits])
    return bits[block_of(layer)]


def widen(layer, numbers, named):
    """Return the embeddings of these numbers: projected, or padded with zeros."""
    if layer.use_projection:
        return numbers @ named["projection"]
    return np.pad(numbers, [(0, 0), (0, layer.output_dim - numbers.shape[1])])


def spread(**arguments):
    """Return a layer with rows so far apart that no two ids are rounded equally."""
    arguments = dict(arguments)
    shape = arguments.pop("input_dim"), arguments.pop("columns", None)
    if shape[1] is None:
        shape = shape[0], arguments["output_dim"]
    # The jitter avoids numbers halfway between two codes.
    rows = np.linspace(-2, 2, shape[0])[:, None]
    jitter = np.random.default_rng(0).normal(scale=0.03, size=shape)
    return LowBitEmbedding.from_embedding(rows + jitter, **arguments)


STORED = {
    "input_dim": 9,
    "columns": 2,
    "output_dim": 3,
    "bits": [[5, 0], [3, 8], [4, 6]],
    "blocks": [2, 0, 1, 1, 2, 0, 2, 1, 2],
    "projection": [[0.5, -1.0, 2.0], [1.0, 0.0, -0.5]],
}
FEWER = {
    "input_dim": 7,
    "columns": 2,
    "output_dim": 4,
    "bits": [5, 3],
    "train_steps": False,
}


class TestLowBitEmbedding(EmbeddingStandards):
    layer_class = LowBitEmbedding
    configurations = {
        "four bits": {"input_dim": 9, "output_dim": 4},
        "one column": {"input_dim": 7, "output_dim": 1, "bits": 3},
        "bits by column": {"input_dim": 7, "output_dim": 4, "bits": [5, 3, 1, 8]},
        "none for some": {"input_dim": 7, "output_dim": 3, "bits": (0, 4, 0)},
        "blocks": {
            "input_dim": 9,
            "output_dim": 2,
            "bits": [[5, 0], 3, [4, 6]],
            "block_sizes": (2, 3, 4),
        },
        "stored blocks": STORED,
        "fewer numbers": FEWER,
    }
    bad_arguments = [
        ({"input_dim": 0}, ValueError, r"`input_dim` must be.*input_dim=0"),
        ({"output_dim": 2.5}, TypeError, r"`output_dim` must be.*output_dim=2\.5"),
        ({"bits": 0}, ValueError, r"`bits` must be.*not all of them 0.*bits=0"),
        ({"bits": [0, 0, 0, 0]}, ValueError, r"not all of them 0.*\[0, 0, 0, 0\]"),
        ({"bits": [4, False, 4, 4]}, TypeError, r"`bits` must be.*bits=False"),
        ({"bits": 9}, ValueError, r"`bits` must be from 0 to 8.*bits=9"),
        ({"bits": 2.5}, TypeError, r"`bits` must be.*bits=2\.5"),
        ({"bits": [4] * 5}, ValueError, r"`output_dim` at most.*\[4, 4, 4, 4, 4\]"),
        ({"bits": []}, ValueError, r"one for each column.*\[\]"),
        ({"bits": [4, 4, 4, -1]}, ValueError, r"`bits` must be.*=-1"),
        ({"bits": "4444"}, TypeError, r"`bits` must be.*'4444'"),
        ({"block_sizes": 9}, TypeError, r"`block_sizes` must be.*block_sizes=9"),
        ({"block_sizes": [4, 4]}, ValueError, r"must sum to `input_dim`.*\[4, 4\]"),
        ({"block_sizes": [9, 0]}, ValueError, r"`block_sizes\[1\]` must be.*=0"),
        (
            {"block_sizes": [4, 5], "bits": [3, 3, 3, 3]},
            ValueError,
            r"an entry for each of the 2 blocks.*\[3, 3, 3, 3\]",
        ),
        (
            {"block_sizes": [4, 5], "bits": [3, [0, 0, 0, 0]]},
            ValueError,
            r"not all of them 0.*\[0, 0, 0, 0\]",
        ),
        (
            {"block_sizes": [4, 5], "bits": [[3, 3], [3]]},
            ValueError,
            r"as many in each block.*\[\[3, 3\], \[3\]\]",
        ),
        (
            {"input_dim": 17, "block_sizes": [1] * 17, "store_blocks": True},
            ValueError,
            "must be 16 at most.*17 blocks",
        ),
    ]

    @pytest.fixture
    def layer(self, request):
        return spread(**request.param)

    def oracle(self, layer, weights, ids):
        named = by_name(layer, weights)
        offsets = named["offsets"][block_of(layer)]
        scales = np.exp(named["log_scales"])[block_of(layer)]
        codes = np.round((named["embeddings"] - offsets) / scales)
        codes = codes.clip(0, 2 ** bits_of(layer) - 1)
        return widen(layer, offsets + scales * codes, named)[ids]

    def test_gradients(self, layer):
        """Gradients pass through the rounding, except for numbers that are clipped."""
        table = by_name(layer)["embeddings"]
        table[0] = 100.0  # past the last value
        layer.tables[0].set_weights([table])
        # Avoid the ends of the range, where a gradient may be full, half or zero.
        layer.offsets.assign(layer.offsets - 0.3 * ops.exp(layer.log_scales))
        ids = np.array([[0, 1, 2, 1]], "int32")
        factors = np.random.default_rng(0).normal(size=(1, 4, layer.output_dim))
        before = by_name(layer)
        model = model_of(layer)
        model.compile(keras.optimizers.SGD(1e-3), lambda y, x: ops.sum(y * x))
        model.train_on_batch(ids, factors.astype("float32"))
        after = by_name(layer)
        moved = {name: (before[name] - after[name]) / 1e-3 for name in before}

        tops = 2 ** bits_of(layer) - 1
        offsets = before["offsets"][block_of(layer)]
        scales = np.exp(before["log_scales"])[block_of(layer)]
        steps = (before["embeddings"] - offsets) / scales
        inside = (steps >= 0) & (steps <= tops)
        codes = np.round(steps.clip(0, tops))
        # The factor of arXiv:1902.08153, section 2.2, for 4 look-ups; or 0.
        share = layer.train_steps / np.sqrt(4 * np.maximum(tops, 1))
        expected = {name: np.zeros_like(weight) for name, weight in before.items()}
        for i, slope in zip(ids[0], factors[0], strict=True):
            block = block_of(layer)[i]
            if layer.use_projection:
                numbers = (offsets + scales * codes)[i]
                expected["projection"] += np.outer(numbers, slope)
                slope = before["projection"] @ slope
            slope = slope[: table.shape[1]]
            expected["offsets"][block] += (slope * ~inside * share)[i]
            steepness = (scales * (codes - inside * steps) * share)[i]
            expected["log_scales"][block] += slope * steepness
            expected["embeddings"][i] += slope * inside[i]
        for name, slopes in expected.items():
            np.testing.assert_allclose(moved[name], slopes, rtol=0.05, atol=0.02)

    def test_half_precision_throughout(self, layer):
        """Rows and output are of half precision. Weights that ids share are float32."""
        for dtype in ("float16", "bfloat16"):
            half = self.new(layer, dtype=dtype)
            ids = np.array([0, layer.input_dim])
            output = half(ids)
            assert keras.backend.standardize_dtype(output.dtype) == dtype
            assert half.tables[0].embeddings.dtype == dtype
            assert half.offsets.dtype == half.log_scales.dtype == "float32"
            assert np.isnan(embed(half, ids)).all(axis=-1).tolist() == [False, True]

    # Keras's own quantisation would round the rows a second time.
    test_int8_stays_within_its_bound = None
    test_saving_when_quantised = None
    test_saving_keeps_how_it_was_quantised = None


class TestPackedEmbedding(TestLowBitEmbedding):
    layer_class = PackedEmbedding
    configurations = {
        name: TestLowBitEmbedding.configurations[name]
        for name in ("blocks", "none for some", "stored blocks")
    }
    bad_arguments = [
        ({"input_dim": 0}, ValueError, r"`input_dim` must be.*input_dim=0"),
        ({"bits": [3, 9, 3]}, ValueError, r"`bits` must be from 0 to 8.*bits=9"),
    ]

    @pytest.fixture
    def layer(self, request):
        return spread(**request.param).pack()

    def oracle(self, layer, weights, ids):
        named, bits, end = by_name(layer, weights), bits_of(layer), 0
        text = "".join(f"{byte:08b}"[::-1] for byte in named["codes"].astype(int))
        codes = np.zeros(bits.shape)
        for i, j in np.ndindex(bits.shape):
            if j == 0 and self.begins_at_a_byte(layer, i):
                end = -(-end // 8) * 8
            code = text[end : (end := end + bits[i, j])][::-1]
            codes[i, j] = int(code or "0", 2)
        offsets, scales = (
            named[name][block_of(layer)] for name in ("offsets", "scales")
        )
        return widen(layer, offsets + scales * codes, named)[ids]

    def begins_at_a_byte(self, layer, i):
        if layer.store_blocks:
            return i % 256 == 0
        return i == 0 or block_of(layer)[i] > block_of(layer)[i - 1]

    # It has no rows of floats, and nothing to train.
    test_any_callable_is_an_initializer = None
    test_a_seeded_initializer_fills_each_table_differently = None
    test_config_round_trip = None
    test_gradients = None
    test_half_precision_throughout = None
    test_mixed_precision = None
    test_regularizer_and_constraint_reach_every_table = None
    test_training = None
    test_unknown_ids_train_nothing = None


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_initial_steps_cover_the_rows(dtype):
    bits, block_sizes = [[2, 0], 3], [5, 7]
    layer = LowBitEmbedding(12, 2, bits, block_sizes, dtype=dtype)
    layer.build()
    offsets, log_scales, table = arrays(layer)
    blocks = np.split(table, [5])
    np.testing.assert_array_equal(offsets, [rows.min(axis=0) for rows in blocks])
    spans = np.array([np.ptp(rows, axis=0) for rows in blocks])
    np.testing.assert_allclose(np.exp(log_scales) * [[3, 1], [7, 7]], spans, rtol=1e-3)


def trained(bits, rows=300, columns=5, **arguments):
    """Return a layer fitted to a random table, and the table."""
    table = np.random.default_rng(0).normal(size=(rows, columns)).astype("float32")
    return LowBitEmbedding.from_embedding(table, bits, **arguments), table


@pytest.mark.parametrize(
    "bits",
    [
        1,
        2,
        3,
        4,
        5,
        6,
        7,
        8,
        [1, 8, 3, 5, 7],
        [8, 8, 8, 8, 1],
        [0, 3, 0, 0, 1],
        [0, 3, 0, 0, 0],
    ],
)
@pytest.mark.parametrize("rows", [1, 7, 8, 300])
def test_packing_changes_no_embedding(bits, rows):
    layer, _ = trained(bits, rows)
    packed = layer.pack()
    ids = np.arange(-2, rows + 2)
    np.testing.assert_allclose(embed(packed, ids), embed(layer, ids), rtol=1e-6)
    assert packed.name == layer.name and not packed.trainable_weights
    assert sum(w.nbytes for w in packed.get_weights()) == sizing.low_bit_bytes(
        rows, 5, bits
    )


@pytest.mark.parametrize(
    ("bits", "block_sizes"),
    [
        (3, [300]),
        (5, [1, 299]),
        ([2, 7], [200, 100]),
        ([[1, 0, 3, 0, 5], 4, [8, 8, 8, 8, 8]], [7, 90, 203]),
        ([[0, 0, 0, 0, 1]] * 3, [3, 5, 292]),
    ],
)
def test_packing_blocks_changes_no_embedding(bits, block_sizes):
    layer, _ = trained(bits, block_sizes=block_sizes)
    packed = layer.pack()
    ids = np.arange(-2, 302)
    np.testing.assert_allclose(embed(packed, ids), embed(layer, ids), rtol=1e-6)
    stored = sum(w.nbytes for w in packed.get_weights())
    assert stored == sizing.low_bit_bytes(300, 5, bits, block_sizes)


def test_packing_drops_what_only_training_needs():
    layer, _ = trained(3)
    layer.activity_regularizer = keras.regularizers.L2(0.1)
    packed = layer.pack()
    packed(np.arange(3))
    assert packed.activity_regularizer is None and not packed.losses


def test_a_block_is_rounded_as_if_it_were_alone():
    layer, table = trained([2, 4], block_sizes=[100, 200])
    first = LowBitEmbedding.from_embedding(table[:100], 2)
    second = LowBitEmbedding.from_embedding(table[100:], 4)
    alone = [embed(each, np.arange(each.input_dim)) for each in (first, second)]
    np.testing.assert_allclose(
        embed(layer, np.arange(300)), np.concatenate(alone), rtol=1e-5
    )


@pytest.mark.parametrize(
    ("num_blocks", "rows"),
    [(1, 257), (2, 16), (3, 256), (5, 255), (16, 16), (16, 257), (16, 1000)],
)
def test_a_stored_block_is_rounded_as_if_it_were_alone(num_blocks, rows):
    rng = np.random.default_rng(rows)
    table = rng.normal(size=(rows, 3))
    blocks = rng.permutation(np.arange(rows) % num_blocks)
    bits = rng.integers(9, size=(num_blocks, 3))
    bits[:, 1] = 1 + bits[:, 1] // 2
    bits = bits.tolist()
    projection = rng.normal(size=(3, 4))
    layer = LowBitEmbedding.from_embedding(
        table, bits, blocks=blocks, projection=projection
    )
    packed, ids = layer.pack(), np.arange(-1, rows + 1)
    found = embed(layer, ids)
    np.testing.assert_allclose(embed(packed, ids), found, rtol=1e-5, atol=1e-6)
    assert np.isnan(found[[0, -1]]).all()
    for block in {0, num_blocks // 2, num_blocks - 1}:
        members = np.flatnonzero(blocks == block)
        alone = LowBitEmbedding.from_embedding(table[members], bits[block])
        expected = embed(alone, np.arange(len(members))) @ projection
        np.testing.assert_allclose(found[1:-1][members], expected, rtol=1e-4, atol=1e-5)
    assert sum(w.nbytes for w in packed.get_weights()) == sizing.low_bit_bytes(
        rows, 4, bits, np.bincount(blocks), store_blocks=True, use_projection=True
    )


def test_stored_blocks_by_hand():
    """The blocks of 257 ids repeat 0, 1, 2. The last id starts a second chunk."""
    blocks = np.arange(257) % 3
    table = np.where(blocks == 2, 3.0, np.arange(257) // 3 % 2)[:, None]
    layer = LowBitEmbedding(257, 1, [[1], [1], [2]], [86, 86, 85], store_blocks=True)
    layer.build()
    np.testing.assert_array_equal(block_of(layer), np.sort(blocks))
    layer.blocks.assign(blocks)
    layer.tables[0].set_weights([table])
    layer.offsets.assign(np.zeros((3, 1)))
    layer.log_scales.assign(np.zeros((3, 1)))
    packed = by_name(layer.pack())
    # From the last bit to the first, id by id: 0, 0, 11, 1, 1, 11, 0, 0, 11, 1, 1, 11.
    assert packed["codes"][:2].tolist() == [0b11111100, 0b11111100]
    # A chunk of 256 ids, of which 85 take 2 bits: 341 bits, in 43 bytes.
    assert packed["chunk_starts"].tolist() == [0, 43]
    assert packed["codes"][43:].tolist() == [1, 0]
    # The first bits of 0, 1, 2, 0, 1, 2, 0, 1, and their second bits.
    assert [int(word) & 255 for word in packed["blocks"][0, :, 0]] == [
        0b10010010,
        0b00100100,
    ]


def test_training_keeps_stored_blocks_and_changes_the_projection():
    layer = spread(**STORED)
    before = by_name(layer)
    names = {weight.name for weight in layer.trainable_weights}
    assert names == {"offsets", "log_scales", "projection", "embeddings"}
    model = model_of(layer)
    model.compile(keras.optimizers.Adam(0.01), "mse")
    ids = np.arange(9)[None]
    model.fit(ids, np.zeros((1, 9, 3)), verbose=0)
    after = by_name(layer)
    assert (after["projection"] != before["projection"]).all()
    np.testing.assert_array_equal(after["blocks"], STORED["blocks"])
    np.testing.assert_allclose(
        predict(pack(model), ids), predict(model, ids), rtol=1e-5, atol=1e-6
    )


def test_a_projection_starts_as_the_identity():
    layer = LowBitEmbedding(5, 4, [3, 3], use_projection=True)
    plain = LowBitEmbedding(5, 4, [3, 3])
    layer.build()
    plain.build()
    plain.set_weights([w for w in layer.get_weights() if w.shape != (2, 4)])
    np.testing.assert_array_equal(
        embed(layer, np.arange(5)), embed(plain, np.arange(5))
    )
    assert (embed(layer, np.arange(5))[:, 2:] == 0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"blocks": [0, 1, 2]}, r"`blocks` must be.*4 ids.*\[0, 1, 2\]"),
        ({"blocks": [0, 2, 2, 0]}, r"`blocks` must.*without gaps.*\[0, 2, 2, 0\]"),
        ({"blocks": [0, -1, 1, 0]}, r"`blocks` must be.*-1"),
        ({"blocks": [0.0, 1, 1, 0]}, r"`blocks` must be.*integers"),
        ({"blocks": [0, 1, 1, 0], "block_sizes": [2, 2]}, r"without `block_sizes`"),
        ({"projection": np.ones((3, 5))}, r"`projection` must.*\(2, output.*\(3, 5\)"),
        ({"projection": np.ones((2, 5)), "output_dim": 6}, r"`projection`.*=6"),
        ({"projection": np.full((2, 5), np.nan)}, r"`projection` must be finite"),
        ({"bits": [4], "output_dim": 2}, r"each of the 2 columns.*bits=\[4\]"),
        ({"output_dim": 3}, r"each of the 2 columns.*bits=4, output_dim=3"),
    ],
)
def test_bad_arguments_of_from_embedding(arguments, message):
    table = np.arange(8.0).reshape(4, 2)
    with pytest.raises(ValueError, match=message):
        LowBitEmbedding.from_embedding(table, **arguments)


@pytest.mark.parametrize(
    "policy", ["mixed_float16", "mixed_bfloat16", "float16", "bfloat16", "float64"]
)
def test_packing_under_any_policy_changes_no_embedding(policy):
    layer = LowBitEmbedding.from_embedding(
        np.random.default_rng(0).normal(size=(300, 3)), 8, dtype=policy
    )
    packed = layer.pack()
    ids = np.arange(300)
    np.testing.assert_array_equal(embed(packed, ids), embed(layer, ids))
    assert {weight.dtype for weight in packed.weights} == {"uint8", "float32"}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_table_of_half_precision(dtype):
    full = keras.layers.Embedding(30, 4, dtype=dtype)
    full.build()
    layer = LowBitEmbedding.from_embedding(full, 8)
    assert layer.tables[0].embeddings.dtype == "float32"
    ids = np.arange(30)
    np.testing.assert_allclose(embed(layer, ids), embed(full, ids), atol=3e-4)


def test_codes_of_more_bytes_than_int32_can_count_are_refused():
    with pytest.raises(ValueError, match=r"codes of 2147483656 bytes"):
        PackedEmbedding(2**28 + 1, 8, bits=8)


def test_a_config_without_the_newer_arguments():
    for layer in (trained([1, 2, 3, 4, 5])[0], trained(3)[0].pack()):
        config = layer.get_config()
        for name in ("store_blocks", "use_projection", "train_steps"):
            config.pop(name, None)
        old = type(layer).from_config(config)
        old.build()
        old.set_weights(layer.get_weights())
        ids = np.arange(300)
        np.testing.assert_array_equal(embed(old, ids), embed(layer, ids))


def test_codes_lie_side_by_side():
    table = np.array([[0, 3], [1, 2], [7, 0], [5, 1]], "float32")
    layer = LowBitEmbedding(4, 2, bits=[3, 2])
    layer.build()
    layer.tables[0].set_weights([table])
    layer.offsets.assign([[0, 0]])
    layer.log_scales.assign([[0, 0]])
    codes = layer.pack().get_weights()[0]
    # Read from the last bit to the first: 01 101, 00 111, 10 001, 11 000.
    assert codes.tolist() == [0b00111000, 0b10011110, 0b0110]


@pytest.mark.skipif(BACKEND != "torch", reason="about Torch's compiler")
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("stored", [False, True])
def test_torch_compile_with_blocks(packed, stored):
    import torch

    torch._dynamo.reset()
    arguments = {"block_sizes": [100, 200]}
    if stored:
        arguments = {"blocks": np.arange(300) % 2, "projection": np.eye(5)}
    layer, _ = trained([2, [4, 0, 3, 1, 5]], **arguments)
    layer = layer.pack() if packed else layer
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    ids = torch.tensor([0, 99, 100, 299, 300, -1])
    np.testing.assert_allclose(
        compiled(ids).detach().numpy(), embed(layer, ids), rtol=1e-6
    )


def test_saving_when_packed(tmp_path):
    layer, _ = trained([1, 2, 3, 4, 5])
    model = pack(model_of(layer, keras.layers.Dense(2)))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    ids = np.arange(300)[None]
    np.testing.assert_array_equal(predict(loaded, ids), predict(model, ids))
    assert loaded.layers[1].get_weights()[0].dtype == "uint8"


def test_popular_ids_are_rounded_less():
    _, table = trained(2)
    popularity = np.where(np.arange(300) < 30, 1000, 1)
    errors = [
        np.square(embed(layer, np.arange(30)) - table[:30]).mean()
        for layer in (trained(2)[0], trained(2, popularity=popularity)[0])
    ]
    assert errors[1] < errors[0]


def test_a_constant_column():
    layer = LowBitEmbedding.from_embedding(np.full((5, 2), 3.0), bits=1)
    np.testing.assert_allclose(embed(layer, np.arange(5)), 3.0)


def test_a_scale_that_is_almost_zero_after_training():
    layer, _ = trained(3)
    layer.log_scales.assign([[-1000.0] * 5])
    model = model_of(layer)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    ids = np.arange(300)[None]
    np.testing.assert_allclose(
        predict(pack(model), ids), predict(model, ids), rtol=1e-5, atol=1e-6
    )
    model.fit(ids, np.zeros((1, 300, 5)), verbose=0)
    assert all(np.isfinite(weight).all() for weight in layer.get_weights())


@pytest.mark.parametrize(
    "optimizer",
    [lambda: keras.optimizers.SGD(0.1), lambda: keras.optimizers.Adam(1e-3)],
)
def test_training_the_steps_is_stable(optimizer):
    """The scales are small, and the errors are 100 times as large."""

    def fit(disturbance):
        rng = np.random.default_rng(0)
        table = 0.0066 * 8 * rng.uniform(-0.5, 0.5, (64, 4))
        table += disturbance * rng.choice([-1, 1], table.shape)
        layer = LowBitEmbedding.from_embedding(table, bits=3)
        model = model_of(layer, keras.layers.Dense(1, trainable=False))
        model.layers[-1].set_weights([rng.normal(size=(4, 1)), np.zeros(1)])
        model.compile(optimizer(), "mse")
        ids = rng.integers(64, size=(1, 256))
        targets = rng.normal(size=64)[ids][..., None]
        losses, scales = [], [np.exp(by_name(layer)["log_scales"])]
        for _ in range(50):
            losses.append(model.train_on_batch(ids, targets))
            scales.append(np.exp(by_name(layer)["log_scales"]))
        return losses, np.array(scales), embed(layer, np.arange(64))

    losses, scales, embeddings = fit(0)
    assert losses[-1] < losses[0]
    assert scales[0] == pytest.approx(0.0066, rel=0.2)
    assert (scales != scales[0]).any()  # they are trained
    assert (np.abs(np.log(scales / scales[0])) < np.log(2)).all()
    # A tenth of a step. After longer training, some codes would differ.
    np.testing.assert_allclose(fit(1e-7)[2], embeddings, rtol=0, atol=6e-4)


def test_steps_that_are_not_trained():
    layer, _ = trained([2, 3], block_sizes=[100, 200], train_steps=False)
    assert [weight.name for weight in layer.trainable_weights] == ["embeddings"]
    before = by_name(layer)
    model = model_of(layer)
    model.compile(keras.optimizers.SGD(10.0), "mse")
    model.fit(np.arange(300)[None], np.zeros((1, 300, 5)), verbose=0)
    after = by_name(layer)
    assert (after["embeddings"] != before["embeddings"]).any()
    for name in ("offsets", "log_scales"):
        np.testing.assert_array_equal(after[name], before[name])


def test_training_reaches_what_rounding_alone_does_not():
    """The table's numbers are not the targets, but 2 bits can hold the targets."""
    targets = np.tile([0.0, 1.0, 2.0, 3.0], 5)[None, :, None]
    table = np.tile([0.4, 0.6, 2.4, 2.6], 5)[:, None]
    layer = LowBitEmbedding.from_embedding(table, bits=2)
    model = model_of(layer)
    model.compile(keras.optimizers.Adam(0.02), "mse")
    ids = np.arange(20)[None]
    before = model.evaluate(ids, targets, verbose=0)
    steps = [np.repeat(array, 150, axis=0) for array in (ids, targets)]
    model.fit(*steps, batch_size=1, verbose=0)
    assert model.evaluate(ids, targets, verbose=0) < 0.1 * before


def test_layers_that_cannot_be_packed():
    layer = LowBitEmbedding(4, 2)
    with pytest.raises(ValueError, match="Received: built=False"):
        layer.pack()
    layer.build()
    layer.tables[0].quantize("int8")
    with pytest.raises(ValueError, match="quantization_mode='int8'"):
        layer.pack()
    with pytest.raises(ValueError, match=r"a layer LowBitEmbedding.*qr_embedding"):
        pack(model_of(QREmbedding(9, 2)))


@pytest.mark.parametrize("packed", [False, True])
def test_weights_of_other_blocks_or_bits_are_refused(tmp_path, packed):
    """Their arrays have the same shapes."""

    def model(bits, block_sizes=None):
        layer, _ = trained(bits, 40, 4, block_sizes=block_sizes)
        return model_of(layer.pack() if packed else layer)

    saved = model([2, 2, 2, 2])
    saved.save_weights(tmp_path / "ours.weights.h5")
    model(2, [40]).load_weights(tmp_path / "ours.weights.h5")  # the same, in one block
    for other in (model([1, 3, 2, 2]), model([[3, 3, 1, 1]], [40])):
        before = other.get_weights()
        with pytest.raises(ValueError, match=r"blocks and bits.*\[40, 2, 2, 2, 2\]"):
            other.load_weights(tmp_path / "ours.weights.h5")
        for old, new in zip(before, other.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)
    model_of(QREmbedding(9, 2)).save_weights(tmp_path / "theirs.weights.h5")
    with pytest.raises(ValueError, match="None"):
        saved.load_weights(tmp_path / "theirs.weights.h5")
