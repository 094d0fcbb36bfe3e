"""One state for each row: its values, and no change of rows that are not looked up."""

import keras
import numpy as np
import pytest

from memembed.layers import QREmbedding
from memembed.optimizers import RowwiseAdagrad

RATE, START, EPSILON = 0.1, 0.2, 1e-3


def model_of(layer, optimizer):
    model = keras.Sequential([keras.Input(()), layer, keras.layers.Dense(1)])
    model.compile(optimizer, "mse")
    return model


def steps(table, kernel, bias, batches):
    """Return the weights after steps in NumPy that update every row."""
    weights = {"table": table, "kernel": kernel, "bias": bias}
    states = {
        "table": np.full((len(table), 1), START),
        "kernel": np.full((len(kernel), 1), START),
        "bias": np.full(bias.shape, START),
    }
    for ids, labels in batches:
        table, kernel, bias = weights.values()
        error = 2 * (table[ids] @ kernel + bias - labels[:, None]) / len(ids)
        gradients = {"table": np.zeros_like(table), "kernel": table[ids].T @ error}
        np.add.at(gradients["table"], ids, error @ kernel.T)
        gradients["bias"] = error.sum(axis=0)
        for name, gradient in gradients.items():
            square = gradient**2
            states[name] += square if name == "bias" else square.mean(1, keepdims=True)
            step = RATE * gradient / (np.sqrt(states[name]) + EPSILON)
            weights[name] = weights[name] - step
    return list(weights.values())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_table_of_low_precision(dtype):
    """In float16, `epsilon` would be 0; in both, sums of squares would stop growing."""
    layer = keras.layers.Embedding(10, 4, dtype=dtype)
    model = model_of(layer, RowwiseAdagrad(RATE))
    before = keras.ops.convert_to_numpy(layer.embeddings).astype("float32")
    model.train_on_batch(np.array([1, 2, 1]), np.array([1.0, 2.0, 3.0]))
    assert {state.dtype for state in model.optimizer._states} == {"float32"}
    after = keras.ops.convert_to_numpy(layer.embeddings).astype("float32")
    assert np.isfinite(after).all()
    assert np.flatnonzero((before != after).any(axis=1)).tolist() == [1, 2]


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="sparse gradients")
def test_a_batch_that_looks_nothing_up():
    import tensorflow as tf

    table, optimizer = keras.Variable(np.ones((5, 2))), RowwiseAdagrad()
    optimizer.build([table])
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.gather(table.value, tf.zeros([0], "int32")))
    optimizer.apply(tape.gradient(loss, [table.value]), [table])
    assert (keras.ops.convert_to_numpy(table) == 1).all()


@pytest.mark.parametrize("jit_compile", [False, True])
def test_steps_are_those_of_the_formula(jit_compile):
    if jit_compile and keras.backend.backend() == "torch":
        pytest.skip("Torch has its own compiler, which Keras does not use for steps")
    keras.utils.set_random_seed(0)
    model = model_of(
        keras.layers.Embedding(9, 4), RowwiseAdagrad(RATE, START, epsilon=EPSILON)
    )
    model.compile(model.optimizer, "mse", jit_compile=jit_compile)
    random = np.random.default_rng(0)
    ids = np.array([[3, 3, 0, 5, 3], [8, 0, 0, 8, 1]])  # several times in a batch
    labels = random.random(ids.shape)
    before = [weight.astype("float64") for weight in model.get_weights()]
    for batch in zip(ids, labels, strict=True):
        model.train_on_batch(*batch)
    expected = steps(*before, zip(ids, labels, strict=True))
    for weight, wanted in zip(model.get_weights(), expected, strict=True):
        np.testing.assert_allclose(weight, wanted, rtol=1e-5, atol=1e-6)


def test_rows_that_are_not_looked_up_stay_as_they_are():
    model = model_of(keras.layers.Embedding(50, 4), RowwiseAdagrad(RATE, START))
    before = model.get_weights()[0]
    model.fit(np.array([7, 9, 7]), np.ones(3), verbose=0)
    changed = (model.get_weights()[0] != before).any(axis=1)
    assert np.flatnonzero(changed).tolist() == [7, 9]
    state = keras.ops.convert_to_numpy(model.optimizer.variables[2])
    assert np.flatnonzero(state[:, 0] != np.float32(START)).tolist() == [7, 9]


def test_its_state_is_one_number_per_row():
    model = model_of(QREmbedding(1000, 16), optimizer=RowwiseAdagrad())
    model.optimizer.build(model.trainable_variables)
    shapes = [tuple(state.shape) for state in model.optimizer.variables[2:]]
    assert shapes == [(32, 1), (32, 1), (16, 1), (1,)]


def test_it_is_saved_and_loaded_with_its_model(tmp_path):
    model = model_of(keras.layers.Embedding(9, 4), RowwiseAdagrad(RATE, START, 1e-5))
    x, y = np.arange(9), np.ones(9)
    model.fit(x, y, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.get_config() == model.optimizer.get_config()
    for each in (model, loaded):
        each.fit(x, y, shuffle=False, verbose=0)
    for ours, theirs in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("name", "value"), [("initial_accumulator_value", -0.1), ("epsilon", 0.0)]
)
def test_bad_arguments(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must .*Received: {value}"):
        RowwiseAdagrad(**{name: value})
