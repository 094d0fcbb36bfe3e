import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memembed.data import Vocabulary


def test_most_popular_first():
    vocabulary = Vocabulary([30, 10, 20, 20, 30, 20])
    assert vocabulary.ids.tolist() == [20, 30, 10]
    assert vocabulary.counts.tolist() == [3, 2, 1]
    assert len(vocabulary) == 3
    assert repr(vocabulary) == "Vocabulary(3 rows, most popular first: 20, 30, 10)"


def test_untrained_ids_come_last():
    vocabulary = Vocabulary([9, 9, 7], catalogue=[9, 8, 7, 1, 8])
    assert vocabulary.ids.tolist() == [9, 7, 1, 8]
    assert vocabulary.counts.tolist() == [2, 1, 0, 0]
    with pytest.raises(ValueError, match=r"all be in catalogue. .*: 3, 4$"):
        Vocabulary([1, 3, 4, 3], catalogue=[1, 2])


@pytest.mark.parametrize("shape", [(), (1,), (4,), (2, 3), (2, 0)])
def test_shapes(shape):
    vocabulary = Vocabulary([5, 5, 3])
    rows = vocabulary.encode(np.full(shape, 3))
    assert (rows.shape, rows.dtype) == (shape, "int32")
    assert (rows == 1).all()
    ids = vocabulary.decode(rows)
    assert ids.shape == shape
    assert (ids == 3).all()


@pytest.mark.parametrize("make", [list, np.array, pd.Series, pd.Categorical])
def test_strings(make):
    vocabulary = Vocabulary(make(["b", "a", "b"]), catalogue=make(["c", "b", "a"]))
    assert vocabulary.ids.tolist() == ["b", "a", "c"]
    assert vocabulary.encode(make(["c", "b"])).tolist() == [2, 0]
    assert vocabulary.encode("a") == 1
    assert vocabulary.decode([1, 2]).tolist() == ["a", "c"]
    with pytest.raises(ValueError, match=r"not in the vocabulary: 'd', 'e'$"):
        vocabulary.encode(make(["a", "d", "e"]))


@given(
    st.lists(st.integers(-(2**40), 2**40), min_size=1)
    | st.lists(st.text("abcé", max_size=3), min_size=1)
)
def test_round_trip(ids):
    vocabulary = Vocabulary(ids)
    assert vocabulary.decode(vocabulary.encode(ids)).tolist() == ids
    assert vocabulary.counts.tolist() == [ids.count(i) for i in vocabulary.ids]
    order = list(zip(-vocabulary.counts, vocabulary.ids, strict=True))
    assert order == sorted(order)


def test_unknown_ids():
    vocabulary = Vocabulary([1, 2])
    with pytest.raises(ValueError, match=r"vocabulary: 9, 8, 7, 6, 5, \.\.\.$"):
        vocabulary.encode([[1, 9, 8, 9], [7, 6, 5, 4]])


def test_ids_of_another_kind_are_not_unknown_ids():
    for own, other in (([1, 2], ["1", "2"]), (["1", "2"], [1, 2]), (["1"], [b"1"])):
        for make in (np.array, lambda ids: np.array(ids, object)):
            vocabulary = Vocabulary(own, num_oov_indices=1)
            with pytest.raises(ValueError, match=r"`ids` must be .*Received: .*1"):
                vocabulary.encode(make(other))
            assert vocabulary.encode(make([])).tolist() == []
    assert Vocabulary([1, 2]).encode(np.array([2, 1], object)).tolist() == [1, 0]


def test_missing_ids_are_refused():
    for ids in ([1, np.nan], ["a", None], pd.array([1, None], "Int64")):
        with pytest.raises(ValueError, match=r"`train_ids` must not .*Received: 1"):
            Vocabulary(ids)
        with pytest.raises(ValueError, match=r"`catalogue` must not .*Received: 1"):
            Vocabulary([1], catalogue=ids)


def test_large_integers_stay_different():
    """As floats, some of them would be the same."""
    large = np.array([2**63 + 1, 2**63 + 2, 5], "uint64")
    vocabulary = Vocabulary(large)
    assert vocabulary.decode(vocabulary.encode(large)).tolist() == large.tolist()
    floats = large.astype("float64")
    for wrong in (lambda: Vocabulary(floats), lambda: vocabulary.encode(floats)):
        with pytest.raises(ValueError, match=r"must be integers if .*9\.22.*e\+18"):
            wrong()
    with pytest.raises(ValueError, match=r"from 16,777,216 on, .* same float32"):
        Vocabulary(np.array([2**24, 2**24 + 1], "float32"))
    for kind in ("float32", "float64"):
        assert Vocabulary(np.array([2, 3], kind)).encode([3]).tolist() == [1]


def test_out_of_vocabulary_row():
    vocabulary = Vocabulary([2, 1, 2], catalogue=[1, 2, 3], num_oov_indices=1)
    assert len(vocabulary) == 4
    assert vocabulary.ids.tolist() == [2, 1, 3]
    assert vocabulary.counts.tolist() == [2, 1, 0, 0]
    assert vocabulary.encode([[3, 99], [2, -1]]).tolist() == [[2, 3], [0, 3]]
    assert vocabulary.encode(99) == 3
    for wrong in (2, True):
        with pytest.raises(ValueError, match=f"`num_oov_indices` must be .*={wrong}"):
            Vocabulary([1], num_oov_indices=wrong)
        with pytest.raises(ValueError, match=f"`num_oov_indices` must be .*={wrong}"):
            Vocabulary.from_counts([1], [1], wrong)
    with pytest.raises(ValueError, match=r"`counts` must not be negative.*-1"):
        Vocabulary.from_counts([1, 2], [-1, 1])


def test_decode_nothing_and_floats():
    vocabulary = Vocabulary(["a", "b"])
    assert vocabulary.decode([]).tolist() == []
    with pytest.raises(TypeError, match=r"`rows` must be integers. Received: 1.0"):
        vocabulary.decode([1.0])


@pytest.mark.parametrize("row", [-1, 2, 3])
def test_rows_without_an_id(row):
    vocabulary = Vocabulary([1, 2], num_oov_indices=1)
    with pytest.raises(ValueError, match=f"rows must be from 0 to 1 .*: {row}$"):
        vocabulary.decode([0, row])


def test_read_only():
    vocabulary = Vocabulary([1, 2])
    for array in (vocabulary.ids, vocabulary.counts):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 5
