import itertools
import warnings

import keras
import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from memembed.layers import MDEmbedding, QREmbedding
from memembed.optimizers import RowwiseAdagrad
from memembed.sizing import (
    alpha_power_dims,
    block_bytes,
    code_bytes,
    low_bit_bytes,
    md_bytes,
    md_parameters,
    md_plan,
    min_buckets,
    plain_bytes,
    plain_parameters,
    qr_bytes,
    qr_parameters,
    training_bytes,
)

sizes = st.integers(1, 50)
# Odd, even, and more than the 128 numbers that share a scale in int4.
widths = st.integers(1, 9) | st.sampled_from([64, 127, 128, 129, 257])
dtypes = st.sampled_from(["float32", "float16", "bfloat16", "int8", "int4"])
# For tests that make layers, which JAX compiles for each shape.
few = settings(max_examples=20)
ZEROS = {"embeddings_initializer": "zeros"}  # JAX compiles a random one for each shape
WIDE = {
    "block_sizes": [2, 3, 4],
    "block_dims": [257, 129, 5],
    "output_dim": 257,
    "use_bias": True,
}
ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}


@st.composite
def qr_arguments(draw):
    """Draw arguments that `QREmbedding`, `qr_parameters` and `qr_bytes` all take."""
    buckets = draw(
        st.none() | sizes | st.lists(st.integers(1, 9), min_size=1, max_size=4)
    )
    tables = len(buckets) if isinstance(buckets, list) else 2
    most = np.prod(buckets, dtype=object) if isinstance(buckets, list) else 50
    return {
        "input_dim": draw(st.integers(1, min(50, most))),
        "output_dim": tables * draw(widths),
        "num_buckets": buckets,
        "combiner": draw(st.sampled_from(["multiply", "add", "concatenate"])),
    }


@st.composite
def md_arguments(draw):
    """Draw arguments that `MDEmbedding`, `md_parameters` and `md_bytes` all take."""
    output_dim = draw(widths)
    dims = widths.filter(lambda dim: dim <= output_dim)
    blocks = draw(st.lists(st.tuples(sizes, dims), min_size=1, max_size=3))
    block_sizes, block_dims = zip(*blocks, strict=True)
    return {
        "block_sizes": block_sizes,
        "block_dims": block_dims,
        "output_dim": output_dim,
        "use_bias": draw(st.booleans()),
    }


def stored_bytes(make_layer, dtype):
    """Return the bytes of all variables of a layer with this `dtype`."""
    quantized = dtype in ("int8", "int4")
    layer = make_layer(dtype="float32" if quantized else dtype)
    ids = keras.Input((), dtype="int32")
    model = keras.Model(ids, layer(ids))
    if quantized:
        with warnings.catch_warnings(action="ignore"):  # of the input layer
            model.quantize(dtype)
    return sum(
        int(np.prod(variable.shape)) * ITEM_BYTES[variable.dtype]
        for variable in layer.variables
    )


def test_the_numbers_of_the_keras_example():
    assert plain_parameters(6040, 64) + plain_parameters(3706, 64) == 623_744
    assert qr_parameters(14_400, 64, num_buckets=120) == 15_360
    assert md_parameters([401, 1301, 2007], [64, 32, 16], 64, use_bias=True) == 102_608


@few
@given(arguments=qr_arguments())
def test_qr_parameters_are_those_of_the_layer(arguments):
    layer = QREmbedding(**arguments, **ZEROS)
    layer.build()
    assert qr_parameters(**arguments) == layer.count_params()


@few
@given(arguments=md_arguments())
def test_md_parameters_are_those_of_the_layer(arguments):
    layer = MDEmbedding(**arguments, **ZEROS)
    layer.build()
    assert md_parameters(**arguments) == layer.count_params()


@few
@given(rows=sizes, width=widths, dtype=dtypes)
@example(rows=3, width=129, dtype="int4")
@example(rows=3, width=129, dtype="int8")
def test_plain_bytes_are_those_of_the_layer(rows, width, dtype):
    def make_layer(dtype):
        return keras.layers.Embedding(rows, width, dtype=dtype, **ZEROS)

    assert plain_bytes(rows, width, dtype) == stored_bytes(make_layer, dtype)


