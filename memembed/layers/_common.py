"""What the embedding layers share: checked sizes, integer ids, initializers."""

import operator

import keras
from keras import initializers, ops


def check_size(name, value):
    """Return `value` as a Python int.

    Args:
        name: the argument's name, for the error.
        value: what was received for it.

    Raises:
        TypeError: `value` is not an integer. A bool does not count as one.
        ValueError: `value` is not positive.
    """
    message = f"`{name}` must be a positive integer. Received: {name}={value!r}"
    if isinstance(value, bool):
        raise TypeError(message)
    try:
        size = operator.index(value)
    except TypeError:
        raise TypeError(message) from None
    if size <= 0:
        raise ValueError(message)
    return size


def as_ids(inputs):
    """Return `inputs` as int32 or int64, the dtypes that tables are looked up with.

    A narrower integer could not hold the sizes that ids are compared with. Floats are
    truncated, as in `keras.layers.Embedding`.
    """
    inputs = ops.convert_to_tensor(inputs)
    if keras.backend.standardize_dtype(inputs.dtype) in ("int32", "int64"):
        return inputs
    return ops.cast(inputs, "int32")


def split_initializer(initializer, count):
    """Return `count` initializers like `initializer` that draw different values.

    A Keras initializer with an integer seed draws the same values at every call, so
    that two tables of one shape would start out equal.
    """
    initializer = initializers.get(initializer)
    if not isinstance(initializer, initializers.Initializer):
        return [initializer] * count
    copies = []
    for i in range(count):
        config = initializer.get_config()
        if isinstance(config.get("seed"), int):
            config["seed"] += i
        copies.append(initializer.__class__.from_config(config))
    return copies
