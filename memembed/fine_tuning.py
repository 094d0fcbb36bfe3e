"""Train a model, compressed or not, with settings chosen on validation data."""

import sys
from dataclasses import dataclass
from itertools import product

import keras
import numpy as np
from keras import ops, tree

from memembed.compression import compress, pack
from memembed.epochs import epoch_function
from memembed.examples import batches
from memembed.models import LookupL2
from memembed.progress import is_watched
from memembed.rebuild import embeddings_in, layers_in, rebuild
from memembed.shapes import check_size

FIRST_RATE = 1 / 3  # of the learning rate that the model was trained with
MIN_PENALTY = 0.01  # of the loss on the validation data, before training
FACTOR = 3  # between two rates, or two penalties, that are tried
FIRST = (0, 2)  # where the search starts, see `_Search`
NEAR = (-1, 0), (1, 0), (0, -1), (0, 1)  # the steps it takes from there
FAR = (0, -3), (0, 3)  # the steps if none of these is better
PLACES = set(product(range(-4, 5), range(9)))  # the places that it may try
COMPILED = "loss_weights", "run_eagerly", "steps_per_execution", "jit_compile"
NOISE = (
    keras.layers.AlphaDropout,
    keras.layers.Dropout,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
)
PATIENCE = 2  # epochs without a lower loss, after which training stops


def compress_and_train(
    model,
    examples,
    validation_data,
    max_bytes,
    score=None,
    batch_size=1024,
    epochs=5,
    verbose="auto",
):
    """Compress a model, train it through the rounding, and pack it.

    `compress` makes the model small, `fine_tune` recovers lost accuracy, and `pack`
    keeps only the codes. No setting needs to be found by hand. On the validation data,
    the result is never worse than without training.

    Args:
        model: a functional or sequential `keras.Model`, trained and compiled. Its
            embedding layers of at least 32 ids are compressed. It is not changed.
        examples: training data with labels, as `fit` takes it: a tuple of inputs,
            labels and perhaps sample weights, or a dataset.
        validation_data: the same, with other examples. All settings are chosen on it.
        max_bytes: how many bytes the result may take: all of its weights, including
            those of other layers.
        score: a function of a model, whose value is minimised. Default: the loss on the
            validation data.
        batch_size: examples per step, if they are arrays.
        epochs: how long each setting trains. It stops earlier if the loss has not
            fallen for two epochs.
        verbose: 1 to show progress and each setting that is tried, 0 to show nothing.
            `"auto"`: 1 in a terminal, and in a notebook that is open in JupyterLab or
            Colab.

    Returns:
        A packed model of at most `max_bytes`.

    Raises:
        TypeError: as in `compress`.
        ValueError: as in `compress` or `fine_tune`.

    Example:
        >>> import keras
        >>> import numpy as np
        >>> from memembed import compress_and_train
        >>> x = np.arange(3000) % 200
        >>> data, more = (x[:2000], x[:2000] / 200), (x[2000:], x[2000:] / 200)
        >>> model = keras.Sequential(
        ...     [keras.Input(()), keras.layers.Embedding(200, 8), keras.layers.Dense(1)]
        ... )
        >>> model.compile("adam", "mse")  # and train it
        >>> small = compress_and_train(model, data, more, max_bytes=500, epochs=1)
        >>> sum(weight.nbytes for weight in small.get_weights()) <= 500
        True

    References:
        Esser et al., Learned Step Size Quantization, 2019, arXiv:1902.08153, on
        training through the rounding; here the steps are not trained.
    """
    _check(model, examples, validation_data, score, batch_size, epochs)
    small = compress(model, examples, max_bytes, batch_size=batch_size, verbose=verbose)
    _compile(small, model)
    options = {"score": score, "batch_size": batch_size, "epochs": epochs}
    return pack(fine_tune(small, examples, validation_data, **options, verbose=verbose))


