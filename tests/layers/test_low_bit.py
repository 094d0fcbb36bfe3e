import keras
import numpy as np
import pytest
from keras import ops

from memembed import sizing
from memembed.layers import LowBitEmbedding, MDEmbedding, QREmbedding, pack
from memembed.layers._factorize import even_steps
from standards import EmbeddingStandards, arrays, embed, model_of, predict


class TestLowBitEmbedding(EmbeddingStandards):
    layer_class = LowBitEmbedding
    configurations = {
        "four bits": {"input_dim": 9, "output_dim": 4},
        "one column": {"input_dim": 7, "output_dim": 1, "bits": 3},
        "bits by column": {"input_dim": 7, "output_dim": 4, "bits": [5, 3, 1, 8]},
        "none for some": {"input_dim": 7, "output_dim": 3, "bits": (0, 4, 0)},
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
    ]

    @pytest.fixture
    def layer(self, request):
        layer = self.layer_class(**request.param)
        layer.build()
        # Spread, so that all ids differ once they are rounded, and off any value that
        # might be rounded either way.
        rows = np.linspace(-2, 2, layer.input_dim)[:, None]
        jitter = np.random.default_rng(0).normal(
            scale=0.03, size=(layer.input_dim, layer.output_dim)
        )
        layer.fit_steps(rows + jitter, np.ones(len(rows)))
        return layer

    def oracle(self, layer, weights, ids):
        offsets, scales, table = weights
        top = 2 ** np.array(layer.bits) - 1
        codes = np.round((table - offsets) / scales).clip(0, top)
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

        top = 2 ** np.array(layer.bits) - 1
        steps = (table - offsets) / scales
        inside = (steps >= 0) & (steps <= top)
        codes = np.round(steps.clip(0, top))
        rows = factors[0]
        expected = np.zeros_like(table)
        np.add.at(expected, ids[0], rows * inside[ids[0]])
        np.testing.assert_allclose(moved[2], expected, rtol=0.05, atol=0.02)
        np.testing.assert_allclose(
            moved[0], (rows * ~inside[ids[0]]).sum(axis=0), rtol=0.05, atol=0.02
        )
        np.testing.assert_allclose(
            moved[1],
            (rows * (codes - inside * steps)[ids[0]]).sum(axis=0),
            rtol=0.05,
            atol=0.02,
        )

    # Keras's own quantisation would round the rows a second time.
    test_int8_stays_within_its_bound = None
    test_saving_when_quantised = None
    test_saving_keeps_how_it_was_quantised = None


def trained(bits, rows=300, columns=5, **arguments):
    """Return a layer fitted to a random table, and the table."""
    table = np.random.default_rng(0).normal(size=(rows, columns)).astype("float32")
    return LowBitEmbedding.from_embedding(table, bits, **arguments), table


@pytest.mark.parametrize(
    "bits", [1, 2, 3, 4, 5, 6, 7, 8, [1, 8, 3, 5, 7], [8, 8, 8, 8, 1], [0, 3, 0, 0, 1]]
)
@pytest.mark.parametrize("rows", [1, 7, 300])
def test_packing_changes_no_embedding(bits, rows):
    layer, _ = trained(bits, rows)
    packed = layer.pack()
    ids = np.arange(-2, rows + 2)
    np.testing.assert_allclose(embed(packed, ids), embed(layer, ids), rtol=1e-6)
    assert packed.name == layer.name and not packed.trainable_weights
    assert sum(w.nbytes for w in packed.get_weights()) == sizing.low_bit_bytes(
        rows, 5, bits
    )


def test_codes_lie_side_by_side():
    table = np.array([[0, 3], [1, 2], [7, 0], [5, 1]], "float32")
    layer = LowBitEmbedding(4, 2, bits=[3, 2])
    layer.build()
    layer.tables[0].set_weights([table])
    layer.offsets.assign([0, 0])
    layer.scales.assign([1, 1])
    codes = layer.pack().get_weights()[0]
    # Read from the last bit to the first: 01 101, 00 111, 10 001, 11 000.
    assert codes.tolist() == [0b00111000, 0b10011110, 0b0110]


@pytest.mark.parametrize("compiled", [False, True])
def test_ids_outside_the_vocabulary_are_nan_when_packed(compiled):
    layer, _ = trained(3)
    model = pack(model_of(layer))
    model.compile(run_eagerly=not compiled)
    ids = np.array([[-1, 300, 2**31 - 1, -(2**31), 0, 299]], "int32")
    known = np.isfinite(predict(model, ids)[0]).all(axis=-1)
    assert known.tolist() == [False] * 4 + [True] * 2