@few
@given(arguments=qr_arguments(), dtype=dtypes)
def test_qr_bytes_are_those_of_the_layer(arguments, dtype):
    def make_layer(dtype):
        return QREmbedding(**arguments, dtype=dtype, **ZEROS)

    assert qr_bytes(**arguments, dtype=dtype) == stored_bytes(make_layer, dtype)


@few
@given(arguments=md_arguments(), dtype=dtypes)
@example(arguments=WIDE, dtype="int4")
@example(arguments=WIDE, dtype="int8")
@example(arguments=WIDE, dtype="float16")
def test_md_bytes_are_those_of_the_layer(arguments, dtype):
    def make_layer(dtype):
        return MDEmbedding(**arguments, dtype=dtype, **ZEROS)

    assert md_bytes(**arguments, dtype=dtype) == stored_bytes(make_layer, dtype)


def test_sizes_past_64_bits():
    assert plain_parameters(np.int32(10**9), np.int32(10**9)) == 10**18
    assert qr_parameters(10**30, 64) == 2 * 10**15 * 64
    assert md_parameters(np.array([2**40]), [2**30], np.int64(2**30)) == 2**70


@given(input_dim=st.integers(1, 3000))
def test_min_buckets(input_dim):
    rows = {m: qr_parameters(input_dim, 1, m) for m in range(1, input_dim + 1)}
    assert rows[min_buckets(input_dim)] == min(rows.values())
    assert qr_parameters(input_dim, 1) == min(rows.values())


@pytest.mark.parametrize("value", [0, -3, True, 2.0, "8", None])
@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (plain_parameters, {"output_dim": 8}, "input_dim"),
        (plain_parameters, {"input_dim": 8}, "output_dim"),
        (plain_bytes, {"output_dim": 8}, "input_dim"),
        (plain_bytes, {"input_dim": 8}, "output_dim"),
        (min_buckets, {}, "input_dim"),
        (md_plan, {"counts": [2, 1], "max_parameters": 99}, "output_dim"),
        (
            alpha_power_dims,
            {"block_counts": [1], "block_sizes": [1], "alpha": 1},
            "output_dim",
        ),
    ],
)
def test_sizes_that_are_no_positive_integers(function, arguments, name, value):
    error = ValueError if type(value) is int else TypeError
    with pytest.raises(error, match=f"`{name}` must be .* {name}={value!r}$"):
        function(**arguments, **{name: value})


@pytest.mark.parametrize(
    "changes",
    [
        {"input_dim": 0},
        {"input_dim": 50.0},
        {"output_dim": -6},
        {"output_dim": True},
        {"num_buckets": 0},
        {"num_buckets": False},
        {"num_buckets": 7.0},
        {"num_buckets": "77"},
        {"num_buckets": ()},
        {"num_buckets": (10, 0)},
        {"num_buckets": (10, 5.0)},
        {"num_buckets": (7, 7)},
        {"combiner": "concat"},
        {"combiner": None},
        {"combiner": "concatenate", "output_dim": 7},
        {"combiner": "concatenate", "num_buckets": (4, 4, 4, 4)},
    ],
)
@pytest.mark.parametrize("function", [qr_parameters, qr_bytes])
def test_bad_arguments_of_qr_raise_what_the_layer_raises(function, changes):
    arguments = {"input_dim": 50, "output_dim": 6, **changes}
    with pytest.raises((TypeError, ValueError)) as expected:
        QREmbedding(**arguments)
    with pytest.raises(expected.type) as received:
        function(**arguments)
    assert str(received.value) == str(expected.value)
    assert next(iter(changes)) in str(received.value)
    assert "Received: " in str(received.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"output_dim": 0},
        {"output_dim": 7},
        {"block_sizes": 5},
        {"block_sizes": "55"},
        {"block_sizes": []},
        {"block_sizes": [5]},
        {"block_sizes": [5, 0]},
        {"block_sizes": [5, True]},
        {"block_dims": [8, 4.0]},
        {"block_dims": [8, -4]},
        {"block_dims": [9, 4]},
        {"block_dims": None},
    ],
)
@pytest.mark.parametrize("function", [md_parameters, md_bytes])
def test_bad_arguments_of_md_raise_what_the_layer_raises(function, changes):
    arguments = {
        "block_sizes": [5, 6],
        "block_dims": [8, 4],
        "output_dim": 8,
        **changes,
    }
    with pytest.raises((TypeError, ValueError)) as expected:
        MDEmbedding(**arguments)
    with pytest.raises(expected.type) as received:
        function(**arguments)
    assert str(received.value) == str(expected.value)
    assert next(iter(changes)) in str(received.value)
    assert "Received: " in str(received.value)


