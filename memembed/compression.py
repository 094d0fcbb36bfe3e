"""Compress the embeddings of a trained model to a budget of bytes."""

import sys
from itertools import product

import keras
import numpy as np
from keras import ops

from memembed.allocation import Layout, allocate, equal_shares, layouts_in
from memembed.examples import batches, count_batches
from memembed.layers import LowBitEmbedding
from memembed.models import embeddings_of
from memembed.progress import is_watched
from memembed.rebuild import check_model, embeddings_in, layers_in, rebuild
from memembed.sensitivity import measure
from memembed.shapes import MAX_STORED_BLOCKS, check_size
from memembed.tables import (
    as_weights,
    check_table,
    chunks,
    principal_axes,
    turned,
    weighted_triangle,
)

MIN_IDS = 32  # of a table to compress: its offsets and scales take as much as 2 ids
# Up to here, several numbers of blocks are also tried for ids in order of popularity:
# in small tables, the offsets and scales of a block take a large part of the bytes.
SMALL = 1000


def compress(model, examples, max_bytes, num_blocks=5, batch_size=1024, verbose="auto"):
    """Return a model whose embeddings take few bits, to be trained and packed.

    1. The examples are passed through the model, to measure how much its outputs depend
       on each id and each column of its embeddings.
    2. Each table is turned: it is multiplied by a matrix that makes its last columns
       small. If two tables are used only in a dot product with each other, both are
       turned and nothing else changes. Otherwise, a small matrix that turns the
       embeddings back is stored with the table, if that lowers the error.
    3. The ids are cut into blocks in which errors have an equal effect on the outputs.
       If the ids are not in order of popularity, the block of each id is stored.
    4. Every column of every block gets a number of bits. It starts with 0 bits, that
       is, one value for all ids. Then bits are added step by step, each time those that
       lower the error most for their cost, until the budget is spent or no further bit
       lowers the error.

    Nothing is trained. To recover most of the lost accuracy, train the result for some
    epochs with `fit`, at a lower learning rate than before, and then `pack` it.

    Args:
        model: a functional or sequential `keras.Model`, trained. It may have nested
            models, shared layers and any number of inputs and outputs. Its layers
            `keras.layers.Embedding`, or of memembed, of at least 32 ids are compressed;
            all other layers are copied. `model` is not changed.
        examples: training data, as `fit` takes it: arrays of the inputs, in the
            structure that the model takes, or a tuple of them, labels and sample
            weights; or a `tf.data.Dataset`, `keras.utils.PyDataset` or Torch
            `DataLoader`. Labels are not used.
        max_bytes: how many bytes the packed model may take: all of its weights,
            including those of other layers.
        num_blocks: how many blocks the ids of each table are cut into, at most. From 1
            to 16.
        batch_size: how many examples are passed through the model at a time, if they
            are arrays.
        verbose: 1 for progress bars, 0 for none. `"auto"`: bars in a terminal, and
            in a notebook that is open in JupyterLab or Colab.

    Returns:
        A new model, to be compiled and trained. `LowBitEmbedding` layers replace the
        embeddings, with the same names, regularizers and masks.

    Raises:
        TypeError: `max_bytes` or `num_blocks` is not an integer, or `examples` can be
            iterated only once.
        ValueError: `model` is subclassed, or a layer cannot be made from its config, or
            there is no embedding layer to compress, or Keras has quantised one, or one
            is not finite. `examples` is empty, or holds ids that the model does not
            know. The outputs do not depend on the embeddings. `max_bytes` is not less
            than the size of the model, or too small for one bit for each id.

    Example:
        >>> import keras
        >>> import numpy as np
        >>> from memembed import compress, pack
        >>> x = np.arange(1000) % 200
        >>> model = keras.Sequential(
        ...     [keras.Input(()), keras.layers.Embedding(200, 8), keras.layers.Dense(1)]
        ... )  # and train it
        >>> small = compress(model, x, max_bytes=500)
        >>> sum(weight.nbytes for weight in pack(small).get_weights()) <= 500
        True

    References:
        Gersho and Gray, Vector Quantization and Signal Compression, 1992, on the
        allocation of bits.
    """
    max_bytes = check_size("max_bytes", max_bytes)
    num_blocks = check_size("num_blocks", num_blocks)
    batch_size = check_size("batch_size", batch_size)
    if num_blocks > MAX_STORED_BLOCKS:
        raise ValueError(
            f"`num_blocks` must be at most {MAX_STORED_BLOCKS}. "
            f"Received: num_blocks={num_blocks}"
        )
    check_model(model)
    layers = [layer for layer in embeddings_in(model) if layer.input_dim >= MIN_IDS]
    if not layers:
        raise ValueError(
            f"`model` must have an embedding layer of at least {MIN_IDS} ids. (A "
            "subclass of `keras.layers.Embedding` with its own `call` is none.) "
            f"Received: a model of {[layer.name for layer in model.layers]}"
        )
    _check_not_shared(model, layers)
    tables = {layer: _table(layer) for layer in layers}
    size = num_bytes(model)
    if max_bytes >= size:
        raise ValueError(
            f"`max_bytes` must be less than {size}, the bytes of `model`. "
            f"Received: max_bytes={max_bytes}"
        )
    show = is_watched(sys.stdout) if verbose == "auto" else verbose
    bar = _bar("Measuring slopes", count_batches(examples, batch_size), "batch", show)
    found, pairs = measure(model, layers, batches(examples, batch_size), bar)
    # A turned table would no longer satisfy a constraint.
    pairs = [each for each in pairs if not any(x.embeddings_constraint for x in each)]
    alone = [layer for layer in layers if not any(layer in pair for pair in pairs)]
    groups = [_paired(*pair, tables, found, num_blocks) for pair in pairs]
    groups += [
        _alone(layer, tables[layer], found[layer], num_blocks) for layer in alone
    ]
    others = size - sum(map(num_bytes, layers))
    numbers = sum(layout.table.size for layout in layouts_in(groups))
    bar = _bar("Choosing bits", numbers, "number", show)
    plan = allocate(groups, max_bytes, others, bar)
    del tables, groups  # millions of rows; `plan` has the chosen ones
    places = {layer: _low_bit(layer, *plan[layer]) for layer in layers}
    return rebuild(model, places.get)


