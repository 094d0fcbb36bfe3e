import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memembed import tables
from memembed.tables import compositional, even_steps, low_rank, principal_axes

COMBINERS = ["multiply", "add", "concatenate"]

seeds = st.integers(0, 2**32 - 1)


def random_table(ids, columns, seed=0):
    return np.random.default_rng(seed).normal(size=(ids, columns))


def random_popularity(ids, seed=0):
    return np.random.default_rng(seed).pareto(1, size=ids) + 0.01


def squared_error(table, approximation, popularity=None):
    weights = np.ones(len(table)) if popularity is None else popularity
    return weights @ np.sum((table - approximation) ** 2, axis=1)


def tail(matrix, dim=1):
    """Return the sum of the squared singular values that `dim` columns leave out."""
    return np.sum(np.linalg.svd(matrix, compute_uv=False)[dim:] ** 2)


def widened(rows, projection, bias=0):
    return rows @ projection + bias


def combined(tables, combiner, ids):
    rows, rest = [], np.arange(ids)
    for table in tables:
        rest, digit = np.divmod(rest, len(table))
        rows.append(table[digit])
    if combiner == "concatenate":
        return np.concatenate(rows, axis=1)
    return math.prod(rows) if combiner == "multiply" else sum(rows)


@given(st.integers(1, 12), st.integers(1, 8), st.integers(1, 8), seeds)
def test_low_rank_error_is_the_tail_of_the_singular_values(ids, columns, dim, seed):
    table, dim = random_table(ids, columns, seed), min(dim, columns)
    rows, projection = low_rank(table, dim)
    assert (rows.shape, projection.shape) == ((ids, dim), (dim, columns))
    error = squared_error(table, rows @ projection)
    np.testing.assert_allclose(error, tail(table, dim), atol=1e-12)
    np.testing.assert_allclose(projection @ projection.T, np.eye(dim), atol=1e-12)


@given(st.integers(1, 12), st.integers(1, 8), seeds)
def test_low_rank_error_by_popularity(ids, dim, seed):
    table, popularity = random_table(ids, 8, seed), random_popularity(ids, seed)
    error = squared_error(table, widened(*low_rank(table, dim, popularity)), popularity)
    scaled = np.sqrt(popularity)[:, None] * table
    slack = 1e-12 * popularity.sum()
    np.testing.assert_allclose(error, tail(scaled, dim), atol=slack)
    unweighted = widened(*low_rank(table, dim))
    assert error <= squared_error(table, unweighted, popularity) + slack


def best_affine_error(table, dim, popularity, seed):
    """Find it the long way: by least squares on one side after the other."""
    roots = np.sqrt(popularity)[:, None]
    rows = random_table(len(table), dim, seed)
    for _ in range(2000):
        with_one = np.hstack([rows, np.ones((len(table), 1))])
        *projection, bias = np.linalg.lstsq(roots * with_one, roots * table)[0]
        rows = np.linalg.lstsq(np.transpose(projection), (table - bias).T)[0].T
    return squared_error(table, widened(rows, np.stack(projection), bias), popularity)


@pytest.mark.parametrize("dim", [1, 2, 4])
def test_low_rank_error_with_a_bias(dim):
    table, popularity = random_table(12, 5) + 3, random_popularity(12)
    rows, projection, bias = low_rank(table, dim, popularity, use_bias=True)
    error = squared_error(table, rows @ projection + bias, popularity)
    assert error == pytest.approx(best_affine_error(table, dim, popularity, seed=1))
    without = widened(*low_rank(table, dim, popularity))
    assert error < squared_error(table, without, popularity)


@pytest.mark.parametrize("popularity", [None, random_popularity(50)])
@pytest.mark.parametrize("use_bias", [False, True])
def test_low_rank_recovers_a_table_of_that_rank(popularity, use_bias):
    table = random_table(50, 3) @ random_table(3, 8, seed=1)
    if use_bias:
        table = table + 10 * random_table(1, 8, seed=2)
    result = low_rank(table, 3, popularity, use_bias)
    np.testing.assert_allclose(widened(*result), table, atol=1e-12)


def test_low_rank_keeps_a_direction_that_is_weak_but_there():
    table = random_table(50, 2) * [1, 1e-10] @ random_table(2, 8, seed=1)
    remainder = table - widened(*low_rank(table, 2))
    assert np.abs(remainder).max() < 1e-14


