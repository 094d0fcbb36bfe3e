import keras
import numpy as np
import pytest
from keras import layers, ops

from memembed.models import dot_product_model, mlp_model, two_tower_model
from memembed.rebuild import embeddings_in
from memembed.sensitivity import measure

rng = np.random.default_rng(0)


def tensors(*shapes):
    return [keras.Input(shape, dtype="int32") for shape in shapes]


def measured(model, x, batch_size=10_000):
    parts = [
        [each[start : start + batch_size] for each in x]
        for start in range(0, len(x[0]), batch_size)
    ]
    return measure(model, embeddings_in(model), [(each,) for each in parts])


def tanh_model(units):
    """Return `tanh(embedding @ kernel)`, its table, and its slopes for given ids."""
    (ids,) = inputs = tensors(())
    table = layers.Embedding(6, 3, keras.initializers.RandomNormal(1.0, seed=0))
    dense = layers.Dense(units, "tanh", use_bias=False)
    model = keras.Model(inputs, dense(table(ids)))

    def jacobian(ids):
        kernel = dense.get_weights()[0]
        outputs = np.tanh(table.get_weights()[0][ids] @ kernel)
        return (1 - outputs[:, None] ** 2) * kernel  # (ids, columns, units)

    return model, table, jacobian


@pytest.mark.parametrize(("units", "rtol"), [(1, 1e-3), (4, 0.05)])
def test_measure_against_the_jacobian(units, rtol):
    """Exact for one output; for several, in the mean over random signs."""
    model, table, jacobian = tanh_model(units)
    x = rng.choice(5, size=20_000)  # never the last id
    slopes = jacobian(x)
    found, pairs = measured(model, [x], batch_size=3000)
    squares = np.einsum("ijk,ijk->i", slopes, slopes)
    np.testing.assert_allclose(
        found[table].weights, np.bincount(x, squares, 6), rtol=rtol
    )
    gram = np.einsum("ijk,ilk->jl", slopes, slopes)
    atol = rtol * np.abs(gram).max()
    np.testing.assert_allclose(found[table].gram, gram, atol=atol)
    assert found[table].weights[5] == 0
    assert not pairs


def test_masked_padding_has_weight_0():
    """For the mean of n embeddings, times a kernel, slopes are the kernel / n."""
    (ids,) = inputs = tensors((4,))
    table = layers.Embedding(6, 3, mask_zero=True)
    dense = layers.Dense(1)
    mean = layers.GlobalAveragePooling1D()(table(ids))
    model = keras.Model(inputs, dense(mean))
    found, _ = measured(model, [np.array([[1, 2, 0, 0], [3, 0, 0, 0]])])
    square = np.sum(dense.get_weights()[0] ** 2)
    expected = square * np.array([0, 1 / 4, 1 / 4, 1, 0, 0])
    np.testing.assert_allclose(found[table].weights, expected, rtol=1e-5)


def test_all_look_ups_of_a_shared_table_count():
    """Outputs are twice the sum of one embedding, plus the sum of the other."""
    one, other = inputs = tensors((), ())
    table = layers.Embedding(6, 3)
    model = keras.Model(inputs, ops.sum(2 * table(one) + table(other), -1))
    found, _ = measured(model, [np.array([0, 1, 1]), np.array([2, 0, 0])])
    np.testing.assert_allclose(found[table].weights, [3 * (4 + 2), 24, 3, 0, 0, 0])
    np.testing.assert_allclose(found[table].gram, np.full((3, 3), 3 * 5))


def pair_of(join):
    inputs = tensors((), ())
    tables = layers.Embedding(40, 3, "normal"), layers.Embedding(30, 3, "normal")
    rows = [table(ids) for table, ids in zip(tables, inputs, strict=True)]
    return keras.Model(inputs, join(*rows))


def tables(*sizes):
    return [layers.Embedding(size, 3, "normal") for size in sizes]


