import functools
import re

import keras
import numpy as np
import pytest
from keras import layers

from memembed import compress, compress_and_train, fine_tune, pack
from memembed.compression import num_bytes
from memembed.fine_tuning import FACTOR, _Search, _State, _Trainer, loss_function
from memembed.layers import LowBitEmbedding, PackedEmbedding

BACKEND = keras.backend.backend()
EAGER = BACKEND == "tensorflow"  # there, compiling takes longer than it saves
IDS = 60


def data(count, labels, seed):
    x = np.random.default_rng(seed).integers(IDS, size=count).astype("int32")
    return x, labels[x].astype("float32")[:, None]


@pytest.fixture(scope="module")
def labels():
    return np.random.default_rng(0).normal(size=IDS)


@pytest.fixture
def examples(labels):
    return data(400, labels, 1)


@pytest.fixture
def validation(labels):
    return data(200, labels, 2)


def made(labels, optimizer="sgd", noise=0.5, **kwargs):
    """Return a model whose first column is near the labels."""
    rng = np.random.default_rng(3)
    table = layers.Embedding(IDS, 4, **kwargs)
    model = keras.Sequential(
        [keras.Input((), dtype="int32"), table, layers.Dense(1, use_bias=False)]
    )
    rows = rng.normal(size=(IDS, 4)) * noise
    rows[:, 0] += labels
    model.set_weights([rows, np.array([[1.0], [0.3], [0.2], [0.1]])])
    model.compile(optimizer, "mse", run_eagerly=EAGER)
    return model


def schedule():
    rate = keras.optimizers.schedules.ExponentialDecay(0.1, 100, 0.9)
    return keras.optimizers.Adam(rate)


