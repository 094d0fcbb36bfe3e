"""Every figure is drawn without a warning, and shows the numbers that it is given."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from memembed import plotting


@pytest.fixture(autouse=True)
def drawn_without_warnings(recwarn):
    """Draw every figure that a test made, and fail on a warning."""
    plt.switch_backend("agg")
    yield
    for number in plt.get_fignums():
        plt.figure(number).canvas.draw()
    plt.close("all")
    assert [str(warning.message) for warning in recwarn] == []


def heights(axes):
    return [bar.get_height() for bar in axes.patches]


def widths(axes):
    return [bar.get_width() for bar in axes.patches]


def rows(*values):
    return pd.DataFrame(values, columns=["method", "on", "name", "bytes", "mae"])


def one_method(*values):
    return rows(*(("plain", "both", *each) for each in values))


def test_rating_histogram():
    axes = plotting.rating_histogram(np.array([1, 5, 5, 3]))
    assert heights(axes) == [0.25, 0.25, 0.5]


def test_popularity_leaves_out_zeros():
    axes = plotting.popularity({"users": [9, 3, 1], "movies": [5, 1, 0]})
    assert [line.get_ydata().tolist() for line in axes.lines] == [[9, 3, 1], [5, 1]]


def test_coverage_is_cumulative():
    axes = plotting.coverage({"users": [6, 3, 1, 0]})
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [0, 0.6, 0.9, 1, 1])
    np.testing.assert_allclose(axes.lines[0].get_xdata(), [0, 0.25, 0.5, 0.75, 1])


def test_learning_curves():
    history = {"mse": [3, 2], "val_mse": [4, 3], "mae": [1, 1], "val_mae": [1, 1]}
    axes = plotting.learning_curves({"a": history, "b": history})
    drawn = [line.get_ydata().tolist() for line in axes.lines[:4]]
    assert drawn == [[4, 3], [3, 2]] * 2


def test_bars():
    assert widths(plotting.bars({"weights": 250, "slots": 500}, "B")) == [250, 500]
    frame = pd.DataFrame({"a": [30, 10], "b": [3, 2]}, index=["large", "small"])
    assert widths(plotting.bars(frame, "s")) == [30, 10, 3, 2]


def test_growth_names_a_line_where_it_ends():
    table = pd.DataFrame({"a": [1, 10], "b": [5, np.nan]}, index=[1000, 10_000])
    axes = plotting.growth(table, "s", {"enough": 7})
    assert {text.get_text(): text.xy for text in axes.texts} == {
        "a": (10_000, 10),
        "b": (1000, 5),
        "enough": (0, 7),
    }
    assert [len(line.get_xdata()) for line in axes.lines] == [2, 1, 2]


def test_growth_has_room_for_long_names():
    ids = 10 ** np.arange(3, 12)
    names = "mixed dimensions", "three tables, Adam"
    table = pd.DataFrame({name: np.arange(1, 10) for name in names}, index=ids)
    axes = plotting.growth(table, "bytes")
    axes.figure.draw_without_rendering()
    right = axes.figure.bbox.x1
    assert all(text.get_window_extent().x1 < right for text in axes.texts)


def test_quotient_remainder_grid():
    axes = plotting.quotient_remainder_grid(10, 4)
    positions = {int(text.get_text()): text.get_position() for text in axes.texts}
    assert positions == {i: (i % 4, i // 4) for i in range(10)}


def test_bucket_rows_marks_the_fewest():
    line, point = plotting.bucket_rows(6040).lines
    assert min(line.get_ydata()) == point.get_ydata()[0] == 156


def test_blocks():
    axes = plotting.blocks([90, 50, 4, 3, 1, 0], [2, 4], [64, 16])
    assert [text.get_position()[0] for text in axes.texts] == [1, 4]
    assert [(bar.get_x(), bar.get_width()) for bar in axes.patches] == [(0, 2), (2, 4)]


def test_column_strengths():
    axes = plotting.column_strengths({"a": np.array([[1, 2], [3, 0]])})
    np.testing.assert_allclose(axes.lines[0].get_xydata(), [[1, 5], [2, 2]])


def test_matrices_outline_the_rows_that_are_looked_up():
    tables = {"a": [[1, 2], [3, 4], [5, 6]], "b": [[-0.5, 7]], "c": [[8, 9]]}
    axes = plotting.matrices(tables, rows=[2, 0, None], signs="×=")
    texts = [text.get_text() for text in axes.texts]
    expected = [
        "1.00",
        "2.00",
        "3.00",
        "4.00",
        "5.00",
        "6.00",
        "a",
        "×",
        "-0.50",
        "7.00",
        "b",
        "=",
        "8.00",
        "9.00",
        "c",
    ]
    assert texts == [*expected, ""]
    outlined = [(box.get_xy(), box.get_height()) for box in axes.patches]
    assert outlined == [((0, 2), 1), ((3, 1), 1), ((6, 1), 1)]


def test_bit_map():
    axes = plotting.bit_map([[3, 1, 0], [2, 0, 0]], [10, 2000])
    assert [text.get_text() for text in axes.texts] == ["3", "1", "0", "2", "0", "0"]
    assert [each.get_text() for each in axes.get_yticklabels()] == [
        "10 ids",
        "2,000 ids",
    ]


def test_size_and_error_averages_seeds():
    models = one_method(("plain", 4000, 0.7), ("plain", 4000, 0.74), ("small", 40, 0.9))
    axes = plotting.size_and_error(models, highlight=["small"])
    named = {text.get_text(): text.xy for text in axes.texts}
    assert named == {
        "plain": pytest.approx((4000, 0.72)),
        "small": pytest.approx((40, 0.9)),
    }
    (low, high), *_ = (
        segment[:, 1] for segment in axes.containers[0].lines[2][0].get_segments()
    )
    assert (low, high) == pytest.approx((0.7, 0.74))


def test_names_in_size_and_error_do_not_overlap_and_stay_in_the_axes():
    errors = [(39e3, 0.7198), (472e3, 0.7209), (468e3, 0.7017), (2.5e6, 0.677)]
    errors += [(480e3, 0.7215), (2.4e6, 0.6775)]
    models = one_method(*((f"a name, number {i}", *e) for i, e in enumerate(errors)))
    axes = plotting.size_and_error(models)
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) == len(errors)
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:i])
        assert axes.bbox.x0 <= box.x0
        assert box.x1 <= axes.bbox.x1


def test_size_and_error_names_points_at_the_same_place():
    models = one_method(*((name, 1000, 0.7) for name in "abcdef"))
    texts = plotting.size_and_error(models).texts
    assert [text.get_text() for text in texts] == list("abcdef")


def test_the_curves_of_the_study():
    models = rows(
        ("plain", "both", "8 columns", 800, 0.72),
        ("plain", "both", "8 columns", 800, 0.74),
        ("plain", "both", "1 column", 100, 0.80),
        ("QR, add", "both", "a", 50, 0.90),
        ("QR, add", "users", "a", 70, 0.88),
        ("QR, multiply, and biases", "both", "a", 60, 0.85),
    )
    axes = plotting.size_and_error(models, curves=True, published=[("star", 99, 0.7)])
    curves = {bar.get_label(): bar.lines[0] for bar in axes.containers}
    assert list(curves) == models.method.unique().tolist()
    assert curves["plain"].get_xdata().tolist() == [100, 800]
    assert curves["plain"].get_ydata().tolist() == pytest.approx([0.80, 0.73])
    assert curves["QR, add"].get_linestyle() == "--"
    assert curves["QR, multiply, and biases"].get_linestyle() == "-"
    (legend,) = axes.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["plain", "QR"]
    hollow = [x for x in axes.lines if x.get_markerfacecolor() == "white"]
    assert [70] in [line.get_xdata().tolist() for line in hollow]


def test_rivals():
    rows = pd.DataFrame(
        [
            ("full tables", 1, 4000, 0.70),
            ("few bits", 10, 400, 0.72),
            ("few bits", 10, 400, 0.74),
            ("few bits", 100, 40, 0.80),
            ("hashing", 10, 390, 0.85),
            ("hashing", 100, 39, 0.95),
        ],
        columns=["method", "size", "bytes", "mse"],
    )
    axes = plotting.rivals(rows, "mse", ["full tables"], worst=0.9)
    few_bits, hashing, full = axes.lines
    np.testing.assert_allclose(few_bits.get_xydata(), [[40, 0.8], [400, 0.73]])
    np.testing.assert_allclose(hashing.get_xydata(), [[39, 0.95], [390, 0.85]])
    assert full.get_ydata() == [0.70, 0.70]
    ticks = [label.get_text() for label in axes.get_xticklabels()]
    assert ticks == ["10×\n0 kB", "100×\n0 kB"]
    named = heights_of_names(axes)
    assert 0.72 < named["few bits"] < 0.74  # beside the end of its line
    assert 0.84 < named["hashing"] < 0.86
    assert axes.get_ylim()[1] == 0.9


def test_rivals_with_the_same_error_have_their_names_in_order_and_apart():
    rows = [("full tables", 1, 4000, 0.7)]
    for i, method in enumerate(["few bits", "hashing", "mixed dimensions"]):
        rows += [(method, size, 4000 / size, 0.8 + i / 1e4) for size in (10, 100)]
    rows = pd.DataFrame(rows, columns=["method", "size", "bytes", "mse"])
    axes = plotting.rivals(rows, "mse", ["full tables"], worst=0.9)
    named = heights_of_names(axes)
    assert named["few bits"] < named["hashing"] - 0.003
    assert named["hashing"] < named["mixed dimensions"] - 0.003
    assert np.mean(list(named.values())) == pytest.approx(0.8, abs=0.001)


def heights_of_names(axes):
    """Return the height of the middle of each line's name, as an error."""
    boxes = {text.get_text(): text.get_window_extent() for text in axes.texts}
    del boxes["full tables"]
    place = axes.transData.inverted().transform
    return {name: place((0, (b.y0 + b.y1) / 2))[1] for name, b in boxes.items()}


