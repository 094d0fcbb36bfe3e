"""Keras layers that replace `keras.layers.Embedding` and need less memory."""

from memembed.layers.hashing import HashEmbedding
from memembed.layers.low_bit import LowBitEmbedding
from memembed.layers.mixed_dimension import MDEmbedding
from memembed.layers.packed import PackedEmbedding
from memembed.layers.quotient_remainder import QREmbedding

__all__ = [
    "HashEmbedding",
    "LowBitEmbedding",
    "MDEmbedding",
    "PackedEmbedding",
    "QREmbedding",
]
