"""Train a rating model, measure it, and keep one row of results."""

import functools
import hashlib
import time
from dataclasses import asdict, dataclass, field, fields
from importlib import import_module

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

from memembed.compression import num_bytes
from memembed.models import input_dims, penalize
from memembed.shapes import check_size
from memembed.sizing import training_bytes


@dataclass(frozen=True)
class Settings:
    """How a model is trained. The defaults are those of the Keras example.

    Attributes:
        learning_rate: Adam's, before the schedule lowers it.
        schedule: `"constant"`, or `"cosine"`: the rate falls from epoch to epoch
            towards 0 along half a cosine wave (Loshchilov and Hutter, SGDR, 2016,
            arXiv:1608.03983, section 3).
        epochs: passes over the training ratings.
        batch_size: ratings per step.
        l2: penalty on the squares of the embeddings that are looked up, see
            `memembed.models.penalize`. 0 leaves the model's penalties as they are.
        huber_delta: errors up to this many stars count by their square, and larger
            errors linearly: the Huber loss. None is the squared error.

    Raises:
        TypeError: `epochs` or `batch_size` is not an integer.
        ValueError: `schedule` is neither of the two, or `epochs` or `batch_size` is not
            positive.

    Example:
        >>> Settings(0.01, "cosine", epochs=3).learning_rates.round(4).tolist()
        [0.0093, 0.005, 0.0007]
    """

    learning_rate: float = 1e-3
    schedule: str = "constant"
    epochs: int = 3
    batch_size: int = 128
    l2: float = 0.0
    huber_delta: float | None = None

    def __post_init__(self):
        check_size("epochs", self.epochs)
        check_size("batch_size", self.batch_size)
        if self.schedule not in ("constant", "cosine"):
            raise ValueError(
                "`schedule` must be 'constant' or 'cosine'. "
                f"Received: schedule={self.schedule!r}"
            )

    @property
    def learning_rates(self):
        """The learning rate of each epoch, an array."""
        if self.schedule == "constant":
            return np.full(self.epochs, self.learning_rate)
        middles = (np.arange(self.epochs) + 0.5) / self.epochs
        return self.learning_rate * (1 + np.cos(np.pi * middles)) / 2


EXAMPLE = Settings()  # those of the Keras example
# Chosen on the validation part of MovieLens 1M, split 0, for two towers of 64 columns.
TWO_TOWER = Settings(5e-3, "cosine", epochs=8, batch_size=512, l2=0.03)


@dataclass(frozen=True)
class Result:
    """One model and its errors: a row of every table, and a point of every figure.

    Attributes:
        name: what the model is called.
        dataset: the name of the ratings.
        split: which rating is in which part: see `split_hash`.
        seed: seed of the initial weights and of the order of the ratings.
        settings: how it was trained, or None.
        parameters: how many numbers its weights hold.
        bytes: bytes of its weights, each in its own dtype.
        training_bytes: bytes of weights, gradients and slots in training with Adam.
        seconds: wall-clock time of training, or None.
        val_mse, val_mae: the errors on the validation part.
        mse, mae: the errors on the evaluation part, or None.
        versions: versions of the packages that the result depends on.
        history: what `train` returned, or None.
        model: the model.
    """

    name: str
    dataset: str
    split: str
    seed: int = 0
    settings: Settings | None = None
    parameters: int = 0
    bytes: int = 0
    training_bytes: int = 0
    seconds: float | None = None
    val_mse: float | None = None
    val_mae: float | None = None
    mse: float | None = None
    mae: float | None = None
    versions: str = ""
    history: dict | None = field(default=None, repr=False)
    model: keras.Model | None = field(default=None, repr=False)

    def row(self):
        """Return a flat dict of `RESULT_COLUMNS`, without history and model."""
        settings = asdict(self.settings) if self.settings else {}
        values = {name: getattr(self, name, None) for name in RESULT_COLUMNS}
        return values | settings


