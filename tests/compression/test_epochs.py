import keras
import numpy as np
import pytest
from keras import layers

from memembed import epochs
from memembed.epochs import epoch_function
from memembed.layers import LowBitEmbedding

COMPILES = keras.backend.backend() == "tensorflow"
X = np.random.default_rng(0).integers(20, size=64).astype("int32")
Y = (X / 10).astype("float32")[:, None]
WEIGHTS = np.linspace(0, 1, len(X)).astype("float32")


def table(**kwargs):
    return layers.Embedding(20, 3, name="table", **kwargs)


def plain(**kwargs):
    ids = keras.Input((), dtype="int32", name="ids")
    return keras.Model(ids, layers.Dense(1, name="out")(table(**kwargs)(ids)))


def two_outputs():
    ids = keras.Input((), dtype="int32", name="ids")
    rows = table()(ids)
    outputs = {name: layers.Dense(1, name=name)(rows) for name in ("one", "other")}
    return keras.Model({"ids": ids}, outputs)


def penalised():
    return plain(activity_regularizer=keras.regularizers.L2(0.1))


def frozen():
    model = plain()
    model.get_layer("table").trainable = False
    return model


CASES = {
    "plain": (plain, (X, Y)),
    "sample weights": (plain, (X, Y, WEIGHTS)),
    "a dict, two outputs": (two_outputs, ({"ids": X}, {"one": Y, "other": -Y})),
    "a penalty": (penalised, (X, Y)),
    "a frozen table": (frozen, (X, Y)),
}


@pytest.mark.parametrize("case", CASES)
def test_it_equals_fit(case):
    """In one batch, the order of the examples makes no difference."""
    build, examples = CASES[case]
    models = [build(), build()]
    models[1].set_weights(models[0].get_weights())
    for model in models:
        model.compile(keras.optimizers.SGD(0.1), "mse")
    loss = epoch_function(models[0], examples, batch_size=1000)()
    data = dict(zip(("x", "y", "sample_weight"), examples, strict=False))
    history = models[1].fit(**data, batch_size=1000, verbose=0).history
    assert loss == pytest.approx(history["loss"][0], rel=1e-5)
    for one, other in zip(*(each.get_weights() for each in models), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.skipif(not COMPILES, reason="the loop is compiled on TensorFlow alone")
def test_an_incomplete_batch_is_left_out():
    """In batches of 10, 60 of 64 examples are used, not the same in each epoch."""
    model = plain()
    model.get_layer("out").trainable = False
    model.set_weights([np.zeros((20, 3)), np.ones((3, 1)), np.zeros(1)])
    # Each look-up raises a row's numbers by a tenth of the learning rate.
    model.compile(keras.optimizers.SGD(10.0), lambda labels, outputs: -outputs)
    run = epoch_function(model, (X, Y), np.int64(10))  # as in a row of a DataFrame
    counts = []
    for _ in range(4):
        before = model.get_weights()[0]
        run()
        counts.append(np.rint(model.get_weights()[0] - before)[:, 0])
        assert counts[-1].sum() == 60
        assert (counts[-1] <= np.bincount(X, minlength=20)).all()
    assert any((each != counts[0]).any() for each in counts)


def lookup():
    ids = keras.Input((), dtype="int32", name="ids")
    rows = layers.IntegerLookup(vocabulary=np.arange(1, 20))(ids)
    return keras.Model(ids, layers.Dense(1)(table()(rows)))


class Pairs(keras.utils.PyDataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return X[index::2], Y[index::2]


@keras.saving.register_keras_serializable()
class OwnStep(keras.Model):
    def train_step(self, *arguments):
        self.has_own = True
        return super().train_step(*arguments)


def own_step():
    model = plain()
    return OwnStep(model.inputs, model.outputs)


averaging = keras.optimizers.SGD(0.1, use_ema=True)
FALLBACKS = {
    "a layer that XLA cannot compile": (lookup, (X, Y), {}),
    "an eager model": (plain, (X, Y), {"run_eagerly": True}),
    "a step of its own": (own_step, (X, Y), {}),
    "a moving average": (plain, (X, Y), {"optimizer": averaging}),
    "a dataset": (plain, (Pairs(),), {}),
}


@pytest.mark.parametrize("case", FALLBACKS)
def test_fit_is_used_if_nothing_can_be_compiled(case, monkeypatch):
    build, examples, options = FALLBACKS[case]
    if case == "a layer that XLA cannot compile" and not COMPILES:
        pytest.skip("on other backends, a compiled model has no integer lookups")
    monkeypatch.setattr(epochs, "_compiled", None)  # must not be called
    model = build()
    options = {"optimizer": keras.optimizers.SGD(0.1)} | options
    model.compile(loss="mse", **options)
    run = epoch_function(model, examples, 16)
    losses = [run() for _ in range(5)]
    assert losses[-1] < losses[0]
    assert getattr(model, "has_own", False) == (build is own_step)


@keras.saving.register_keras_serializable()
class Inside(layers.Layer):
    """A lookup inside a layer, where it is not seen before XLA meets it."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.lookup = layers.IntegerLookup(vocabulary=np.arange(1, 20))

    def call(self, ids):
        return self.lookup(ids)

    def compute_output_spec(self, ids):
        return keras.KerasTensor(ids.shape, "int64")


@pytest.mark.skipif(not COMPILES, reason="the loop is compiled on TensorFlow alone")
def test_fit_is_used_if_the_compiler_fails():
    parts = [keras.Input((), dtype="int32"), Inside(), table(), layers.Dense(1)]
    model = keras.Sequential(parts)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    run = epoch_function(model, (X, Y), 16)
    losses = [run() for _ in range(5)]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_all_kinds_of_weights_are_trained(policy):
    """Also those without gradients: moving means, a random state, the loss scale."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((), dtype="int32"),
            LowBitEmbedding(20, 3, bits=4, dtype=policy),
            layers.Dropout(0.1, seed=0, dtype=policy),
            layers.BatchNormalization(dtype=policy),
            layers.Dense(1, dtype=policy),
        ]
    )
    optimizer = keras.optimizers.Adam(0.05)
    if policy == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    model.compile(optimizer, "mse")
    before = model.get_weights()
    run = epoch_function(model, (X, Y), 8)
    losses = [run() for _ in range(10)]
    assert losses[-1] < losses[0] / 2
    after = model.get_weights()
    still = [
        weight.path
        for weight, one, other in zip(model.weights, before, after, strict=True)
        if np.array_equal(one, other)
    ]
    assert not [path for path in still if not path.endswith(("offsets", "scales"))]
