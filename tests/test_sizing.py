import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memembed.layers import MDEmbedding, QREmbedding
from memembed.sizing import (
    alpha_power_dims,
    fewest_buckets,
    md_parameters,
    plain_parameters,
    qr_parameters,
    training_bytes,
)

sizes = st.integers(1, 50)


def test_the_numbers_of_the_keras_example():
    assert plain_parameters(6040, 64) + plain_parameters(3706, 64) == 623_744
    assert qr_parameters(14_400, 64, num_buckets=120) == 15_360
    assert md_parameters([401, 1301, 2007], [64, 32, 16], 64, use_bias=True) == 102_608


@settings(max_examples=30)
@given(input_dim=sizes, width=sizes, buckets=st.none() | sizes, data=st.data())
def test_qr_parameters_are_those_of_the_layer(input_dim, width, buckets, data):
    combiner = data.draw(st.sampled_from(["multiply", "add", "concatenate"]))
    arguments = (input_dim, 2 * width, buckets, combiner)
    layer = QREmbedding(*arguments)
    layer.build()
    assert qr_parameters(*arguments) == layer.count_params()


@settings(max_examples=30)
@given(
    blocks=st.lists(st.tuples(sizes, st.integers(1, 8)), min_size=1, max_size=4),
    use_bias=st.booleans(),
)
def test_md_parameters_are_those_of_the_layer(blocks, use_bias):
    block_sizes, block_dims = zip(*blocks, strict=True)
    arguments = (block_sizes, block_dims, 8, use_bias)
    layer = MDEmbedding(*arguments)
    layer.build()
    assert md_parameters(*arguments) == layer.count_params()


@given(input_dim=st.integers(1, 3000))
def test_fewest_buckets(input_dim):
    rows = {m: qr_parameters(input_dim, 1, m) for m in range(1, input_dim + 1)}
    assert rows[fewest_buckets(input_dim)] == min(rows.values())


@pytest.mark.parametrize(
    ("name", "optimizer"),
    [
        ("sgd", keras.optimizers.SGD()),
        ("adagrad", keras.optimizers.Adagrad()),
        ("adam", keras.optimizers.Adam()),
    ],
)
def test_training_bytes_are_those_of_the_optimizer(name, optimizer):
    layer = keras.layers.Embedding(50, 8)
    layer.build()
    optimizer.build(layer.trainable_variables)
    slots = sum(4 * int(np.prod(v.shape)) for v in optimizer.variables if len(v.shape))
    assert training_bytes(400, name) == {
        "weights": 1600,
        "gradients": 1600,
        "slots": slots,
        "total": 3200 + slots,
    }


def test_training_bytes_of_an_unknown_optimizer():
    with pytest.raises(ValueError, match=r"'adam'\. Received: optimizer='lion'"):
        training_bytes(1, "lion")


def test_alpha_power_dims_follow_the_rule():
    # Popularities 90, 10 and 1.
    counts, block_sizes = [900, 400, 100], [10, 40, 100]
    assert alpha_power_dims(counts, block_sizes, 64, alpha=0) == [64, 64, 64]
    assert alpha_power_dims(counts, block_sizes, 64, alpha=0.5) == [
        64,
        round(64 * (10 / 90) ** 0.5),
        round(64 * (1 / 90) ** 0.5),
    ]
    assert alpha_power_dims(counts, block_sizes, 64, alpha=9) == [64, 1, 1]
    assert alpha_power_dims([5, 0], [1, 3], 8, alpha=0.5) == [8, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, 2], [3], 8, 0.5), "same length.*\\[1, 2\\].*\\[3\\]"),
        (([], [], 8, 0.5), "same length"),
        (([1, 2], [3, 0], 8, 0.5), "`block_sizes` must be positive.*\\[3, 0\\]"),
        (([1, -2], [3, 3], 8, 0.5), "`block_counts`.*\\[1, -2\\]"),
        (([0, 0], [3, 3], 8, 0.5), "`block_counts`.*\\[0, 0\\]"),
        (([1, 2], [3, 3], 8, -1), "`alpha`.*alpha=-1"),
    ],
)
def test_alpha_power_dims_with_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        alpha_power_dims(*arguments)