RESULT_COLUMNS = [
    *("name", "dataset", "split", "seed"),
    *(each.name for each in fields(Settings)),
    *("parameters", "bytes", "training_bytes", "seconds"),
    *("val_mse", "val_mae", "mse", "mae", "versions"),
]


def train(model, data, settings=EXAMPLE, *, compiled=None, on_epoch_end=None):
    """Train `model` with Adam, in the order that Keras's `fit` would take.

    The result is that of `model.compile` and `model.fit`, but faster: see
    `compile_epoch`. As in `fit` on TensorFlow after `keras.utils.set_random_seed`, the
    ratings are put in one random order, which is the same in every epoch. If training
    is interrupted, the model keeps what it has learned until then.

    Args:
        model: a functional model from `{"user": ..., "movie": ...}` to ratings, such as
            those of `memembed.models`.
        data: `memembed.data.RatingData`.
        settings: `Settings`.
        compiled: a dict that keeps compiled functions. Pass the same dict to train
            several models that differ only in their weights: compiling takes as long as
            1 or 2 epochs. Default: compile, and keep nothing.
        on_epoch_end: a function that is called with the number of the epoch, from 0,
            and a dict of its errors, such as `print_epoch`.

    Returns:
        A dict of lists with an entry for each epoch. `mse` and `mae` are the training
        errors, `val_mse` and `val_mae` the validation errors.

    Raises:
        ValueError: an id is outside the vocabulary of the model's embedding.
    """
    for part in (data.train, data.validation):
        check_ids(model, part)
    if settings.l2:
        penalize(model, settings.l2)
    order = tf.random.shuffle(tf.range(len(data.train), dtype="int64"), seed=0)
    inputs = {name: tf.gather(ids, order) for name, ids in data.train.inputs.items()}
    ratings = tf.gather(data.train.rating, order)

    compiled = {} if compiled is None else compiled
    batch_size = min(int(settings.batch_size), len(data.train))
    key = model.to_json(), batch_size, settings.huber_delta, len(data.train)
    if key not in compiled:
        copy = keras.models.clone_model(model)
        compiled[key] = compile_epoch(
            copy, inputs, ratings, batch_size, settings.huber_delta
        )
    twin, optimizer, run = compiled[key]
    twin.set_weights(model.get_weights())
    for variable in optimizer.variables:
        variable.assign(keras.ops.zeros_like(variable))
    history = {name: [] for name in ("mse", "mae", "val_mse", "val_mae")}
    try:
        for epoch, rate in enumerate(settings.learning_rates):
            optimizer.learning_rate = rate
            found = run(inputs, ratings)
            errors = {name: float(error) for name, error in found.items()}
            validation = evaluate(twin, data.validation)
            errors |= {f"val_{name}": error for name, error in validation.items()}
            for name, error in errors.items():
                history[name].append(error)
            if on_epoch_end:
                on_epoch_end(epoch, errors)
    finally:  # an interrupted `fit` keeps what it has learned, too
        model.set_weights(twin.get_weights())
    return history


def print_epoch(epoch, errors):
    """Print one line about an epoch, for `train`."""
    print(
        f"epoch {epoch + 1}: training MSE {errors['mse']:.4f}, "
        f"validation MSE {errors['val_mse']:.4f}, MAE {errors['val_mae']:.4f}"
    )


def check_ids(model, examples):
    """Raise a ValueError if an id has no row in an embedding of the model.

    Such an id makes the loss NaN, and after one step all weights that ids share.
    """
    for name, input_dim in input_dims(model):
        ids = examples.inputs[name]
        for id in (ids.min(initial=0), ids.max(initial=0)):
            if not 0 <= id < input_dim:
                raise ValueError(
                    f"`data` must hold ids from 0 to {input_dim - 1} for the input "
                    f"{name!r}, because the model's embedding has {input_dim} ids. "
                    f"Received: the id {id}"
                )


