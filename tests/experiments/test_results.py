import pytest

from memembed.experiments.results import stored


def test_an_unknown_table():
    with pytest.raises(ValueError, match=r"`name` must be one of .*Received: name='x'"):
        stored("x")
