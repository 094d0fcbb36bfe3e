import keras
import numpy as np
import pytest

from memembed import compress
from memembed.examples import batches, count_batches

BACKEND = keras.backend.backend()


def sizes(examples, batch_size=4):
    return [len(x) for x, *_ in batches(examples, batch_size)]


def test_the_last_batch_holds_the_remaining_examples():
    assert sizes(np.arange(10)) == [4, 4, 2]


def test_missing_labels_and_weights_are_none():
    x, y = np.arange(3), {"a": np.ones(3), "b": None}
    assert next(batches(x, 4))[1:] == (None, None)
    _, labels, weights = next(batches((x, y), 4))
    assert labels["b"] is weights is None


def test_lists_and_nested_structures_are_inputs():
    nested = {"a": [np.arange(5), np.arange(5, 10)], "b": np.arange(5)}
    first, second = (x for x, *_ in batches(nested, 3))
    np.testing.assert_array_equal(first["a"][1], [5, 6, 7])
    np.testing.assert_array_equal(second["b"], [3, 4])


class Endless(keras.utils.PyDataset):
    num_batches = None

    def __getitem__(self, index):
        return np.arange(3)


@pytest.mark.parametrize(
    ("examples", "error", "message"),
    [
        ((np.arange(3) for _ in range(2)), TypeError, "`examples` must be arrays"),
        (None, TypeError, "`examples` must be arrays.*None"),
        (7, TypeError, "`examples` must be arrays.*7"),
        ([1, 2, 3], ValueError, "`examples` must be arrays"),
        (np.arange(0), ValueError, "`examples` must not be empty"),
        ([], ValueError, "`examples` must not be empty"),
        ((np.arange(3),) * 4, ValueError, "`examples` must be inputs.*tuple of 4"),
        ((np.arange(3), np.arange(2)), ValueError, r"`examples` must.*\[2, 3\]"),
        (Endless(), ValueError, "`examples` must have an end"),
    ],
)
def test_examples_that_are_refused(examples, error, message):
    with pytest.raises(error, match=message):
        list(batches(examples, 4))


@pytest.mark.skipif(BACKEND != "tensorflow", reason="tf.data")
def test_a_dataset_without_an_end_is_refused():
    import tensorflow as tf

    endless = tf.data.Dataset.from_tensor_slices(np.arange(3)).batch(2).repeat()
    with pytest.raises(ValueError, match="`examples` must have an end"):
        list(batches(endless, 4))


@pytest.mark.parametrize(
    ("examples", "error", "message"),
    [
        (
            np.array([0, 50]),
            ValueError,
            "`examples` must hold ids from 0 to 49.* 0 to 50",
        ),
        (
            np.array([-1, 3]),
            ValueError,
            "`examples` must hold ids from 0 to 49.* -1 to",
        ),
        ({"other": np.arange(3), "more": np.arange(3)}, ValueError, "ids"),
        (np.arange(0), ValueError, "`examples` must not be empty"),
    ],
)
def test_examples_that_the_model_does_not_take(examples, error, message):
    model = keras.Sequential(
        [keras.Input((), dtype="int32", name="ids"), keras.layers.Embedding(50, 8)]
    )
    before = model.get_weights()[0]
    with pytest.raises(error, match=message):
        compress(model, examples, 200)
    np.testing.assert_array_equal(model.get_weights()[0], before)


def test_batches_are_counted():
    x = np.arange(10)
    for examples in (x, (x, x), {"a": [x], "b": x}):
        assert count_batches(examples, 4) == sum(1 for _ in batches(examples, 4)) == 3
    for unknown in (None, 7, [], Endless()):
        assert count_batches(unknown, 4) is None


@pytest.mark.skipif(BACKEND != "tensorflow", reason="tf.data")
def test_batches_of_a_dataset_are_counted():
    import tensorflow as tf

    known = tf.data.Dataset.from_tensor_slices(np.arange(10)).batch(3)
    unknown = known.filter(lambda batch: batch[0] > 0)
    assert [count_batches(x, 7) for x in (known, unknown)] == [4, None]
