import keras
import numpy as np
import pytest
from keras import ops

from memembed import sizing
from memembed.compression import pack
from memembed.layers import LowBitEmbedding, PackedEmbedding, QREmbedding
from standards import BACKEND, EmbeddingStandards, arrays, embed, model_of, predict


def block_of(layer):
    """Return the block of each id."""
    sizes = layer.block_sizes or [layer.input_dim]
    return np.repeat(np.arange(len(sizes)), sizes)


def by_id(layer, weights):
    """Return the offsets, the scales and the table, each with a row for each id."""
    offsets, scales, table = weights
    return offsets[block_of(layer)], scales[block_of(layer)], table


def tops(layer):
    """Return the greatest code of each id's columns."""
    blocks = layer.bits if layer.block_sizes else [layer.bits]
    bits = [np.broadcast_to(bits, layer.output_dim) for bits in blocks]
    return 2 ** np.array(bits)[block_of(layer)] - 1


def spread(**arguments):
    """Return a layer with rows so far apart that no two ids are rounded alike."""
    arguments = dict(arguments)
    shape = arguments.pop("input_dim"), arguments.pop("output_dim")
    # And off any value that might be rounded either way.
    rows = np.linspace(-2, 2, shape[0])[:, None]
    jitter = np.random.default_rng(0).normal(scale=0.03, size=shape)
    return LowBitEmbedding.from_embedding(rows + jitter, **arguments)


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
    }
    bad_arguments = [
        ({"input_dim": 0}, ValueError, r"`input_dim` must be.*input_dim=0"),
        ({"output_dim": 2.5}, TypeError, r"`output_dim` must be.*output_dim=2\.5"),
        ({"bits": 0}, ValueError, r"`bits` must be.*not all of them 0.*bits=0"),
        ({"bits": [0, 0, 0, 0]}, ValueError, r"not all of them 0.*\[0, 0, 0, 0\]"),
        ({"bits": [4, False, 4, 4]}, TypeError, r"`bits` must be.*bits=False"),
        ({"bits": 9}, ValueError, r"`bits` must be from 0 to 8.*bits=9"),
        ({"bits": 2.5}, TypeError, r"`bits` must be.*bits=2\.5"),
        ({"bits": [4, 4]}, ValueError, r"one for each.*\[4, 4\]"),
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
    ]

    @pytest.fixture
    def layer(self, request):
        return spread(**request.param)

    def oracle(self, layer, weights, ids):
        offsets, scales, table = by_id(layer, weights)
        codes = np.round((table - offsets) / scales).clip(0, tops(layer))
        return (offsets + scales * codes)[ids]

    def test_gradients(self, layer):
        """The rounding passes gradients through, but for what it cuts off."""
        table, offsets, scales = (
            w.copy() for w in (arrays(layer)[2], *arrays(layer)[:2])
        )
        table[0] = 100.0  # past the last value
        layer.tables[0].set_weights([table])
        ids = np.array([[0, 1, 2, 1]], "int32")
        factors = np.random.default_rng(0).normal(size=(1, 4, layer.output_dim))
        before = arrays(layer)
        model = model_of(layer)
        model.compile(keras.optimizers.SGD(1e-3), lambda y, x: ops.sum(y * x))
        model.train_on_batch(ids, factors.astype("float32"))
        moved = [
            (old - new) / 1e-3 for old, new in zip(before, arrays(layer), strict=True)
        ]

        offsets, scales, rows = by_id(layer, [before[0], before[1], before[2]])
        steps = (rows - offsets) / scales
        inside = (steps >= 0) & (steps <= tops(layer))
        codes = np.round(steps.clip(0, tops(layer)))
        expected = [np.zeros_like(weight) for weight in before]
        for i, slope in zip(ids[0], factors[0], strict=True):
            block = block_of(layer)[i]
            expected[0][block] += slope * ~inside[i]
            expected[1][block] += slope * (codes - inside * steps)[i]
            expected[2][i] += slope * inside[i]
        for found, slopes in zip(moved, expected, strict=True):
            np.testing.assert_allclose(found, slopes, rtol=0.05, atol=0.02)

    # Keras's own quantisation would round the rows a second time.
    test_int8_stays_within_its_bound = None
    test_saving_when_quantised = None
    test_saving_keeps_how_it_was_quantised = None