def compile_epoch(model, inputs, ratings, batch_size, huber_delta):
    """Compile a function that trains a model for one epoch.

    A step on 128 ratings is so short that calling it from Python, and passing the
    tables to and from the compiled step, takes longer than the step itself. So the loop
    over the batches is compiled together with the step, and called once an epoch.

    Two things differ from plain `fit`. On TensorFlow, Keras gives Adam a sparse
    gradient, in which a row that the batch looks up twice has two entries, and Adam
    adds up their squares. Here they are added before they are squared, as on JAX and
    Torch. And the last batch of an epoch is filled up with copies of the last rating,
    which have weight 0 in the error, but count in the mean of the penalties. The
    trained model's error changes by far less than it does between seeds.

    Args:
        model: the model to be trained.
        inputs: a dict of all inputs.
        ratings: all ratings.
        batch_size: ratings per step, at most all of them.
        huber_delta: see `Settings`.

    Returns:
        The model, a built Adam, and a function of inputs and ratings of these shapes.
        It trains on them in this order, and returns the errors `mse` and `mae` of the
        predictions during this epoch.
    """
    variables = model.trainable_variables
    optimizer = keras.optimizers.Adam()
    optimizer.build(variables)
    loss_of = (
        keras.losses.MeanSquaredError()
        if huber_delta is None
        else keras.losses.Huber(huber_delta)
    )

    def step(inputs, ratings, weights):
        with tf.GradientTape() as tape:
            predictions = model(inputs, training=True)
            loss = loss_of(ratings, predictions, weights) + sum(model.losses)
        # Adam updates every row, even if the batch does not look it up: a dense
        # gradient loses nothing.
        gradients = map(tf.convert_to_tensor, tape.gradient(loss, variables))
        optimizer.apply(list(gradients), variables)
        return predictions - ratings

    count = len(ratings)

    @tf.function(jit_compile=True)
    def run(inputs, ratings):
        def next_batch(i, squared, absolute):
            # The last batch is filled up with ratings of weight 0. For a shorter batch,
            # the whole step would have to be compiled again.
            rows = i * batch_size + tf.range(batch_size)
            known = tf.cast(rows < count, "float32")[:, None]
            rows = tf.minimum(rows, count - 1)
            errors = step(
                {name: tf.gather(ids, rows) for name, ids in inputs.items()},
                tf.gather(ratings, rows)[:, None],
                known / tf.reduce_mean(known),
            )
            squared += tf.reduce_sum(known * errors**2)
            absolute += tf.reduce_sum(known * tf.abs(errors))
            return i + 1, squared, absolute

        _, squared, absolute = tf.while_loop(
            lambda i, *_: i < -(-count // batch_size), next_batch, (0, 0.0, 0.0)
        )
        return {"mse": squared / count, "mae": absolute / count}

    # Traced here, or TensorFlow would warn that many such functions are retraced.
    return model, optimizer, run.get_concrete_function(inputs, ratings)


def evaluate(model, examples):
    """Return the model's errors on one part of the ratings.

    Args:
        model: a rating model.
        examples: `memembed.data.Examples`.

    Returns:
        A dict of the mean squared error `mse` and the mean absolute error `mae`.
    """
    predictions = keras.ops.convert_to_numpy(model(examples.inputs, training=False))
    errors = predictions[:, 0].astype("float64") - examples.rating
    return {"mse": float(np.mean(errors**2)), "mae": float(np.mean(np.abs(errors)))}


def experiment(
    name, build, data, settings=EXAMPLE, *, seed=0, compiled=None, **measured
):
    """Build a model, train it and measure it.

    Args:
        name: what the model is called.
        build: a function without arguments that returns a new rating model.
        data: `memembed.data.RatingData`.
        settings: `Settings`.
        seed: seed of the initial weights and of the order of the ratings.
        compiled: see `train`.
        **measured: the arguments `evaluation` and `verbose` of `measure`.

    Returns:
        A `Result`.
    """
    keras.utils.set_random_seed(seed)
    model = build()
    start = time.perf_counter()
    history = train(model, data, settings, compiled=compiled)
    known = {"settings": settings, "seed": seed, "history": history}
    known["seconds"] = round(time.perf_counter() - start, 2)
    return measure(name, model, data, **known, **measured)


def measure(name, model, data, *, evaluation=True, verbose=True, **known):
    """Measure an existing model.

    Args:
        name: what the model is called.
        model: a rating model.
        data: `memembed.data.RatingData`.
        evaluation: whether to measure the errors on the evaluation part, too.
        verbose: whether to print the result.
        **known: fields of `Result` that describe its training.

    Returns:
        A `Result`.
    """
    validation = evaluate(model, data.validation)
    errors = evaluate(model, data.evaluation) if evaluation else {}
    shapes = [weight.shape for weight in model.trainable_weights]
    result = Result(
        name=name,
        dataset=data.dataset,
        split=split_hash(data),
        parameters=model.count_params(),
        bytes=num_bytes(model),
        training_bytes=training_bytes(shapes)["total"],
        versions=versions("memembed", "keras", "tensorflow", "numpy"),
        model=model,
        **{f"val_{error}": value for error, value in validation.items()},
        **errors,
        **known,
    )
    if verbose:
        shown, part = (errors, "") if evaluation else (validation, "validation ")
        print(
            f"{name}: {result.bytes:,} bytes, {part}MSE {shown['mse']:.4f}, "
            f"MAE {shown['mae']:.4f}"
            + (f", {result.seconds:.0f} s" if result.seconds else "")
        )
    return result


def summary(rows, by="name"):
    """Average the results of each model over its seeds.

    Args:
        rows: `Result` objects, or a DataFrame of stored rows.
        by: the columns that identify a model.

    Returns:
        A DataFrame indexed by them, the models in their order. Its columns are the
        means over the seeds: parameters, kilobytes of the weights and of training,
        seconds, MSE and MAE; and where there are several seeds, the standard deviation
        of each error. Columns that the rows do not have are left out.
    """
    models = as_frame(rows).groupby(by, sort=False)
    table = pd.DataFrame(index=models.size().index)
    for column, title, unit in (
        ("parameters", "parameters", 1),
        ("bytes", "weights, kB", 1000),
        ("training_bytes", "training, kB", 1000),
        ("seconds", "seconds", 1),
    ):
        if column in models.obj and models.obj[column].notna().all():
            table[title] = (models[column].mean() / unit).round().astype("int64")
    for error in ("mse", "mae"):
        table[error.upper()] = models[error].mean()
        deviation = models[error].std()
        if deviation.notna().any():
            table[f"{error.upper()} ±"] = deviation
    return table


def as_frame(rows):
    """Return rows, `Result` objects or a DataFrame, as a DataFrame."""
    if isinstance(rows, pd.DataFrame):
        return rows
    return pd.DataFrame([result.row() for result in rows], columns=RESULT_COLUMNS)


@functools.lru_cache(maxsize=4)
def split_hash(data):
    """Return a hash of which rating is in which part, and of the order of the ids.

    Args:
        data: `memembed.data.RatingData`.
    """
    found = hashlib.sha256()
    for part in (data.train, data.validation, data.evaluation):
        found.update(np.ascontiguousarray(part.user, "<i4"))
        found.update(np.ascontiguousarray(part.movie, "<i4"))
        found.update(np.ascontiguousarray(part.rating, "<f4"))
    return found.hexdigest()[:16]


def versions(*packages):
    """Name the installed versions of these packages, in one line."""
    # Not the metadata: a build for CPUs alone is called tensorflow-cpu there.
    found = {package: import_module(package).__version__ for package in packages}
    return ", ".join(f"{package} {version}" for package, version in found.items())