def test_saving_when_packed(tmp_path):
    layer, _ = trained([1, 2, 3, 4, 5])
    model = pack(model_of(layer, keras.layers.Dense(2)))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    ids = np.arange(300)[None]
    np.testing.assert_array_equal(predict(loaded, ids), predict(model, ids))
    assert loaded.layers[1].get_weights()[0].dtype == "uint8"


@pytest.mark.parametrize("bits", [None, 2, [4, 3, 2], [[4, 3, 0, 1], 3, [1]]])
def test_mixed_dimensions_of_few_bits(bits, tmp_path):
    keras.utils.set_random_seed(0)
    blocks = {"block_sizes": [5, 20, 40], "block_dims": [4, 2, 1], "output_dim": 4}
    exact = MDEmbedding(**blocks, use_bias=True)
    exact.build()
    ids = np.arange(-1, 66)
    if bits is None:
        clone = MDEmbedding.from_config(exact.get_config())
        assert clone.bits is None
        return
    layer = exact.with_bits(bits)
    fine = exact.with_bits(8)
    far, near = (
        np.nanmax(abs(embed(x, ids) - embed(exact, ids))) for x in (layer, fine)
    )
    assert near < far and near < 1e-3
    model = model_of(layer)
    model.compile("adam", "mse")
    before = layer.get_weights()
    model.train_on_batch(ids[None], np.ones((1, len(ids), 4)))
    packed = pack(model)
    np.testing.assert_allclose(
        predict(packed, ids[None]), predict(model, ids[None]), rtol=1e-5, atol=1e-7
    )
    weights = packed.layers[-1].get_weights()
    assert sum(w.nbytes for w in weights) == sizing.md_bytes(
        **blocks, use_bias=True, bits=bits
    )
    assert len(weights) == len(before)
    packed.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        predict(loaded, ids[None]), predict(packed, ids[None])
    )


def test_popular_ids_are_rounded_less():
    _, table = trained(2)
    popularity = np.where(np.arange(300) < 30, 1000, 1)
    errors = [
        np.square(embed(layer, np.arange(30)) - table[:30]).mean()
        for layer in (trained(2)[0], trained(2, popularity=popularity)[0])
    ]
    assert errors[1] < errors[0]


def test_even_steps_is_near_the_best_uniform_quantiser():
    """Of a normal distribution: Max, Quantizing for minimum distortion, 1960."""
    values = np.random.default_rng(0).normal(size=(20_000, 4))
    bits = np.array([1, 2, 3, 4])
    offsets, scales = even_steps(values, bits)
    codes = np.round((values - offsets) / scales).clip(0, 2.0**bits - 1)
    distortion = np.square(values - offsets - scales * codes).mean(axis=0)
    np.testing.assert_allclose(
        distortion, [0.3634, 0.1188, 0.03744, 0.01154], rtol=0.05
    )


def test_a_constant_column():
    layer = LowBitEmbedding.from_embedding(np.full((5, 2), 3.0), bits=1)
    np.testing.assert_allclose(embed(layer, np.arange(5)), 3.0)


@pytest.mark.parametrize("scale", [0.0, -0.5])
def test_a_scale_that_training_took_to_zero_or_past_it(scale):
    layer, _ = trained(3)
    layer.scales.assign([scale] * 5)
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
    model.fit(ids, targets, epochs=150, verbose=0)
    assert model.evaluate(ids, targets, verbose=0) < 0.1 * before


def test_what_cannot_be_packed():
    layer = LowBitEmbedding(4, 2)
    with pytest.raises(ValueError, match="Received: built=False"):
        layer.pack()
    layer.build()
    with pytest.raises(ValueError, match="packed=True"):
        layer.pack().pack()
    with pytest.raises(ValueError, match=r"a layer with `bits`.*QREmbedding"):
        pack(model_of(QREmbedding(9, 2)))


def test_mixed_dimensions_that_cannot_be_packed_or_given_bits():
    exact = MDEmbedding([2, 3], [2, 1], 2)
    with pytest.raises(ValueError, match="Received: built=False"):
        exact.with_bits(3)
    exact.build()
    with pytest.raises(ValueError, match="bits=None"):
        exact.pack()
    layer = exact.with_bits(3)
    with pytest.raises(ValueError, match=r"bits=\(\(3, 3\), \(3,\)\)"):
        layer.with_bits(4)
    with pytest.raises(ValueError, match="packed=True"):
        layer.pack().pack()
