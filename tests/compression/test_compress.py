import keras
import numpy as np
import pytest
from keras import layers, ops

from memembed import compress, pack
from memembed.compression import average, num_bytes
from memembed.layers import LowBitEmbedding
from memembed.models import dot_product_model, embeddings_of

BACKEND = keras.backend.backend()
SIZES = {"user": 120, "movie": 90}


@pytest.fixture(scope="module")
def x():
    """Return ids; the first ones occur most often."""
    rng = np.random.default_rng(0)
    return {
        name: (size * rng.random(3000) ** 2).astype("int32")
        for name, size in SIZES.items()
    }


def made(columns=6, scale=0.8, **kwargs):
    """Return a model in which some directions of the scores are weaker than others."""
    rng = np.random.default_rng(columns)
    tables = [layers.Embedding(size, columns, **kwargs) for size in SIZES.values()]
    model = dot_product_model(*tables, biases=True)
    for name, layer in embeddings_of(model).items():
        strengths = 0.5 if name.endswith("bias") else scale * 0.6 ** np.arange(columns)
        shape = layer.input_dim, layer.output_dim
        layer.set_weights([rng.normal(size=shape) * strengths])
    return model


@pytest.fixture
def model():
    return made()


def predict(model, x):
    return ops.convert_to_numpy(model(x, training=False))[:, 0]


def change(small, model, x):
    return np.mean((predict(small, x) - predict(model, x)) ** 2)


def stored_bytes(model):
    return num_bytes(pack(model))


def test_it_uses_a_budget_and_never_exceeds_it(model, x):
    changes = []
    for max_bytes in (460, 700, 1000, 1400):
        small = compress(model, x, max_bytes, num_blocks=2)
        assert 0.95 * max_bytes < stored_bytes(small) <= max_bytes
        changes.append(change(small, model, x))
    assert (np.diff(changes) < 0).all()
    assert changes[0] > 10 * changes[-1]


def test_it_is_better_than_the_same_bits_for_all_columns(model, x):
    alike = [
        LowBitEmbedding.from_embedding(layer, bits=3)
        for layer in embeddings_of(model).values()
    ]
    alike = dot_product_model(*alike[:2], biases=alike[2:])
    small = compress(model, x, stored_bytes(alike), num_blocks=2)
    assert stored_bytes(small) <= stored_bytes(alike)
    assert change(small, model, x) < change(alike, model, x) / 2


def test_a_table_that_changes_the_outputs_more_gets_more_bits(x):
    """The outputs of the second table count 100 times as much."""
    inputs = {name: keras.Input((), dtype="int32", name=name) for name in SIZES}
    tables = [layers.Embedding(size, 4, "normal") for size in SIZES.values()]
    rows = [table(ids) for table, ids in zip(tables, inputs.values(), strict=True)]
    model = keras.Model(inputs, layers.Add()([rows[0], 10 * rows[1]]))
    small = compress(model, x, 600)
    widths = [
        np.average([sum(bits) for bits in layer.bits], weights=layer.block_sizes)
        for layer in (small.get_layer(table.name) for table in tables)
    ]
    assert widths[1] > widths[0] + 4


def test_layers_keep_their_arguments(x):
    kept = {
        "activity_regularizer": keras.regularizers.L2(0.01),
        "embeddings_regularizer": keras.regularizers.L1(0.001),
        "mask_zero": True,
        "trainable": False,
        "dtype": "float16",
    }
    model = made(**kept)
    small = compress(model, x, 700)
    for name, old in embeddings_of(model).items():
        new = embeddings_of(small)[name]
        assert isinstance(new, LowBitEmbedding)
        assert new.name == old.name
        for each in kept:
            assert getattr(new, each) == getattr(old, each)
        assert new.dtype_policy == old.dtype_policy
        assert not new.trainable_weights or name.endswith("bias")


def test_a_constraint_holds_before_and_after_training(x):
    model = made(embeddings_constraint=keras.constraints.NonNeg())
    for layer in list(embeddings_of(model).values())[:2]:
        layer.set_weights([np.abs(layer.get_weights()[0])])
    small = compress(model, x, 1000)
    before = [
        layer.tables[0].get_weights()[0] for layer in embeddings_of(small).values()
    ]
    for table, layer in zip(before[:2], embeddings_of(model).values(), strict=False):
        np.testing.assert_array_equal(table, layer.get_weights()[0])
    small.compile("sgd", "mse")
    small.fit(x, predict(model, x), batch_size=1000, verbose=0)
    for layer in list(embeddings_of(small).values())[:2]:
        assert layer.tables[0].get_weights()[0].min() >= 0


