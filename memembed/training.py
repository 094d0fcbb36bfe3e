"""Train a rating model, evaluate it, and keep what a comparison needs of it."""

import contextlib
import json
import time
from dataclasses import dataclass, field

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

from memembed.sizing import training_bytes


@dataclass(frozen=True)
class Result:
    """One trained model: a row of a comparison.

    Attributes:
        name: what the comparison calls the model.
        parameters: trainable parameters.
        mse: mean squared error on the evaluation split.
        mae: mean absolute error on the evaluation split.
        seconds: wall-clock time of training.
        seed: the seed of the weights and of the order of the batches.
        history: per epoch, a list for each of `mse`, `mae`, `val_mse` and `val_mae`.
        model: the trained model.
    """

    name: str
    parameters: int
    mse: float
    mae: float
    seconds: float
    seed: int
    history: dict = field(repr=False)
    model: keras.Model = field(repr=False)

    @property
    def weight_bytes(self):
        """Bytes of the weights in float32."""
        return self._memory["weights"]

    @property
    def training_bytes(self):
        """Bytes of the weights, their gradients and Adam's two slots."""
        return self._memory["total"]

    @property
    def _memory(self):
        # Adam's slots do not depend on how the parameters are shaped.
        return training_bytes([(self.parameters,)], optimizer="adam")


def train(
    model,
    data,
    *,
    epochs=3,
    batch_size=128,
    learning_rate=1e-3,
    loss="mse",
    verbose=False,
):
    """Fit `model` on the training split with Adam.

    The defaults are the settings of the Keras example. The result is that of
    `model.compile` and `model.fit` with these settings, sooner: see `EpochLoop`.

    Args:
        model: a rating model of `memembed.models`.
        data: `memembed.data.RatingData`.
        epochs: passes over the training split, in a new random order each time.
        batch_size: ratings per step.
        learning_rate: Adam's: a number, or one for each epoch.
        loss: a Keras loss, or its name.
        verbose: whether to print a line per epoch.

    Returns:
        A dict, per epoch, of the training errors `mse` and `mae`, of the validation
        errors `val_mse` and `val_mae`, and of the `learning_rate`.
    """
    loop = _loop_for(model, batch_size, keras.losses.get(loss))
    rates = np.broadcast_to(learning_rate, epochs)
    loop.begin(model)
    callbacks = [
        keras.callbacks.LearningRateScheduler(lambda epoch: float(rates[epoch])),
        Validation(loop.model, data.validation),
    ]
    if verbose:
        callbacks.append(EpochLine())
    with _no_retracing_warning():
        history = loop.fit(
            _epoch_as_batch(data.train),
            epochs=epochs,
            shuffle=False,  # the dataset does that itself
            callbacks=callbacks,
            verbose=0,
        ).history
    model.set_weights(loop.model.get_weights())
    return history


def cosine(learning_rate, epochs):
    """Return a learning rate for each epoch, which falls from this one towards zero.

    Args:
        learning_rate: the rate to begin with.
        epochs: how many epochs there are.

    Returns:
        An array of shape `(epochs,)`: the cosine's half wave at the middle of each.

    Example:
        >>> cosine(0.01, epochs=3).round(4).tolist()
        [0.0093, 0.005, 0.0007]

    References:
        Loshchilov and Hutter, SGDR, 2016, arXiv:1608.03983, section 3.
    """
    middles = (np.arange(epochs) + 0.5) / epochs
    return learning_rate * (1 + np.cos(np.pi * middles)) / 2


def _epoch_as_batch(examples):
    """Return a dataset of one batch: all examples, in a new random order each time.

    It is what `fit` makes of arrays itself, but for one option: TensorFlow's autotuning
    of a dataset waits in a thread, longer each time, and at the end of an epoch that
    thread has to be waited for, for up to as long as the epoch took.
    """
    arrays = tf.nest.map_structure(
        tf.convert_to_tensor, (examples.inputs, examples.rating)
    )

    def shuffled(_):
        rows = tf.random.shuffle(tf.range(len(examples), dtype="int64"))
        return tf.nest.map_structure(lambda array: tf.gather(array, rows), arrays)

    options = tf.data.Options()
    options.autotune.enabled = False
    return tf.data.Dataset.range(1).map(shuffled).with_options(options)


