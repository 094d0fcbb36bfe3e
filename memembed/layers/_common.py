"""Code that the embedding layers share."""

import keras
import numpy as np
from keras import constraints, dtype_policies, initializers, ops, regularizers

from memembed.shapes import check_size

INT32_IDS = 2**31  # how many different ids int32 can hold
FLOAT_IDS = {"bfloat16": 2**8, "float16": 2**11, "float32": 2**24, "float64": 2**53}


def known_ids(inputs, input_dim):
    """Return which ids are in the vocabulary, and the ids, with 0 for unknown ones.

    Args:
        inputs: ids of any dtype. Floats are truncated, as in `keras.layers.Embedding`.
        input_dim: size of the vocabulary.

    Returns:
        A boolean tensor, and the ids as int32, or int64 if int32 cannot hold them.

    Raises:
        ValueError: the ids are floats of a dtype that cannot hold every id exactly.
    """
    inputs = ops.convert_to_tensor(inputs)
    given = keras.backend.standardize_dtype(inputs.dtype)
    needed = "int32" if input_dim <= INT32_IDS else "int64"
    signed = "int64" if "64" in given else needed
    if input_dim > FLOAT_IDS.get(given, input_dim):
        raise ValueError(
            f"Ids of dtype {given} are not exact above {FLOAT_IDS[given]:,}. Use "
            "integers, for example `keras.Input((), dtype='int32')`: the default is "
            f"float32. Received: a vocabulary of {input_dim:,} ids"
        )
    if "float" in given:
        # Backends differ in how they cast NaN and numbers too large for an integer.
        # Here they become -1, an unknown id.
        inputs = ops.cast(inputs, keras.backend.result_type(given, "float32"))
        castable = ops.abs(inputs) < 2.0 ** (np.iinfo(signed).bits - 1)
        inputs = ops.where(castable, inputs, -1)
    # An unsigned id that is too large becomes negative, so it is unknown.
    inputs = ops.cast(inputs, signed)
    known = ops.logical_and(inputs >= 0, inputs <= input_dim - 1)
    return known, ops.cast(ops.where(known, inputs, 0), needed)


def table_of(embedding):
    """Return a table, a `keras.layers.Embedding` or an array, as an array."""
    if not isinstance(embedding, keras.layers.Embedding):
        return np.asarray(embedding)
    if not embedding.built or embedding.quantization_mode is not None:
        raise ValueError(
            "`embedding` must be built, and must not be quantised. "
            f"Received: embedding={embedding!r}"
        )
    return ops.convert_to_numpy(embedding.embeddings)


def split_initializer(initializer, count):
    """Return `count` initializers like `initializer` that draw different values.

    A Keras initializer with an integer seed draws the same values at every call: two
    tables of the same shape would start with equal values.
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
    """Base class of the layers: all that does not depend on how they save memory.

    A subclass sets `input_dim` and `tables`, and defines `look_up`.
    """

    def __init__(
        self,
        output_dim,
        embeddings_initializer=None,
        embeddings_regularizer=None,
        embeddings_constraint=None,
        mask_zero=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.output_dim = check_size("output_dim", output_dim)
        self.embeddings_initializer = initializers.get(embeddings_initializer)
        self.embeddings_regularizer = regularizers.get(embeddings_regularizer)
        self.embeddings_constraint = constraints.get(embeddings_constraint)
        self.mask_zero = mask_zero
        self.supports_masking = mask_zero
        self.autocast = False  # casting ids to float16 would round those above 2048

    @property
    def parts(self):
        """The Keras layers that this layer is made of."""
        return self.tables

    def make_tables(self, shapes):
        """Return a list of tables, given a dict from their names to their shapes."""
        return [
            keras.layers.Embedding(rows, width, **arguments)
            for (rows, width), arguments in zip(
                shapes.values(), self.table_arguments(shapes), strict=True
            )
        ]

    def table_arguments(self, names):
        """Yield, for each name, the arguments of its table other than the shape."""
        different = split_initializer(self.embeddings_initializer, len(names))
        for name, initializer in zip(names, different, strict=True):
            yield {
                "embeddings_initializer": initializer,
                "embeddings_regularizer": self.embeddings_regularizer,
                "embeddings_constraint": self.embeddings_constraint,
                "dtype": self.dtype_policy,
                "name": name,
            }

    def build(self, input_shape=None):
        # By default, JAX has no 64-bit integers.
        widest = ops.convert_to_tensor(np.int64(0)).dtype
        if self.input_dim > INT32_IDS and "64" not in str(widest):
            raise ValueError(
                "An `input_dim` above 2**31 needs 64-bit ids. On JAX, enable them "
                "first: jax.config.update('jax_enable_x64', True). "
                f"Received: input_dim={self.input_dim}"
            )
        for part in self.parts if not self.trainable else ():
            part.trainable = False
        for table in self.tables:
            self._build_table(table)
        self.built = True

    def _build_table(self, table):
        try:
            table.build()
        except ValueError as error:
            if "partitioned" not in str(error):  # JAX's error has no public name
                raise
            raise ValueError(
                f"The layout map splits {self.name + '/' + table.name!r} over devices, "
                "so its rows must be a multiple of the number of devices. Make the "
                "vocabulary or the number of buckets larger: unused rows do no harm. "
                f"Received: {table.input_dim} rows"
            ) from error

    def __call__(self, inputs, *args, **kwargs):
        if getattr(inputs, "ragged", False) or hasattr(inputs, "row_splits"):
            raise ValueError(
                "Ragged ids are not supported. Pad them with 0, by `ids.to_tensor()`, "
                "and set `mask_zero=True` to mask the padding. "
                f"Received: inputs={inputs!r}"
            )
        # JAX would cut 64-bit ids to 32 bits: 2**32 + 5 would become 5.
        if isinstance(inputs, np.ndarray) and inputs.dtype.kind in "iu":
            inputs = inputs.astype("int64").clip(-1, self.input_dim)
        return super().__call__(inputs, *args, **kwargs)

    def call(self, inputs):
        known, ids = known_ids(inputs, self.input_dim)
        return ops.where(ops.expand_dims(known, -1), self.look_up(ids), float("nan"))

    def look_up(self, ids):
        """Return the embeddings of ids that are all in the vocabulary."""
        raise NotImplementedError

    def compute_mask(self, inputs, mask=None):
        return ops.not_equal(inputs, 0) if self.mask_zero else None

    def compute_output_shape(self, input_shape):
        return (*input_shape, self.output_dim)

    def get_config(self):
        config = {
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
        # How `quantize` changed the parts. Their own configs are not in this one, and
        # a layer made from it must expect quantised weights.
        quantized = {
            part.name: {
                "dtype": dtype_policies.serialize(part.dtype_policy),
                "config": keras.saving.serialize_keras_object(
                    getattr(part, "quantization_config", None)  # older Keras has none
                ),
            }
            for part in self.parts
            if part.quantization_mode is not None
        }
        return {**config, "quantized": quantized} if quantized else config

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        quantized = config.pop("quantized", {})
        layer = super().from_config(config)
        for part in layer.parts:
            if part.name in quantized:
                how = quantized[part.name]
                part.dtype_policy = dtype_policies.deserialize(how["dtype"])
                part.quantization_config = keras.saving.deserialize_keras_object(
                    how["config"]
                )
        return layer