def _check_not_shared(model, layers):
    owners = {id(weight): layer for layer in layers for weight in layer.variables}
    for layer in layers_in(model):
        for weight in layer.variables:
            owner = owners.get(id(weight), layer)
            if owner is not layer:
                raise ValueError(
                    "`model` must have each table in one layer alone. It can be used "
                    f"in several places. Received: the table of layer {owner.name!r} "
                    f"is also a weight of layer {layer.name!r}"
                )


def _bar(title, target, unit, show):
    """Return a function that advances a progress bar."""
    if show:
        print(title)
    bar = keras.utils.Progbar(target, verbose=int(bool(show)), unit_name=unit)
    return bar.add


def num_bytes(model):
    """Return how many bytes the weights of a model or a layer take."""
    return sum(weight.nbytes for weight in model.get_weights())


def average(models):
    """Return one model whose scores, before the sigmoid, are the mean of several.

    Models trained from different seeds make different errors, and the error of their
    mean is smaller. The mean has all columns of all models; `compress` keeps the strong
    axes, so that the compressed mean takes no more memory than one compressed model.

    Args:
        models: models made by `dot_product_model` or `two_tower_model`, all of one
            kind, all with biases or all without.

    Returns:
        A model of the same kind, with plain tables. All else, such as the activity
        regularizers of the tables, is that of the first model.

    Raises:
        ValueError: `models` is empty, or the models differ in their users, movies or
            biases, or one is of another kind.

    Example:
        >>> import keras
        >>> from memembed.compression import average
        >>> from memembed.models import dot_product_model
        >>> tables = [keras.layers.Embedding(size, 4) for size in (9, 7, 9, 7, 9, 7)]
        >>> models = [dot_product_model(*tables[i : i + 2]) for i in (0, 2, 4)]
        >>> average(models).get_layer("dot_product").input[0].shape
        (None, 12)

    References:
        Dietterich, Ensemble Methods in Machine Learning, 2000, section 1.
    """
    models = list(models)
    parts = [embeddings_of(model) for model in models]
    sizes = [{name: layer.input_dim for name, layer in each.items()} for each in parts]
    kinds = {model.name for model in models}
    if len(kinds) != 1 or "mlp_model" in kinds or any(x != sizes[0] for x in sizes):
        raise ValueError(
            "`models` must be one or more models of dot products, with the same users, "
            f"movies and biases. Received: {sorted(kinds)} with {sizes}"
        )
    places = {}
    for name, first in parts[0].items():
        tables = [_table(each[name]) for each in parts]
        if name.endswith("bias"):
            table = np.mean(tables, axis=0)
        else:  # in a product, both roots make the factor 1 / len(models)
            table = np.concatenate(tables, axis=1) / np.sqrt(len(models))
        layer = keras.layers.Embedding(
            *table.shape,
            activity_regularizer=first.activity_regularizer,
            name=first.name,
        )
        layer.build()
        layer.set_weights([table])
        places[first] = layer
    return rebuild(models[0], places.get)


