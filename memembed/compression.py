"""Compress a trained rating model to as few bytes as its errors allow."""

import sys

import keras
import numpy as np
from keras import ops

from memembed.allocation import MAX_COLUMNS, allot, equal_shares, sensitivities
from memembed.layers import LowBitEmbedding
from memembed.models import MAX_RATING, dot_product_model, embeddings_of
from memembed.shapes import check_size
from memembed.tables import principal_axes


def compress(model, examples, max_bytes, num_blocks=5, verbose="auto"):
    """Return a rating model whose tables take few bits, to be trained on and packed.

    1. The two tables are turned to their principal axes (`principal_axes`), which
       changes no rating, and leaves little in the last columns.
    2. Users and movies are cut into blocks that have an equal share of the ratings.
    3. Every column of every block, and every block of biases, is given some bits for
       each of its numbers. It begins with none, and one value for all. Then those bits
       are added, one step after another, that lower the error most for what they cost,
       until the budget is spent. What rounding costs is known from the ratings: the
       square of a number's rounding error, times the mean square of the slopes that
       its ratings have in it.

    To get back most of what was lost, train the result for some epochs, at a lower
    learning rate than the first, and `pack` it then.

    Args:
        model: a `dot_product_model`, trained. It is left as it is.
        examples: `memembed.data.Examples`, the training split. Users and movies are
            numbered by popularity, most popular first.
        max_bytes: how many bytes all tables may take when they are packed.
        num_blocks: how many blocks there are of users, and of movies.
        verbose: 1 for a bar of progress, 0 for none. `"auto"`: a bar if standard output
            is a terminal.

    Returns:
        A new `dot_product_model`. Its embeddings and biases are `LowBitEmbedding`
        layers, each with the activity regularizer of the layer that it is made
        from.

    Raises:
        TypeError: `max_bytes` or `num_blocks` is not an integer.
        ValueError: `model` is not a `dot_product_model`, or has embeddings that are not
            finite, or so large that most ratings are 0 or 5, whatever an error does.
            There are no `examples`, or the model does not know their ids. `num_blocks`
            is not positive, or more than there are movies or users with ratings.
            `max_bytes` is less than one column of one bit takes.

    Example:
        >>> import keras
        >>> from memembed.compression import compress, pack
        >>> from memembed.data import prepare, synthetic_ratings
        >>> from memembed.models import dot_product_model
        >>> data = prepare(synthetic_ratings(50, 40, num_ratings=1200))
        >>> users, movies = keras.layers.Embedding(50, 8), keras.layers.Embedding(40, 8)
        >>> model = dot_product_model(users, movies, biases=True)  # and train it
        >>> small = compress(model, data.train, max_bytes=500, num_blocks=2)
        >>> 480 < sum(weight.nbytes for weight in pack(small).get_weights()) <= 500
        True

    References:
        Gersho and Gray, Vector Quantization and Signal Compression, 1992, on the
        allocation of bits; Esser et al., Learned Step Size Quantization, 2019,
        arXiv:1902.08153, on training through the rounding.
    """
    max_bytes = check_size("max_bytes", max_bytes)
    num_blocks = check_size("num_blocks", num_blocks)
    layers = _embeddings(model)
    tables = {name: _rows(name, layer) for name, layer in layers.items()}
    ids = examples.inputs
    counts = {
        name: _counts(name.removesuffix("_bias"), ids, len(table))
        for name, table in tables.items()
    }
    sizes = {name: equal_shares(each, num_blocks) for name, each in counts.items()}
    turned = principal_axes(tables["user"], tables["movie"])
    tables["user"], tables["movie"] = (table[:, :MAX_COLUMNS] for table in turned)
    weights = sensitivities(tables, ids, MAX_RATING)
    bar = keras.utils.Progbar(
        sum(table.size for table in tables.values()),
        verbose=sys.stdout.isatty() if verbose == "auto" else verbose,
        unit_name="number",
    )
    bits = allot(tables, weights, sizes, max_bytes, bar.add)
    made = [
        LowBitEmbedding.from_embedding(
            table[:, : len(bits[name][0])],
            bits[name],
            counts[name],
            sizes[name],
            activity_regularizer=layers[name].activity_regularizer,
        )
        for name, table in tables.items()
    ]
    return dot_product_model(made[0], made[1], biases=made[2:])