def test_numpy_sizes_and_dtypes_are_exact():
    table = np.zeros((3, 4), "float16")
    assert plain_bytes(*table.shape, table.dtype) == table.nbytes
    assert code_bytes(np.int32(10**9), np.array([4] * 8, "uint8")) == 4 * 10**9
    for rows, bits in ((1000.5, [4]), (1000, [2.5])):
        with pytest.raises(TypeError):
            code_bytes(rows, bits)


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (plain_bytes, (8, 8)),
        (qr_bytes, (8, 8)),
        (md_bytes, ([8], [8], 8)),
    ],
)
@pytest.mark.parametrize("dtype", ["float64", None, ["int8"]])
def test_an_unknown_dtype(function, arguments, dtype):
    with pytest.raises(ValueError, match=r"`dtype` must be one of 'float32'.*dtype="):
        function(*arguments, dtype=dtype)


OPTIMIZERS = {
    "sgd": keras.optimizers.SGD,
    "rowwise_adagrad": RowwiseAdagrad,
    "adagrad": keras.optimizers.Adagrad,
    "adam": keras.optimizers.Adam,
    "adafactor": keras.optimizers.Adafactor,
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_bytes_are_those_of_the_optimizer(name):
    inputs = keras.Input((5,), dtype="int32")
    hidden = keras.layers.Embedding(50, 8)(inputs)
    hidden = keras.layers.Conv1D(3, 2)(hidden)
    model = keras.Model(inputs, keras.layers.Dense(4, use_bias=True)(hidden))
    optimizer = OPTIMIZERS[name]()
    optimizer.build(model.trainable_variables)
    weights = 4 * model.count_params()
    slots = sum(4 * int(np.prod(v.shape)) for v in optimizer.variables if len(v.shape))
    assert training_bytes([w.shape for w in model.trainable_weights], name) == {
        "weights": weights,
        "gradients": weights,
        "slots": slots,
        "total": 2 * weights + slots,
    }


def test_training_bytes_of_no_weights():
    assert training_bytes([])["total"] == 0
    assert training_bytes([()])["weights"] == 4


def test_training_bytes_of_an_unknown_optimizer():
    with pytest.raises(ValueError, match=r"'adafactor'\. Received: optimizer='lion'"):
        training_bytes([(1,)], "lion")


@pytest.mark.parametrize("shapes", [1000, (50, 8), None, [(50, 8), 8]])
def test_training_bytes_of_bad_shapes(shapes):
    with pytest.raises(TypeError, match=r"`shapes` must be a list of shapes.*shapes="):
        training_bytes(shapes)


def test_training_bytes_of_bad_sizes():
    with pytest.raises(ValueError, match=r"`shapes\[1\]\[0\]`.* shapes\[1\]\[0\]=0"):
        training_bytes([(50, 8), (0, 8)])
    with pytest.raises(TypeError, match=r"shapes\[0\]\[1\]=None"):
        training_bytes([(50, None)])


def test_alpha_power_dims_follow_the_rule():
    # Popularities 90, 10 and 1.
    counts, block_sizes = [900, 400, 100], [10, 40, 100]
    assert alpha_power_dims(counts, block_sizes, 64, alpha=0) == [64, 64, 64]
    assert alpha_power_dims(counts, block_sizes, 64, alpha=0.5) == [
        64,
        round(64 * (10 / 90) ** 0.5),
        round(64 * (1 / 90) ** 0.5),
    ]
    assert alpha_power_dims(counts, block_sizes, 64, alpha=9) == [64, 1, 1]
    assert alpha_power_dims([5, 0], [1, 3], 8, alpha=0.5) == [8, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, 2], [3], 8, 0.5), "a count for each.*\\[1, 2\\].*\\[3\\]"),
        (([], [], 8, 0.5), "`block_sizes` must not be empty"),
        (([1, 2], [3, 0], 8, 0.5), r"`block_sizes\[1\]` must be a positive integer"),
        (([1, -2], [3, 3], 8, 0.5), "`block_counts`.*\\[1, -2\\]"),
        (([1, float("nan")], [3, 3], 8, 0.5), "`block_counts`.*\\[1, nan\\]"),
        (([0, 0], [3, 3], 8, 0.5), "`block_counts`.*\\[0, 0\\]"),
        (([1, 2], [3, 3], 8, -1), "`alpha`.*alpha=-1"),
        (([1, 2], [3, 3], 8, float("nan")), "`alpha`.*alpha=nan"),
        (([1, 2], [3, 3], 8, "1"), "`alpha`.*alpha='1'"),
    ],
)
def test_alpha_power_dims_with_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        alpha_power_dims(*arguments)