@pytest.mark.parametrize(
    "table",
    [random_table(2, 6), np.outer(np.arange(9), np.arange(6)), np.zeros((3, 6))],
)
@pytest.mark.parametrize("use_bias", [False, True])
def test_columns_that_low_rank_does_not_need_can_be_trained(table, use_bias):
    rows, projection, *bias = low_rank(table, 5, use_bias=use_bias)
    np.testing.assert_allclose(widened(rows, projection, *bias), table, atol=1e-12)
    np.testing.assert_allclose(rows[:, 2:], 0, atol=1e-12)
    np.testing.assert_allclose(projection @ projection.T, np.eye(5), atol=1e-12)


def test_low_rank_gives_ids_that_never_occur_their_best_row():
    table, popularity = random_table(40, 6), random_popularity(40)
    popularity[::3] = 0
    rows, projection, bias = low_rank(table, 3, popularity, use_bias=True)
    np.testing.assert_allclose(rows, (table - bias) @ projection.T, atol=1e-12)
    # They have no say in the projection, but for what nobody else has a use for.
    occur = popularity > 0
    alone = low_rank(table[occur], 3, popularity[occur], use_bias=True)
    np.testing.assert_allclose(projection, alone[1], atol=1e-6)
    one = low_rank(np.eye(6), 3, popularity=[1, 0.5, 0, 0, 1e-6, 0])
    np.testing.assert_allclose(widened(*one), np.diag([1, 1, 0, 0, 1, 0]), atol=1e-6)
    two = low_rank(table[:2], 2, popularity=[1, 0])
    np.testing.assert_allclose(widened(*two), table[:2], atol=1e-6)


def test_low_rank_of_a_table_in_chunks(monkeypatch):
    table, popularity = random_table(50, 6), random_popularity(50)
    whole = low_rank(table, 2, popularity, use_bias=True)
    monkeypatch.setattr(tables, "CHUNK", 7)
    for expected, part in zip(
        whole, low_rank(table, 2, popularity, use_bias=True), strict=True
    ):
        np.testing.assert_allclose(part, expected, atol=1e-12)