def pack(model):
    """Return a model whose low-bit embeddings hold only codes.

    Args:
        model: a functional or sequential `keras.Model` with `LowBitEmbedding` layers,
            also in nested models.

    Returns:
        A new model with the same predictions. Other layers are copied.

    Raises:
        ValueError: as in `LowBitEmbedding.pack`, or there is no such layer, or `model`
            cannot be rebuilt, as in `compress`.

    Example:
        >>> import keras
        >>> from memembed.compression import pack
        >>> from memembed.layers import LowBitEmbedding
        >>> layer = LowBitEmbedding(1000, 4, bits=2)
        >>> model = keras.Sequential([keras.Input(()), layer])
        >>> model.count_params(), pack(model).count_params()
        (4008, 1008)
    """
    packed = []

    def replace(layer):
        if not isinstance(layer, LowBitEmbedding):
            return None
        packed.append(layer.name)
        return layer.pack()

    twin = rebuild(model, replace)
    if not packed:
        raise ValueError(
            "`model` must have a layer LowBitEmbedding. "
            f"Received: a model of {[layer.name for layer in model.layers]}"
        )
    return twin


def _table(layer):
    """Return all embeddings of a layer, an array."""
    if getattr(layer, "quantization_mode", None) is not None:
        raise ValueError(
            "`model` must have embeddings that are not quantised: compress it before "
            f"you call its `quantize`. Received: layer {layer.name!r} in "
            f"{layer.quantization_mode!r}"
        )
    # Not through `__call__`, which would keep this call's penalty in the layer.
    table = np.empty((layer.input_dim, layer.output_dim), "float32")
    for c in chunks(layer.input_dim):
        rows = layer.call(np.arange(c.start, min(c.stop, layer.input_dim)))
        table[c] = ops.convert_to_numpy(rows)
    try:
        return check_table(table)
    except ValueError as error:
        raise ValueError(
            f"`model` must have finite embeddings. Layer {layer.name!r}: {error}"
        ) from error


def _paired(one, other, tables, found, num_blocks):
    """Return the ways to hold two tables that are used only in their products."""
    triangles = [
        weighted_triangle(tables[x], as_weights(found[x].weights, tables[x]))
        for x in (one, other)
    ]
    turn, back = principal_axes(*triangles)
    firsts = _layouts(turned(tables[one], turn), back, found[one], num_blocks)
    seconds = _layouts(turned(tables[other], back), turn, found[other], num_blocks)
    return [{one: first, other: second} for first, second in product(firsts, seconds)]


def _alone(layer, table, sensitivity, num_blocks):
    """Return the ways to hold a table without a pair, also with a projection."""
    columns = table.shape[1]
    ways = _layouts(table, np.eye(columns), sensitivity, num_blocks, all_columns=True)
    if columns > 1 and layer.embeddings_constraint is None:
        # A square root of `gram`, in which every direction counts at least a little.
        squares, directions = np.linalg.eigh(sensitivity.gram)
        counts = (
            np.sqrt(np.maximum(squares, squares.max() * 1e-4))[:, None] * directions.T
        )
        triangle = weighted_triangle(table, as_weights(sensitivity.weights, table))
        turn, back = principal_axes(triangle, counts)
        lengths = np.linalg.norm(back, axis=0)
        if lengths.all():  # not a table of zeros
            turn, back = turn * lengths, back / lengths
            ways += _layouts(
                turned(table, turn), back, sensitivity, num_blocks, projection=back.T
            )
    return [{layer: way} for way in ways]


def _layouts(table, back, sensitivity, num_blocks, **how):
    """Return the ways to cut a table into blocks."""
    weights = sensitivity.weights / sensitivity.weights.sum()
    importance = np.einsum("ij,ik,kj->j", back, sensitivity.gram, back)
    order, counts = np.argsort(-weights, kind="stable"), [1, 2, num_blocks]
    # If ids are nearly in order already, no order is stored: sorting them would enlarge
    # the last block by less than 10% of the ids.
    largest = equal_shares(weights[order], num_blocks)[-1]
    if largest - equal_shares(weights, num_blocks)[-1] < 0.1 * len(table):
        order = np.arange(len(table))
        counts = counts if len(table) <= SMALL else [num_blocks]
    cuts = [np.cumsum(equal_shares(weights[order], count))[:-1] for count in counts]
    return [
        Layout(table, weights, importance, np.split(order, each), **how)
        for each in cuts
    ]


def _low_bit(layer, layout, bits):
    """Return the `LowBitEmbedding` that replaces an embedding layer."""
    columns = len(bits[0])
    projection = layout.projection
    made = LowBitEmbedding.from_embedding(
        layout.table[:, :columns],
        bits,
        layout.weights,
        output_dim=layer.output_dim,
        projection=None if projection is None else projection[:columns],
        block_sizes=layout.rows if layout.in_order else None,
        blocks=None if layout.in_order else layout.block_of_ids(),
        train_steps=False,
        mask_zero=layer.mask_zero,
        embeddings_regularizer=layer.embeddings_regularizer,
        embeddings_constraint=layer.embeddings_constraint,
        activity_regularizer=layer.activity_regularizer,
        trainable=layer.trainable,
        dtype=layer.dtype_policy,
        name=layer.name,
    )
    return made
