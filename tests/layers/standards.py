"""Tests that every embedding layer of memembed must pass, on any backend of Keras.

A test class inherits `EmbeddingStandards` and defines the layer, its configurations,
and an oracle: what the layer computes, written in NumPy and float64 from the paper's
formulas. An oracle must be multilinear in the weights, because its derivatives and the
bounds on rounding errors depend on this.
"""

import json
import warnings

import keras
import numpy as np
import pytest
from keras import ops

BACKEND = keras.backend.backend()
FAR = [-(2**31), -(2**31) + 1, -1000, 1000, 2**31 - 2, 2**31 - 1]


def arrays(layer):
    """Return the weights, in float64."""
    return [np.asarray(value, "float64") for value in layer.get_weights()]


def embed(layer, ids):
    """Return the layer's output as an array."""
    return ops.convert_to_numpy(ops.cast(layer(ids), "float32"))


def model_of(layer, *more):
    """Return a model from batches of any number of ids to their embeddings."""
    inputs = keras.Input((None,), dtype="int32")
    outputs = layer(inputs)
    for each in more:
        outputs = each(outputs)
    return keras.Model(inputs, outputs)


class Subclassed(keras.Model):
    """A model that builds its layer in its first call."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def call(self, inputs):
        return self.layer(inputs)


def predict(model, ids):
    return model.predict(ids, verbose=0)


def quantize(model, mode="int8"):
    """Quantise, without Keras's warnings for layers that have nothing to quantise."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Layer .* does not have a `quantize` method")
        model.quantize(mode)


def slow(test):
    """Mark a test that trains or compiles: it runs only for the first configuration."""
    test.slow = True
    return test