def test_low_rank_makes_no_copy_of_the_table(monkeypatch):
    monkeypatch.setattr(tables, "CHUNK", 1000)
    table = np.ones((50_000, 32), "float32")
    tracemalloc.start()
    low_rank(table, 2, use_bias=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.5 * table.nbytes


def test_the_sign_of_a_projection_is_settled():
    table = random_table(9, 5)
    _, projection = low_rank(table, 3)
    assert (projection.max(axis=1) == np.abs(projection).max(axis=1)).all()
    np.testing.assert_allclose(low_rank(-table, 3)[1], projection, atol=1e-12)


@given(st.integers(1, 60), st.lists(st.integers(1, 8), min_size=1, max_size=3), seeds)
def test_add_is_the_least_squares_fit(ids, num_buckets, seed):
    num_buckets = [*num_buckets, ids]  # enough for all ids
    table, popularity = random_table(ids, 2, seed), random_popularity(ids, seed)
    tables = compositional(
        table, num_buckets, "add", popularity, iterations=1000, tolerance=1e-9
    )
    error = squared_error(table, combined(tables, "add", ids), popularity)
    digits = np.unravel_index(np.arange(ids), num_buckets, order="F")
    design = np.hstack(
        [np.eye(m)[digit] for m, digit in zip(num_buckets, digits, strict=True)]
    )
    roots = np.sqrt(popularity)[:, None]
    least = np.linalg.lstsq(roots * design, roots * table)[0]
    expected = squared_error(table, design @ least, popularity)
    np.testing.assert_allclose(
        error, expected, rtol=1e-4, atol=1e-9 * squared_error(table, 0, popularity)
    )


def test_add_on_a_complete_grid_is_the_analysis_of_variance():
    table = random_table(12, 2)
    grid = table.reshape(3, 4, 2)  # quotients, remainders, columns
    means = grid.mean(axis=0) + grid.mean(axis=1, keepdims=True)
    expected = (means - grid.mean(axis=(0, 1))).reshape(12, 2)
    tables = compositional(table, [4, 3], "add", iterations=1)
    np.testing.assert_allclose(combined(tables, "add", 12), expected, atol=1e-12)


@given(st.integers(1, 9), st.integers(1, 9), seeds)
def test_multiply_on_a_complete_grid_is_the_best_of_rank_one(m0, m1, seed):
    table = random_table(m0 * m1, 3, seed)
    tables = compositional(table, [m0, m1], "multiply")
    error = squared_error(table, combined(tables, "multiply", m0 * m1))
    expected = sum(tail(column.reshape(m1, m0)) for column in table.T)
    np.testing.assert_allclose(error, expected, atol=1e-12)


def test_multiply_is_best_when_popularity_is_a_product_too():
    roots = np.outer(np.arange(1, 6), np.arange(1, 4) ** 2)  # quotients, remainders
    table = random_table(15, 3)
    tables = compositional(table, [3, 5], "multiply", roots.ravel() ** 2)
    error = squared_error(table, combined(tables, "multiply", 15), roots.ravel() ** 2)
    expected = sum(tail(roots * column.reshape(5, 3)) for column in table.T)
    assert error == pytest.approx(expected)


def test_concatenate_takes_the_mean_over_the_ids_that_share_a_row():
    table, popularity = random_table(11, 4), random_popularity(11)
    remainder, quotient = compositional(table, [3, 4], "concatenate", popularity)
    ids = np.arange(11)
    for row, of_row, columns in [
        *((remainder[r], ids % 3 == r, slice(0, 2)) for r in range(3)),
        *((quotient[q], ids // 3 == q, slice(2, 4)) for q in range(4)),
    ]:
        expected = np.average(
            table[of_row, columns], axis=0, weights=popularity[of_row]
        )
        np.testing.assert_allclose(row, expected)


@pytest.mark.parametrize("combiner", COMBINERS)
@pytest.mark.parametrize(
    ("ids", "num_buckets"),
    [
        (12, [4, 3]),
        (11, [4, 3]),  # the last quotient has fewer remainders
        (9, [4, 3]),
        (5, [9, 2]),  # there is one quotient alone
        (7, [7]),
        (24, [2, 3, 4]),
        (19, [2, 3, 4]),
        (13, [2, 3, 4]),
        (50, [4, 4, 9]),  # not all of the last table is reached
    ],
)
@pytest.mark.parametrize("popular", [False, True])
def test_recovers_a_table_of_that_form(combiner, ids, num_buckets, popular):
    k = len(num_buckets)
    width = 2 if combiner == "concatenate" else 2 * k
    true = [random_table(m, width, seed=j) for j, m in enumerate(num_buckets)]
    table = combined(true, combiner, ids)
    popularity = random_popularity(ids) if popular else None
    tables = compositional(table, num_buckets, combiner, popularity, iterations=2000)
    assert [t.shape for t in tables] == [(m, width) for m in num_buckets]
    np.testing.assert_allclose(combined(tables, combiner, ids), table, atol=1e-6)
    for j, small_table in enumerate(tables):
        reached = -(-ids // math.prod(num_buckets[:j]))
        assert not small_table[reached:].any()


@given(
    st.integers(1, 40),
    st.lists(st.integers(1, 6), min_size=1, max_size=2),
    st.sampled_from(["multiply", "add"]),
    seeds,
)
def test_the_error_never_grows_from_one_iteration_to_the_next(
    ids, num_buckets, combiner, seed
):
    table, popularity = random_table(ids, 3, seed), random_popularity(ids, seed)
    errors = []
    for iterations in range(1, 9):
        tables = compositional(
            table, [*num_buckets, ids], combiner, popularity, iterations, tolerance=0
        )
        assert all(np.isfinite(t).all() for t in tables)
        approximation = combined(tables, combiner, ids)
        errors.append(squared_error(table, approximation, popularity))
    assert (np.diff(errors) <= 1e-12 * squared_error(table, 0, popularity)).all()


@pytest.mark.parametrize("combiner", COMBINERS)
def test_popularity_is_heeded(combiner):
    table, popularity = random_table(100, 4), random_popularity(100)
    with_and_without = [
        combined(compositional(table, [10, 10], combiner, weights), combiner, 100)
        for weights in (popularity, None)
    ]
    for weights, less in ((popularity, 0), (None, 1)):
        errors = [squared_error(table, a, weights) for a in with_and_without]
        assert errors[less] < errors[1 - less]


@pytest.mark.parametrize("combiner", COMBINERS)
def test_ids_that_never_occur(combiner):
    table, popularity = random_table(13, 4), random_popularity(13)
    popularity[[1, 5, 12]] = 0
    tables = compositional(table, [4, 4], combiner, popularity)
    approximation = combined(tables, combiner, 13)
    assert np.abs(approximation).max() < 20 * np.abs(table).max()
    # Row 3 of the quotients belongs to id 12 alone.
    own = slice(2, 4) if combiner == "concatenate" else slice(None)
    np.testing.assert_allclose(approximation[12, own], table[12, own], atol=1e-3)
    occur = squared_error(table, approximation, popularity)
    table[popularity == 0] = random_table(3, 4, seed=1)
    tables = compositional(table, [4, 4], combiner, popularity)
    approximation = combined(tables, combiner, 13)
    assert squared_error(table, approximation, popularity) == pytest.approx(occur, 1e-3)


def test_a_column_of_zeros_can_be_trained():
    table = random_table(11, 2) * [1, 0]
    tables = compositional(table, [2, 2, 3], "multiply")
    assert not combined(tables, "multiply", 11)[:, 1].any()
    assert [t[:, 1].all() for t in tables] == [True, True, False]


def test_the_factors_have_the_same_mean_square_by_popularity():
    popularity, ids = random_popularity(34), np.arange(34)
    tables = compositional(random_table(34, 3), [3, 3, 4], "multiply", popularity)
    digits = ids % 3, ids // 3 % 3, ids // 9
    first, *others = (
        np.average(table[digit] ** 2, axis=0, weights=popularity)
        for table, digit in zip(tables, digits, strict=True)
    )
    for other in others:
        np.testing.assert_allclose(other, first)


def both_kinds(table, popularity=None):
    """Return the arrays of every kind of approximation."""
    arrays = [*low_rank(table, 2, popularity, use_bias=True)]
    for combiner in COMBINERS:
        arrays += compositional(table, [5, 4], combiner, popularity)
    return arrays


def test_same_arguments_same_result():
    table, popularity = random_table(18, 4), random_popularity(18)
    first, second = both_kinds(table, popularity), both_kinds(table, popularity)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("unit", [1e-300, 1000, 1e300])
def test_popularity_has_any_unit(unit):
    table, popularity = random_table(18, 4), random_popularity(18)
    first, second = both_kinds(table, popularity), both_kinds(table, unit * popularity)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-9)


@pytest.mark.parametrize("popularity", [[0] * 18, [7] * 18])
def test_popularity_without_differences_is_as_good_as_none(popularity):
    table = random_table(18, 4)
    for one, other in zip(
        both_kinds(table, popularity), both_kinds(table), strict=True
    ):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("received", "returned"),
    [("float16", "float32"), ("float32", "float32"), ("float64", "float64")],
)
def test_dtype(received, returned):
    arrays = both_kinds(random_table(18, 4).astype(received))
    assert {array.dtype for array in arrays} == {np.dtype(returned)}


def test_arguments_are_left_alone():
    table, popularity = random_table(18, 4), random_popularity(18)
    copies = table.copy(), popularity.copy()
    table.flags.writeable = popularity.flags.writeable = False
    both_kinds(table, popularity)
    np.testing.assert_array_equal(table, copies[0])
    np.testing.assert_array_equal(popularity, copies[1])


@pytest.mark.parametrize(
    ("table", "popularity", "message"),
    [
        (np.ones(6), None, r"`table` must have rows and columns.*shape \(6,\)"),
        (np.ones((0, 4)), None, r"`table` must have rows and.*shape \(0, 4\)"),
        (np.full((6, 4), np.nan), None, r"`table` must be finite.*table\[0, 0\]=nan"),
        ([[0.0, -np.inf]], None, r"`table` must be finite.*table\[0, 1\]=-inf"),
        (np.ones((6, 4)), np.ones(5), r"`popularity` must hold.* 6 rows.*\(5,\)"),
        (np.ones((6, 4)), np.ones((6, 1)), r"`popularity` must hold.*\(6, 1\)"),
        (np.ones((2, 4)), [1, -2], r"`popularity` must be.*popularity\[1\]=-2\.0"),
        (np.ones((2, 4)), [np.nan, 0], r"`popularity` must be.*popularity\[0\]=nan"),
        (np.ones((2, 4)), [0, np.inf], r"`popularity` must be.*popularity\[1\]=inf"),
    ],
)
def test_bad_arrays(table, popularity, message):
    with pytest.raises(ValueError, match=message):
        low_rank(table, 1, popularity)
    with pytest.raises(ValueError, match=message):
        compositional(table, [3, 2], "add", popularity)


@pytest.mark.parametrize(
    ("dim", "error", "message"),
    [
        (0, ValueError, r"`dim` must be a positive integer.*dim=0"),
        (5, ValueError, r"`dim` must be at most 4.*dim=5"),
        (2.0, TypeError, r"`dim` must be a positive integer.*dim=2\.0"),
    ],
)
def test_bad_dim(dim, error, message):
    with pytest.raises(error, match=message):
        low_rank(np.ones((6, 4)), dim)


@pytest.mark.parametrize(
    ("num_buckets", "combiner", "message"),
    [
        ([], "add", r"`num_buckets` must not be empty"),
        ([3, 0], "add", r"`num_buckets\[1\]` must be a positive integer"),
        ([5, 1], "add", r"product of `num_buckets` must be.*num_buckets=\[5, 1\]"),
        ([3, 2], "max", r"`combiner` must be one of.*combiner='max'"),
        ([3, 2, 1], "concatenate", r"multiple of 3 when `combiner`"),
    ],
)
def test_bad_composition(num_buckets, combiner, message):
    with pytest.raises(ValueError, match=message):
        compositional(np.ones((6, 4)), num_buckets, combiner)


def test_principal_axes_keep_the_products_and_part_with_nothing_else():
    rng = np.random.default_rng(0)
    users, movies = rng.normal(size=(30, 4)), rng.normal(size=(20, 4))
    movies[:, 3] = movies[:, 0]  # rank 4 still: the users' columns differ
    turned = principal_axes(users, movies)
    np.testing.assert_allclose(turned[0] @ turned[1].T, users @ movies.T, atol=1e-9)
    strengths = np.linalg.svd(users @ movies.T, compute_uv=False)[:3]
    for table in turned:
        np.testing.assert_allclose(
            table.T @ table, np.diag(strengths), atol=1e-9 * strengths[0]
        )


def test_even_steps_is_near_the_best_uniform_quantiser():
    """Of a normal distribution: Max, Quantizing for minimum distortion, 1960."""
    values = np.random.default_rng(0).normal(size=(20_000, 4))
    _, _, errors = even_steps(values, [1, 2, 3, 4])
    np.testing.assert_allclose(
        errors / 20_000, [0.3634, 0.1188, 0.03744, 0.01154], rtol=0.05
    )


def tried_one_after_another(values, weights, bits):
    """Return the best steps, found the long way: every range rounds every number."""
    shares, top, tried = weights / weights.sum(), 2**bits - 1, []
    centre = shares @ values
    for share in np.geomspace(0.1, 1, 24):
        offset = centre - share * np.abs(values - centre).max()
        scale = 2 * (centre - offset) / top
        for _ in range(3):
            codes = np.round((values - offset) / scale).clip(0, top)
            error = weights @ (values - offset - scale * codes) ** 2
            tried.append((error, offset, scale))
            mean = shares @ codes
            scale = shares @ ((codes - mean) * values) / (shares @ (codes - mean) ** 2)
            offset = centre - scale * mean
    return min(tried)


@given(st.integers(1, 8), seeds)
def test_even_steps_are_those_of_all_ranges_that_round_least(bits, seed):
    table, weights = random_table(400, 2, seed), random_popularity((400, 2), seed)
    offsets, scales, errors = even_steps(table, [[0], [bits]], weights)
    for j, (values, weight) in enumerate(zip(table.T, weights.T, strict=True)):
        found = errors[1, j], offsets[1, j], scales[1, j]
        expected = tried_one_after_another(values, weight, bits)
        np.testing.assert_allclose(found, expected, rtol=1e-9)
        mean = np.average(values, weights=weight)
        found = errors[0, j], offsets[0, j]
        np.testing.assert_allclose(found, (weight @ (values - mean) ** 2, mean))
