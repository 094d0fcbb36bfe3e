import numpy as np

from memembed.layers import HashEmbedding
from standards import EmbeddingStandards


class TestHashEmbedding(EmbeddingStandards):
    layer_class = HashEmbedding
    distinct = False
    configurations = {
        "more rows than ids": {"input_dim": 6, "output_dim": 2, "num_buckets": 9},
        "as many": {"input_dim": 6, "output_dim": 2, "num_buckets": 6},
        "shared rows": {"input_dim": 10, "output_dim": 4, "num_buckets": 4},
    }
    bad_arguments = [
        ({"input_dim": 0}, ValueError, r"`input_dim` must be.*input_dim=0"),
        ({"output_dim": 2.5}, TypeError, r"`output_dim` must be.*output_dim=2\.5"),
        ({"num_buckets": 0}, ValueError, r"`num_buckets` must be.*num_buckets=0"),
        ({"num_buckets": None}, TypeError, r"`num_buckets` must be.*=None"),
    ]

    def oracle(self, layer, weights, ids):
        return weights[0][ids % layer.num_buckets]

    def rounding(self, layer, weights):
        return [np.abs(weights[0]).max(axis=-1, keepdims=True) / 254]
