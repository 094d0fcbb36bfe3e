import dataclasses

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from memembed.data import prepare, synthetic_ratings
from memembed.layers import MDEmbedding, QREmbedding
from memembed.models import bias_model, dot_product_model, embeddings_of
from memembed.training import (
    RESULT_COLUMNS,
    Settings,
    evaluate,
    experiment,
    measure,
    print_epoch,
    split_hash,
    summary,
    train,
)

SHORT = Settings(epochs=1)


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


@pytest.mark.parametrize(
    "settings",
    [
        Settings(0.01, "cosine", epochs=3),  # 1,600 ratings: 12.5 batches
        Settings(0.01, epochs=2, batch_size=np.int64(100), l2=0.05, huber_delta=0.1),
        Settings(0.01, epochs=2, batch_size=4000),
    ],
    ids=["cosine", "full batches, l2, Huber", "less than a batch"],
)
def test_train_equals_fit(data, settings):
    assert len(data.train) == 1600
    keras.utils.set_random_seed(0)
    model = build()
    history = train(model, data, settings)

    keras.utils.set_random_seed(0)
    expected = build()
    if settings.l2:
        for name, layer in embeddings_of(expected).items():
            strength = settings.l2 / 12 if name.endswith("bias") else settings.l2
            layer.activity_regularizer = keras.regularizers.L2(strength)
    plain = Plain(expected)
    loss = keras.losses.Huber(settings.huber_delta) if settings.huber_delta else "mse"
    plain.compile(keras.optimizers.Adam(), loss, metrics=["mse", "mae"])
    rates = settings.learning_rates
    expected_history = plain.fit(
        data.train.inputs,
        data.train.rating,
        batch_size=int(settings.batch_size),
        epochs=settings.epochs,
        callbacks=[keras.callbacks.LearningRateScheduler(lambda e: float(rates[e]))],
        validation_data=(data.validation.inputs, data.validation.rating),
        verbose=0,
    ).history
    for name, values in history.items():
        np.testing.assert_allclose(values, expected_history[name], rtol=1e-4)
    for ours, theirs in zip(model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-3)


def test_an_unknown_schedule():
    with pytest.raises(ValueError, match=r"`schedule` must be .*schedule='linear'"):
        Settings(schedule="linear")


def test_models_of_the_same_kind_share_a_compiled_function(data):
    """They share no weights or slots. Other models and settings are compiled again."""
    compiled, models, histories = {}, [], []
    for rate in (0.02, 0.01, 0.01):
        keras.utils.set_random_seed(1)
        models.append(bias_model(60, 50))
        settings = Settings(rate, epochs=2)
        histories.append(train(models[-1], data, settings, compiled=compiled))
    assert len(compiled) == 1
    assert histories[1] == histories[2] != histories[0]
    for first, second in zip(*(m.get_weights() for m in models[1:]), strict=True):
        np.testing.assert_array_equal(first, second)
    assert evaluate(models[0], data.validation)["mse"] == histories[0]["val_mse"][-1]
    for other in (Settings(huber_delta=0.1, epochs=1), Settings(l2=0.1, epochs=1)):
        train(bias_model(60, 50), data, other, compiled=compiled)
    assert len(compiled) == 3


class Doubled(keras.layers.Layer):
    """A custom layer that is not registered with Keras."""

    def __init__(self, input_dim, output_dim, **kwargs):
        super().__init__(**kwargs)
        self.input_dim, self.output_dim = input_dim, output_dim
        self.table = keras.layers.Embedding(input_dim, output_dim)

    def build(self, input_shape=None):
        self.table.build()

    def call(self, ids):
        return 2 * self.table(ids)

    def get_config(self):
        return {
            **super().get_config(),
            **{"input_dim": self.input_dim, "output_dim": self.output_dim},
        }


def test_a_custom_layer_is_trained(data):
    model = dot_product_model(Doubled(60, 4), Doubled(50, 4))
    before = evaluate(model, data.validation)["mse"]
    history = train(model, data, Settings(0.05, epochs=3))
    assert history["val_mse"][-1] < 0.9 * before
    assert evaluate(model, data.validation)["mse"] == history["val_mse"][-1]


def test_ids_that_the_model_does_not_know_are_refused(data):
    before = (model := bias_model(60, 49)).get_weights()
    with pytest.raises(ValueError, match=r"from 0 to 48 .*'movie'.*the id 49"):
        train(model, data, SHORT)
    negative = dataclasses.replace(data.validation, user=data.validation.user - 60)
    with pytest.raises(ValueError, match=r"from 0 to 59 .*'user'.*the id -"):
        train(bias_model(60, 50), dataclasses.replace(data, validation=negative))
    for weights, same in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(weights, same)


def test_training_beats_the_mean(data):
    settings = Settings(0.05, epochs=20, batch_size=32)
    result = experiment("b", lambda: bias_model(60, 50), data, settings, verbose=False)
    mean_error = np.mean((data.evaluation.rating - data.train.rating.mean()) ** 2)
    assert result.mse < 0.95 * mean_error


