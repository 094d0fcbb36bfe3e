import functools
import math

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from memembed.layers import QREmbedding
from standards import BACKEND, EmbeddingStandards, arrays, embed


class TestQREmbedding(EmbeddingStandards):
    layer_class = QREmbedding
    configurations = {
        "multiply": {"input_dim": 10, "output_dim": 4, "num_buckets": 3},
        "add": {"input_dim": 10, "output_dim": 4, "combiner": "add"},
        "concatenate": {"input_dim": 13, "output_dim": 4, "combiner": "concatenate"},
        "three tables": {"input_dim": 50, "output_dim": 3, "num_buckets": (3, 4, 5)},
        "one bucket": {"input_dim": 6, "output_dim": 2, "num_buckets": 1},
    }
    bad_arguments = [
        ({"input_dim": 0}, ValueError, r"`input_dim` must be.*input_dim=0"),
        ({"input_dim": 2.0}, TypeError, r"`input_dim` must be.*input_dim=2\.0"),
        ({"output_dim": -4}, ValueError, r"`output_dim` must be.*output_dim=-4"),
        ({"output_dim": True}, TypeError, r"`output_dim` must be.*output_dim=True"),
        ({"num_buckets": 0}, ValueError, r"`num_buckets` must be.*num_buckets=0"),
        ({"num_buckets": "9"}, TypeError, r"`num_buckets` must be.*num_buckets='9'"),
        ({"num_buckets": ()}, ValueError, r"`num_buckets` must not be empty"),
        ({"num_buckets": (5, 0)}, ValueError, r"`num_buckets\[1\]` must be.*=0"),
        (
            {"num_buckets": (3, 3)},
            ValueError,
            r"product of `num_buckets`.*num_buckets=\(3, 3\), input_dim=10",
        ),
        ({"combiner": "max"}, ValueError, r"`combiner` must be.*combiner='max'"),
        (
            {"output_dim": 3, "combiner": "concatenate"},
            ValueError,
            r"`output_dim` must be a multiple of 2 .*output_dim=3",
        ),
        (
            {"combiner": "concatenate", "num_buckets": (3, 3, 3)},
            ValueError,
            r"`output_dim` must be a multiple of 3 .*output_dim=4",
        ),
    ]

    def oracle(self, layer, weights, ids):
        m = layer.num_buckets
        if isinstance(m, int):
            digits = [ids % m, ids // m]
        else:
            digits = [ids // math.prod(m[:j]) % m[j] for j in range(len(m))]
        rows = [table[digit] for table, digit in zip(weights, digits, strict=True)]
        return {
            "multiply": lambda: functools.reduce(np.multiply, rows),
            "add": lambda: sum(rows),
            "concatenate": lambda: np.concatenate(rows, axis=-1),
        }[layer.combiner]()

    def rounding(self, layer, weights):
        # The largest element of a row becomes 127, and the others are rounded.
        return [np.abs(w).max(axis=-1, keepdims=True) / 254 for w in weights]


@pytest.mark.parametrize(
    ("arguments", "parameters"),
    [
        ({"input_dim": 6040, "output_dim": 64}, (78 + 78) * 64),
        ({"input_dim": 6040, "output_dim": 64, "num_buckets": 120}, (120 + 51) * 64),
        ({"input_dim": 14_400, "output_dim": 64, "num_buckets": 120}, 15_360),
        ({"input_dim": 6040, "output_dim": 64, "num_buckets": (120, 120)}, 15_360),
        ({"input_dim": 7, "output_dim": 4, "combiner": "concatenate"}, (3 + 3) * 2),
        ({"input_dim": 10**9, "output_dim": 2, "num_buckets": [10**3] * 3}, 6_000),
        ({"input_dim": 1, "output_dim": 3}, (1 + 1) * 3),
        ({"input_dim": 5, "output_dim": 3, "num_buckets": (5,)}, 15),
    ],
)
def test_parameter_count(arguments, parameters):
    layer = QREmbedding(**arguments)
    layer.build()
    assert layer.count_params() == parameters


@settings(max_examples=25 if keras.backend.backend() == "tensorflow" else 10)
@given(input_dim=st.integers(1, 2000), data=st.data())
def test_no_two_ids_share_all_their_rows(input_dim, data):
    """The tables hold row numbers, to show which rows an id is made of."""
    buckets = st.integers(1, 2 * input_dim)
    tuples = st.lists(buckets, min_size=1, max_size=4).filter(
        lambda sizes: input_dim <= math.prod(sizes) and sum(sizes) < 10**4
    )
    num_buckets = data.draw(st.none() | buckets | tuples)
    count = len(num_buckets) if isinstance(num_buckets, list) else 2
    layer = QREmbedding(
        input_dim,
        count,
        num_buckets,
        combiner="concatenate",
        embeddings_initializer="zeros",  # JAX compiles a random one for each shape
    )
    layer.build()
    layer.set_weights([np.arange(len(w))[:, None] for w in layer.get_weights()])
    rows = embed(layer, np.arange(input_dim)).astype(int)
    assert len(np.unique(rows, axis=0)) == input_dim


def test_two_buckets_as_a_tuple_are_the_same_layer():
    layer = QREmbedding(100, 4, num_buckets=7)
    layer.build()
    other = QREmbedding(100, 4, num_buckets=(7, 15))
    other.build()
    other.set_weights(layer.get_weights())
    ids = np.arange(100)
    np.testing.assert_array_equal(embed(other, ids), embed(layer, ids))


def test_a_bag_pooled_before_it_is_combined_is_another_function():
    """So `test_a_bag_is_combined_id_by_id_and_then_pooled` tests the order."""
    layer = QREmbedding(100, 4)
    layer.build()
    layer.set_weights([keras.random.normal(w.shape, seed=1) for w in layer.weights])
    ids = np.array([3, 50, 99])
    remainder, quotient = arrays(layer)
    pooled_first = remainder[ids % 10].sum(axis=0) * quotient[ids // 10].sum(axis=0)
    pooled_last = embed(layer, ids).sum(axis=0)
    assert not np.allclose(pooled_first, pooled_last, rtol=0.1)


def test_vocabulary_past_32_bits():
    """Ids above 2**31 are correct, or refused if the backend cannot hold them."""
    input_dim, num_buckets = 2**31 + 100, 2**16
    layer = QREmbedding(input_dim, 2, num_buckets, combiner="concatenate")
    if BACKEND == "jax":
        with pytest.raises(ValueError, match=r"`input_dim` above.*jax_enable_x64.*748"):
            layer.build()
        return
    layer.build()
    layer.set_weights([np.arange(len(w))[:, None] for w in layer.get_weights()])
    ids = np.array([2**31 - 1, 2**31, input_dim - 1, input_dim, 2**32 + 5, -1])
    rows = embed(layer, ids)
    expected = np.stack([ids % num_buckets, ids // num_buckets], axis=-1)
    np.testing.assert_array_equal(rows[:3], expected[:3])
    assert np.isnan(rows[3:]).all()
    np.testing.assert_array_equal(embed(layer, ids[:1].astype("int32")), expected[:1])
    np.testing.assert_array_equal(
        embed(layer, ids[1:2].astype("float64")), [[0, 2**15]]
    )


@pytest.mark.parametrize(("dtype", "bits"), [("float32", 24), ("float16", 11)])
def test_floats_that_cannot_hold_all_ids_are_refused(dtype, bits):
    ids = ops.array([1.0], dtype)
    assert np.isfinite(embed(QREmbedding(2**bits, 2), ids)).all()
    with pytest.raises(ValueError, match=f"dtype {dtype} .* above {2**bits:,}"):
        embed(QREmbedding(2**bits + 1, 2), ids)


def test_ids_up_to_the_last_of_32_bits():
    layer = QREmbedding(2**31, 2, 2**16, combiner="concatenate")
    layer.build()
    layer.set_weights([np.arange(len(w))[:, None] for w in layer.get_weights()])
    last = np.array([2**31 - 1], "int32")
    assert embed(layer, last).tolist() == [[2**16 - 1, 2**15 - 1]]
    assert np.isnan(embed(layer, np.array([2**31], "uint32"))).all()


def test_ids_that_float16_cannot_hold():
    layer = QREmbedding(100_000, 4, dtype="mixed_float16")
    embeddings = embed(layer, np.array([4999, 99_999, 100_000]))
    assert np.isnan(embeddings).all(axis=-1).tolist() == [False, False, True]