def test_rivals_with_a_metric_to_maximise():
    rows = pd.DataFrame(
        [
            ("full tables", 1, 80, 0.4),
            ("few bits", 2, 40, 0.3),
            ("few bits", 4, 20, 0.25),
            ("hashing", 2, 40, 0.1),
        ],
        columns=["method", "size", "bytes", "recall"],
    )
    axes = plotting.rivals(rows, "recall", ["full tables"], worst=0.2)
    assert axes.get_ylim()[0] == 0.2
    assert {text.get_text() for text in axes.texts} == {"few bits", "full tables"}


def test_step_times():
    columns = ["vocabulary", "variant", "low", "median", "high"]
    times = [(100, "a", 1, 2, 3), (1000, "a", 8, 9, 10), (100, "b", 1, 1, 2)]
    axes = plotting.step_times(pd.DataFrame(times, columns=columns))
    assert [line.get_ydata().tolist() for line in axes.lines] == [[2, 9], [1]]


def test_table():
    values = {"parameters": [623_744], "MSE": [0.74153], "MAE": [float("nan")]}
    html = plotting.table(pd.DataFrame(values, index=[0.3])).to_html()
    assert all(f">{number}<" in html for number in ("0.30", "623,744", "0.7415", "–"))


def test_a_table_has_the_name_of_its_index_in_its_only_row_of_headers():
    frame = pd.DataFrame({"MSE": [0.7]}, index=pd.Index(["a"], name="model"))
    html = plotting.table(frame).to_html()
    head = html[html.index("<thead>") : html.index("</thead>")]
    assert head.count("<tr>") == 1
    assert ">model<" in head


