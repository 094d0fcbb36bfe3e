from dataclasses import replace

import keras
import numpy as np
import pytest

from memembed.compression import num_bytes
from memembed.data import prepare, synthetic_ratings
from memembed.experiments.rivals import (
    RIVALS,
    PQEmbedding,
    ProductQuantization,
    Rival,
    ShuffledQREmbedding,
    _hashed,
    stored_as,
    stored_bytes,
)
from memembed.fine_tuning import fine_tune
from memembed.layers import QREmbedding
from memembed.models import dot_product_model, mlp_model, two_tower_model
from memembed.training import Settings, evaluate, train

TRAINED = [  # with the first choice of columns alone, for speed
    replace(rival, columns=rival.columns[:1])
    for kinds in RIVALS.values()
    for rival in kinds
    if rival.from_scratch
]


@pytest.fixture(scope="module")
def data():
    return prepare(synthetic_ratings(300, 100, 7000))


def stored(candidate):
    return num_bytes(stored_as(candidate.build(), candidate.dtype))


def tables(data, columns):
    sizes = {"user": len(data.users), "movie": len(data.movies)}
    return [
        keras.layers.Embedding(size, columns, name=f"{side}_embedding")
        for side, size in sizes.items()
    ]


@pytest.mark.parametrize(
    "name, max_bytes, expected",
    [
        # 400 rows of 4 bytes per number, and 400 biases of 4 bytes.
        (
            "fewer columns",
            400 * 4 * 6 - 1,
            ("float32, 4 columns, full biases", 400 * 4 * 5),
        ),
        ("fewer columns", 400 * 4 * 2 - 1, ("float32, 1 columns, no biases", 400 * 4)),
        # A row takes 1 byte per number and a float32 scale.
        (
            "fewer columns in int8",
            400 * 16 - 1,
            ("int8, 7 columns, full biases", 400 * 15),
        ),
        # Half a byte per number, a scale and a zero point; a float32 per column.
        (
            "fewer columns in int4",
            400 * 13 + 2 * 4 * 8,
            ("int4, 8 columns, full biases", 400 * 13 + 2 * 4 * 8),
        ),
    ],
)
def test_as_many_columns_as_fit(data, name, max_bytes, expected):
    (rival,) = RIVALS[name]
    (found,) = rival.candidates(data, dot_product_model, max_bytes)
    assert (found.name, stored(found)) == expected


@pytest.mark.parametrize("rival", TRAINED, ids=lambda rival: rival.name)
@pytest.mark.parametrize("max_bytes", [4000, 9000])
def test_what_is_stored_fills_the_budget(data, rival, max_bytes):
    found = rival.candidates(data, dot_product_model, max_bytes)
    assert found or max_bytes == 4000
    # One more column is a large step, and so is a projection. One more row is not.
    least = 0.8 if rival.name in ("hashing", "multiply", "add") else 0.5
    for candidate in found:
        size = stored(candidate)
        assert least * max_bytes < size <= max_bytes


def test_biases_shrink_where_they_would_not_fit(data):
    rival = Rival("hashing", _hashed, columns=(4,), bias=_hashed)
    found = [
        rival.candidates(data, dot_product_model, max_bytes)
        for max_bytes in (39, 40, 1631, 1632)
    ]
    names = [[each.name for each in candidates] for candidates in found]
    small, full = (f"hashing, 4 columns, {how} biases" for how in ("small", "full"))
    # A row of 4 and a bias, on both sides; or these rows and 400 biases.
    assert names == [[], [small], [small], [full]]


@pytest.mark.parametrize("make", [mlp_model, two_tower_model])
def test_other_models_have_no_biases(data, make):
    for rival in TRAINED:
        for candidate in rival.candidates(data, make, 40_000, biases=False):
            model = stored_as(candidate.build(), candidate.dtype)
            assert num_bytes(model) <= 40_000
            assert "bias" not in candidate.name
            inputs = {"user": np.arange(3), "movie": np.arange(3)}
            assert np.isfinite(keras.ops.convert_to_numpy(model(inputs))).all()


