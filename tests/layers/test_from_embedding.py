"""Layers made from a trained table. The numbers are tested in test_tables."""

import keras
import numpy as np
import pytest
from keras import ops

from memembed.layers import LowBitEmbedding, MDEmbedding
from standards import embed, model_of, predict

IDS = np.arange(30)


@pytest.fixture
def full():
    """A table whose first ids are the popular ones, and have the larger rows."""
    rng = np.random.default_rng(0)
    layer = keras.layers.Embedding(30, 6)
    layer.build()
    layer.set_weights([rng.normal(size=(30, 6)) / (1 + IDS[:, None])])
    return layer


def squared_error(layer, full, ids=IDS):
    return np.square(embed(layer, ids) - embed(full, ids)).sum()


@pytest.mark.parametrize("use_bias", [False, True])
def test_md_is_the_best_approximation_of_its_widths(full, use_bias):
    """Its error is the sum of the squared singular values that are left out."""
    layer = MDEmbedding.from_embedding(full, [5, 10, 15], [6, 3, 1], use_bias=use_bias)
    np.testing.assert_array_equal(embed(layer, IDS[:5]), embed(full, IDS[:5]))
    (table,) = full.get_weights()
    expected = 0
    for block, dim in ((table[5:15], 3), (table[15:], 1)):
        if use_bias:
            block = block - block.mean(axis=0)
        expected += np.square(np.linalg.svd(block, compute_uv=False)[dim:]).sum()
    assert squared_error(layer, full) == pytest.approx(expected, rel=1e-4)


def test_md_with_popularity_is_better_for_popular_ids(full):
    alike = MDEmbedding.from_embedding(full, [30], [2])
    popular = np.where(IDS < 20, 1, 50)  # the popular ids have the small rows
    weighted = MDEmbedding.from_embedding(full, [30], [2], popular)
    assert squared_error(weighted, full, IDS[20:]) < 0.9 * squared_error(
        alike, full, IDS[20:]
    )
    assert squared_error(alike, full) < squared_error(weighted, full)


@pytest.mark.parametrize(
    "compress",
    [
        lambda full, **kwargs: MDEmbedding.from_embedding(
            full, [10, 20], [6, 2], **kwargs
        ),
        lambda full, **kwargs: LowBitEmbedding.from_embedding(full, 6, **kwargs),
    ],
    ids=["MD", "low bit"],
)
class TestWarmStart:
    def test_replaces_the_full_table_and_can_be_trained(self, compress, full):
        layer = compress(full)
        model = model_of(layer)
        np.testing.assert_allclose(
            predict(model, IDS[None])[0], embed(layer, IDS), rtol=1e-5
        )
        model.compile(keras.optimizers.Adam(0.02), "mse")
        steps = [np.stack([array] * 60) for array in (IDS, 2 * embed(full, IDS))]
        before = model.evaluate(*steps, verbose=0)
        model.fit(*steps, batch_size=1, verbose=0)
        assert model.evaluate(*steps, verbose=0) < 0.3 * before

    def test_arguments_of_the_layer(self, compress, full):
        layer = compress(full, name="movies", mask_zero=True, dtype="mixed_bfloat16")
        assert (layer.name, layer.mask_zero) == ("movies", True)
        assert layer.compute_dtype == "bfloat16"

    def test_mask_zero_is_that_of_the_table(self, compress, full):
        masked = keras.layers.Embedding(30, 6, mask_zero=True)
        masked.build()
        assert compress(masked).mask_zero
        assert not compress(full).mask_zero
        assert not compress(masked, mask_zero=False).mask_zero

    def test_an_array_is_a_table(self, compress, full):
        array = ops.convert_to_numpy(full.embeddings)
        np.testing.assert_array_equal(
            embed(compress(array), IDS), embed(compress(full), IDS)
        )

    def test_a_layer_without_a_table(self, compress, full):
        with pytest.raises(ValueError, match="`embedding` must be built"):
            compress(keras.layers.Embedding(30, 6))
        full.quantize("int8")
        with pytest.raises(ValueError, match=r"`embedding` must.*not be quantised"):
            compress(full)

    def test_bad_tables_and_popularities(self, compress):
        table = np.ones((30, 6))
        with pytest.raises(ValueError, match=r"`table` must.*\(30,\)"):
            compress(table[:, 0])
        with pytest.raises(ValueError, match=r"`popularity` must.*\(29,\)"):
            compress(table, popularity=np.ones(29))
        with pytest.raises(ValueError, match=r"`popularity` must.*\[1\]=-1"):
            compress(table, popularity=np.where(IDS == 1, -1, 1))
        table[2, 3] = np.nan
        with pytest.raises(ValueError, match=r"`table` must be finite.*\[2, 3\]=nan"):
            compress(table)


def test_blocks_that_do_not_sum_to_the_ids(full):
    with pytest.raises(ValueError, match=r"`block_sizes` must sum.*\[5, 5\], 30 ids"):
        MDEmbedding.from_embedding(full, [5, 5], [6, 3])
