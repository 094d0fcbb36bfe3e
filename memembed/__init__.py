"""Memory-efficient embeddings for recommender systems, in Keras."""

from importlib import import_module

__version__ = "0.1.0"
__all__ = ["HashEmbedding", "LowBitEmbedding", "MDEmbedding", "QREmbedding"]


def __getattr__(name):
    """Import the layers on first use, so that `memembed.data` never loads Keras."""
    if name in __all__:
        return getattr(import_module("memembed.layers"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