@pytest.mark.parametrize("dtype", ["float32", "int8", "int4"])
def test_stored_bytes_are_counted_without_storing(data, dtype):
    model = mlp_model(*tables(data, 5))
    before = model.get_weights()
    stored = stored_as(model, dtype)
    assert num_bytes(stored) == stored_bytes(model, dtype)
    assert (stored is model) == (dtype == "float32")
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_shuffled_ids_take_no_bytes_and_keep_their_vectors():
    layer, same, other = (ShuffledQREmbedding(50, 3, seed=seed) for seed in (7, 7, 8))
    plain = QREmbedding(50, 3)
    ids = np.arange(50)
    for each in (layer, same, other, plain):
        each.build()
    for each in (same, other, plain):
        each.set_weights(layer.get_weights())
    vectors = [np.array(x(ids)) for x in (layer, same, other, plain)]
    assert num_bytes(layer) == num_bytes(plain)
    np.testing.assert_array_equal(vectors[0], vectors[1])
    assert (vectors[0] != vectors[2]).any()
    order = np.random.default_rng(7).permutation(50)
    np.testing.assert_array_equal(vectors[0], vectors[3][order])
    again = ShuffledQREmbedding.from_config(layer.get_config())
    again.build()
    again.set_weights(layer.get_weights())
    np.testing.assert_array_equal(np.array(again(ids)), vectors[0])


@pytest.mark.parametrize("bits", [4, 8])
def test_product_quantised_vectors(bits, tmp_path):
    rng = np.random.default_rng(0)
    codebooks = rng.normal(size=(3, 2**bits, 2)).astype("float32")
    codes = rng.integers(2**bits, size=(3, 41))
    layer = PQEmbedding(41, 6, num_parts=3, bits=bits)
    layer.fill(codebooks, codes)
    ids = np.array([[0, 40], [7, 7]])
    expected = np.concatenate([codebooks[j, codes[j, ids]] for j in range(3)], axis=-1)
    np.testing.assert_array_equal(np.array(layer(ids)), expected)
    assert num_bytes(layer) == -(-41 * 3 * bits // 8) + 4 * codebooks.size
    assert [weight.name for weight in layer.trainable_weights] == ["codebooks"]
    model = keras.Sequential([keras.Input((2,), dtype="int32"), layer])
    model.save(tmp_path / "pq.keras")
    loaded = keras.saving.load_model(tmp_path / "pq.keras")
    np.testing.assert_array_equal(np.array(loaded(ids)), expected)


class TestProductQuantisation:
    pq = ProductQuantization(bits=(4,), widths=(1, 2))

    @pytest.fixture(autouse=True)
    def needs_faiss(self):
        pytest.importorskip("faiss")

    @pytest.fixture(scope="class")
    def trained(self, data):
        model = dot_product_model(*tables(data, 8), biases=True)
        train(model, data, Settings(0.01, epochs=3, l2=0.001))
        return model

    def test_the_bytes(self, data, trained):
        found = self.pq.candidates(data, dot_product_model, 3000, trained=trained)
        # A part takes half a byte per id, and 16 vectors on each side.
        biases = 400 // 2 + 2 * 16 * 4
        for width, candidate in zip((1, 2), found, strict=True):
            parts = min((3000 - biases) // (200 + 2 * 16 * 4 * width), 8 // width)
            assert candidate.name == f"{parts} x {width} columns, 4 bits, biases 4 bits"
            size = stored(candidate)
            assert size <= 3000
            assert size == biases + parts * (200 + 128 * width)

    def test_codebooks_are_trained_by_fine_tune(self, data, trained):
        found = self.pq.candidates(data, dot_product_model, 3000, trained=trained)
        model = found[0].build()
        model.compile(keras.optimizers.Adam(0.01), "mse")
        better = fine_tune(
            model, data.train.arrays, data.validation.arrays, epochs=2, verbose=0
        )
        errors = [evaluate(x, data.validation)["mse"] for x in (better, model)]
        assert errors[0] < errors[1]
        for side in ("user", "movie"):
            one, other = (x.get_layer(f"{side}_embedding") for x in (better, model))
            np.testing.assert_array_equal(np.array(one.codes), np.array(other.codes))

    @pytest.mark.parametrize("make", [dot_product_model, two_tower_model, mlp_model])
    def test_as_many_vectors_as_ids_lose_nothing(self, make):
        data = prepare(synthetic_ratings(16, 16, 256))
        biases = make is dot_product_model
        options = {"biases": True} if biases else {}
        model = make(*tables(data, 4), **options)
        pq = ProductQuantization(bits=(4,), widths=(4,))
        (candidate,) = pq.candidates(data, make, 10**6, biases, trained=model)
        inputs = {name: ids[:50] for name, ids in data.train.inputs.items()}
        one, other = (np.array(x(inputs)) for x in (model, candidate.build()))
        np.testing.assert_allclose(one, other, atol=1e-5)

    def test_popular_ids_are_rounded_finer(self):
        from memembed.experiments.rivals import _codebook

        vectors = np.linspace(0, 1, 200)[:, None]
        weights = np.where(np.arange(200) < 20, 1.0, 1e-3)
        means, codes = _codebook(vectors, 4, weights)
        errors = np.abs(means[codes, 0] - vectors[:, 0])
        assert errors[:20].max() < errors[20:].max() / 3