def test_a_frozen_table_stays_frozen(x):
    model = made(trainable=False)
    small = compress(model, x, 700)
    frozen = [embeddings_of(small)[name] for name in SIZES]
    before = [layer.get_weights() for layer in frozen]
    small.compile("adam", "mse")
    small.fit(x, np.ones(3000), batch_size=1000, verbose=0)
    for weights, layer in zip(before, frozen, strict=True):
        for one, other in zip(weights, layer.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_tiny_table_is_left_as_it_is(x):
    inputs = {name: keras.Input((), dtype="int32", name=name) for name in SIZES}
    tables = [layers.Embedding(120, 4), layers.Embedding(31, 4, name="tiny")]
    rows = [table(ids) for table, ids in zip(tables, inputs.values(), strict=True)]
    model = keras.Model(inputs, layers.Dot(1)(rows))
    small = compress(model, {**x, "movie": x["movie"] // 3}, 800)
    assert type(small.get_layer("tiny")) is layers.Embedding
    np.testing.assert_array_equal(
        small.get_layer("tiny").get_weights()[0], tables[1].get_weights()[0]
    )


def forms(x, y):
    """Return the same examples in all forms, in batches of 500."""
    starts = range(0, len(y), 500)
    batches = [
        ({k: v[i : i + 500] for k, v in x.items()}, y[i : i + 500]) for i in starts
    ]

    class Batches(keras.utils.PyDataset):
        num_batches = len(batches)

        def __getitem__(self, index):
            return batches[index]

    found = {
        "inputs and labels": (x, y),
        "and sample weights": (x, y, np.ones(len(y))),
        "a tuple of one": (x,),
        "PyDataset": Batches(),
    }
    if BACKEND == "tensorflow":
        import tensorflow as tf

        found["Dataset"] = tf.data.Dataset.from_tensor_slices((x, y)).batch(500)
        found["without labels"] = tf.data.Dataset.from_tensor_slices(x).batch(500)
    if BACKEND == "torch":
        import torch

        rows = [({k: v[i] for k, v in x.items()}, y[i]) for i in range(len(y))]
        found["DataLoader"] = torch.utils.data.DataLoader(rows, 500)
    return found


def test_all_forms_of_examples_give_the_same_result(model, x):
    plain = compress(model, x, 700, 1, 500).get_weights()
    for examples in forms(x, np.zeros(3000, "float32")).values():
        found = compress(model, examples, 700, 1, 500).get_weights()
        for one, other in zip(plain, found, strict=True):
            np.testing.assert_array_equal(one, other)


def test_it_shows_progress_if_asked(model, x, capsys):
    compress(model, x, 700)
    assert not capsys.readouterr().out  # stdout is not a terminal
    compress(model, x, 700, verbose=1)
    shown = capsys.readouterr().out
    assert "Measuring slopes" in shown and "3/3" in shown and "Choosing bits" in shown


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"max_bytes": 10}, ValueError, "`max_bytes` must be at least"),
        ({"max_bytes": 1e4}, TypeError, "`max_bytes` must be a positive integer"),
        ({"max_bytes": 5880}, ValueError, "`max_bytes` must be less than 5880"),
        ({"num_blocks": 0}, ValueError, "`num_blocks` must.*Received: num_blocks=0"),
        (
            {"num_blocks": 17},
            ValueError,
            "`num_blocks` must be at most 16.*num_blocks=17",
        ),
        ({"batch_size": 0}, ValueError, "`batch_size` must.*Received: batch_size=0"),
    ],
)
def test_arguments_that_it_refuses(model, x, arguments, error, message):
    before = model.get_weights()
    with pytest.raises(error, match=message):
        compress(model, x, **{"max_bytes": 1000} | arguments)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        (np.nan, r"`model` must have finite embeddings. Layer 'emb.*\[0, 0\]=nan"),
        (np.inf, r"`model` must have finite embeddings. Layer 'emb.*=-?inf"),
        (1e19, r"`model` must have finite outputs that depend on its embeddings"),
    ],
)
def test_weights_that_it_refuses(x, scale, message):
    with pytest.raises(ValueError, match=message):
        compress(made(scale=scale), x, 1000)


class Scaled(layers.Layer):
    """A layer that cannot be made from its config."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def call(self, inputs):
        return inputs * self.factor


class Wrapped(layers.Layer):
    """A layer with an embedding inside."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.table = layers.Embedding(100, 4)

    def call(self, ids):
        return self.table(ids)


class Tied(layers.Layer):
    """A layer with the table of another layer."""

    def __init__(self, embedding):
        super().__init__()
        self.embedding = embedding

    def call(self, inputs):
        return ops.matmul(inputs, ops.transpose(self.embedding.embeddings))


class Positional(layers.Embedding):
    """An embedding that does more than look up."""

    def call(self, ids):
        positions = ops.arange(ops.shape(ids)[-1], dtype="float32")
        return super().call(ids) + ops.expand_dims(positions, -1)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.table = layers.Embedding(100, 4)

    def call(self, ids):
        return self.table(ids)


def of_ids(*more):
    return keras.Sequential([keras.Input((), dtype="int32"), *more])


def tied():
    table = layers.Embedding(100, 4)
    model = of_ids(table, Tied(table))
    model(np.arange(3))
    return model


