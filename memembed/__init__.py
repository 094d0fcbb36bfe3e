"""Memory-efficient embeddings for recommender systems, in Keras.

The library needs Keras and NumPy. The modules that the book's chapters share need the
extra `chapters`: `data`, `training`, `ranking` and `plotting`. `experiments` trains
models that take too long for a chapter, and keeps the results.

Importing the package registers its layers with Keras, so that
`keras.saving.load_model` finds them.
"""

from memembed.compression import compress, pack
from memembed.fine_tuning import compress_and_train, fine_tune
from memembed.layers import (
    HashEmbedding,
    LowBitEmbedding,
    MDEmbedding,
    PackedEmbedding,
    QREmbedding,
)

__version__ = "0.1.0"
__all__ = [
    "HashEmbedding",
    "LowBitEmbedding",
    "MDEmbedding",
    "PackedEmbedding",
    "QREmbedding",
    "compress",
    "compress_and_train",
    "fine_tune",
    "pack",
]