def fine_tune(
    model,
    examples,
    validation_data,
    score=None,
    batch_size=1024,
    epochs=5,
    verbose="auto",
):
    """Train a model further, with settings that are chosen on validation data.

    The settings are a learning rate, which falls to 0 along half a cosine wave, and the
    strength of a penalty on the squares of the embeddings that are looked up. In
    training, the penalty takes the place of an `activity_regularizer` of the
    embeddings; the returned model has its own again.

    The search starts with a third of the learning rate that `model` is compiled with,
    and a penalty of 3% of the loss. It then tries three times and a third of each, as
    long as the loss on the validation data falls. Then it tries a penalty 27 times as
    strong or as weak, and goes on from there if that helps. It can also try no penalty.
    If `model` has dropout or noise, the first setting is tried with and without it:
    dropout of columns that `compress` has turned has a stronger effect than before.

    The loss is measured after every epoch, and the model with the lowest loss is
    returned. If no training lowers the loss, that is the model before training.

    Args:
        model: a functional or sequential `keras.Model` with embedding layers, compiled.
            It is not changed.
        examples: training data with labels, as `fit` takes it: a tuple of inputs,
            labels and perhaps sample weights, or a dataset.
        validation_data: the same, with other examples.
        score: a function of a model, whose value is minimised. Default: the loss on the
            validation data.
        batch_size: examples per step, if they are arrays.
        epochs: how long each setting trains. It stops earlier if the loss has not
            fallen for two epochs.
        verbose: 1 to print each setting that is tried, 0 to print nothing. `"auto"`: 1
            in a terminal, and in a notebook that is open in JupyterLab or Colab.

    Returns:
        A new model, compiled as `model` is, without its metrics, and with the learning
        rate that was best. From there, `compress_and_train` has fewer rates to try.

    Raises:
        TypeError: `examples` or `validation_data` can be iterated only once, or `score`
            cannot be called.
        ValueError: `model` cannot be rebuilt, as in `compress`; it is not compiled, or
            with parts that Keras cannot make from their config; labels are missing;
            there is neither a compiled loss nor a `score`; or the loss is not finite.

    Example:
        >>> import keras
        >>> import numpy as np
        >>> from memembed import fine_tune
        >>> x = np.arange(300) % 20
        >>> model = keras.Sequential([keras.Input(()), keras.layers.Embedding(20, 1)])
        >>> model.compile("adam", "mse")
        >>> better = fine_tune(model, (x, x / 20), (x, x / 20), epochs=3)
        >>> errors = [each.evaluate(x, x / 20, verbose=0) for each in (better, model)]
        >>> errors[0] < errors[1]
        True
    """
    _check(model, examples, validation_data, score, batch_size, epochs)
    show = is_watched(sys.stdout) if verbose == "auto" else verbose
    say = print if show else lambda text: None
    options = examples, validation_data, score, batch_size, epochs
    trainers = [_Trainer(model, *options)]
    say(f"{trainers[0].untrained}")
    if _noises(model):
        trainers.append(_Trainer(model, *options, noise=False))
    searches = [_Search(trainer, say) for trainer in trainers]
    best = min(searches, key=lambda search: search.loss(FIRST)).run()
    if not any(trainer.is_finite for trainer in trainers):
        raise ValueError(
            "`examples` must give a finite loss, with each learning rate. Received: a "
            "loss that is not finite in every training. Is a label NaN?"
        )
    twin = rebuild(model, lambda layer: None)
    twin.set_weights(best.weights)
    _compile(twin, model)
    if best.epochs:
        twin.optimizer.learning_rate = best.rate
    return twin


@dataclass(frozen=True)
class _State:
    """The result of a training: the weights, and their loss."""

    loss: float
    weights: list
    rate: float = 0.0
    l2: float = 0.0
    epochs: int = 0

    def __str__(self):
        if not self.epochs:
            return f"not trained: loss {self.loss:.4f}"
        return (
            f"learning rate {self.rate:.2g}, l2 {self.l2:.2g}: "
            f"loss {self.loss:.4f} after {self.epochs} epochs"
        )