def test_evaluate(data):
    model = bias_model(60, 50)
    errors = 2.5 - data.evaluation.rating  # zero biases predict the middle
    assert evaluate(model, data.evaluation) == pytest.approx(
        {"mse": np.mean(errors**2), "mae": np.mean(np.abs(errors))}
    )


def test_an_experiment_is_reproducible_and_becomes_a_row(data, capsys):
    first, again, other = (
        experiment("QR and MD", build, data, SHORT, seed=seed) for seed in (3, 3, 4)
    )
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert (first.mse, first.history) == (again.mse, again.history)
    assert first.mse != other.mse
    assert first.mse == evaluate(first.model, data.evaluation)["mse"]
    assert first.val_mse == first.history["val_mse"][-1]
    row = first.row()
    assert list(row) == RESULT_COLUMNS
    parameters = build().count_params()
    expected = {"name": "QR and MD", "seed": 3, "epochs": 1, "parameters": parameters}
    expected |= {"bytes": 4 * parameters, "training_bytes": 16 * parameters}
    assert expected.items() <= row.items()


def test_measure_can_leave_out_the_evaluation_part(data, capsys):
    result = measure("b", bias_model(60, 50), data, evaluation=False)
    assert f"validation MSE {result.val_mse:.4f}" in capsys.readouterr().out
    assert (result.mse, result.mae, result.seconds) == (None, None, None)
    assert result.val_mse > 0
    assert result.row()["learning_rate"] is None


def test_an_interrupted_training_keeps_its_epochs(data):
    model = bias_model(60, 50)

    def stop(epoch, errors):
        if epoch == 1:
            raise KeyboardInterrupt

    keras.utils.set_random_seed(0)
    with pytest.raises(KeyboardInterrupt):
        train(model, data, Settings(epochs=3), on_epoch_end=stop)
    two_epochs = bias_model(60, 50)
    keras.utils.set_random_seed(0)
    train(two_epochs, data, Settings(epochs=2))
    for one, other in zip(model.get_weights(), two_epochs.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", ["epochs", "batch_size"])
def test_settings_that_cannot_be(name):
    with pytest.raises(ValueError, match=f"`{name}` must be a positive integer.*=0"):
        Settings(**{name: 0})


def test_an_epoch_can_be_printed(data, capsys):
    train(bias_model(60, 50), data, Settings(epochs=2))
    assert capsys.readouterr().out == ""
    history = train(bias_model(60, 50), data, SHORT, on_epoch_end=print_epoch)
    line = capsys.readouterr().out
    assert line.startswith("epoch 1: ")
    assert f"validation MSE {history['val_mse'][0]:.4f}" in line


def test_many_models_in_a_row_train_without_a_warning(data, caplog, monkeypatch):
    monkeypatch.setattr(tf.get_logger(), "propagate", True)  # for caplog to get it
    for _ in range(6):
        train(bias_model(60, 50), data, SHORT)
    assert caplog.messages == []


def test_the_hash_tells_splits_apart(data):
    ratings = synthetic_ratings(num_users=60, num_movies=50, num_ratings=2000)
    assert split_hash(prepare(ratings)) == split_hash(data)
    assert split_hash(prepare(ratings, seed=1)) != split_hash(data)


def test_summary():
    columns = ["method", "name", "parameters", "bytes", "training_bytes", "seconds"]
    rows = pd.DataFrame(
        [
            ("plain", "b", 500, 2000, 8000, 2.2, 0.50, 0.6),
            ("plain", "b", 500, 2000, 8000, 4.2, 0.54, 0.8),
            ("biases", "a", 1, 4, 16, 1.0, 0.9, 0.9),
        ],
        columns=[*columns, "mse", "mae"],
    )
    table = summary(rows, by=["method", "name"])
    assert table.index.tolist() == [("plain", "b"), ("biases", "a")]
    assert table.iloc[0].to_dict() == pytest.approx(
        {
            "parameters": 500,
            "weights, kB": 2,
            "training, kB": 8,
            "seconds": 3,
            "MSE": 0.52,
            "MSE ±": 0.02 * 2**0.5,
            "MAE": 0.7,
            "MAE ±": 0.1 * 2**0.5,
        }
    )
    assert np.isnan(table.iloc[1]["MSE ±"])
    single = summary(rows.drop(columns="seconds").drop_duplicates("name"))
    assert list(single) == ["parameters", "weights, kB", "training, kB", "MSE", "MAE"]


def test_results_and_their_rows_have_the_same_summary(data):
    results = [
        measure("b", bias_model(60, 50), data, seed=seed, verbose=False)
        for seed in (0, 1)
    ]
    rows = pd.DataFrame([result.row() for result in results])
    pd.testing.assert_frame_equal(summary(results), summary(rows))