def with_third(join):
    """A dot product of the first two tables, and a third one."""
    inputs = tensors((), (), ())
    rows = [table(x) for table, x in zip(tables(40, 30, 30), inputs, strict=True)]
    return keras.Model(inputs, join(*rows))


@pytest.mark.parametrize(
    "model",
    [
        pair_of(lambda one, other: layers.Dot(1)([one, other])),
        pair_of(lambda one, other: ops.einsum("ij,ij->i", one, other)),
        pair_of(lambda one, other: ops.sum(one * other, -1)),
        pair_of(lambda one, other: ops.sigmoid(ops.matmul(one, ops.transpose(other)))),
        pair_of(lambda one, other: layers.Dense(4)(layers.Dot(1)([one, other]))),
        dot_product_model(*tables(40, 30), biases=True),
        two_tower_model(*tables(40, 30)),
        with_third(lambda a, b, c: ops.sum(a * b, -1) + ops.sum(ops.tanh(c), -1)),
    ],
)
def test_pairs_that_are_used_only_in_dot_products(model):
    x = [rng.integers(30, size=50) for _ in model.inputs]
    if isinstance(model.input, dict):
        x = dict(zip(model.input, x, strict=True))
    _, pairs = measure(model, embeddings_in(model), [(x,)])
    ((one, other),) = pairs
    assert {one.input_dim, other.input_dim} == {30, 40}


@pytest.mark.parametrize(
    "model",
    [
        pair_of(lambda one, other: layers.Dense(1)(one * other)),
        pair_of(lambda one, other: layers.Dot(1, normalize=True)([one, other])),
        pair_of(lambda one, other: ops.sum(ops.tanh(20 * one) * other, -1)),
        pair_of(lambda one, other: ops.sum(one * other, -1) + ops.sum(one, -1)),
        pair_of(lambda one, other: layers.Dot(1)([layers.Dense(3)(one), other])),
        mlp_model(*tables(40, 30), hidden=[4]),
        with_third(lambda a, b, c: ops.sum(a * b, -1) + ops.sum(a * c, -1)),
    ],
)
def test_tables_that_are_also_used_elsewhere_are_no_pair(model):
    x = [rng.integers(30, size=50) for _ in model.inputs]
    if isinstance(model.input, dict):
        x = dict(zip(model.input, x, strict=True))
    assert measure(model, embeddings_in(model), [(x,)])[1] == []


@pytest.mark.parametrize("dtype", ["float32", "mixed_float16"])
def test_a_later_batch_shows_another_use_of_a_table(dtype):
    """Data sorted by time: at first, nobody has a history, which is padding."""
    ids = tensors((), (), (3,))
    users, movies = (layers.Embedding(n, 4, "normal", dtype=dtype) for n in (30, 40))
    known = ops.expand_dims(ops.cast(ids[2] != 0, "float32"), -1)
    history = ops.sum(ops.tanh(30.0 * movies(ids[2])) * known, axis=(1, 2))
    score = layers.Dot(1)([users(ids[0]), movies(ids[1])]) + history[:, None]
    model = keras.Model(ids, score)
    x = [rng.integers(30, size=500), rng.integers(40, size=500)]
    for last, count in ((0, 1), (1, 0)):  # of 500 examples, one has a history
        histories = np.zeros((500, 3), "int32")
        histories[499, 0] = last
        assert len(measured(model, [*x, histories], batch_size=100)[1]) == count


def test_progress_counts_batches():
    model, table, _ = tanh_model(1)
    counts = []
    batches = [(np.zeros(3, "int32"),), (np.zeros(2, "int32"),)]
    measure(model, [table], batches, counts.append)
    assert counts == [1, 1]


def test_outputs_that_do_not_depend_on_a_table_are_refused():
    ids, features = keras.Input((), dtype="int32"), keras.Input((3,))
    table = layers.Embedding(6, 3)
    model = keras.Model([ids, features], layers.Add()([0 * table(ids), features]))
    with pytest.raises(ValueError, match=r"`model` must have .* depend on its embed"):
        measure(model, [table], [([np.arange(3), np.ones((3, 3))],)])