class _Search:
    """A search for the setting whose training reaches the lowest loss.

    A place is a pair of integers: how often the first learning rate is multiplied by
    FACTOR; and the penalty: 0 for none, 1 for the smallest, and so on.
    """

    def __init__(self, trainer, say):
        self.trainer, self.say = trainer, say
        self.losses, self.best = {}, trainer.untrained

    def loss(self, place):
        """Return the loss at a place, after training there if it is new."""
        if place not in self.losses:
            trainer, (power, level) = self.trainer, place
            l2 = trainer.least * FACTOR ** (level - 1) if level else 0.0
            state = trainer.train(trainer.rate * FACTOR**power, l2)
            self.say(f"{state}")
            self.losses[place] = state.loss
            self.best = min(self.best, state, key=lambda each: each.loss)
        return self.losses[place]

    def run(self):
        """Move to better places while there are any, and return the best state."""
        before, place = None, FIRST
        while place != before:
            before, place = place, self._better(place, NEAR)
            if place == before:
                place = self._better(place, FAR)
        return self.best

    def _better(self, place, steps):
        """Return the best place at most one of these steps away."""
        power, level = place
        around = [place, *((power + i, level + j) for i, j in steps)]
        return min((each for each in around if each in PLACES), key=self.loss)


class _Penalty(LookupL2):
    """A penalty whose strength can change without compiling the model again."""

    def __init__(self, l2=0.0):
        self.l2 = keras.Variable(l2, trainable=False, autocast=False)

    def get_config(self):
        return {"l2": float(ops.convert_to_numpy(self.l2))}


class _Trainer:
    """Trains a copy of a model several times, each time with new settings.

    If `noise` is False, dropout and noise are switched off.
    """

    def __init__(
        self,
        model,
        examples,
        validation_data,
        score,
        batch_size,
        epochs,
        noise=True,
    ):
        self.model, self.batch_size, self.epochs = model, batch_size, epochs
        self.is_finite = False  # whether an epoch had a finite loss
        self.examples = examples if isinstance(examples, tuple) else (examples,)
        self.penalty = _Penalty()
        self.copy = self._copy()
        for layer, name in () if noise else _noises(self.copy):
            setattr(layer, name, 0)
        validation_loss = loss_function(self.copy, validation_data, batch_size)
        self.score = (lambda: score(self.copy)) if score else validation_loss
        self.untrained = _State(self._score(), model.get_weights())
        inputs, *_ = next(batches(validation_data, batch_size, "validation_data"))
        squares = self._losses(inputs, 1.0) - self._losses(inputs, 0.0)
        loss = validation_loss()
        if not np.isfinite(loss):
            raise ValueError(
                "`validation_data` must give a finite loss before training. Received: "
                f"a loss of {loss}. Is a label NaN, or an id outside its vocabulary?"
            )
        self.run_epoch = epoch_function(self.copy, self.examples, batch_size)
        # If `add_loss` gives all of the loss, that without penalties is 0.
        scale = abs(loss) or abs(self.untrained.loss)
        self.least = MIN_PENALTY * (scale if np.isfinite(scale) else 1) / (squares or 1)
        self.rate = FIRST_RATE * _learning_rate(model.optimizer)

    def train(self, rate, l2):
        """Train with these settings, and return the best state."""
        copy, best = self.copy, None
        copy.set_weights(self.untrained.weights)
        fresh = _fresh(copy.optimizer)
        fresh.build(copy.trainable_variables)
        variables = zip(copy.optimizer.variables, fresh.variables, strict=True)
        for variable, value in variables:
            variable.assign(value)
        self._set(l2)
        for epoch in range(self.epochs):
            wave = np.cos(np.pi * (epoch + 0.5) / self.epochs)
            copy.optimizer.learning_rate = rate * (1 + wave) / 2
            self.is_finite |= bool(np.isfinite(self.run_epoch()))
            loss = self._score()
            if best is None or loss < best.loss:
                best = _State(loss, copy.get_weights(), rate, l2, epoch + 1)
            elif epoch + 1 - best.epochs == PATIENCE:
                break
        return best

    def _copy(self):
        """Return a compiled copy whose penalty can be set."""
        copy = rebuild(self.model, lambda layer: None)
        for layer in embeddings_in(copy):
            layer.activity_regularizer = self.penalty
        _compile(copy, self.model)
        copy.optimizer.build(copy.trainable_variables)
        return copy

    def _set(self, l2):
        self.penalty.l2.assign(l2)
        # On JAX, the penalty is a constant of the traced function: trace it again.
        if keras.backend.backend() == "jax":
            self.copy.train_function = None

    def _losses(self, inputs, l2):
        """Return the penalties that a batch adds to the loss."""
        self._set(l2)
        self.copy(inputs, training=False)
        return float(ops.convert_to_numpy(sum(self.copy.losses)))

    def _score(self):
        loss = float(self.score())
        return loss if np.isfinite(loss) else np.inf