def test_a_plan_makes_a_layer():
    layer = MDEmbedding(**md_plan(range(99, -1, -1), 8, max_parameters=400))
    layer.build()
    assert layer.count_params() <= 400
    assert layer.input_dim == 100


# From here on: md_plan.


@st.composite
def md_problems(draw, max_ids=40):
    """Draw the arguments of `md_plan`, except for the budget."""
    counts = draw(st.lists(st.integers(0, 100), min_size=1, max_size=max_ids))
    assume(any(counts))
    output_dim = draw(st.integers(1, 9) | st.just(130))
    choice = st.sets(st.integers(1, output_dim), min_size=1, max_size=4)
    return {
        "counts": sorted(counts, reverse=True),
        "output_dim": output_dim,
        "alpha": draw(st.floats(0.05, 0.95)),
        "widths": draw(st.none() | choice.map(sorted)),
        "use_bias": draw(st.booleans()),
    }


def solve(problem, budget):
    return md_plan(**problem, max_parameters=budget)


def cost(problem, block_sizes, block_dims):
    return md_parameters(
        block_sizes, block_dims, problem["output_dim"], problem["use_bias"]
    )


def loss(problem, block_sizes, block_dims):
    dims = np.repeat(np.array(block_dims, "float64"), block_sizes)
    power = 1 / problem["alpha"] - 1
    return np.sum(problem["counts"] * (dims / problem["output_dim"]) ** -power)


def candidates(problem):
    """Return the widths that `problem` allows."""
    output_dim = problem["output_dim"]
    powers = [2**k for k in range(10) if 2**k < output_dim]
    return problem["widths"] or [*powers, output_dim]


def a_step(problem):
    """Return the cost of raising one id from the least width to the greatest."""
    one, two = (
        [cost(problem, [n], [dim]) for dim in candidates(problem)] for n in (1, 2)
    )
    rows = np.subtract(two, one)
    return int(max(rows) - min(rows))


def every_plan(problem):
    """Yield the cost and the loss of every possible plan."""
    dims = sorted(candidates(problem), reverse=True)
    for widths in itertools.combinations_with_replacement(dims, len(problem["counts"])):
        blocks = [(len(list(group)), dim) for dim, group in itertools.groupby(widths)]
        block_sizes, block_dims = zip(*blocks, strict=True)
        yield (
            cost(problem, block_sizes, block_dims),
            loss(problem, block_sizes, block_dims),
        )


