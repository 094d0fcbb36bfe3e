"""Embeddings that several ids share."""

import keras
from keras import ops

from memembed.layers._common import CompressedEmbedding
from memembed.shapes import check_size


@keras.saving.register_keras_serializable(package="memembed")
class HashEmbedding(CompressedEmbedding):
    """Embedding with fewer rows than ids: several ids share a row.

    The row of an id is its remainder::

        embedding(i) = table[i % num_buckets]

    This is the simplest way to shrink a table, and the baseline for the others. Ids
    that are numbers from 0 up need no hash function. If the ids are in order of
    popularity, most popular first, the `num_buckets` most popular ids never share a row
    with each other.

    Args:
        input_dim: size of the vocabulary.
        output_dim: length of an embedding.
        num_buckets: number of rows of the table.
        embeddings_initializer: initializer of the table.
        embeddings_regularizer: regularizer of the table.
        embeddings_constraint: constraint of the table.
        mask_zero: whether id 0 is padding to be masked, as in
            `keras.layers.Embedding`.
        **kwargs: arguments of `keras.layers.Layer`, such as `name` and `dtype`.

    Raises:
        TypeError: a size is not an integer.
        ValueError: a size is not positive.

    Input shape:
        Integers of any shape and dtype. Floats are truncated. Unless `jax_enable_x64`
        is on, JAX cuts 64-bit ids to 32 bits before a model sees them. A vocabulary
        above 2**31 needs this setting.

    Output shape:
        The input's shape followed by `output_dim`. An id outside `[0, input_dim)`
        yields NaN, never another id's embedding.

        In training, one such id makes the loss NaN, and after one step also the weights
        that ids share: the model is lost. Encode ids with `memembed.data.Vocabulary`,
        which raises an error for unknown ids, and stop training with
        `keras.callbacks.TerminateOnNaN`.

    Example:
        >>> import numpy as np
        >>> from memembed.layers import HashEmbedding
        >>> layer = HashEmbedding(input_dim=6040, output_dim=64, num_buckets=156)
        >>> tuple(layer(np.array([[0, 156, 6039]])).shape)
        (1, 3, 64)
        >>> layer.count_params()  # a full table: 386,560
        9984

    References:
        Weinberger et al., Feature Hashing for Large Scale Multitask Learning, 2009,
        arXiv:0902.2206, section 2.
    """

    def __init__(
        self,
        input_dim,
        output_dim,
        num_buckets,
        embeddings_initializer="uniform",
        embeddings_regularizer=None,
        embeddings_constraint=None,
        mask_zero=False,
        **kwargs,
    ):
        super().__init__(
            output_dim,
            embeddings_initializer,
            embeddings_regularizer,
            embeddings_constraint,
            mask_zero,
            **kwargs,
        )
        self.input_dim = check_size("input_dim", input_dim)
        self.num_buckets = check_size("num_buckets", num_buckets)
        self.tables = self.make_tables({"table": (self.num_buckets, self.output_dim)})

    def look_up(self, ids):
        return self.tables[0](ops.mod(ids, self.num_buckets))

    def get_config(self):
        return {
            **super().get_config(),
            "input_dim": self.input_dim,
            "num_buckets": self.num_buckets,
        }
