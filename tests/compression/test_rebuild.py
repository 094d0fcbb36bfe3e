import keras
import numpy as np
import pytest
from keras import layers

from memembed.rebuild import embeddings_in, rebuild


def nested():
    shared = layers.Embedding(50, 4)
    inner = keras.Sequential([keras.Input((), dtype="int32"), shared, layers.Dense(2)])
    ids, other = keras.Input((), dtype="int32"), keras.Input((), dtype="int32")
    joined = layers.Concatenate()([inner(ids), inner(other), shared(ids)])
    return keras.Model([ids, other], joined), inner, shared


def test_embeddings_of_nested_models_are_found_once():
    model, _, shared = nested()
    assert embeddings_in(model) == [shared]


def test_a_layer_that_is_used_in_several_places_is_replaced_in_all():
    model, inner, shared = nested()
    new = layers.Embedding(50, 4, "ones")
    asked = []

    def replace(layer):
        asked.append(layer)
        return new if layer is shared else None

    twin = rebuild(model, replace)
    assert asked.count(shared) == 1
    assert embeddings_in(twin) == [new]
    found = keras.ops.convert_to_numpy(twin([np.array([3]), np.array([9])]))
    kernel, bias = inner.layers[-1].get_weights()
    tower = kernel.sum(0) + bias
    np.testing.assert_allclose(found, [[*tower, *tower, 1, 1, 1, 1]], rtol=1e-5)
    assert len(model.weights) == 3


def test_a_model_stays_compiled_even_if_it_cannot_be_rebuilt():
    model, inner, _ = nested()
    for each in (model, inner):
        each.compile("sgd", "mse")

    def refuse(layer):
        raise RuntimeError

    with pytest.raises(RuntimeError):
        rebuild(model, refuse)
    assert model.compiled
    assert inner.compiled
    assert not rebuild(model, lambda layer: None).compiled


def test_a_model_can_be_used_and_trained_after_its_copy_was_trained():
    table, dense = layers.Embedding(50, 4), layers.Dense(1)
    parts = [keras.Input((), dtype="int32"), table, layers.Dropout(0.5), dense]
    model, x = keras.Sequential(parts), np.arange(20)
    before = model.get_weights()
    for each in (rebuild(model, lambda layer: None), model):
        each.compile("sgd", "mse")
        each.fit(x, x / 20, verbose=0)
        if each is not model:
            for one, other in zip(before, model.get_weights(), strict=True):
                np.testing.assert_array_equal(one, other)