@settings(max_examples=200)
@given(problem=md_problems(), budget=st.integers(1, 5000))
def test_md_plan_keeps_to_the_budget(problem, budget):
    ids = len(problem["counts"])
    least = min(cost(problem, [ids], [dim]) for dim in candidates(problem))
    if budget < least:
        with pytest.raises(ValueError, match=f"at least {least}, .*={budget}$"):
            solve(problem, budget)
        return
    plan = solve(problem, budget)
    assert cost(problem, plan["block_sizes"], plan["block_dims"]) <= budget
    assert sum(plan["block_sizes"]) == ids
    assert min(plan["block_sizes"]) > 0
    assert set(plan["block_dims"]) <= set(candidates(problem))
    assert plan["block_dims"] == sorted(set(plan["block_dims"]), reverse=True)
    assert plan["output_dim"] == problem["output_dim"]
    assert plan["use_bias"] is problem["use_bias"]
    assert plan == solve(problem, budget)


@settings(max_examples=200)
@given(problem=md_problems(), budget=st.integers(1, 3000), more=st.integers(0, 200))
def test_a_larger_budget_never_makes_a_plan_worse(problem, budget, more):
    ids = len(problem["counts"])
    budget += min(cost(problem, [ids], [dim]) for dim in candidates(problem))
    less, more = (
        loss(problem, plan["block_sizes"], plan["block_dims"])
        for plan in (solve(problem, budget), solve(problem, budget + more))
    )
    assert more <= less * (1 + 1e-12)


@given(problem=md_problems(max_ids=5), data=st.data())
def test_md_plan_is_within_a_step_of_the_best(problem, data):
    plans = list(every_plan(problem))
    budget = data.draw(st.sampled_from([cost for cost, _ in plans]))
    best = min(loss for cost, loss in plans if cost <= budget)
    plan = solve(problem, budget)
    assert loss(problem, plan["block_sizes"], plan["block_dims"]) >= best * (1 - 1e-12)
    plan = solve(problem, budget + a_step(problem))
    assert loss(problem, plan["block_sizes"], plan["block_dims"]) <= best * (1 + 1e-12)


@settings(max_examples=30)
@given(problem=md_problems())
def test_a_budget_for_a_full_table_gives_a_full_table(problem):
    problem["widths"] = None
    ids, output_dim = len(problem["counts"]), problem["output_dim"]
    for budget in (cost(problem, [ids], [output_dim]), 10**30):
        plan = solve(problem, budget)
        assert (plan["block_sizes"], plan["block_dims"]) == ([ids], [output_dim])


def test_md_plan_follows_the_alpha_power_rule():
    # With this many ids, rounded widths and projections matter little.
    counts = 1e9 / np.arange(1, 100_001)
    plan = md_plan(counts, 512, max_parameters=10_000_000, alpha=0.5)
    edges = np.cumsum(plan["block_sizes"])[:-1]
    assert plan["block_dims"] == [512, 256, 128, 64]
    # Where the width halves, an id is a quarter as popular.
    np.testing.assert_allclose(counts[edges[:-1]] / counts[edges[1:]], 4, rtol=0.01)


def test_ids_that_never_occur_get_the_rest_of_the_budget():
    plan = md_plan([9, 9, 0, 0, 0], 8, max_parameters=2 * 8 + 3 + 8, widths=[8, 1])
    assert (plan["block_sizes"], plan["block_dims"]) == ([2, 3], [8, 1])
    # They get the rest of the budget in order, until it is spent.
    plan = md_plan([9, 9, 0, 0, 0], 8, max_parameters=3 * 8 + 2 + 8, widths=[8, 1])
    assert (plan["block_sizes"], plan["block_dims"]) == ([3, 2], [8, 1])


def test_an_alpha_near_0_or_1():
    counts = range(1000, 0, -1)
    plan = md_plan(counts, 64, max_parameters=16_000, alpha=1e-4)
    assert plan["block_dims"][-1] >= 8
    plan = md_plan(counts, 64, max_parameters=16_000, alpha=1 - 1e-15)
    assert md_parameters(**plan) <= 16_000