class EmbeddingStandards:
    """The tests. Those that take a `layer` run for each of `configurations`."""

    layer_class: type
    configurations: dict  # name -> arguments of the layer
    bad_arguments: list  # (arguments that replace good ones, error, message)
    distinct = True  # whether no two ids have the same embedding

    def oracle(self, layer, weights, ids):
        """Return the embeddings of `ids` for a layer with these weights."""
        raise NotImplementedError

    def rounding(self, layer, weights):
        """Return, for each weight, how far int8 may move its elements."""
        raise NotImplementedError

    def pytest_generate_tests(self, metafunc):
        if "layer" in metafunc.fixturenames:
            some = slice(1) if hasattr(metafunc.function, "slow") else slice(None)
            metafunc.parametrize(
                "layer",
                list(self.configurations.values())[some],
                ids=list(self.configurations)[some],
                indirect=True,
            )
        if "bad" in metafunc.fixturenames:
            metafunc.parametrize("bad", self.bad_arguments, ids=str)

    @pytest.fixture(autouse=True)
    def seed(self):
        keras.utils.set_random_seed(0)

    @pytest.fixture
    def layer(self, request):
        layer = self.layer_class(**request.param)
        layer.build()
        # Large enough for a wrong sign or a missing bias to show.
        layer.set_weights([keras.random.normal(w.shape) for w in layer.weights])
        return layer

    def new(self, layer, **arguments):
        """Return an unbuilt layer like this one, with other `arguments`."""
        return self.layer_class.from_config({**layer.get_config(), **arguments})

    # What it computes.

    @pytest.mark.parametrize("shape", [(), (6,), (2, 3), (1, 2, 3), (0,), (0, 3)])
    def test_ids_of_any_shape(self, layer, shape):
        ids = np.random.default_rng(0).integers(layer.input_dim, size=shape)
        embeddings = embed(layer, ids)
        assert embeddings.shape == (*shape, layer.output_dim)
        np.testing.assert_allclose(
            embeddings, self.oracle(layer, arrays(layer), ids), rtol=1e-4, atol=1e-5
        )

    def test_every_id(self, layer):
        ids = np.arange(layer.input_dim)
        expected = self.oracle(layer, arrays(layer), ids)
        if self.distinct:
            assert len(np.unique(expected, axis=0)) == layer.input_dim
        np.testing.assert_allclose(embed(layer, ids), expected, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize(
        "dtype",
        [
            *("bool", "uint8", "uint16", "uint32", "uint64"),
            *("int8", "int16", "int32", "int64", "float16", "float32", "float64"),
        ],
    )
    def test_ids_of_any_dtype(self, layer, dtype):
        ids = np.array([0, 1, layer.input_dim - 1]).astype(dtype)
        expected = embed(layer, ids.astype("int32"))
        np.testing.assert_array_equal(embed(layer, ids), expected)
        if (BACKEND, dtype) != ("torch", "uint64"):  # Keras has no uint64 on Torch
            np.testing.assert_array_equal(embed(layer, ops.array(ids)), expected)

    def test_floats_are_truncated_as_keras_does(self, layer):
        ids = np.array([0.9, 1.2, layer.input_dim - 0.5, -0.9], "float32")
        np.testing.assert_array_equal(embed(layer, ids), embed(layer, ids.astype(int)))

    def test_gradients(self, layer):
        """A step of plain gradient descent moves each weight by its derivative."""
        rng = np.random.default_rng(0)
        ids = rng.integers(layer.input_dim, size=(4, 5))  # some of them repeated
        ids[0, :3] = 0
        factors = rng.normal(size=(4, 5, layer.output_dim)).astype("float32")
        before = arrays(layer)

        def weighted_sum(weights):
            return (factors * self.oracle(layer, weights, ids)).sum()

        expected = [np.zeros_like(weight) for weight in before]
        for weight, derivatives in zip(before, expected, strict=True):
            for index in np.ndindex(weight.shape):
                value = weight[index]
                weight[index] = value + 0.5
                derivatives[index] = weighted_sum(before)
                weight[index] = value - 0.5
                derivatives[index] -= weighted_sum(before)
                weight[index] = value

        model = model_of(layer)
        model.compile(keras.optimizers.SGD(1.0), lambda y, x: ops.sum(y * x))
        model.train_on_batch(ids.astype("int32"), factors)
        for old, new, gradient in zip(before, arrays(layer), expected, strict=True):
            np.testing.assert_allclose(old - new, gradient, rtol=1e-3, atol=1e-4)

    # Ids outside the vocabulary.

    def unknown(self, layer):
        return [*FAR, -layer.input_dim, -1, layer.input_dim, layer.input_dim + 1]

    @pytest.mark.parametrize("how", ["eager", "compiled", "quantised"])
    def test_ids_outside_the_vocabulary_are_nan(self, layer, how):
        unknown = self.unknown(layer)
        known = [0, 1, layer.input_dim - 1]
        ids = np.array([unknown + known], "int32")
        model = model_of(layer)
        if how == "quantised":
            quantize(model)
        model.compile(run_eagerly=how == "eager")
        embeddings = predict(model, ids)[0]
        assert np.isnan(embeddings[: len(unknown)]).all()
        assert np.isfinite(embeddings[len(unknown) :]).all()

    @pytest.mark.parametrize(
        ("dtype", "ids"),
        [
            # Cut to 32 bits, each of them would be 5 or less.
            ("int64", [2**63 - 2**32 + 5, 2**32 + 5, -(2**32) + 5, -(2**63)]),
            ("uint64", [2**64 - 2**32 + 5, 2**32 + 5, 2**64 - 1, 2**63]),
            ("uint32", [2**32 - 1, 2**31, 2**31 + 5]),
            ("uint8", [255, 200]),
            ("int8", [-128, -1, 127]),
        ],
    )
    def test_unknown_ids_of_any_dtype_are_nan(self, layer, dtype, ids):
        ids = np.array(ids, dtype)
        assert np.isnan(embed(layer, ids)).all()
        # JAX cuts 64-bit ids before a layer can see them, and Torch has no uint64.
        if "64" not in dtype or BACKEND == "tensorflow":
            assert np.isnan(embed(layer, ops.array(ids))).all()

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_floats_that_are_not_ids_are_nan(self, layer, dtype):
        ids = [np.nan, np.inf, -np.inf, -1, layer.input_dim, 1e30, 2.0**31, 2.0**32]
        assert np.isnan(embed(layer, np.array(ids, dtype))).all()

    @pytest.mark.skipif(BACKEND != "tensorflow", reason="the others have no ragged ids")
    def test_ragged_ids_are_refused(self, layer):
        import tensorflow as tf

        for ids in (
            tf.ragged.constant([[0], [1, 2]]),
            keras.Input((None,), ragged=True),
        ):
            with pytest.raises(
                ValueError, match=r"`ids.to_tensor\(\)`, and .*mask_zero"
            ):
                layer(ids)

    def test_unknown_ids_train_nothing(self, layer):
        before = layer.get_weights()
        model = model_of(layer)
        model.compile(
            keras.optimizers.SGD(1.0),
            lambda y, x: ops.sum(ops.where(ops.isnan(x), 0.0, x)),
        )
        ids = np.array([[-1, layer.input_dim, *FAR]], "int32")
        model.train_on_batch(ids, np.zeros((*ids.shape, 1)))
        for old, new in zip(before, layer.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)

    # What Keras expects of a layer.

    def test_shapes_are_known_in_advance(self, layer):
        for shape in [(None,), (3,), (None, 4), (2, None, 5)]:
            expected = (*shape, layer.output_dim)
            assert layer.compute_output_shape(shape) == expected
            symbolic = layer(keras.KerasTensor(shape, dtype="int32"))
            assert (symbolic.shape, symbolic.dtype) == (expected, "float32")

    @slow
    @pytest.mark.parametrize("first", ["fit", "predict"])
    @pytest.mark.parametrize(
        "kind", [Subclassed, lambda layer: keras.Sequential([layer])]
    )
    def test_built_by_its_first_call(self, layer, kind, first):
        """The first call is traced. Results must be those of a layer built before."""
        ids = np.arange(layer.input_dim)[None]
        targets = np.ones((*ids.shape, layer.output_dim))
        results = []
        for early in (True, False):
            keras.utils.set_random_seed(1)  # Keras draws the initializers' seeds
            new = self.new(layer)
            if early:
                new.build()
            model = kind(new)
            model.compile(
                keras.optimizers.SGD(0.1),
                "mse",
                run_eagerly=early,
                jit_compile=BACKEND == "jax" and not early,
            )
            if first == "fit":
                model.fit(ids, targets, verbose=0)
            results.append([predict(model, ids), *new.get_weights()])
        for before, lazily in zip(*results, strict=True):
            assert np.isfinite(before).all()
            np.testing.assert_allclose(lazily, before, rtol=1e-5, atol=1e-7)

    @slow
    def test_batches_of_any_size(self, layer):
        model = model_of(layer)
        for shape in [(1, 1), (3, 2), (40, 1), (2, 7)]:
            assert predict(model, np.zeros(shape)).shape == (*shape, layer.output_dim)

    def test_summary(self, layer):
        lines = []
        model_of(layer).summary(print_fn=lines.append)
        total = sum(weight.size for weight in layer.get_weights())
        assert f"Total params: {total:,}" in "\n".join(map(str, lines))

    def test_config_round_trip(self, layer):
        layer = self.new(
            layer,
            embeddings_initializer=keras.initializers.RandomNormal(seed=3),
            embeddings_regularizer="l2",
            embeddings_constraint="max_norm",
            mask_zero=True,
            name="movies",
            dtype="mixed_bfloat16",
            trainable=False,
        )
        config = keras.saving.serialize_keras_object(layer)
        clone = keras.saving.deserialize_keras_object(json.loads(json.dumps(config)))
        assert clone.get_config() == layer.get_config()
        assert (clone.name, clone.trainable) == ("movies", False)
        layer.build()
        clone.build()
        for ours, theirs in zip(clone.weights, layer.weights, strict=True):
            assert ours.shape == theirs.shape
        np.testing.assert_array_equal(clone.get_weights()[0], layer.get_weights()[0])

    def test_clone_model(self, layer):
        model = model_of(layer)
        clone = keras.models.clone_model(model)
        clone.set_weights(model.get_weights())
        ids = np.arange(layer.input_dim)[None]
        np.testing.assert_array_equal(predict(clone, ids), predict(model, ids))

    def test_saving(self, layer, tmp_path):
        model = model_of(layer, keras.layers.Dense(2))
        ids = np.arange(layer.input_dim)[None]
        expected = predict(model, ids)
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
        np.testing.assert_array_equal(predict(loaded, ids), expected)

        model.save_weights(tmp_path / "model.weights.h5")
        other = keras.models.clone_model(model)
        assert not np.allclose(predict(other, ids), expected)
        other.load_weights(tmp_path / "model.weights.h5")
        np.testing.assert_array_equal(predict(other, ids), expected)

    @slow
    @pytest.mark.skipif(BACKEND != "tensorflow", reason="a SavedModel is TensorFlow's")
    @pytest.mark.parametrize("mode", [None, "int8"])
    def test_export(self, layer, mode, tmp_path):
        import tensorflow as tf

        model = model_of(layer)
        if mode:
            quantize(model, mode)
        model.export(tmp_path / "model", verbose=False)
        served = tf.saved_model.load(tmp_path / "model")
        for ids in ([[0, 1, 2]], [[0], [layer.input_dim - 1]], [[-1]]):
            ids = np.array(ids, "int32")
            np.testing.assert_allclose(
                served.serve(ids), predict(model, ids), rtol=1e-6
            )

    @slow
    def test_training(self, layer):
        ids = np.arange(layer.input_dim, dtype="int32")[:, None]
        targets = np.linspace(-1, 1, layer.input_dim)[:, None, None]
        model = model_of(layer, keras.layers.Dense(1))
        # Torch's compiler takes half a minute: see test_torch_compile.
        compiled = BACKEND != "torch"
        model.compile(keras.optimizers.Adam(0.05), "mse", jit_compile=compiled)
        losses = model.fit(ids, targets, epochs=60, verbose=0).history["loss"]
        assert losses[-1] < 0.1 * losses[0]

    @slow
    @pytest.mark.skipif(BACKEND != "torch", reason="about Torch's compiler")
    def test_torch_compile(self, layer):
        import torch

        torch._dynamo.reset()
        compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
        ids = torch.tensor([[0, 1, layer.input_dim - 1, layer.input_dim, -1]])
        expected = embed(layer, ids)
        np.testing.assert_allclose(compiled(ids).detach().numpy(), expected, rtol=1e-6)
        assert np.isnan(expected[:, 3:]).all()

    # Dtypes.

    @slow
    @pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
    def test_mixed_precision(self, layer, policy):
        mixed = self.new(layer, dtype=policy)
        mixed.build()
        mixed.set_weights(layer.get_weights())
        assert all(weight.dtype == "float32" for weight in mixed.weights)
        ids = np.arange(layer.input_dim)
        output = mixed(ids)
        assert keras.backend.standardize_dtype(output.dtype) == policy[6:]
        np.testing.assert_allclose(
            embed(mixed, ids), embed(layer, ids), rtol=0.05, atol=0.1
        )
        model = model_of(mixed, keras.layers.Dense(1, dtype="float32"))
        model.compile("adam", "mse")
        loss = model.train_on_batch(ids[None], np.zeros((1, len(ids), 1)))
        assert np.isfinite(loss)

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    def test_half_precision_throughout(self, layer, dtype):
        half = self.new(layer, dtype=dtype)
        ids = np.array([0, layer.input_dim])
        output = half(ids)
        assert keras.backend.standardize_dtype(output.dtype) == dtype
        assert all(weight.dtype == dtype for weight in half.weights)
        assert np.isnan(embed(half, ids)).all(axis=-1).tolist() == [False, True]

    # Quantisation.

    def test_int8_stays_within_its_bound(self, layer):
        model = model_of(layer)
        ids = np.arange(layer.input_dim)[None]
        before = arrays(layer)
        exact = self.oracle(layer, before, ids)
        quantize(model)
        error = np.abs(predict(model, ids) - exact)

        # A multilinear function changes most if all terms change in one direction.
        sizes = [np.abs(weight) for weight in before]
        moved = [
            size + rounding
            for size, rounding in zip(sizes, self.rounding(layer, before), strict=True)
        ]
        bound = self.oracle(layer, moved, ids) - self.oracle(layer, sizes, ids)
        assert (error <= bound + 1e-5).all()
        assert error.max() > 0  # otherwise, nothing was quantised
        kept = [w for w in layer.weights if w.dtype != "int8" and len(w.shape) > 1]
        assert not kept

    @slow
    @pytest.mark.parametrize("mode", ["int8", "int4"])
    def test_saving_when_quantised(self, layer, mode, tmp_path):
        model = model_of(layer)
        quantize(model, mode)
        ids = np.array([[0, 1, layer.input_dim - 1, layer.input_dim]])
        expected = predict(model, ids)
        assert np.isfinite(expected[:, :3]).all()
        assert np.isnan(expected[:, 3]).all()
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        np.testing.assert_array_equal(predict(loaded, ids), expected)
        clone = keras.models.clone_model(model)
        clone.set_weights(model.get_weights())
        np.testing.assert_array_equal(predict(clone, ids), expected)

    @slow
    def test_saving_keeps_how_it_was_quantised(self, layer, tmp_path):
        model = model_of(layer)
        weights_alone = keras.quantizers.Int8QuantizationConfig(
            weight_quantizer=keras.quantizers.AbsMaxQuantizer(axis=-1),
            activation_quantizer=None,
        )
        for part in layer.parts:
            if isinstance(part, keras.layers.Embedding):
                part.quantize("int8", config=weights_alone)
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        ids = np.arange(layer.input_dim)[None]
        np.testing.assert_array_equal(predict(loaded, ids), predict(model, ids))
        config = loaded.layers[-1].parts[0].quantization_config
        assert config.activation_quantizer is None

    # Masks.

    def test_mask_zero(self, layer):
        ids = np.array([[0, 1, 0, 2]])
        assert layer.compute_mask(ids) is None
        masked = self.new(layer, mask_zero=True)
        mask = ops.convert_to_numpy(masked.compute_mask(ops.array(ids)))
        assert mask.tolist() == [[False, True, False, True]]
        masked.build()
        masked.set_weights(layer.get_weights())
        # As in Keras, the padding has a row like any other id.
        np.testing.assert_array_equal(embed(masked, ids), embed(layer, ids))

    def test_a_bag_is_combined_id_by_id_and_then_pooled(self, layer):
        """Bags of several lengths, padded with the id 0, and the mean of each."""
        bags = [[1], [2, 3, 2], [layer.input_dim - 1, 1]]
        padded = np.array([bag + [0] * (3 - len(bag)) for bag in bags])
        masked = self.new(layer, mask_zero=True)
        masked.build()
        masked.set_weights(layer.get_weights())
        model = model_of(masked, keras.layers.GlobalAveragePooling1D())
        expected = [
            self.oracle(layer, arrays(layer), np.array(bag)).mean(axis=0)
            for bag in bags
        ]
        np.testing.assert_allclose(
            predict(model, padded), expected, rtol=1e-4, atol=1e-5
        )

    # Arguments.

    def test_regularizer_and_constraint_reach_every_table(self, layer):
        layer = self.new(
            layer,
            embeddings_initializer="ones",
            embeddings_regularizer=keras.regularizers.L2(0.5),
            embeddings_constraint="non_neg",
        )
        layer.build()
        ones = sum(table.count_params() for table in layer.tables)
        loss = ops.convert_to_numpy(sum(layer.losses))
        assert loss == pytest.approx(0.5 * ones)
        assert all(table.weights[0].constraint for table in layer.tables)

    def test_a_seeded_initializer_fills_each_table_differently(self, layer):
        seeded = keras.initializers.RandomUniform(seed=1)
        layer = self.new(layer, embeddings_initializer=seeded)
        layer.build()
        first = [table.get_weights()[0][0, 0] for table in layer.tables]
        assert len(set(first)) == len(first)

    def test_any_callable_is_an_initializer(self, layer):
        arguments = {
            name: value
            for name, value in layer.get_config().items()
            if name != "embeddings_initializer"
        }
        layer = self.layer_class(
            **arguments,
            embeddings_initializer=lambda shape, dtype: ops.full(shape, 2, dtype),
        )
        layer.build()
        assert all((table.get_weights()[0] == 2).all() for table in layer.tables)

    def test_bad_arguments(self, bad):
        arguments, error, message = bad
        good = next(iter(self.configurations.values()))
        with pytest.raises(error, match=message):
            self.layer_class(**{**good, **arguments})
