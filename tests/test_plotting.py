import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from memembed import plotting
from memembed.training import Result


@pytest.fixture(autouse=True)
def drawn_without_warnings(recwarn):
    """Draw every figure that a test made, and fail on a warning."""
    plt.switch_backend("agg")
    yield
    for number in plt.get_fignums():
        plt.figure(number).canvas.draw()
    plt.close("all")
    assert not recwarn.list


def legend(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def result(name, parameters, mae, seed=0):
    return Result(name, parameters, mae**2, mae, 1.0, seed, {}, None)


def test_rating_histogram():
    axes = plotting.rating_histogram(np.array([1, 5, 5, 3]))
    assert [bar.get_height() for bar in axes.patches] == [0.25, 0.25, 0.5]
    assert axes.get_xticks().tolist() == [1, 3, 5]


def test_popularity_leaves_out_what_a_logarithm_cannot_show():
    axes = plotting.popularity({"users": [9, 3, 1], "movies": [5, 1, 0]})
    assert legend(axes) == ["users", "movies"]
    assert axes.lines[0].get_ydata().tolist() == [9, 3, 1]
    assert axes.lines[1].get_ydata().tolist() == [5, 1]


def test_coverage_is_cumulative():
    axes = plotting.coverage({"users": [6, 3, 1, 0]})
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [0, 0.6, 0.9, 1, 1])
    np.testing.assert_allclose(axes.lines[0].get_xdata(), [0, 0.25, 0.5, 0.75, 1])


def test_learning_curves():
    history = {"mse": [3, 2], "val_mse": [4, 3], "mae": [1, 1], "val_mae": [1, 1]}
    axes = plotting.learning_curves({"a": history, "b": history})
    assert legend(axes) == ["a", "b", "validation", "training"]
    assert axes.lines[0].get_ydata().tolist() == [4, 3]
    assert axes.lines[1].get_ydata().tolist() == [3, 2]
    assert axes.lines[0].get_color() == axes.lines[1].get_color()
    assert axes.lines[0].get_color() != axes.lines[2].get_color()


def test_memory():
    axes = plotting.memory({"weights": 2_494_976, "slots": 4_989_952})
    assert [bar.get_width() for bar in axes.patches] == [2_494_976, 4_989_952]
    assert [text.get_text() for text in axes.texts] == ["2.5 MB", "5.0 MB"]


def test_quotient_remainder_grid():
    axes = plotting.quotient_remainder_grid(10, 4)
    positions = {int(text.get_text()): text.get_position() for text in axes.texts}
    assert positions == {i: (i % 4, i // 4) for i in range(10)}


def test_bucket_rows_marks_the_fewest():
    axes = plotting.bucket_rows(6040)
    (line, point) = axes.lines
    assert min(line.get_ydata()) == point.get_ydata()[0] == 156
    assert axes.texts[0].get_text() == "78 buckets: 156 rows"


def test_value_histograms():
    rng = np.random.default_rng(0)
    axes = plotting.value_histograms({"a": rng.normal(size=(50, 2)), "b": [0.5, -0.5]})
    assert sorted(legend(axes)) == ["a", "b"]


def test_blocks():
    axes = plotting.blocks([90, 50, 4, 3, 1, 0], [2, 4], [64, 16])
    labels = [text.get_text() for text in axes.texts]
    assert labels == ["2 rows,\n64 wide", "4 rows,\n16 wide"]
    assert [text.get_position()[0] for text in axes.texts] == [1, 4]
    first, second = axes.patches
    assert first.get_facecolor() != second.get_facecolor()


def test_size_and_error_averages_over_seeds():
    results = [
        result("plain", 1000, 0.70, seed=0),
        result("plain", 1000, 0.74, seed=1),
        result("small", 10, 0.9),
    ]
    axes = plotting.size_and_error(results, highlight=["small"])
    assert [text.get_text() for text in axes.texts] == ["plain", "small"]
    np.testing.assert_allclose(
        [text.xy for text in axes.texts], [(4000, 0.72), (40, 0.9)]
    )
    plain, small = (bar.lines[0].get_color() for bar in axes.containers)
    assert (plain, small) == (plotting.BLUE, plotting.ORANGE)


def test_size_and_error_writes_no_name_over_another_or_past_the_axes():
    errors = [(9_746, 0.7198), (117_968, 0.7209), (116_952, 0.7017), (623_744, 0.677)]
    errors += [(120_000, 0.7215), (600_000, 0.6775)]
    results = [
        result(f"a name, number {i}", parameters, mae)
        for i, (parameters, mae) in enumerate(errors)
    ]
    axes = plotting.size_and_error(results)
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) == len(results)
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:i])
        assert axes.bbox.x0 <= box.x0
        assert box.x1 <= axes.bbox.x1


