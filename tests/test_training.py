import keras
import numpy as np
import pytest
import tensorflow as tf

from memembed.data import prepare, synthetic_ratings
from memembed.layers import MDEmbedding, QREmbedding
from memembed.models import bias_model, dot_product_model
from memembed.training import Result, comparison, evaluate, experiment, train


@pytest.fixture(scope="module")
def data():
    return prepare(synthetic_ratings(num_users=60, num_movies=50, num_ratings=2000))


def build():
    return dot_product_model(
        QREmbedding(60, 4), MDEmbedding([10, 40], [4, 2], 4), biases=True
    )


class Plain(keras.Model):
    """Keras's own training step, with the entries of a sparse gradient added up."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def call(self, inputs):
        return self.model(inputs)

    def train_step(self, data):
        inputs, ratings = data
        with tf.GradientTape() as tape:
            predictions = self(inputs)
            loss = self.compute_loss(inputs, ratings, predictions)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(
            [tf.convert_to_tensor(gradient) for gradient in gradients],
            self.trainable_variables,
        )
        return self.compute_metrics(inputs, ratings, predictions)


@pytest.mark.parametrize("batch_size", [128, np.int64(100), 4000])
def test_train_equals_fit(data, batch_size):
    # 1,600 ratings: 12 batches of 128 and a rest, 16 of 100, one of fewer than 4,000.
    assert len(data.train) == 1600
    keras.utils.set_random_seed(0)
    model = build()
    history = train(model, data, epochs=3, batch_size=batch_size, learning_rate=0.01)

    keras.utils.set_random_seed(0)
    expected = build()
    plain = Plain(expected)
    plain.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mse", "mae"])
    expected_history = plain.fit(
        data.train.inputs,
        data.train.rating,
        batch_size=batch_size,
        epochs=3,
        validation_data=(data.validation.inputs, data.validation.rating),
        verbose=0,
    ).history
    assert history.pop("learning_rate") == pytest.approx([0.01] * 3)
    for name, values in history.items():
        np.testing.assert_allclose(values, expected_history[name], rtol=1e-4)
    for ours, theirs in zip(model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-3)


def test_a_loss_and_a_rate_for_each_epoch(data):
    losses = [keras.losses.Huber(delta) for delta in (0.1, 0.2)]  # alike in JSON
    rates = [0.01, 0.001]
    weights = []
    for loss in losses:
        keras.utils.set_random_seed(0)
        model = build()
        history = train(model, data, epochs=2, learning_rate=rates, loss=loss)
        assert history["learning_rate"] == pytest.approx(rates)
        weights.append(np.concatenate([w.ravel() for w in model.get_weights()]))

        keras.utils.set_random_seed(0)
        expected = build()
        plain = Plain(expected)
        plain.compile(keras.optimizers.Adam(), loss)
        plain.fit(
            data.train.inputs,
            data.train.rating,
            batch_size=128,
            epochs=2,
            callbacks=[keras.callbacks.LearningRateScheduler(lambda e: rates[e])],
            verbose=0,
        )
        for ours, theirs in zip(
            model.get_weights(), expected.get_weights(), strict=True
        ):
            np.testing.assert_allclose(ours, theirs, atol=1e-3)
    assert abs(weights[0] - weights[1]).max() > 1e-3


def test_what_a_regularizer_adds_is_minimised(data):
    sizes = []
    for penalty in (None, keras.regularizers.L2(1.0)):
        keras.utils.set_random_seed(0)
        users = keras.layers.Embedding(60, 4, activity_regularizer=penalty)
        train(dot_product_model(users, keras.layers.Embedding(50, 4)), data)
        sizes.append(np.abs(users.get_weights()[0]).mean())
    assert sizes[1] < 0.5 * sizes[0]


def test_a_second_model_trains_as_the_first_one_did(data):
    """It uses what was compiled for the first, but none of its weights and slots."""
    weights, histories = [], []
    for learning_rate in (0.02, 0.01, 0.01):
        keras.utils.set_random_seed(1)
        model = build()
        histories.append(train(model, data, epochs=2, learning_rate=learning_rate))
        weights.append(model)
    assert histories[1] == histories[2] != histories[0]
    weights = [model.get_weights() for model in weights]
    for first, second in zip(weights[1], weights[2], strict=True):
        np.testing.assert_array_equal(first, second)
    assert any((a != b).any() for a, b in zip(weights[0], weights[1], strict=True))


def test_a_model_of_another_structure_has_a_loop_of_its_own(data):
    """Two that differ in which table is whose, and in nothing else."""
    for swap in (False, True):
        keras.utils.set_random_seed(0)
        tables = [keras.layers.Embedding(60, 3), keras.layers.Embedding(60, 3)]
        inputs = {
            name: keras.Input((), dtype="int32", name=name)
            for name in ("user", "movie")
        }
        rows = [
            table(each) for table, each in zip(tables, inputs.values(), strict=True)
        ]
        score = keras.layers.Subtract()(rows[::-1] if swap else rows)
        model = keras.Model(inputs, keras.layers.Dense(1)(score))
        before = evaluate(model, data.validation)["mse"]
        history = train(model, data, epochs=3, learning_rate=0.05)
        assert history["val_mse"][-1] < 0.9 * before
        assert evaluate(model, data.validation)["mse"] == history["val_mse"][-1]


def test_training_beats_the_mean(data):
    result = experiment(
        "biases",
        lambda: bias_model(60, 50),
        data,
        epochs=20,
        learning_rate=0.05,
        batch_size=32,
        verbose=False,
    )
    mean_error = np.mean((data.evaluation.rating - data.train.rating.mean()) ** 2)
    assert result.mse < 0.95 * mean_error


def test_evaluate(data):
    model = bias_model(60, 50)
    errors = 2.5 - data.evaluation.rating  # zero biases predict the middle
    assert evaluate(model, data.evaluation) == pytest.approx(
        {"mse": np.mean(errors**2), "mae": np.mean(np.abs(errors))}
    )


def test_experiment_is_reproducible_and_says_what_it_did(data, capsys):
    first, again, other = (
        experiment("QR and MD", build, data, seed=seed, epochs=1) for seed in (3, 3, 4)
    )
    assert first.mse == again.mse != other.mse
    assert first.history == again.history
    assert first.parameters == build().count_params()
    assert first.mse == evaluate(first.model, data.evaluation)["mse"]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith(f"QR and MD: {first.parameters:,} parameters, MSE")


def test_verbose_training_prints_a_line_per_epoch(data, capsys):
    history = train(build(), data, epochs=2, verbose=True)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["epoch 1/2", "epoch 2/2"]
    assert f"validation MSE {history['val_mse'][1]:.4f}" in lines[1]


def test_training_is_silent_by_default(data, capsys):
    train(build(), data, epochs=1)
    assert capsys.readouterr().out == ""


def test_many_models_in_a_row_train_without_a_warning(data, caplog, monkeypatch):
    logger = tf.get_logger()
    monkeypatch.setattr(logger, "propagate", True)  # for caplog to hear it
    for _ in range(6):
        train(bias_model(60, 50), data, epochs=1)
    assert caplog.messages == []
    logger.warning("another warning")
    assert caplog.messages == ["another warning"]


def test_comparison_of_single_runs():
    results = [
        Result("b", 1000, 0.8, 0.7, 2.0, 0, {}, None),
        Result("a", 250, 0.9, 0.75, 1.0, 0, {}, None),
    ]
    table = comparison(results)
    assert table.index.tolist() == ["b", "a"]
    assert table.loc["b"].to_dict() == {
        "parameters": 1000,
        "weights, kB": 4,
        "training, kB": 16,
        "seconds": 2,
        "MSE": 0.8,
        "MAE": 0.7,
    }


def test_comparison_over_seeds():
    results = [
        Result("a", 250, mse, mse - 0.1, 1.0, seed, {}, None)
        for seed, mse in enumerate([0.8, 0.9, 1.0])
    ]
    table = comparison([*results, Result("b", 250, 0.5, 0.4, 1.0, 0, {}, None)])
    assert table.index.tolist() == ["a", "b"]
    assert table.columns[-4:].tolist() == ["MSE", "MSE ±", "MAE", "MAE ±"]
    row = table.loc["a"]
    assert row[["MSE", "MSE ±", "MAE", "MAE ±"]].tolist() == pytest.approx(
        [0.9, 0.1, 0.8, 0.1]
    )
    assert np.isnan(table.loc["b", "MSE ±"])
