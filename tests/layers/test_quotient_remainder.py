import keras
import numpy as np
import pytest
from keras import ops

from memembed.layers import QREmbedding


def tables(layer):
    """Return the remainder table and the quotient table as arrays."""
    layer.build()
    return [np.array(weights) for weights in layer.get_weights()]


@pytest.mark.parametrize("combiner", ["multiply", "add", "concatenate"])
def test_embedding_is_both_rows_combined(combiner):
    layer = QREmbedding(10, 4, num_buckets=3, combiner=combiner)
    remainder, quotient = tables(layer)
    ids = np.array([[0, 1, 2, 3], [4, 7, 8, 9]])
    r, q = remainder[ids % 3], quotient[ids // 3]
    expected = {
        "multiply": r * q,
        "add": r + q,
        "concatenate": np.concatenate([r, q], axis=-1),
    }[combiner]
    np.testing.assert_allclose(ops.convert_to_numpy(layer(ids)), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "parameters"),
    [
        ({"input_dim": 6040, "output_dim": 64}, (78 + 78) * 64),
        ({"input_dim": 6040, "output_dim": 64, "num_buckets": 120}, (120 + 51) * 64),
        ({"input_dim": 14_400, "output_dim": 64, "num_buckets": 120}, 15_360),
        ({"input_dim": 7, "output_dim": 4, "combiner": "concatenate"}, (3 + 3) * 2),
        ({"input_dim": 1, "output_dim": 3}, (1 + 1) * 3),
    ],
)
def test_parameter_count(arguments, parameters):
    layer = QREmbedding(**arguments)
    layer.build()
    assert layer.count_params() == parameters


@pytest.mark.parametrize("combiner", ["multiply", "add", "concatenate"])
@pytest.mark.parametrize("num_buckets", [None, 1, 7, 100, 200])
def test_every_id_has_an_embedding_of_its_own(combiner, num_buckets):
    layer = QREmbedding(100, 4, num_buckets=num_buckets, combiner=combiner)
    embeddings = ops.convert_to_numpy(layer(np.arange(100)))
    assert len(np.unique(embeddings, axis=0)) == 100


def test_ids_outside_the_vocabulary_are_nan():
    ids = np.array([-1, 0, 9, 10, 11, -(2**31), 2**31 - 1], dtype="int32")
    embeddings = ops.convert_to_numpy(QREmbedding(10, 4, num_buckets=4)(ids))
    known = [False, True, True, False, False, False, False]
    assert (np.isfinite(embeddings).all(axis=-1) == known).all()
    assert (np.isnan(embeddings).all(axis=-1) == np.logical_not(known)).all()


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "int32", "int64"])
def test_ids_of_any_integer_dtype(dtype):
    layer = QREmbedding(1000, 4, num_buckets=300)
    ids = np.array([0, 5, 127])
    np.testing.assert_array_equal(layer(ids.astype(dtype)), layer(ids))


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(dtype):
    layer = QREmbedding(5000, 4, dtype=dtype)
    embeddings = layer(np.array([4999.0, 5000.0]))  # float16 has no 4999
    assert keras.backend.standardize_dtype(embeddings.dtype) == dtype[6:]
    finite = np.isfinite(ops.convert_to_numpy(ops.cast(embeddings, "float32")))
    assert finite.tolist() == [[True] * 4, [False] * 4]
    assert all(w.dtype == "float32" for w in layer.weights)


def test_a_seeded_initializer_fills_the_two_tables_differently():
    initializer = keras.initializers.RandomUniform(seed=1)
    remainder, quotient = tables(QREmbedding(9, 2, embeddings_initializer=initializer))
    assert not np.allclose(remainder, quotient)


def test_any_callable_is_an_initializer():
    layer = QREmbedding(
        9, 2, embeddings_initializer=lambda shape, dtype: ops.ones(shape)
    )
    assert ops.convert_to_numpy(layer(np.arange(9))).tolist() == [[1, 1]] * 9


def test_regularizer_and_constraint_reach_both_tables():
    layer = QREmbedding(
        9,
        2,
        embeddings_initializer="ones",
        embeddings_regularizer=keras.regularizers.L2(0.5),
        embeddings_constraint="non_neg",
    )
    layer.build()
    assert float(sum(layer.losses)) == pytest.approx(0.5 * (3 + 3) * 2)
    assert all(w.constraint is not None for w in layer.weights)


def test_mask_zero():
    ids = np.array([[0, 1, 2]])
    mask = QREmbedding(9, 2, mask_zero=True).compute_mask(ids)
    assert ops.convert_to_numpy(mask).tolist() == [[False, True, True]]
    assert QREmbedding(9, 2).compute_mask(ids) is None


def test_config_round_trip():
    layer = QREmbedding(
        100,
        4,
        num_buckets=7,
        combiner="add",
        embeddings_initializer=keras.initializers.RandomNormal(seed=3),
        embeddings_regularizer="l2",
        embeddings_constraint="max_norm",
        mask_zero=True,
        name="users",
        dtype="mixed_bfloat16",
    )
    config = layer.get_config()
    clone = QREmbedding.from_config(config)
    assert clone.get_config() == config
    np.testing.assert_array_equal(tables(clone)[0], tables(layer)[0])


def test_trains_compiled_and_survives_saving(tmp_path):
    ids, targets = np.arange(90, dtype="int32"), np.linspace(-1, 1, 90)
    inputs = keras.Input((), dtype="int32")
    outputs = keras.layers.Dense(1)(QREmbedding(90, 8)(inputs))
    model = keras.Model(inputs, outputs)
    model.compile(keras.optimizers.Adam(0.05), "mse", jit_compile=True)
    history = model.fit(ids, targets, epochs=60, verbose=0).history["loss"]
    assert history[-1] < 0.1 * history[0]
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        loaded.predict(ids, verbose=0), model.predict(ids, verbose=0)
    )


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"input_dim": 0}, ValueError, r"`input_dim` must be.*input_dim=0"),
        ({"input_dim": 2.0}, TypeError, r"`input_dim` must be.*input_dim=2\.0"),
        ({"output_dim": -4}, ValueError, r"`output_dim` must be.*output_dim=-4"),
        ({"output_dim": True}, TypeError, r"`output_dim` must be.*output_dim=True"),
        ({"num_buckets": 0}, ValueError, r"`num_buckets` must be.*num_buckets=0"),
        ({"combiner": "max"}, ValueError, r"`combiner` must be.*combiner='max'"),
        (
            {"output_dim": 3, "combiner": "concatenate"},
            ValueError,
            r"`output_dim` must be even.*output_dim=3",
        ),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        QREmbedding(**{"input_dim": 10, "output_dim": 4, **arguments})