def quantized():
    model = of_ids(layers.Embedding(100, 4), layers.Dense(2))
    model.quantize("int8")
    return model


def built():
    model = Subclassed()
    model(np.arange(3))
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (built, "`model` must be a functional or sequential.*Subclassed"),
        (
            lambda: keras.Sequential([layers.Embedding(100, 4)]),
            "`model` must be .*built",
        ),
        (quantized, "`model` must have embeddings that are not quantised.*'int8'"),
        (lambda: of_ids(layers.Embedding(100, 4), Scaled(2)), "`model` .*Scaled, whi"),
        (lambda: of_ids(Wrapped()), "`model` must have an embedding layer of at least"),
        (lambda: of_ids(Positional(99, 4)), "`model` must have an embedding layer of"),
        (tied, "`model` must have each table in one layer.*'tied"),
        (
            lambda: of_ids(layers.Embedding(100, 4), layers.Lambda(ops.argmax)),
            "`model` must have an output of floats.*int",
        ),
        (lambda: of_ids(layers.Embedding(31, 4)), "`model` must have an embedding la"),
        (
            lambda: keras.Sequential([keras.Input((3,)), layers.Dense(2)]),
            "`model` must have an embedding layer of at least 32 ids",
        ),
    ],
)
def test_models_that_it_refuses(make, message):
    model = make()
    before = model.get_weights()
    with pytest.raises(ValueError, match=message):
        compress(model, np.arange(31), 100)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="Keras casts NaN to an integer")
def test_a_nan_among_float_ids_is_refused():
    model = of_ids(layers.Embedding(100, 4), layers.Dense(1))
    with pytest.raises(ValueError, match="`examples` must hold ids from 0 to 99"):
        compress(model, np.array([0.0, np.nan, 2.0]), 600)


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
def test_slopes_in_low_precision(dtype, scale):
    """Their sums would overflow in float16, or vanish."""
    kernel = keras.initializers.RandomNormal(stddev=scale, seed=0)
    dense = layers.Dense(4, kernel_initializer=kernel, dtype=dtype)
    model = of_ids(layers.Embedding(100, 4, "normal", dtype=dtype), dense)
    ids = np.arange(2000) % 100
    small = compress(model, ids, 900)
    outputs = [predict(each, ids).ravel() for each in (model, small)]
    assert np.corrcoef(*outputs)[0, 1] > 0.99


def test_a_table_of_zeros():
    ids = [keras.Input((), dtype="int32") for _ in range(2)]
    rows = [
        layers.Embedding(100, 4, start)(x)
        for start, x in zip(("normal", "zeros"), ids, strict=True)
    ]
    model = keras.Model(ids, layers.Dense(1)(layers.Concatenate()(rows)))
    x = [np.arange(100)] * 2
    assert change(compress(model, x, 900), model, x) < 1e-3


def test_a_small_table_in_order_of_popularity_may_have_one_block():
    """33 bits take 5 bytes; the offset and the scale of a block take 8."""
    model = of_ids(layers.Embedding(33, 1))
    ids = np.repeat(np.arange(33), 40 - np.arange(33))
    assert stored_bytes(compress(model, ids, 13)) == 13


def test_an_embedding_inside_a_layer_is_copied(x):
    """The other embedding is compressed."""
    ids = keras.Input((), dtype="int32")
    model = keras.Model(ids, layers.Embedding(120, 4)(ids) * Wrapped()(ids))
    small = compress(model, x["movie"], 1900)
    np.testing.assert_array_equal(
        small.get_layer(model.layers[2].name).get_weights()[0],
        model.layers[2].get_weights()[0],
    )


@pytest.mark.parametrize("biases", [False, True])
def test_the_average_of_models_has_the_average_of_their_scores(x, biases):
    rng = np.random.default_rng(0)
    models = []
    for columns in (2, 3, 4):
        tables = [layers.Embedding(size, columns) for size in SIZES.values()]
        models.append(dot_product_model(*tables, biases=biases))
        weights = models[-1].get_weights()
        models[-1].set_weights([rng.normal(size=w.shape) for w in weights])
    ratings = np.array([predict(each, x) for each in models], "float64") / 5
    scores = np.log(ratings / (1 - ratings))
    mean = average(models)
    np.testing.assert_allclose(
        predict(mean, x), 5 / (1 + np.exp(-scores.mean(0))), rtol=1e-3
    )
    assert stored_bytes(compress(mean, x, 400, num_blocks=1)) <= 400


def test_models_that_cannot_be_averaged(model):
    tables = [layers.Embedding(9, 2) for _ in range(2)]
    with pytest.raises(ValueError, match=r"`models` must be one or more .*'user': 9"):
        average([model, dot_product_model(*tables)])
    with pytest.raises(ValueError, match=r"`models` must be one or more .*\[\]"):
        average([])


def test_a_model_without_low_bits_cannot_be_packed(model):
    with pytest.raises(ValueError, match="`model` must have a layer LowBitEmbedding"):
        pack(model)
