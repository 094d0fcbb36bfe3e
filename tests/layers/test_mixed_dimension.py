import keras
import numpy as np
import pytest

from memembed.layers import MDEmbedding
from standards import EmbeddingStandards, embed


class TestMDEmbedding(EmbeddingStandards):
    layer_class = MDEmbedding
    configurations = {
        "three blocks": {
            "block_sizes": [2, 3, 4],
            "block_dims": [4, 2, 1],
            "output_dim": 4,
            "use_bias": True,
        },
        "no biases": {
            "block_sizes": [2, 3, 4],
            "block_dims": [4, 2, 1],
            "output_dim": 4,
        },
        "projected alone": {
            "block_sizes": np.array([6]),
            "block_dims": (2,),
            "output_dim": 5,
        },
        "full width alone": {"block_sizes": [6], "block_dims": [3], "output_dim": 3},
        "narrow first": {
            "block_sizes": [3, 4],
            "block_dims": [1, 3],
            "output_dim": 3,
        },
    }
    bad_arguments = [
        ({"block_sizes": [3, 0, 1]}, ValueError, r"`block_sizes\[1\]` must be.*=0"),
        ({"block_sizes": [3, 2.5]}, TypeError, r"`block_sizes\[1\]` must be.*=2\.5"),
        ({"block_dims": [4, True]}, TypeError, r"`block_dims\[1\]` must be.*=True"),
        ({"block_dims": [4, -2]}, ValueError, r"`block_dims\[1\]` must be.*=-2"),
        ({"block_sizes": 7}, TypeError, r"`block_sizes` must be a seq.*=7"),
        ({"block_sizes": "33"}, TypeError, r"`block_sizes` must be a seq.*='33'"),
        ({"block_sizes": []}, ValueError, r"`block_sizes` must not be empty"),
        ({"block_sizes": [9]}, ValueError, r"same length.*\[9\].*\[4, 2, 1\]"),
        ({"output_dim": 3}, ValueError, r"wider than `output_dim`.*\[4, 2, 1\].*=3"),
        ({"output_dim": 0}, ValueError, r"`output_dim` must be.*output_dim=0"),
    ]

    def blocks(self, layer, weights):
        """Yield each block's table, projection and bias. The last two may be None."""
        weights = list(weights)
        tables = [weights.pop(0) for _ in layer.block_sizes]
        for table, dim in zip(tables, layer.block_dims, strict=True):
            projected = dim < layer.output_dim
            projection = weights.pop(0) if projected else None
            bias = weights.pop(0) if projected and layer.use_bias else None
            yield table, projection, bias

    def oracle(self, layer, weights, ids):
        embeddings = []
        for table, projection, bias in self.blocks(layer, weights):
            rows = table if projection is None else table @ projection
            embeddings.append(rows if bias is None else rows + bias)
        return np.concatenate(embeddings)[ids]

    def rounding(self, layer, weights):
        # A table has a scale per row and a projection one per column. The input of a
        # projection is rounded twice: in the table, and again before the product.
        tables, others = [], []
        for table, projection, bias in self.blocks(layer, weights):
            largest = np.abs(table).max(axis=-1, keepdims=True)
            times = 1 if projection is None else 2 + 1 / 127
            tables.append(times * largest / 254 + 0 * table)
            if projection is not None:
                others.append(np.abs(projection).max(axis=0) / 254 + 0 * projection)
            if bias is not None:
                others.append(0 * bias)
        return tables + others


@pytest.mark.parametrize(
    ("arguments", "parameters"),
    [
        (([401, 1301, 2007], [64, 32, 16], 64, True), 102_608),
        (([400, 1300, 2006], [64, 32, 16], 64), 99_296 + 48 * 64),
        (([5], [3], 3), 15),
        (([5, 5], [3, 3], 3), 30),
        (([5], [2], 3), 10 + 6),
    ],
)
def test_parameter_count(arguments, parameters):
    layer = MDEmbedding(*arguments)
    layer.build()
    assert layer.count_params() == parameters


def test_a_block_of_full_width_has_no_projection():
    layer = MDEmbedding([2, 2], [3, 2], output_dim=3)
    assert [projection is None for projection in layer.projections] == [True, False]


def test_only_the_block_of_an_id_is_trained():
    layer = MDEmbedding([2, 2], [3, 2], output_dim=3)
    inputs = keras.Input((), dtype="int32")
    model = keras.Model(inputs, layer(inputs))
    before = layer.get_weights()
    model.compile(keras.optimizers.SGD(1.0), "mse")
    model.train_on_batch(np.array([1]), np.ones((1, 3)))
    after = layer.get_weights()
    moved = [(a != b).any() for a, b in zip(after, before, strict=True)]
    assert moved == [True, False, False]
    assert (after[0][0] == before[0][0]).all()


def test_seeded_initializers_fill_equal_blocks_differently():
    layer = MDEmbedding(
        [3, 3],
        [2, 2],
        4,
        embeddings_initializer=keras.initializers.RandomUniform(seed=1),
        projection_initializer=keras.initializers.GlorotUniform(seed=1),
    )
    layer.build()
    first, second, projection, other = layer.get_weights()
    assert not np.allclose(first, second)
    assert not np.allclose(projection, other)


def test_the_projections_initializer_is_in_the_config():
    layer = MDEmbedding([3], [2], 4, projection_initializer="orthogonal")
    clone = MDEmbedding.from_config(layer.get_config())
    assert isinstance(clone.projection_initializer, keras.initializers.Orthogonal)


def test_a_block_starts_where_the_last_one_ends():
    """Rows that hold their ids: no id is off by one at the ends of a block."""
    sizes = [1, 5, 2, 300]
    layer = MDEmbedding(sizes, [1] * 4, output_dim=1)
    layer.build()
    ids = np.arange(sum(sizes))
    layer.set_weights([part[:, None] for part in np.split(ids, np.cumsum(sizes)[:-1])])
    np.testing.assert_array_equal(embed(layer, ids)[:, 0], ids)