def loss_function(model, examples, batch_size):
    """Return a function without arguments that returns the mean loss of a model.

    The loss is that of all examples, without penalties. On TensorFlow, it is computed
    in a graph, several times as fast.

    Args:
        model: a compiled `keras.Model`. Its weights may change between calls.
        examples: what `keras.Model.evaluate` takes.
        batch_size: examples per batch, if they are arrays.
    """

    def loss_of(inputs, labels, weights):
        outputs = model(inputs, training=False)
        loss = model.compute_loss(inputs, labels, outputs, weights, training=False)
        return loss - sum(model.losses)

    if keras.backend.backend() == "tensorflow" and not model.run_eagerly:
        import tensorflow as tf

        loss_of = tf.function(loss_of, reduce_retracing=True, autograph=False)

    def mean_loss():
        total = count = 0
        for batch in batches(examples, batch_size):
            size = len(tree.flatten(batch[0])[0])
            total += size * float(ops.convert_to_numpy(loss_of(*batch)))
            count += size
        return total / count

    return mean_loss


def _noises(model):
    """Return the layers of dropout or noise, each with the name of its strength."""
    return [
        (layer, name)
        for layer in layers_in(model)
        for name in ("rate", "stddev")
        if isinstance(layer, NOISE) and getattr(layer, name, 0)
    ]


def _check(model, examples, validation_data, score, batch_size, epochs):
    check_size("batch_size", batch_size)
    check_size("epochs", epochs)
    if not model.compiled:
        raise ValueError(
            "`model` must be compiled, so that its loss and its learning rate are "
            f"known. Received: {model!r}, not compiled"
        )
    try:
        _fresh(model.optimizer)
        model.get_compile_config()
    except (NotImplementedError, TypeError) as error:
        raise ValueError(
            "`model` must be compiled with an optimizer, a loss and metrics that Keras "
            f"can make again from their config. Received: one that raises: {error}"
        ) from error
    for name, data in (("examples", examples), ("validation_data", validation_data)):
        _, labels, _ = next(batches(data, 1, name))
        if labels is None and getattr(model, "loss", None) is not None:
            raise ValueError(
                f"`{name}` must hold labels: a tuple of inputs and labels, or a "
                "dataset of such tuples. Received: inputs alone"
            )
    if score is not None and not callable(score):
        raise TypeError(
            f"`score` must be a function of a model. Received: score={score!r}"
        )
    if score is None and getattr(model, "loss", None) is None:
        raise ValueError(
            "`score` must be given for a model that is compiled without a loss: only "
            "a compiled loss can be measured without penalties. Received: None"
        )


def _learning_rate(optimizer):
    """Return an optimizer's learning rate: of a schedule, the highest."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # of a scaled loss
    rate = optimizer.get_config()["learning_rate"]
    if isinstance(rate, dict):
        schedule = keras.optimizers.schedules.deserialize(rate)
        steps = 0, *(10**i for i in range(6))  # it may begin at 0, and rise
        return max(float(ops.convert_to_numpy(schedule(step))) for step in steps)
    return float(ops.convert_to_numpy(rate))


def _fresh(optimizer):
    """Return an optimizer like another, with a learning rate that can be set."""
    config = optimizer.get_config()
    if "inner_optimizer" in config:
        inner = _fresh(optimizer.inner_optimizer)
        config["inner_optimizer"] = keras.optimizers.serialize(inner)
    else:
        config["learning_rate"] = _learning_rate(optimizer)
    return type(optimizer).from_config(config)


def _compile(model, like):
    """Compile a model like another, with a new optimizer of the same kind."""
    config = like.get_compile_config()
    options = {name: config[name] for name in COMPILED if name in config}
    model.compile(_fresh(like.optimizer), like.loss, **options)