_loops = {}
MOST_LOOPS = 8  # each keeps a model's weights and slots


def _loop_for(model, batch_size, loss):
    """Return a loop for models like this one, compiled already if there was one.

    Compiling takes as long as an epoch or two, and is the same for every seed.
    """
    structure = model.to_json()
    # Two models are alike whatever Keras called their layers.
    for i, layer in enumerate([model, *model.layers]):
        structure = structure.replace(json.dumps(layer.name), f'"#{i}"')
    key = structure, batch_size, loss
    if key not in _loops:
        _loops[key] = EpochLoop(keras.models.clone_model(model), batch_size, loss)
        if len(_loops) > MOST_LOOPS:
            del _loops[next(iter(_loops))]
    return _loops[key]


@contextlib.contextmanager
def _no_retracing_warning():
    """Keep TensorFlow from taking several models in a row for a mistake.

    Each is traced once and called a few times, an epoch at a time. That looks to it
    like one function that is traced again and again.
    """

    def other(record):
        return "triggered tf.function retracing" not in record.getMessage()

    logger = tf.get_logger()
    logger.addFilter(other)
    try:
        yield
    finally:
        logger.removeFilter(other)


class EpochLoop(keras.Model):
    """Wraps a model so that one call of `train_step` trains for a whole epoch.

    A step on 128 ratings is so short that calling it from Python, and handing the
    tables to and from the compiled step, takes longer than the step itself. `fit`
    therefore passes the whole epoch, in its random order, as one batch, and the loop
    over the real batches is compiled with everything in it.

    One thing differs from plain `fit`: on TensorFlow, Keras hands Adam a sparse
    gradient, in which a row that the batch looks up twice has two entries, and Adam
    adds up their squares. Here they are added before they are squared, as on JAX and
    Torch. The trained model's error changes by far less than it does between seeds.
    """

    def __init__(self, model, batch_size, loss):
        super().__init__()
        self.model = model
        self.batch_size = int(batch_size)  # not NumPy's: TensorFlow would not mix them
        self.compile(keras.optimizers.Adam(), loss, jit_compile=True)
        self.optimizer.build(model.trainable_variables)  # else it is traced twice

    def begin(self, model):
        """Start from this model's weights, with an Adam that has seen nothing."""
        self.model.set_weights(model.get_weights())
        for variable in self.optimizer.variables:
            variable.assign(keras.ops.zeros_like(variable))

    def call(self, inputs, training=None):
        return self.model(inputs, training=training)

    def train_step(self, data):
        count = tf.shape(data[1])[0]
        size = tf.minimum(self.batch_size, count)
        steps = -(-count // size)

        def step(i, squared, absolute):
            # The last batch is filled up with ratings that weigh nothing. It could be a
            # shorter one instead, but then all of the step would be compiled twice.
            rows = i * size + tf.range(size)
            known = tf.cast(rows < count, "float32")[:, None]
            inputs, ratings = tf.nest.map_structure(
                lambda array: tf.gather(array, tf.minimum(rows, count - 1)), data
            )
            ratings = tf.reshape(ratings, (-1, 1))
            errors = self._step(inputs, ratings, known / tf.reduce_mean(known))
            squared += tf.reduce_sum(known * errors**2)
            absolute += tf.reduce_sum(known * tf.abs(errors))
            return i + 1, squared, absolute

        _, squared, absolute = tf.while_loop(
            lambda i, *_: i < steps, step, (0, 0.0, 0.0)
        )
        count = tf.cast(count, "float32")
        return {"mse": squared / count, "mae": absolute / count}

    def _step(self, inputs, ratings, weights):
        with tf.GradientTape() as tape:
            predictions = self(inputs, training=True)
            loss = self.compute_loss(inputs, ratings, predictions, weights)
        gradients = tape.gradient(loss, self.trainable_variables)
        # Adam moves every row, whatever the batch looked up: nothing is lost.
        dense = [tf.convert_to_tensor(gradient) for gradient in gradients]
        self.optimizer.apply(dense, self.trainable_variables)
        return predictions - ratings


class Validation(keras.callbacks.Callback):
    """Adds the validation errors to what is known of an epoch.

    `fit` would compile a step for them, which takes longer than the few times that it
    runs.
    """

    def __init__(self, model, examples):
        super().__init__()
        self.trained = model
        self.examples = examples

    def on_epoch_end(self, epoch, logs=None):
        errors = evaluate(self.trained, self.examples)
        logs.update({f"val_{name}": value for name, value in errors.items()})


class EpochLine(keras.callbacks.Callback):
    """Prints one line when an epoch ends."""

    def on_epoch_begin(self, epoch, logs=None):
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        print(
            f"epoch {epoch + 1}/{self.params['epochs']}: "
            f"training MSE {logs['mse']:.4f}, validation MSE {logs['val_mse']:.4f}, "
            f"validation MAE {logs['val_mae']:.4f}, "
            f"{time.perf_counter() - self.start:.1f} s"
        )


def evaluate(model, examples):
    """Return the model's errors on one split of the data.

    Args:
        model: a rating model.
        examples: `memembed.data.Examples`.

    Returns:
        A dict of the mean squared error `mse` and the mean absolute error `mae`.
    """
    predictions = keras.ops.convert_to_numpy(model(examples.inputs, training=False))
    errors = predictions[:, 0].astype("float64") - examples.rating
    return {"mse": np.mean(errors**2), "mae": np.mean(np.abs(errors))}


def experiment(name, build, data, *, seed=0, verbose=True, **settings):
    """Build a model, train it, and evaluate it once on the evaluation split.

    Args:
        name: what the comparison calls the model.
        build: a function without arguments that returns a new rating model.
        data: `memembed.data.RatingData`.
        seed: seed of the initial weights and of the order of the batches.
        verbose: whether to print a line when done.
        **settings: arguments of `train`.

    Returns:
        A `Result`.
    """
    keras.utils.set_random_seed(seed)
    model = build()
    start = time.perf_counter()
    history = train(model, data, **settings)
    seconds = time.perf_counter() - start
    result = Result(
        name=name,
        parameters=model.count_params(),
        seconds=seconds,
        seed=seed,
        history=history,
        model=model,
        **evaluate(model, data.evaluation),
    )
    if verbose:
        print(
            f"{name}: {result.parameters:,} parameters, MSE {result.mse:.4f}, "
            f"MAE {result.mae:.4f}, {seconds:.0f} s"
        )
    return result


def comparison(results):
    """Return a table of the results, a row for each model in their order.

    Results of one name, from several seeds, become one row: their mean, and the
    standard deviation of the errors between the seeds.

    Args:
        results: `Result` objects.

    Returns:
        A DataFrame indexed by name. Its columns are the parameters, the weights and
        the training memory in kB, the seconds of training, MSE and MAE, and where
        there are several seeds, the deviation of each error.
    """
    runs = pd.DataFrame(
        {
            "model": result.name,
            "parameters": result.parameters,
            "weights, kB": result.weight_bytes / 1000,
            "training, kB": result.training_bytes / 1000,
            "seconds": result.seconds,
            "MSE": result.mse,
            "MAE": result.mae,
        }
        for result in results
    ).groupby("model", sort=False)
    table = runs.mean()
    whole = ["parameters", "weights, kB", "training, kB", "seconds"]
    table[whole] = table[whole].round().astype("int64")
    for error in ("MSE", "MAE"):
        deviation = runs[error].std()
        if deviation.notna().any():
            table.insert(table.columns.get_loc(error) + 1, f"{error} ±", deviation)
    return table