def test_md_plan_of_ten_million_ids():
    counts = 10**9 // np.arange(1, 10_000_001)
    plan = md_plan(counts, 64, max_parameters=50_000_000)
    assert sum(plan["block_sizes"]) == 10_000_000
    assert 49_999_000 < md_parameters(**plan) <= 50_000_000


def test_the_default_widths_are_the_greatest_12():
    plan = md_plan([1] * 10, 2**14, max_parameters=8 * 10 + 8 * 2**14)
    assert plan["block_dims"] == [8]
    with pytest.raises(ValueError, match="at least 131152"):
        md_plan([1] * 10, 2**14, max_parameters=8 * 10 + 8 * 2**14 - 1)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"counts": 5}, ValueError, "`counts` must be a list"),
        ({"counts": []}, ValueError, "`counts` must be a list"),
        ({"counts": [[2, 1]]}, ValueError, "`counts` must be a list"),
        ({"counts": "ab"}, TypeError, "`counts` must be a list.*counts='ab'"),
        ({"counts": [2, -1]}, ValueError, r"`counts` must be .*negative.*\[ 2., -1.\]"),
        ({"counts": [0, 0]}, ValueError, "`counts` must be .*not all zero"),
        ({"counts": [float("nan"), 1]}, ValueError, "`counts` must be finite"),
        ({"counts": [float("inf"), 1]}, ValueError, "`counts` must be finite"),
        (
            {"counts": [9, 4, 5]},
            ValueError,
            r"by np.sort\(counts\)\[::-1\].* counts\[1\]=4, counts\[2\]=5$",
        ),
        ({"alpha": 0}, ValueError, "`alpha` must be between 0 and 1.*alpha=0"),
        ({"alpha": 1.0}, ValueError, "alpha=1.0"),
        ({"alpha": "a"}, ValueError, "alpha='a'"),
        ({"widths": [9, 4]}, ValueError, r"`widths` .* widths=\[9, 4\], output_dim=8"),
        ({"widths": [4, 0]}, ValueError, r"`widths\[1\]` must be .* widths\[1\]=0"),
        ({"widths": 4}, TypeError, "`widths` must be a sequence"),
        ({"output_dim": 20, "widths": range(1, 14)}, ValueError, "`widths` .*most 12"),
        ({"max_parameters": 1e5}, TypeError, "`max_parameters` .*=100000.0"),
        ({"max_parameters": 0}, ValueError, "`max_parameters` must be a positive"),
    ],
)
def test_md_plan_with_bad_arguments(changes, error, message):
    arguments = {"counts": [5, 4], "output_dim": 8, "max_parameters": 99, **changes}
    with pytest.raises(error, match=message):
        md_plan(**arguments)


def test_block_bytes_by_hand():
    assert block_bytes(1000, 1) == 0
    # 4 chunks: 32 bytes for each bit of an id, 4 for where it starts; 28 bits empty.
    assert block_bytes(1000, 2) == 4 * (32 + 4) + 3
    assert block_bytes(1000, 5) == 4 * (3 * 32 + 4) + 3
    assert block_bytes(256, 16) == 4 * 32 + 4
    for bad in ((0, 2), (5, 0)):
        with pytest.raises(ValueError, match="must be a positive integer"):
            block_bytes(*bad)


def test_low_bit_bytes_are_the_sum_of_their_parts():
    bits, sizes = [[3, 0], [1, 1], [8, 2]], [5, 300, 7]
    codes = sum(map(code_bytes, sizes, bits))
    assert codes == 2 + 75 + 9
    plain = low_bit_bytes(312, 4, bits, sizes)
    assert plain == codes + 3 * 2 * (4 + 4)
    stored = low_bit_bytes(312, 4, bits, sizes, store_blocks=True)
    assert stored == plain + block_bytes(312, 3)
    projected = low_bit_bytes(312, 4, bits, sizes, use_projection=True)
    assert projected == plain + 2 * 4 * 4
