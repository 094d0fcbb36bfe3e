import keras
import numpy as np
import pytest
from keras import ops

from memembed.layers import MDEmbedding


def test_embedding_is_the_block_row_projected():
    layer = MDEmbedding([2, 3, 4], [4, 2, 1], output_dim=4, use_bias=True)
    layer.build()
    rng = np.random.default_rng(0)
    values = [rng.normal(size=w.shape).astype("float32") for w in layer.get_weights()]
    layer.set_weights(values)
    wide, middle, narrow, *projections = values
    shapes = [(2, 4), (3, 2), (4, 1), (2, 4), (4,), (1, 4), (4,)]
    assert [value.shape for value in values] == shapes
    expected = np.concatenate(
        [
            wide,
            middle @ projections[0] + projections[1],
            narrow @ projections[2] + projections[3],
        ]
    )
    ids = np.array([[0, 1, 2], [4, 5, 8], [3, 6, 7]])
    np.testing.assert_allclose(
        ops.convert_to_numpy(layer(ids)), expected[ids], rtol=1e-5
    )


@pytest.mark.parametrize(
    ("arguments", "parameters"),
    [
        (([401, 1301, 2007], [64, 32, 16], 64, True), 102_608),
        (([400, 1300, 2006], [64, 32, 16], 64), 99_296 + 48 * 64),
        (([5], [3], 3), 15),
        (([5, 5], [3, 3], 3), 30),
        (([5], [2], 3), 10 + 6),
    ],
)
def test_parameter_count(arguments, parameters):
    layer = MDEmbedding(*arguments)
    layer.build()
    assert layer.count_params() == parameters


def test_a_block_of_full_width_has_no_projection():
    layer = MDEmbedding([2, 2], [3, 2], output_dim=3)
    assert [projection is None for projection in layer.projections] == [True, False]


def test_ids_outside_the_vocabulary_are_nan():
    ids = np.array([-1, 0, 4, 5, 9, 10, -(2**31), 2**31 - 1], dtype="int32")
    embeddings = ops.convert_to_numpy(MDEmbedding([5, 5], [4, 2], 4)(ids))
    known = [False, True, True, True, True, False, False, False]
    assert (np.isfinite(embeddings).all(axis=-1) == known).all()
    assert (np.isnan(embeddings).all(axis=-1) == np.logical_not(known)).all()


def test_only_the_block_of_an_id_is_trained():
    layer = MDEmbedding([2, 2], [3, 2], output_dim=3)
    inputs = keras.Input((), dtype="int32")
    model = keras.Model(inputs, layer(inputs))
    before = layer.get_weights()
    model.compile(keras.optimizers.SGD(1.0), "mse")
    model.train_on_batch(np.array([1]), np.ones((1, 3)))
    after = layer.get_weights()
    moved = [(a != b).any() for a, b in zip(after, before, strict=True)]
    assert moved == [True, False, False]
    assert (after[0][0] == before[0][0]).all()


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "int32", "int64"])
def test_ids_of_any_integer_dtype(dtype):
    layer = MDEmbedding([300, 300], [4, 2], 4)
    ids = np.array([0, 5, 127])
    np.testing.assert_array_equal(layer(ids.astype(dtype)), layer(ids))


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(dtype):
    layer = MDEmbedding([4000, 1000], [4, 2], 4, dtype=dtype)
    embeddings = layer(np.array([4999.0, 5000.0]))  # float16 has no 4999
    assert keras.backend.standardize_dtype(embeddings.dtype) == dtype[6:]
    finite = np.isfinite(ops.convert_to_numpy(ops.cast(embeddings, "float32")))
    assert finite.tolist() == [[True] * 4, [False] * 4]
    assert all(w.dtype == "float32" for w in layer.weights)


def test_seeded_initializers_fill_equal_blocks_differently():
    layer = MDEmbedding(
        [3, 3],
        [2, 2],
        4,
        embeddings_initializer=keras.initializers.RandomUniform(seed=1),
        projection_initializer=keras.initializers.GlorotUniform(seed=1),
    )
    layer.build()
    first, second, projection, other = layer.get_weights()
    assert not np.allclose(first, second)
    assert not np.allclose(projection, other)


def test_regularizer_and_constraint_reach_every_table():
    layer = MDEmbedding(
        [2, 3],
        [4, 2],
        4,
        embeddings_initializer="ones",
        embeddings_regularizer=keras.regularizers.L2(0.5),
        embeddings_constraint="non_neg",
    )
    layer.build()
    assert float(sum(layer.losses)) == pytest.approx(0.5 * (2 * 4 + 3 * 2))
    assert all(table.weights[0].constraint is not None for table in layer.tables)


def test_mask_zero():
    ids = np.array([[0, 1, 2]])
    mask = MDEmbedding([3], [2], 2, mask_zero=True).compute_mask(ids)
    assert ops.convert_to_numpy(mask).tolist() == [[False, True, True]]
    assert MDEmbedding([3], [2], 2).compute_mask(ids) is None


def test_config_round_trip():
    layer = MDEmbedding(
        np.array([10, 20]),
        (4, 2),
        4,
        use_bias=True,
        embeddings_initializer=keras.initializers.RandomNormal(seed=3),
        embeddings_regularizer="l2",
        embeddings_constraint="max_norm",
        projection_initializer=keras.initializers.Orthogonal(seed=5),
        mask_zero=True,
        name="movies",
        dtype="mixed_bfloat16",
    )
    config = layer.get_config()
    clone = MDEmbedding.from_config(config)
    assert clone.get_config() == config
    layer.build()
    clone.build()
    for ours, theirs in zip(clone.get_weights(), layer.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_trains_compiled_and_survives_saving(tmp_path):
    ids, targets = np.arange(90, dtype="int32"), np.linspace(-1, 1, 90)
    inputs = keras.Input((), dtype="int32")
    outputs = keras.layers.Dense(1)(MDEmbedding([30, 60], [8, 4], 8)(inputs))
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
        ({"block_sizes": [3, 0]}, ValueError, r"`block_sizes\[1\]` must be.*=0"),
        ({"block_sizes": [3, 2.5]}, TypeError, r"`block_sizes\[1\]` must be.*=2\.5"),
        ({"block_dims": [4, True]}, TypeError, r"`block_dims\[1\]` must be.*=True"),
        ({"block_dims": [4, -2]}, ValueError, r"`block_dims\[1\]` must be.*=-2"),
        ({"block_sizes": 7}, TypeError, r"`block_sizes` must be a seq.*=7"),
        ({"block_sizes": "33"}, TypeError, r"`block_sizes` must be a seq.*='33'"),
        ({"block_sizes": []}, ValueError, r"`block_sizes` must not be empty"),
        ({"block_sizes": [9]}, ValueError, r"same length.*\[9\].*\[4, 2\]"),
        ({"output_dim": 3}, ValueError, r"wider than `output_dim`.*\[4, 2\].*=3"),
        ({"output_dim": 0}, ValueError, r"`output_dim` must be.*output_dim=0"),
    ],
)
def test_bad_arguments(arguments, error, message):
    good = {"block_sizes": [3, 3], "block_dims": [4, 2], "output_dim": 4}
    with pytest.raises(error, match=message):
        MDEmbedding(**{**good, **arguments})