class TestPackedEmbedding(TestLowBitEmbedding):
    layer_class = PackedEmbedding
    configurations = {
        name: TestLowBitEmbedding.configurations[name]
        for name in ("blocks", "none for some")
    }
    bad_arguments = [
        ({"input_dim": 0}, ValueError, r"`input_dim` must be.*input_dim=0"),
        ({"bits": [3, 9, 3]}, ValueError, r"`bits` must be from 0 to 8.*bits=9"),
    ]

    @pytest.fixture
    def layer(self, request):
        return spread(**request.param).pack()

    def oracle(self, layer, weights, ids):
        packed, offsets, scales = weights
        blocks = layer.bits if layer.block_sizes else [layer.bits]
        sizes = layer.block_sizes or [layer.input_dim]
        codes, start = [], 0
        for size, bits in zip(sizes, blocks, strict=True):
            bits = np.broadcast_to(bits, layer.output_dim)
            stop = start + sizing.code_bytes(size, bits)
            text = "".join(
                f"{byte:08b}"[::-1] for byte in packed[start:stop].astype(int)
            )
            start, end = stop, 0
            for _ in range(size):
                row = [text[(end := end + n) - n : end][::-1] for n in bits]
                codes.append([int(code or "0", 2) for code in row])
        offsets, scales = offsets[block_of(layer)], scales[block_of(layer)]
        return (offsets + scales * np.array(codes))[ids]

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
def test_the_steps_begin_with_what_covers_the_rows(dtype):
    bits, block_sizes = [[2, 0], 3], [5, 7]
    layer = LowBitEmbedding(12, 2, bits, block_sizes, dtype=dtype)
    layer.build()
    offsets, scales, table = arrays(layer)
    blocks = np.split(table, [5])
    np.testing.assert_array_equal(offsets, [rows.min(axis=0) for rows in blocks])
    spans = np.array([np.ptp(rows, axis=0) for rows in blocks])
    np.testing.assert_allclose(scales * [[3, 1], [7, 7]], spans, rtol=1e-3)


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


def test_packing_leaves_out_what_serves_training_alone():
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


def test_codes_lie_side_by_side():
    table = np.array([[0, 3], [1, 2], [7, 0], [5, 1]], "float32")
    layer = LowBitEmbedding(4, 2, bits=[3, 2])
    layer.build()
    layer.tables[0].set_weights([table])
    layer.offsets.assign([[0, 0]])
    layer.scales.assign([[1, 1]])
    codes = layer.pack().get_weights()[0]
    # Read from the last bit to the first: 01 101, 00 111, 10 001, 11 000.
    assert codes.tolist() == [0b00111000, 0b10011110, 0b0110]


@pytest.mark.skipif(BACKEND != "torch", reason="about Torch's compiler")
@pytest.mark.parametrize("packed", [False, True])
def test_torch_compile_with_blocks(packed):
    import torch

    torch._dynamo.reset()
    layer, _ = trained([2, [4, 0, 3, 1, 5]], block_sizes=[100, 200])
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


@pytest.mark.parametrize("scale", [0.0, -0.5])
def test_a_scale_that_training_took_to_zero_or_past_it(scale):
    layer, _ = trained(3)
    layer.scales.assign([[scale] * 5])
    model = model_of(layer)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    ids = np.arange(300)[None]
    np.testing.assert_allclose(
        predict(pack(model), ids), predict(model, ids), rtol=1e-5, atol=1e-6
    )
    model.fit(ids, np.zeros((1, 300, 5)), verbose=0)
    assert all(np.isfinite(weight).all() for weight in layer.get_weights())


def test_training_reaches_what_rounding_alone_does_not():
    """Values at one and two thirds of the range, which one bit cannot hold."""
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


def test_what_cannot_be_packed():
    layer = LowBitEmbedding(4, 2)
    with pytest.raises(ValueError, match="Received: built=False"):
        layer.pack()
    layer.build()
    layer.tables[0].quantize("int8")
    with pytest.raises(ValueError, match="quantization_mode='int8'"):
        layer.pack()
    with pytest.raises(ValueError, match=r"a layer LowBitEmbedding.*QREmbedding"):
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
