import numpy as np
import pytest

from memembed.allocation import (
    allot,
    equal_shares,
    plan_bits,
    rounding_errors,
    sensitivities,
)
from memembed.sizing import low_bit_bytes


def test_shares_are_as_equal_as_whole_ids_allow():
    counts = np.sort(np.random.default_rng(0).pareto(1, 1000))[::-1]
    sizes = equal_shares(counts, 5)
    assert sum(sizes) == 1000
    shares = [part.sum() / counts.sum() for part in np.split(counts, np.cumsum(sizes))]
    assert np.abs(np.array(shares[1:5]) - 0.2).max() < counts[1] / counts.sum()


@pytest.mark.parametrize("biases", [False, True])
def test_sensitivities_foretell_what_an_error_does(biases):
    """Where ratings are predicted exactly, so that only the square of it counts."""
    rng = np.random.default_rng(0)
    shapes = {"user": (50, 3), "movie": (40, 3)}
    if biases:
        shapes |= {"user_bias": (50, 1), "movie_bias": (40, 1)}
    tables = {name: rng.normal(scale=0.5, size=shape) for name, shape in shapes.items()}
    ids = {side: rng.integers(shapes[side][0], size=2000) for side in ("user", "movie")}

    def predict(tables):
        score = (tables["user"][ids["user"]] * tables["movie"][ids["movie"]]).sum(1)
        for side in ids if biases else ():
            score += tables[f"{side}_bias"][ids[side], 0]
        return 5 / (1 + np.exp(-score))

    ratings, found = predict(tables), sensitivities(tables, ids, 5)
    for name, table in tables.items():
        assert found[name].shape == table.shape
        for row, column in ((0, 0), (30, table.shape[1] - 1)):
            moved = table.copy()
            moved[row, column] += 1e-3
            error = np.mean((predict(tables | {name: moved}) - ratings) ** 2)
            assert error == pytest.approx(1e-6 * found[name][row, column], rel=0.01)


def planned(table, weights, cuts, max_bytes):
    """Return the bits of a table's blocks, and the error."""
    parts = list(zip(np.split(table, cuts), np.split(weights, cuts), strict=True))
    errors = {block: rounding_errors(*part) for block, part in enumerate(parts)}
    rows = {block: len(part[0]) for block, part in enumerate(parts)}
    bits, error = plan_bits(errors, rows, max_bytes)
    used = low_bit_bytes(*table.shape, list(bits.values()), list(rows.values()))
    assert used <= max_bytes
    return bits, error


def test_bits_go_where_they_are_worth_most():
    rng = np.random.default_rng(0)
    table = rng.normal(size=(200, 3)) * [1, 0.4, 0.001]
    weights = np.ones_like(table)
    weights[:100] = 100.0
    bits, _ = planned(table, weights, [100], max_bytes=160)
    assert bits[0][0] > bits[0][1] > bits[0][2] == 0
    assert bits[0][0] > bits[1][0] > bits[1][1]


@pytest.mark.parametrize("max_bytes", [30, 40, 50])
def test_an_exhaustive_search_finds_no_better_bits(max_bytes):
    """None that is better in a budget that is smaller by one column's bit."""
    rng = np.random.default_rng(1)
    table = rng.normal(size=(40, 2)) * [1, 0.4]
    weights = rng.random(size=table.shape)
    _, mine = planned(table, weights, [], max_bytes)
    errors = rounding_errors(table, weights)
    best = min(
        errors[0, i] + errors[1, j]
        for i in range(8)
        for j in range(8)
        if i + j and low_bit_bytes(40, 2, [i, j]) <= max_bytes - 40 / 8
    )
    assert mine <= best + 1e-12


def test_columns_that_hold_nothing_cost_nothing():
    """They would have an offset and a scale in each block."""
    rng = np.random.default_rng(0)
    strengths = [1, 1, 1e-4, 1e-4, 1e-4, 1e-4]
    tables = {"one": rng.normal(size=(90, 6)) * strengths, "bias": np.ones((50, 1))}
    weights = {name: np.ones_like(table) for name, table in tables.items()}
    sizes, numbers = {"one": [30, 60], "bias": [50]}, []
    bits = allot(tables, weights, sizes, 200, numbers.append)
    assert [len(block) for block in bits["one"] + bits["bias"]] == [2, 2, 1]
    assert numbers == [180, 360, 50]
    used = [
        low_bit_bytes(*tables[name][:, :2].shape, bits[name], sizes[name])
        for name in tables
    ]
    assert 180 < sum(used) <= 200
