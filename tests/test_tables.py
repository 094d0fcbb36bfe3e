import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memembed import tables
from memembed.tables import even_steps, low_rank, principal_axes, weighted_triangle

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
    """Find the error by alternating least squares."""
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


def test_low_rank_keeps_a_weak_direction():
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
    # They change the projection only in directions that no other id needs.
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


def test_the_sign_of_a_projection_is_fixed():
    table = random_table(9, 5)
    _, projection = low_rank(table, 3)
    assert (projection.max(axis=1) == np.abs(projection).max(axis=1)).all()
    np.testing.assert_allclose(low_rank(-table, 3)[1], projection, atol=1e-12)


def test_same_arguments_same_result():
    table, popularity = random_table(18, 4), random_popularity(18)
    first, second = (low_rank(table, 2, popularity, True) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("unit", [1e-300, 1000, 1e300])
def test_only_ratios_of_popularity_matter(unit):
    table, popularity = random_table(18, 4), random_popularity(18)
    first = low_rank(table, 2, popularity, True)
    second = low_rank(table, 2, unit * popularity, True)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-9)


@pytest.mark.parametrize("popularity", [[0] * 18, [7] * 18])
def test_equal_popularity_is_the_same_as_none(popularity):
    table = random_table(18, 4)
    alike, without = low_rank(table, 2, popularity), low_rank(table, 2)
    for one, other in zip(alike, without, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("received", "returned"),
    [("float16", "float32"), ("float32", "float32"), ("float64", "float64")],
)
def test_dtype(received, returned):
    arrays = low_rank(random_table(18, 4).astype(received), 2, use_bias=True)
    assert {array.dtype for array in arrays} == {np.dtype(returned)}


def test_arguments_are_left_alone():
    table, popularity = random_table(18, 4), random_popularity(18)
    copies = table.copy(), popularity.copy()
    table.flags.writeable = popularity.flags.writeable = False
    low_rank(table, 2, popularity, use_bias=True)
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


def test_principal_axes_keep_the_products_and_are_orthogonal():
    rng = np.random.default_rng(0)
    users, movies = rng.normal(size=(30, 4)), rng.normal(size=(20, 4))
    movies[:, 3] = movies[:, 0]  # rank 4 still: the users' columns differ
    one, other = rng.pareto(1, 30) + 0.01, rng.pareto(1, 20) + 0.01
    turn, back = principal_axes(
        weighted_triangle(users, one), weighted_triangle(movies, other)
    )
    turned = users @ turn, movies @ back
    np.testing.assert_allclose(turned[0] @ turned[1].T, users @ movies.T, atol=1e-9)
    products = np.sqrt(one)[:, None] * (users @ movies.T) * np.sqrt(other)
    strengths = np.linalg.svd(products, compute_uv=False)[:3]
    for table, weights in zip(turned, (one, other), strict=True):
        np.testing.assert_allclose(
            (weights[:, None] * table).T @ table,
            np.diag(strengths),
            atol=1e-9 * strengths[0],
        )


def test_principal_axes_of_one_table_leave_it_as_it_is():
    """With any matrix that says how much its errors count."""
    table, counts = random_table(30, 4), random_table(4, 4, seed=1)
    turn, back = principal_axes(weighted_triangle(table, np.ones(30)), counts)
    np.testing.assert_allclose(table @ turn @ back.T, table, atol=1e-9)
    # Errors of different columns count separately, those of the first column most.
    gram = back.T @ counts.T @ counts @ back
    np.testing.assert_allclose(gram, np.diag(np.diag(gram)), atol=1e-9)
    assert (np.diff(np.diag(gram)) < 0).all()


def test_even_steps_is_near_the_best_uniform_quantiser():
    """Of a normal distribution: Max, Quantizing for minimum distortion, 1960."""
    values = np.random.default_rng(0).normal(size=(20_000, 4))
    _, _, errors = even_steps(values, [1, 2, 3, 4])
    np.testing.assert_allclose(
        errors / 20_000, [0.3634, 0.1188, 0.03744, 0.01154], rtol=0.05
    )


def best_steps_by_brute_force(values, weights, bits):
    """Return the best steps, found by rounding every number in every range."""
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
def test_even_steps_agree_with_a_brute_force_search(bits, seed):
    table, weights = random_table(400, 2, seed), random_popularity(400, seed)
    weights /= weights.max()
    offsets, scales, errors = even_steps(table, [[0], [bits]], weights)
    for j, values in enumerate(table.T):
        found = errors[1, j], offsets[1, j], scales[1, j]
        expected = best_steps_by_brute_force(values, weights, bits)
        np.testing.assert_allclose(found, expected, rtol=1e-9)
        mean = np.average(values, weights=weights)
        found = errors[0, j], offsets[0, j]
        np.testing.assert_allclose(found, (weights @ (values - mean) ** 2, mean))