def test_size_and_error_names_even_points_that_coincide():
    results = [result(name, 1000, 0.7) for name in "abcdef"]
    texts = plotting.size_and_error(results).texts
    assert [text.get_text() for text in texts] == list("abcdef")


def test_size_and_error_in_squared_error():
    axes = plotting.size_and_error([result("plain", 1000, 0.5)], metric="mse")
    assert axes.texts[0].xy == (4000, 0.25)
    assert axes.get_ylabel() == "mean squared error"


def test_table():
    frame = pd.DataFrame({"parameters": [623_744], "MSE": [0.74153]}, index=[0.3])
    html = plotting.table(frame).to_html()
    assert ">0.30<" in html
    assert ">623,744<" in html
    assert ">0.7415<" in html
    assert 'class="dataframe"' in html


def test_step_times():
    times = pd.DataFrame(
        {
            "vocabulary": [100, 1000, 100, 1000],
            "variant": ["plain", "plain", "QR", "QR"],
            "low": [1, 8, 1, 1],
            "median": [2, 9, 1, 2],
            "high": [3, 10, 2, 2],
        }
    )
    axes = plotting.step_times(times)
    assert legend(axes) == ["plain", "QR"]
    assert axes.lines[0].get_ydata().tolist() == [2, 9]


def test_seconds():
    frame = pd.DataFrame({"a": [30, 10], "b": [3, 2]}, index=["large", "small"])
    axes = plotting.seconds(frame)
    assert legend(axes) == ["a", "b"]
    assert [bar.get_width() for bar in axes.patches] == [30, 10, 3, 2]
    assert [text.get_text() for text in axes.texts] == ["30 s", "10 s", "3 s", "2 s"]
    assert plotting.seconds(frame[["a"]]).get_legend() is None


def rows_of_the_study():
    columns = ["method", "on", "name", "bytes", "mae"]
    rows = [
        ("plain", "both", "8 columns", 800, 0.72),
        ("plain", "both", "8 columns", 800, 0.74),
        ("plain", "both", "1 column", 100, 0.80),
        ("QR, add", "both", "a", 50, 0.90),
        ("QR, add", "users", "a", 70, 0.88),
        ("QR, multiply, and biases", "both", "a", 60, 0.85),
        ("MD by hand", "both", "a", 90, 0.79),
    ]
    return pd.DataFrame(rows, columns=columns)


def test_study():
    rows = rows_of_the_study()
    axes = plotting.study(rows, live=rows.head(1), published=[("published", 99, 0.7)])
    drawn = {line.get_label(): line for line in axes.lines}
    labels = [text.get_text() for text in axes.figure.legends[0].get_texts()]
    assert labels == [*rows.method.unique(), "trained here"]
    np.testing.assert_allclose(drawn["plain"].get_xdata(), [100, 800])
    np.testing.assert_allclose(drawn["plain"].get_ydata(), [0.80, 0.73])
    assert drawn["QR, add"].get_xdata().tolist() == [50]
    assert drawn["QR, add"].get_linestyle() == "--"
    assert drawn["QR, multiply, and biases"].get_linestyle() == "-"
    colours = {name: drawn[name].get_color() for name in labels}
    assert colours["QR, add"] == colours["QR, multiply, and biases"]
    assert len({colours[name] for name in ("plain", "QR, add", "MD by hand")}) == 3
    hollow = [x for x in axes.lines if x.get_markerfacecolor() == "white"]
    assert [70] in [line.get_xdata().tolist() for line in hollow]
    assert "published" in [text.get_text() for text in axes.texts]


def test_ladder():
    rows = pd.DataFrame(
        [("full", 1000, 0.7), ("full", 1000, 0.8), ("small", 10, 0.76)],
        columns=["rung", "bytes", "mae"],
    )
    axes = plotting.ladder(rows, reference="full")
    assert [text.get_text() for text in axes.texts] == ["full", "small"]
    assert axes.xaxis_inverted()
    np.testing.assert_allclose(axes.lines[0].get_ydata(), 0.75)
    np.testing.assert_allclose(axes.lines[1].get_xdata(), [1000, 10])
