"""What the embedding layers share."""

import operator

import keras
from keras import constraints, initializers, ops, regularizers


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


class CompressedEmbedding(keras.layers.Layer):
    """The part of a layer that does not depend on how it saves memory.

    It holds the arguments of `keras.layers.Embedding`, which its subclasses pass on to
    the tables they are made of.
    """

    def __init__(
        self,
        output_dim,
        embeddings_initializer,
        embeddings_regularizer,
        embeddings_constraint,
        mask_zero,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.output_dim = check_size("output_dim", output_dim)
        self.embeddings_initializer = initializers.get(embeddings_initializer)
        self.embeddings_regularizer = regularizers.get(embeddings_regularizer)
        self.embeddings_constraint = constraints.get(embeddings_constraint)
        self.mask_zero = mask_zero
        self.supports_masking = mask_zero
        self.autocast = False  # float16 could not hold ids past 2048

    def make_tables(self, shapes):
        """Return a list of tables, from a dict of their names and shapes."""
        different = split_initializer(self.embeddings_initializer, len(shapes))
        return [
            keras.layers.Embedding(
                input_dim=rows,
                output_dim=width,
                embeddings_initializer=initializer,
                embeddings_regularizer=self.embeddings_regularizer,
                embeddings_constraint=self.embeddings_constraint,
                dtype=self.dtype_policy,
                name=name,
            )
            for (name, (rows, width)), initializer in zip(
                shapes.items(), different, strict=True
            )
        ]

    def compute_mask(self, inputs, mask=None):
        return ops.not_equal(inputs, 0) if self.mask_zero else None

    def compute_output_shape(self, input_shape):
        return (*input_shape, self.output_dim)

    def get_config(self):
        return {
            **super().get_config(),
            "output_dim": self.output_dim,
            "embeddings_initializer": initializers.serialize(
                self.embeddings_initializer
            ),
            "embeddings_regularizer": regularizers.serialize(
                self.embeddings_regularizer
            ),
            "embeddings_constraint": constraints.serialize(self.embeddings_constraint),
            "mask_zero": self.mask_zero,
        }