def average(models):
    """Return one model whose scores, before the sigmoid, are the mean of several.

    Models that differ in their seed err in different directions, and their mean errs
    less. It has all of their columns, side by side; `compress` keeps the strong axes,
    so that the mean takes no more memory than one of them.

    Args:
        models: models of `dot_product_model`, all with biases or all without.

    Returns:
        A `dot_product_model` of plain tables, with the activity regularizers of the
        first.

    Raises:
        ValueError: there is no model, or they differ in their users, movies or biases,
            or one is not made by `dot_product_model`.

    Example:
        >>> import keras
        >>> from memembed.compression import average
        >>> tables = [keras.layers.Embedding(size, 4) for size in (9, 7, 9, 7, 9, 7)]
        >>> models = [dot_product_model(*tables[i : i + 2]) for i in (0, 2, 4)]
        >>> average(models).get_layer("dot_product").input[0].shape
        (None, 12)

    References:
        Dietterich, Ensemble Methods in Machine Learning, 2000, section 1.
    """
    models = list(models)
    parts = [_embeddings(model) for model in models]
    sizes = [{name: layer.input_dim for name, layer in each.items()} for each in parts]
    if not models or any(each != sizes[0] for each in sizes):
        raise ValueError(
            "`models` must be one or more with the same users, movies and biases. "
            f"Received: {sizes}"
        )
    made = []
    for name, first in parts[0].items():
        tables = [_rows(name, each[name]) for each in parts]
        if name.endswith("bias"):
            table = np.mean(tables, axis=0)
        else:  # each side's share of the mean is the root of 1 / len(models)
            table = np.concatenate(tables, axis=1) / np.sqrt(len(models))
        layer = keras.layers.Embedding(
            *table.shape, activity_regularizer=first.activity_regularizer
        )
        layer.build()
        layer.set_weights([table])
        made.append(layer)
    return dot_product_model(made[0], made[1], biases=made[2:])


def pack(model):
    """Return a model whose embeddings of few bits hold codes only.

    Args:
        model: a functional `keras.Model` with layers `LowBitEmbedding`.

    Returns:
        A new model with the same predictions. Other layers are copied.

    Raises:
        ValueError: as of `LowBitEmbedding.pack`, or there is no such layer.

    Example:
        >>> import keras
        >>> from memembed.compression import pack
        >>> from memembed.layers import LowBitEmbedding
        >>> layer = LowBitEmbedding(1000, 4, bits=2)
        >>> model = keras.Sequential([keras.Input(()), layer])
        >>> model.count_params(), pack(model).count_params()
        (4008, 1008)
    """
    if not any(isinstance(layer, LowBitEmbedding) for layer in model.layers):
        raise ValueError(
            "`model` must have a layer LowBitEmbedding. "
            f"Received: a model of {[type(layer).__name__ for layer in model.layers]}"
        )

    def clone(layer):
        if isinstance(layer, LowBitEmbedding):
            return layer.pack()
        copy = type(layer).from_config(layer.get_config())
        if layer.built:
            copy.build_from_config(layer.get_build_config() or {})
            copy.set_weights(layer.get_weights())
        return copy

    return keras.models.clone_model(model, clone_function=clone)


def _embeddings(model):
    """Return the embedding layers of a `dot_product_model`."""
    layers = embeddings_of(model)
    if "user" not in layers:
        raise ValueError(
            "`model` must be made by `dot_product_model`. "
            f"Received: a model with {list(layers)} alone"
        )
    return layers


def _rows(name, layer):
    """Return all embeddings of a layer, in float64."""
    with keras.StatelessScope():  # or else the layer would keep this call's penalty
        rows = layer(np.arange(layer.input_dim))
    rows = ops.convert_to_numpy(rows).astype("float64")
    if not np.isfinite(rows).all():
        row, column = np.argwhere(~np.isfinite(rows))[0]
        raise ValueError(
            "`model` must have embeddings that are finite. "
            f"Received: {name}[{row}, {column}]={rows[row, column]}"
        )
    return rows


def _counts(side, ids, rows):
    """Return how often each row of a table is looked up."""
    ids = ids[side]
    if not len(ids):
        raise ValueError("`examples` must hold ratings. Received: none")
    if ids.min() < 0 or ids.max() >= rows:
        raise ValueError(
            f"`examples.{side}` must be rows of the model's {rows}. "
            f"Received: rows from {ids.min()} to {ids.max()}"
        )
    return np.bincount(ids, minlength=rows)
