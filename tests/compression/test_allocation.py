import re
from itertools import product

import keras
import numpy as np
import pytest

from memembed.allocation import (
    Layout,
    allocate,
    equal_shares,
    plan_bits,
    rounding_errors,
)
from memembed.layers import LowBitEmbedding
from memembed.sizing import code_bytes


def test_there_are_no_empty_blocks():
    assert equal_shares([9, 1, 1], 5) == [1, 2]
    assert equal_shares([1, 1], 5) == [1, 1]


def planned(table, weights, cuts, max_bytes):
    """Return the bits of a table's blocks, and the error."""
    parts = list(zip(np.split(table, cuts), np.split(weights, cuts), strict=True))
    errors = [rounding_errors(*part) for part in parts]
    rows = [len(part[0]) for part in parts]
    bits, error = plan_bits(errors, rows, max_bytes)
    assert sum(map(code_bytes, rows, bits)) <= max_bytes
    return bits, error


def test_rounding_errors_are_those_of_the_rounded_table():
    rng = np.random.default_rng(0)
    table, weights = rng.normal(size=(50, 2)).astype("float32"), rng.random(50)
    errors = rounding_errors(table, weights)
    layer = LowBitEmbedding.from_embedding(table, bits=[2, 3], popularity=weights)
    rounded = keras.ops.convert_to_numpy(layer(np.arange(50)))
    found = weights @ (rounded - table) ** 2
    np.testing.assert_allclose(found, [errors[0, 2], errors[1, 3]], rtol=1e-4)


def test_bits_go_where_they_are_worth_most():
    rng = np.random.default_rng(0)
    table = rng.normal(size=(200, 3)) * [1, 0.4, 0.001]
    weights = np.repeat([100.0, 1.0], 100)
    bits, _ = planned(table, weights, [100], max_bytes=160)
    assert bits[0][0] > bits[0][1] > bits[0][2] == 0
    assert bits[0][0] > bits[1][0] > bits[1][1]


@pytest.mark.parametrize("max_bytes", range(10, 60, 5))
@pytest.mark.parametrize("num_blocks", [1, 2])
def test_an_exhaustive_search_finds_no_better_bits(max_bytes, num_blocks):
    """A bit costs the same in all columns, and gains less than the bit before."""
    rng = np.random.default_rng(max_bytes)
    errors = [rng.random((2, 1)) * 4.0 ** -np.arange(6) for _ in range(num_blocks)]
    rows = [40] * num_blocks
    bits, mine = plan_bits(errors, rows, max_bytes)
    best = min(
        sum(
            error[i, j]
            for error, each in zip(errors, choice, strict=True)
            for i, j in enumerate(each)
        )
        for choice in product(product(range(6), repeat=2), repeat=num_blocks)
        if all(map(sum, choice)) and 5 * sum(map(sum, choice)) <= max_bytes
    )
    assert sum(map(code_bytes, rows, bits)) <= max_bytes
    assert mine == pytest.approx(best)


def test_every_block_gets_a_bit():
    errors = [np.array([[4.0, 1.0]])] * 2
    assert plan_bits(errors, [16, 8], max_bytes=3)[0] == [[1], [1]]
    assert plan_bits(errors, [16, 8], max_bytes=2) == (None, np.inf)


def layout(ids, columns, cuts=(), in_order=True, projection=False, seed=0, **how):
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(ids, columns)) * 0.5 ** np.arange(columns)
    weights = np.sort(rng.pareto(1, ids))[::-1]
    order = np.arange(ids) if in_order else rng.permutation(ids)
    return Layout(
        table,
        weights / weights.sum(),
        np.ones(columns),
        [np.sort(each) for each in np.split(order, cuts)],
        projection=np.eye(columns) if projection else None,
        **how,
    )


def used(plan):
    return sum(
        each.overhead(len(bits[0])) + sum(map(code_bytes, each.rows, bits))
        for each, bits in plan.values()
    )


def groups():
    """Return a pair of tables and a single table, with several ways to hold each."""
    pairs = [
        {"one": layout(90, 6, cuts), "two": layout(60, 6, (), in_order, seed=1)}
        for cuts, in_order in (((), True), ((20,), True), ((20, 50), False))
    ]
    alone = [
        {"alone": layout(80, 4, (), True, all_columns=True, seed=2)},
        {"alone": layout(80, 4, (30,), False, projection=True, seed=2)},
    ]
    return [pairs, alone]


@pytest.mark.parametrize("max_bytes", [120, 200, 300, 500, 1000])
def test_a_budget_is_never_exceeded(max_bytes):
    assert 0.9 * max_bytes < used(allocate(groups(), max_bytes)) <= max_bytes


def test_the_least_budget_is_enough_and_less_is_refused():
    with pytest.raises(ValueError, match=r"`max_bytes` must be at least") as refused:
        allocate(groups(), 1)
    least = int(re.search(r"at least (\d+)", str(refused.value))[1])
    assert used(allocate(groups(), least)) <= least
    match = f"at least {least + 9}: 9 for weights.*Received: max_bytes={least + 8}"
    with pytest.raises(ValueError, match=match):
        allocate(groups(), least + 8, reserved=9)


def test_tables_of_a_pair_keep_the_same_columns():
    plan = allocate(groups(), 300)
    columns = [len(each) for name in ("one", "two") for each in plan[name][1]]
    assert len(set(columns)) == 1
    assert columns[0] < 6


def test_a_layout_of_several_choices_is_measured_once():
    shared = [layout(90, 6, (), True), layout(60, 6, (20,), True, seed=1)]
    numbers = []
    choices = [{"one": shared[0], "two": each} for each in (shared[1], *shared[1:])]
    allocate([choices], 300, progress=numbers.append)
    assert numbers == [90 * 6, 20 * 6, 40 * 6]


def test_columns_without_bits_are_left_out():
    """They would have an offset and a scale in each block."""
    rng = np.random.default_rng(0)
    table = rng.normal(size=(90, 6)) * [1, 1, 1e-4, 1e-4, 1e-4, 1e-4]
    plain = Layout(table, np.ones(90), np.ones(6), [np.arange(30), np.arange(30, 90)])
    numbers = []
    ((_, bits),) = allocate([[{"one": plain}]], 200, progress=numbers.append).values()
    assert [len(block) for block in bits] == [2, 2]
    assert numbers == [180, 360]
