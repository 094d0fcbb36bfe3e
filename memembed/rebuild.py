"""Copy Keras models, and replace some of their layers."""

import tempfile

import keras
import numpy as np

from memembed.layers._common import CompressedEmbedding


def rebuild(model, replace):
    """Return a copy of a model in which some layers are replaced.

    Layers in nested models are replaced, too. A layer that is used more than once is
    replaced by one layer, which is used in all of its places.

    Args:
        model: a functional or sequential `keras.Model`, built. It is not changed.
        replace: a function from a layer to its replacement, or to None for a copy of
            the layer with its weights.

    Returns:
        A new `keras.Model`, not compiled.

    Raises:
        ValueError: `model` is another kind of model, or not built, or has a layer that
            cannot be made from its config.

    Example:
        >>> import keras
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
        >>> twin = rebuild(model, lambda layer: None)
        >>> bool((twin.get_weights()[0] == model.get_weights()[0]).all())
        True
    """
    check_model(model)
    made, copies = {}, {}

    def clone(layer):
        if layer not in made:
            made[layer] = replace(layer)
            if made[layer] is None:
                made[layer] = copies[layer] = _copy(layer)
        return made[layer]

    # A compiled model's clone is compiled too, which fails for a custom loss.
    compiled = [each for each in _models_in(model) if each.compiled]
    try:
        for each in compiled:
            each.compiled = False
        twin = keras.models.clone_model(model, clone_function=clone, recursive=True)
    finally:
        for each in compiled:
            each.compiled = True
    if not twin.built:
        twin.build(model.input_shape)
    for old, new in copies.items():
        if isinstance(old, keras.Layer):
            _copy_state(old, new)
    return twin


def check_model(model):
    """Raise a ValueError if a model cannot be rebuilt."""
    if not _has_graph(model) or not model.built:
        raise ValueError(
            "`model` must be a functional or sequential keras.Model, and built. In a "
            "subclassed model, Keras does not know where a layer is used; build its "
            f"parts as functional models. Received: {model!r}"
        )


def _has_graph(layer):
    return isinstance(layer, keras.Sequential) or hasattr(layer, "operations")


def _models_in(model):
    """Return a model and all models nested in it."""
    nested = [layer for layer in model.layers if _has_graph(layer)]
    return [model, *(each for layer in nested for each in _models_in(layer))]


def _copy(layer):
    """Return a layer with the config of `layer`, without weights yet."""
    try:
        config = layer.get_config()
        if type(layer) is keras.layers.Lambda:
            # A function made from the config no longer has the names that it uses.
            names = "function", "mask", "arguments"
            config |= {name: getattr(layer, name) for name in names}
            return keras.layers.Lambda(**config)
        return type(layer).from_config(config)
    except Exception as error:
        raise ValueError(
            "`model` must have layers that can be made from their config. Received: "
            f"layer {layer.name!r}, a {type(layer).__name__}, which raises: {error}"
        ) from error


def _copy_state(old, new):
    """Copy the weights of a layer, and all else that it has learned, to its copy."""
    for before, after in zip(old.variables, new.variables, strict=True):
        # A copy, because JAX deletes a variable's array when training replaces it.
        after.assign(np.array(keras.ops.convert_to_numpy(before)))
    if hasattr(old, "adapt"):  # such as a vocabulary, copied as Keras saves it
        store = {}
        old.save_own_variables(store)
        new.load_own_variables(store)
        if hasattr(old, "save_assets"):
            with tempfile.TemporaryDirectory() as folder:
                old.save_assets(folder)
                new.load_assets(folder)


def layers_in(model):
    """Return the layers of a model and of its nested models, each once.

    Args:
        model: a functional or sequential `keras.Model`.
    """
    found = {}
    for layer in model.layers:
        inner = layers_in(layer) if _has_graph(layer) else [layer]
        found |= {id(each): each for each in inner}
    return list(found.values())


def embeddings_in(model):
    """Return those of `layers_in` that only look up embeddings.

    These are `keras.layers.Embedding` and the layers of memembed. A subclass of
    `Embedding` with its own `call` may do more than look up, so it is not among them.

    Args:
        model: a functional or sequential `keras.Model`.
    """
    return [
        layer
        for layer in layers_in(model)
        if isinstance(layer, CompressedEmbedding)
        or getattr(type(layer), "call", None) is keras.layers.Embedding.call
    ]