def test_frontiers_leave_out_high_errors_and_draw_the_last_method_widest():
    points = {
        "old": pd.DataFrame({"bytes": [1e4, 1e5], "mse": [1.2, 0.9]}),
        "new": pd.DataFrame({"bytes": [2e4, 3e5], "mse": [0.8, 0.7]}),
    }
    axes = plotting.frontiers(points, {"full": (2e6, 0.75)})
    drawn = {(tuple(line.get_xdata()), line.get_linewidth()) for line in axes.lines}
    assert {((1e5,), 1.2), ((2e4, 3e5), 2.4)} < drawn
    assert {text.get_text() for text in axes.texts} == {"old", "new", "full"}


@pytest.mark.parametrize("colour", plotting.PALETTE)
def test_lines_and_names_can_be_seen_on_white(colour):
    assert plotting.contrast_on_white(colour) >= 3
    model = pd.DataFrame({"bytes": [1e4, 1e5], "mse": [0.8, 0.7]})
    colours = {"a name": colour}
    axes = plotting.frontiers({"a name": model})
    plotting._name_points(axes, {"a name": (1e4, 0.8)}, colours=colours)
    plotting._name_ends(axes, {"a name": (1e4, 0.8)}, colours)
    assert len(axes.texts) == 3
    for text in axes.texts:
        assert plotting.contrast_on_white(text.get_color()) >= 4.5


def test_contrast_by_known_values():
    assert plotting.contrast_on_white("black") == pytest.approx(21)
    assert plotting.contrast_on_white("white") == pytest.approx(1)
    assert plotting.contrast_on_white("#767676") == pytest.approx(4.54, abs=0.01)