# Nadam has a variable that does not start at 0.
@pytest.mark.parametrize("optimizer", [schedule, keras.optimizers.Nadam])
def test_it_is_better_than_without_training(labels, examples, validation, optimizer):
    model = made(labels, optimizer())
    before = model.get_weights()
    variables = [v.numpy() for v in model.optimizer.variables]
    small = compress_and_train(model, examples, validation, 400, epochs=1)
    assert num_bytes(small) <= 400
    assert isinstance(small.layers[0], PackedEmbedding)
    untrained = pack(compress(model, examples, 400))
    losses = []
    for each in (small, untrained):
        each.compile("sgd", "mse")
        losses.append(loss_function(each, validation, 1024)())
    assert losses[0] < losses[1]
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(variables, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(one, other.numpy())


def test_it_is_never_worse_than_without_training(labels, validation):
    """The training labels are the opposite of the validation labels."""
    model = made(labels, noise=0.0)
    model.compile(keras.optimizers.SGD(1.0), "mse", run_eagerly=EAGER)
    wrong = data(400, -labels, 1)
    small = compress_and_train(model, wrong, validation, 400, epochs=2)
    untrained = pack(compress(model, wrong, 400))
    for one, other in zip(small.get_weights(), untrained.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_custom_score(labels, examples, validation):
    """It is least for small embeddings, whatever the labels."""
    asked = []

    def score(model):
        asked.append(model)
        rows = model.layers[0].tables[0].get_weights()[0]
        return float(np.mean(rows**2))

    model = compress(made(labels), examples, 400)
    model.compile(keras.optimizers.SGD(0.5), "mse", run_eagerly=EAGER)
    tuned = fine_tune(model, examples, validation, score, epochs=2)
    best = score(tuned)
    assert best == min(score(each) for each in (tuned, model))
    assert best < score(model)
    assert isinstance(tuned.layers[0], LowBitEmbedding)
    assert tuned.compiled


def test_the_best_learning_rate_is_kept(labels, examples, validation, capsys):
    model = made(labels, keras.optimizers.SGD(0.03))
    tuned = fine_tune(model, examples, validation, epochs=1, verbose=1)
    tried = re.findall(r"rate (\S+), .* loss (\S+) after", capsys.readouterr().out)
    best, _ = min(tried, key=lambda each: float(each[1]))
    rate = float(keras.ops.convert_to_numpy(tuned.optimizer.learning_rate))
    assert rate == pytest.approx(float(best), rel=0.05)
    assert rate > 0.03


def test_penalties_of_a_model_without_a_compiled_loss(labels, examples, validation):
    """Its score says how large its loss is."""
    usual = _Trainer(made(labels), examples, validation, None, 64, 1)
    loss = made(labels).evaluate(*validation, verbose=0)
    model = keras.Sequential([keras.Input((), dtype="int32"), *made(labels).layers])
    model.compile("sgd", run_eagerly=EAGER)
    trainer = _Trainer(model, examples, validation, lambda model: -3.0, 64, 1)
    assert trainer.least == pytest.approx(usual.least * 3 / loss, rel=1e-5)


class Landscape:
    """In place of a trainer: the losses of all penalties, from the weakest."""

    rate, least, untrained = 1.0, 1.0, _State(1.0, [])

    def __init__(self, *losses):
        self.losses = losses

    def train(self, rate, l2):
        level = 1 + round(np.log(l2) / np.log(FACTOR)) if l2 else 0
        return _State(self.losses[level] + abs(np.log(rate)), [], rate, l2, epochs=1)


@pytest.mark.parametrize(
    "losses",
    [
        (0.9, 0.8, 0.4, 0.8, 0.9, 0.9, 0.9, 0.9, 0.9),
        (0.9, 0.8, 0.7, 0.8, 0.9, 0.6, 0.5, 0.4, 0.9),
        (0.9, 0.9, 0.9, 0.8, 0.9, 0.9, 0.4, 0.9, 0.9),
    ],
)
def test_the_search_finds_a_penalty_beyond_worse_ones(losses):
    """On sparse data, all weak penalties may be as bad, and strong ones much better."""
    search = _Search(Landscape(*losses), lambda text: None)
    assert search.run().loss == 0.4


def test_a_score_that_is_not_finite_is_the_worst(labels, examples, validation):
    model = compress(made(labels), examples, 400)
    model.compile("sgd", "mse", run_eagerly=EAGER)
    before, scores = model.get_weights(), iter([1.0])
    tuned = fine_tune(
        model, examples, validation, lambda each: next(scores, np.nan), epochs=1
    )
    for one, other in zip(before, tuned.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("better", [0, 0.5])
def test_dropout_is_kept_or_left_out_by_validation(
    labels, examples, validation, better
):
    table, dense = made(labels).layers
    parts = [keras.Input((), dtype="int32"), table, layers.Dropout(0.5), dense]
    model = keras.Sequential(parts)
    model.compile("sgd", "mse", run_eagerly=EAGER)
    tried = {0: 0, 0.5: 0}

    def score(copy):
        rate = copy.layers[1].rate
        tried[rate] += 1
        return abs(rate - better) - 0.001 * tried[rate]

    tuned = fine_tune(model, examples, validation, score, epochs=1)
    assert tuned.layers[1].rate == 0.5
    other = 0.5 - better
    assert tried.pop(other) == 2  # not trained, and trained with the first setting
    assert tried[better] > 2


class Batches(keras.utils.PyDataset):
    def __init__(self, examples):
        super().__init__()
        self.examples = examples

    @property
    def num_batches(self):
        return len(self.examples[0]) // 100

    def __getitem__(self, index):
        return tuple(x[100 * index : 100 * (index + 1)] for x in self.examples)


def test_datasets(labels, examples, validation):
    forms = [Batches]
    if BACKEND == "tensorflow":
        import tensorflow as tf

        forms.append(lambda x: tf.data.Dataset.from_tensor_slices(x).batch(100))
    for form in forms:
        model = made(labels, keras.optimizers.SGD(0.5))
        small = compress_and_train(
            model, form(examples), form(validation), 400, epochs=1
        )
        assert num_bytes(small) <= 400


@pytest.mark.parametrize("eagerly", [False, True])
def test_the_loss_is_that_of_evaluate_without_penalties(labels, validation, eagerly):
    """Also with a smaller last batch, and after the weights have changed."""
    model = made(labels, activity_regularizer="l2")
    model.compile("sgd", "mse", run_eagerly=eagerly)
    x, y = validation
    weights = np.arange(200.0)
    loss = loss_function(model, validation, 64)
    weighted = loss_function(model, (x, y, weights), 64)
    for _ in range(2):
        errors = (keras.ops.convert_to_numpy(model(x)) - y)[:, 0] ** 2
        assert loss() == pytest.approx(np.mean(errors), rel=1e-5)
        assert weighted() == pytest.approx(np.mean(errors * weights), rel=1e-5)
        model.set_weights([2 * each for each in model.get_weights()])
    model = made(labels)
    model.compile("sgd", "mse", run_eagerly=eagerly)
    found = loss_function(model, (x, y, weights), 200)()
    expected = model.evaluate(x, y, sample_weight=weights, batch_size=200, verbose=0)
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("eagerly", [False, True])
def test_the_loss_of_several_outputs_is_their_sum(labels, validation, eagerly):
    model, (x, y) = made(labels), validation
    two = keras.Model(model.inputs, [model.outputs[0], 2 * model.outputs[0]])
    two.compile("sgd", ["mse", "mae"], run_eagerly=eagerly)
    output = keras.ops.convert_to_numpy(model(x))
    expected = np.mean((output - y) ** 2) + np.mean(abs(2 * output - y))
    found = loss_function(two, (x, (y, y)), 64)()
    assert found == pytest.approx(expected, rel=1e-5)


def test_mixed_precision_and_a_table_of_zeros(labels, examples, validation):
    """The optimizer scales the loss, and there is nothing to penalise."""
    model = made(labels, "adam", dtype="mixed_float16")
    model.layers[0].set_weights([np.zeros((IDS, 4))])
    ids = model.inputs[0]
    model = keras.Model(ids, model.outputs[0])
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.5))
    model.compile(optimizer, "mse", run_eagerly=EAGER)
    start = loss_function(model, validation, 1024)()
    tuned = fine_tune(model, examples, validation, epochs=1)
    assert loss_function(tuned, validation, 1024)() < start


def test_float64(labels, examples, validation):
    """The loss is of the default type of floats, and so must be the penalty."""
    before = keras.config.floatx()
    keras.config.set_floatx("float64")
    try:
        model = made(labels, dtype="float64")
        small = compress_and_train(model, examples, validation, 400, epochs=1)
    finally:
        keras.config.set_floatx(before)
    assert num_bytes(small) <= 400


def test_bad_arguments(labels, examples, validation):
    model = made(labels)
    x, _ = examples
    with pytest.raises(ValueError, match="`examples` must hold labels"):
        compress_and_train(model, x, validation, 400)
    with pytest.raises(ValueError, match="`validation_data` must hold labels"):
        compress_and_train(model, examples, (x,), 400)
    with pytest.raises(ValueError, match="`max_bytes` must be less than"):
        compress_and_train(model, examples, validation, 10_000)
    with pytest.raises(TypeError, match=r"`score` must be a function.*'mse'"):
        compress_and_train(model, examples, validation, 400, score="mse")
    with pytest.raises(TypeError, match="`examples` must be arrays"):
        fine_tune(model, iter([examples]), validation)
    with pytest.raises(TypeError, match="`validation_data` must be arrays"):
        fine_tune(model, examples, iter([validation]))
    for name in ("epochs", "batch_size"):
        with pytest.raises(ValueError, match=f"`{name}` must .* {name}=0"):
            fine_tune(model, examples, validation, **{name: 0})
    plain = keras.Sequential([keras.Input(()), layers.Embedding(IDS, 4)])
    for refused in (compress_and_train, fine_tune):
        options = [400] if refused is compress_and_train else []
        with pytest.raises(ValueError, match=r"`model` must be compiled"):
            refused(plain, examples, validation, *options)


class Constant(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule that cannot be made from its config."""

    def __call__(self, step):
        return 0.1


@pytest.mark.parametrize(
    ("optimizer", "loss"),
    [
        (keras.optimizers.SGD(Constant()), "mse"),
        ("sgd", functools.partial(keras.losses.huber, delta=2.0)),
    ],
)
def test_parts_that_cannot_be_made_again(labels, examples, validation, optimizer, loss):
    model = made(labels)
    model.compile(optimizer, loss, run_eagerly=EAGER)
    with pytest.raises(ValueError, match="`model` must be compiled with an optimizer"):
        compress_and_train(model, examples, validation, 400)


def test_losses_that_are_not_finite(labels, examples, validation):
    model = made(labels)
    unknown = validation[0].copy()
    unknown[7] = IDS
    small = compress(model, examples, 400)
    small.compile("sgd", "mse", run_eagerly=EAGER)
    with pytest.raises(ValueError, match="`validation_data` must give a finite loss"):
        fine_tune(small, examples, (unknown, validation[1]), epochs=1)
    wrong = examples[1].copy()
    wrong[7] = np.nan
    with pytest.raises(ValueError, match="`examples` must give a finite loss"):
        fine_tune(model, (examples[0], wrong), validation, epochs=1)
    parts = [keras.Input((), dtype="int32"), layers.Embedding(IDS, 4)]
    without = keras.Sequential(parts)
    without.compile("sgd", run_eagerly=EAGER)
    with pytest.raises(ValueError, match="`score` must be given"):
        fine_tune(without, examples, validation)


def test_a_learning_rate_that_begins_at_0(labels, examples, validation):
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, 1000, warmup_target=0.1, warmup_steps=100
    )
    model = made(labels, keras.optimizers.SGD(rate))
    tuned = fine_tune(model, examples, validation, epochs=1)
    losses = [loss_function(each, validation, 1024)() for each in (tuned, model)]
    assert losses[0] < losses[1]


@pytest.mark.parametrize("eagerly", [True, False])
def test_a_new_penalty_replaces_the_old_one(labels, examples, validation, eagerly):
    """Also if the step is compiled: once for all penalties, or for each."""
    model = made(labels, activity_regularizer=keras.regularizers.L2(5.0))
    model.compile("sgd", "mse", run_eagerly=eagerly)
    trainer = _Trainer(model, examples, validation, lambda model: 0, 400, 1)
    none, strong, again = (trainer.train(0.1, l2).weights[0] for l2 in (0, 80.0, 0))
    assert np.abs(strong).mean() < 0.95 * np.abs(none).mean()
    np.testing.assert_allclose(none, again, atol=1e-6)
