"""The layers on 8 devices, with Keras's distribution API on JAX."""

import keras
import numpy as np
import pytest

from memembed import (
    HashEmbedding,
    LowBitEmbedding,
    MDEmbedding,
    PackedEmbedding,
    QREmbedding,
)

jax = pytest.importorskip("jax")
DEVICES = 8
pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "jax" or jax.device_count() < DEVICES,
    reason=f"needs JAX and {DEVICES} devices, which `make test-jax` simulates",
)
IDS = 512
SMALL, LARGE = 64, IDS - 64
LAYERS = {
    "Embedding": lambda: keras.layers.Embedding(IDS, 8, name="user"),
    "QREmbedding": lambda: QREmbedding(IDS, 8, 32, name="user"),
    "QREmbedding, three tables": lambda: QREmbedding(IDS, 8, [8, 8, 8], name="user"),
    "MDEmbedding": lambda: MDEmbedding([SMALL, LARGE], [8, 2], 8, name="user"),
    "HashEmbedding": lambda: HashEmbedding(IDS, 8, 64, name="user"),
    "LowBitEmbedding": lambda: LowBitEmbedding(
        IDS,
        8,
        [[2] * 8, [1] * 8],
        [SMALL, LARGE],
        store_blocks=True,
        use_projection=True,
        name="user",
    ),
}
RANDOM = np.random.default_rng(0)
X = RANDOM.integers(0, IDS, 640).astype("int32")
Y = RANDOM.random(640).astype("float32")


def replicated():
    return keras.distribution.DataParallel(auto_shard_dataset=False)


def by_rows():
    """Split the rows of each table over the same devices as the batch."""
    devices = keras.distribution.list_devices()
    mesh = keras.distribution.DeviceMesh((len(devices),), ["batch"], devices)
    layouts = keras.distribution.LayoutMap(mesh)
    layouts["user/.*embeddings"] = ("batch", None)
    return keras.distribution.ModelParallel(
        layout_map=layouts, batch_dim_name="batch", auto_shard_dataset=False
    )


@pytest.fixture(params=[replicated, by_rows])
def distribution(request):
    return request.param()


def trained(make):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((), dtype="int32")
    model = keras.Model(inputs, keras.layers.Dense(1)(make()(inputs)))
    model.compile(keras.optimizers.Adam(0.01), "mse")
    found = model.fit(X, Y, batch_size=64, epochs=2, shuffle=False, verbose=0)
    return model, found.history["loss"]


@pytest.mark.parametrize("name", LAYERS)
def test_losses_and_predictions_are_those_of_one_device(name, distribution):
    alone, expected = trained(LAYERS[name])
    with distribution.scope():
        spread, losses = trained(LAYERS[name])
        predicted = spread.predict(X[:64], verbose=0)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    np.testing.assert_allclose(predicted, alone.predict(X[:64], verbose=0), atol=1e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_each_device_holds_its_share_of_the_rows(name):
    with by_rows().scope():
        model, _ = trained(LAYERS[name])
        tables = [weight for weight in model.weights if "embeddings" in weight.path]
        assert tables
        for table in tables:
            shards = table.value.addressable_shards
            assert len({shard.device for shard in shards}) == DEVICES
            assert {len(shard.data) for shard in shards} == {table.shape[0] // DEVICES}


def test_a_packed_table_looks_up_the_same(distribution, tmp_path):
    model, _ = trained(LAYERS["LowBitEmbedding"])
    low_bit = next(each for each in model.layers if each.name == "user")
    packed = keras.Sequential([keras.Input((), dtype="int32"), low_bit.pack()])
    assert isinstance(packed.layers[0], PackedEmbedding)
    packed.save(tmp_path / "packed.keras")
    expected = packed.predict(X[:64], verbose=0)
    with distribution.scope():
        spread = keras.saving.load_model(tmp_path / "packed.keras")
        found = spread.predict(X[:64], verbose=0)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_rows_that_the_devices_do_not_divide_are_refused():
    message = "'user/remainder' over devices.*Received: 23 rows"
    with by_rows().scope(), pytest.raises(ValueError, match=message):
        QREmbedding(IDS, 8, name="user").build()
