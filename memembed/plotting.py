"""The figures and the tables of the chapters, in one style.

Every function but `table` and `contrast_on_white` draws one figure and returns its
`Axes`. The background is opaque, so that a figure reads the same on a light and on a
dark page.
"""

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import to_rgb
from matplotlib.ticker import (
    EngFormatter,
    NullFormatter,
    PercentFormatter,
    StrMethodFormatter,
)
from matplotlib.transforms import Bbox

from memembed.sizing import min_buckets, qr_parameters
from memembed.training import as_frame

# Okabe and Ito's palette, which colour-blind readers can tell apart. The last two are
# darker than theirs: lines need a contrast of 3 to be seen on white (WCAG 2).
BLUE, ORANGE, GREEN, PINK = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
AMBER, SKY, GREY = "#b97f00", "#3a9bd6", "#767676"
METRICS = {
    "mae": "mean absolute error",
    "mse": "mean squared error",
    "recall": "recall of the first 20",
    "ndcg": "NDCG of the first 20",
}
WHITE = {"facecolor": "white", "edgecolor": "none", "pad": 1}  # behind a text
PALETTE = [BLUE, ORANGE, GREEN, PINK, AMBER, SKY, GREY]


def _new_axes(height=3.6):
    # Not with plt.rc_context: when it exits in a notebook, it undoes the interactive
    # mode that the first figure sets up, and later figures are not shown.
    # Small figures at a high resolution: their text can be read on a phone.
    size = {"figsize": (5.6, 0.875 * height), "dpi": 137}
    _, axes = plt.subplots(facecolor="white", layout="constrained", **size)
    axes.set_prop_cycle(color=PALETTE)
    axes.set_axisbelow(True)
    axes.grid(color="#e0e0e0")
    axes.spines[["right", "top"]].set_visible(False)
    return axes


def rating_histogram(ratings):
    """Show how often each rating was given.

    Args:
        ratings: the ratings, an array or a column.
    """
    values, counts = np.unique(ratings, return_counts=True)
    shares = counts / counts.sum()
    axes = _new_axes()
    bars = axes.bar(values, shares, width=0.7)
    axes.bar_label(bars, [f"{share:.0%}" for share in shares], padding=2)
    axes.set(xlabel="rating", ylabel="share of the ratings", xticks=values)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(visible=False, axis="x")
    return axes


def popularity(counts):
    """Show how fast popularity falls from the most popular id to the rarest.

    Args:
        counts: a dict from a label to the counts of its ids, most popular first.
    """
    axes = _new_axes()
    for label, values in counts.items():
        values = np.asarray(values)
        values = values[values > 0]  # 0 has no logarithm
        axes.loglog(np.arange(1, len(values) + 1), values, label=label)
    axes.set(xlabel="rank, most popular first", ylabel="training ratings")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.legend(frameon=False)
    return axes


def coverage(counts):
    """Show what share of the ratings the most popular share of the ids takes.

    Args:
        counts: a dict from a label to the counts of its ids, most popular first.
    """
    axes = _new_axes()
    for label, values in counts.items():
        share = np.cumsum(values) / np.sum(values)
        ids = np.arange(1, len(share) + 1) / len(share)
        axes.plot(np.append(0, ids), np.append(0, share), label=label)
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", label="equal popularity")
    axes.set(
        xlabel="share of the ids, most popular first", ylabel="share of the ratings"
    )
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.legend(frameon=False)
    return axes


def learning_curves(histories):
    """Show the training and the validation error, epoch by epoch.

    Args:
        histories: a dict from a label to what `memembed.training.train` returned.
    """
    axes = _new_axes()
    for label, history in histories.items():
        epochs = np.arange(1, len(history["mse"]) + 1)
        (line,) = axes.plot(epochs, history["val_mse"], marker="o", label=label)
        axes.plot(epochs, history["mse"], color=line.get_color(), linestyle=":")
    axes.set(xlabel="epoch", ylabel="mean squared error", xticks=epochs)
    # The training error of the first epoch is an average over the whole epoch, and so
    # large that it would flatten the other curves.
    worst = max(max(history["val_mse"]) for history in histories.values())
    axes.set_ylim(top=1.1 * worst)
    axes.plot([], color=GREY, marker="o", label="validation")
    axes.plot([], color=GREY, linestyle=":", label="training")
    axes.legend(frameon=False)
    return axes


def quotient_remainder_grid(input_dim, num_buckets):
    """Show every id in the cell of its quotient row and its remainder column.

    Args:
        input_dim: size of the vocabulary; small, because each id is written out.
        num_buckets: rows of the remainder table.
    """
    quotients = -(-input_dim // num_buckets)
    axes = _new_axes()
    for i in range(input_dim):
        quotient, remainder = divmod(i, num_buckets)
        axes.text(remainder, quotient, str(i), ha="center", va="center")
    axes.set(
        xlabel="remainder: row of the remainder table",
        ylabel="quotient: row of the quotient table",
        xlim=(-0.5, num_buckets - 0.5),
        ylim=(quotients - 0.5, -0.5),
        xticks=range(num_buckets),
        yticks=range(quotients),
    )
    axes.set_xticks(np.arange(num_buckets + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(quotients + 1) - 0.5, minor=True)
    axes.grid(visible=False)
    axes.grid(which="minor", color="#e0e0e0")
    axes.tick_params(which="both", length=0)
    return axes


def matrices(named, rows, signs):
    """Show small matrices side by side, and in each the row that an id looks up.

    Args:
        named: a dict from names to matrices.
        rows: of each matrix, the row that is looked up; or None, where all are used.
        signs: what stands between the matrices, one character for each gap.
    """
    tables = [np.asarray(matrix, float) for matrix in named.values()]
    tallest = max(len(table) for table in tables)
    axes = _new_axes(height=0.9 + 0.42 * tallest)
    limit = max(np.abs(table).max() for table in tables)
    left = 0
    for (name, table), row, sign in zip(
        zip(named, tables, strict=True), rows, [*signs, ""], strict=True
    ):
        height, width = table.shape
        top = (tallest - height) / 2
        right, bottom = left + width, top + height
        colours = {"cmap": "PuOr", "vmin": -2 * limit, "vmax": 2 * limit}
        axes.imshow(table, extent=(left, right, bottom, top), **colours)
        for (i, j), value in np.ndenumerate(table):
            used = row is None or i == row
            axes.text(
                *(left + j + 0.5, top + i + 0.5, f"{value:.2f}"),
                **{"ha": "center", "va": "center", "fontsize": 9},
                color="black" if used else "#555555",
            )
        start, count = (top, height) if row is None else (top + row, 1)
        axes.add_patch(
            plt.Rectangle((left, start), width, count, fill=False, color=ORANGE, lw=2)
        )
        style = {"ha": "center", "va": "bottom", "fontsize": 10}
        axes.text(left + width / 2, top - 0.2, name, **style)
        middle = {"ha": "center", "va": "center", "fontsize": 14}
        axes.text(right + 0.5, tallest / 2, sign, **middle)
        left = right + 1
    axes.set(xlim=(-0.6, left - 0.4), ylim=(tallest + 0.1, -0.9), aspect="auto")
    axes.axis("off")
    return axes


def bucket_rows(input_dim):
    """Show how many rows the two tables have together, by the number of buckets.

    Args:
        input_dim: size of the vocabulary.
    """
    buckets = np.unique(np.geomspace(1, input_dim, 400).astype(int))
    rows = [qr_parameters(input_dim, 1, int(m)) for m in buckets]
    best = min_buckets(input_dim)
    least = qr_parameters(input_dim, 1, best)
    axes = _new_axes()
    axes.loglog(buckets, rows)
    axes.plot(best, least, "o", color=ORANGE)
    axes.annotate(
        f"{best} buckets: {least} rows",
        (best, least),
        xytext=(0, -16),
        textcoords="offset points",
        ha="center",
        va="top",
    )
    axes.set(xlabel="buckets", ylabel="rows of both tables")
    axes.set_ylim(bottom=least / 2.5)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    return axes


def blocks(counts, block_sizes, block_dims):
    """Show the popularity curve cut into blocks, with the width of each.

    Args:
        counts: training counts by row, most popular first.
        block_sizes: how many rows each block holds.
        block_dims: width of each block's table.
    """
    counts = np.asarray(counts)
    stops = np.cumsum(block_sizes)
    axes = _new_axes()
    axes.semilogy(np.maximum(counts, 0.5), color=GREY)
    colours = itertools.cycle(PALETTE)
    for stop, size, dim in zip(stops, block_sizes, block_dims, strict=True):
        axes.axvspan(stop - size, stop, alpha=0.18, color=next(colours), linewidth=0)
        axes.text(
            stop - size / 2,
            1.02,
            f"{size:,} rows,\n{dim} wide",
            ha="center",
            va="bottom",
            transform=axes.get_xaxis_transform(),
        )
    axes.set(xlabel="row, most popular first", ylabel="training ratings")
    axes.set_xlim(0, stops[-1])
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    return axes


def column_strengths(tables):
    """Compare how the squares of tables are spread over their columns.

    Args:
        tables: a dict from a label to a table, an array.
    """
    axes = _new_axes()
    for label, table in tables.items():
        squares = np.square(table).mean(axis=0)
        axes.semilogy(np.arange(1, len(squares) + 1), squares, label=label)
    axes.set(xlabel="column", ylabel="mean square")
    axes.legend(frameon=False)
    return axes


def bit_map(bits, block_sizes):
    """Show how many bits each column of each block has: the darker, the more.

    Args:
        bits: a list for each block, with the bits of each column.
        block_sizes: how many ids each block holds.
    """
    bits = np.array(bits)
    axes = _new_axes(height=0.8 + 0.45 * len(bits))
    axes.imshow(bits, cmap="Blues", vmin=0, vmax=8, aspect="auto")
    for (block, column), count in np.ndenumerate(bits):
        colour = "white" if count > 4 else "black"
        axes.text(column, block, count, ha="center", va="center", color=colour)
    axes.set(
        xlabel="column",
        ylabel="block",
        yticks=range(len(bits)),
        yticklabels=[f"{size:,} ids" for size in block_sizes],
        xticks=range(bits.shape[1]),
        xticklabels=range(1, bits.shape[1] + 1),
    )
    axes.grid(visible=False)
    return axes


def size_and_error(rows, metric="mae", *, curves=False, highlight=(), published=()):
    """Show the bytes of models against their error: lower and further left is better.

    A model is a point at the mean of its seeds, with a bar from the least error to the
    greatest.

    Args:
        rows: `memembed.training.Result` objects, or a DataFrame of stored rows.
        metric: `"mae"` or `"mse"`.
        curves: whether the rows are those of the study. Then a method's models are
            joined, by a solid line if they have biases. Colours are those of a legend,
            markers those of `MARKERS`. Models with one table shrunk are hollow.
            Otherwise, each point shows its name.
        highlight: names of models to draw in a second colour.
        published: tuples of a label, bytes and an error, drawn as stars.
    """
    keys = ["method", "on", "name"] if curves else ["name"]
    models = as_frame(rows).groupby(keys, sort=False)
    errors = models[metric].agg(["mean", "min", "max"])
    points = errors.assign(
        bytes=models["bytes"].mean(),
        low=errors["mean"] - errors["min"],
        high=errors["max"] - errors["mean"],
    ).reset_index()
    axes = _new_axes(height=5.2 if curves else 4.2)
    axes.set(
        xscale="log",
        xlabel="bytes of weights",
        ylabel=METRICS[metric],
    )
    axes.xaxis.set_major_formatter(EngFormatter(unit="B"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    for label, size, error in published:
        axes.plot(size, error, "k*", markersize=8)
        axes.annotate(
            label,
            (size, error),
            xytext=(-7, 5),
            textcoords="offset points",
            ha="right",
            fontsize="small",
        )
    if curves:
        for method, of_method in points.groupby("method", sort=False):
            _curve(axes, method, of_method)
        axes.margins(x=0.15)  # room for the labels of published results
        methods = points.method.unique()
        dots = {
            family: axes.plot([], [], "o-", color=colour, markersize=4)[0]
            for family, colour in COLOURS.items()
            if any(_family(method) == family for method in methods)
        }
        style = {"ncols": 3, "frameon": False}
        axes.figure.legend(
            dots.values(), dots, loc="outside lower center", fontsize="small", **style
        )
        return axes
    points["colour"] = np.where(points["name"].isin(highlight), ORANGE, BLUE)
    for colour, part in points.groupby("colour"):
        axes.errorbar(
            part["bytes"],
            part["mean"],
            part[["low", "high"]].to_numpy().T,
            fmt="o",
            capsize=3,
            color=colour,
        )
    axes.margins(x=0.2, y=0.15)
    low, high = axes.get_xlim()
    if high < 1.01 * low:  # one size, but for the last digit on some processors
        axes.set_xlim(low / 2, high * 2)
    _name_points(
        axes,
        dict(zip(points["name"], points[["bytes", "mean"]].to_numpy(), strict=True)),
    )
    return axes


# Colours by the start of a method's name, markers by a part of the name.
COLOURS = {
    "plain": BLUE,
    "biases alone": SKY,
    "hashing": GREY,
    "QR and MD combined": PINK,
    "QR": ORANGE,
    "MD": GREEN,
}
MARKERS = {"by hand": "s", "add": "^", "concatenate": "s"}


def _family(method):
    """Return what a method's name begins with: the first of `COLOURS` that fits."""
    return next(each for each in COLOURS if method.startswith(each))


def _curve(axes, method, points):
    """Draw the models of one method."""
    style = {
        "color": COLOURS[_family(method)],
        "marker": next((MARKERS[each] for each in MARKERS if each in method), "o"),
        "markersize": 4,
    }
    both = points[points["on"] == "both"].sort_values("bytes")
    axes.errorbar(
        both["bytes"],
        both["mean"],
        both[["low", "high"]].to_numpy().T,
        linestyle="-" if "biases" in method else "--",
        linewidth=1.2,
        label=method,
        **style,
    )
    one = points[points["on"] != "both"]
    axes.plot(one["bytes"], one["mean"], linestyle="", markerfacecolor="white", **style)


def _name_points(axes, points, sides=(7, -7), colours=None):
    """Write a name beside each point, at the first place where it covers nothing."""
    axes.figure.draw_without_rendering()  # computes the positions on the page
    dots = axes.transData.transform(list(points.values()))
    taken = [Bbox.from_bounds(x - 5, y - 5, 10, 10) for x, y in dots]
    taken += [Bbox.from_bounds(x - 2, y - 2, 4, 4) for x, y in _on_lines(axes)]
    taken += [text.get_window_extent() for text in axes.texts]
    page = axes.get_window_extent()
    for name, point in points.items():
        for up, right in itertools.product((5, -5, 15, -15, 25, -25), sides):
            text = axes.annotate(
                name,
                point,
                xytext=(right, up),
                textcoords="offset points",
                ha="left" if right > 0 else "right",
                va="center",
                color=_ink((colours or {}).get(name, "black")),
                bbox=WHITE,
            )
            box = text.get_window_extent()
            inside = page.x0 <= box.x0 and box.x1 <= page.x1
            if inside and not any(box.overlaps(other) for other in taken):
                break
            text.remove()
        else:
            axes.add_artist(text)  # no free place: use the last one
        taken.append(box)


def _name_ends(axes, ends, colours, apart=14):
    """Write the names of lines right of their ends, one above another."""
    axes.figure.draw_without_rendering()  # computes the positions on the page
    axes.figure.set_layout_engine("none")  # and keeps them
    places = axes.transData.transform(list(ends.values()))
    names, order = list(ends), places[:, 1].argsort()
    # Names that would overlap move apart, as far up as down.
    spaces = np.arange(len(order)) * apart * axes.figure.dpi / 72
    heights = places[order, 1] - spaces
    up = np.maximum.accumulate(heights)
    down = np.minimum.accumulate(heights[::-1])[::-1]
    for i, height in zip(order, (up + down) / 2 + spaces, strict=True):
        x, y = axes.transAxes.inverted().transform((places[:, 0].max(), height))
        style = {"va": "center", "color": _ink(colours[names[i]]), "bbox": WHITE}
        axes.text(x + 0.015, y, names[i], transform=axes.transAxes, **style)


def _ink(colour):
    """Return a colour that is dark enough for text on white: a contrast of 4.5."""
    rgb = np.array(to_rgb(colour))
    while contrast_on_white(rgb) < 4.5:
        rgb = 0.97 * rgb
    return tuple(rgb.tolist())


def contrast_on_white(colour):
    """Return the contrast of a colour with white, by WCAG 2: from 1 to 21."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.03928, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(1.05 / (linear @ [0.2126, 0.7152, 0.0722] + 0.05))


def _on_lines(axes, every=8):
    """Return places on the page that the lines of a figure cross, dots apart."""
    places = [np.empty((0, 2))]
    for line in axes.lines:
        if line.get_linestyle() != "None":
            corners = line.get_transform().transform(line.get_xydata())
            for start, end in itertools.pairwise(corners):
                count = int(np.abs(end - start).max() // every) + 1
                places.append(np.linspace(start, end, count, endpoint=False))
    return np.concatenate(places)


# The colour, the line style and the line width of each method.
LINES = {
    "few bits of an average": (BLUE, "-", 2.4),
    "few bits": (BLUE, "-", 1.2),
    "few bits, not trained": (BLUE, ":", 1.2),
    "product quantisation": (GREEN, "-", 1.2),
    "fewer columns": (GREY, "-", 1.2),
    "fewer columns in int8": (GREY, "--", 1.2),
    "fewer columns in int4": (GREY, ":", 1.2),
    "mixed dimensions": (PINK, "-", 1.2),
    "quotient and remainder": (ORANGE, "-", 1.2),
    "hashing": (AMBER, "-", 1.2),
}


def rivals(rows, metric, references, worst):
    """Show the error of methods at the same sizes, a line for each, named at its end.

    Args:
        rows: a DataFrame of stored rows of one task, with the columns `method`, `size`
            (how many times fewer bytes), `bytes` and the metric, of two sizes or more.
            The rows of a method and a size are one point, at their mean.
        metric: `"mse"`, `"mae"`, `"recall"` or `"ndcg"`.
        references: methods whose mean is a dotted line across the figure.
        worst: the value at which the figure ends, on the side of the worse methods.
    """
    up = metric in ("recall", "ndcg")  # where more is better
    points = rows.groupby(["method", "size"])[["bytes", metric]].mean()
    axes, names, colours = _new_axes(height=5.2), {}, {}
    for method in filter(points.index.unique("method").__contains__, LINES):
        curve = points.loc[method].sort_values("bytes")
        colour, line, width = LINES[method]
        axes.plot(*curve.T.values, line, color=colour, linewidth=width, marker=".")
        seen = curve[curve[metric] > worst if up else curve[metric] < worst]
        if len(seen):
            names[method] = tuple(seen.iloc[-1])
            colours[method] = colour
    best = points[metric].max() if up else points[metric].min()
    axes.set_ylim(*sorted([worst, best + 0.1 * (best - worst)]))
    errors = {method: points.loc[method][metric].mean() for method in references}
    for method, error in errors.items():
        lower = error < max(errors.values())  # its name goes below its line
        axes.axhline(error, color="black", linestyle=":", linewidth=0.8)
        axes.annotate(
            method,
            (0, error),
            xycoords=axes.get_yaxis_transform(),
            xytext=(4, -2 if lower else 2),
            va="top" if lower else "bottom",
            textcoords="offset points",
            fontsize="small",
        )
    sizes = points.drop(index=list(references)).groupby("size")["bytes"].max()
    kilobytes = [f"{size}×\n{each / 1000:,.0f} kB" for size, each in sizes.items()]
    axes.set(xscale="log", xlabel="how many times fewer bytes", ylabel=METRICS[metric])
    axes.set_xticks(sizes, kilobytes)
    axes.minorticks_off()
    low, high = sizes.min(), sizes.max()
    axes.set_xlim(low * (low / high) ** 0.05, high * (high / low) ** 0.6)
    _name_ends(axes, names, colours)
    return axes


def growth(table, unit, limits=None):
    """Show how something grows with the vocabulary, a line for each method.

    Args:
        table: a DataFrame whose index is the number of ids, and whose columns are
            methods. Missing values are left out. A line is named where it ends.
        unit: what the numbers are.
        limits: a dict from a name to a number, drawn as a dotted line.
    """
    axes, names = _new_axes(height=4.6), {}
    colours = dict(zip(table, itertools.cycle(PALETTE), strict=False))
    for method, values in table.items():
        there, colour = values.dropna(), colours[method]
        axes.loglog(there.index, there, ".-", color=colour, linewidth=1.2)
        names[method] = there.index[-1], there.iloc[-1]
    for name, limit in (limits or {}).items():
        axes.axhline(limit, color="black", linestyle=":", linewidth=0.8)
        axes.annotate(
            name,
            (0, limit),
            xycoords=axes.get_yaxis_transform(),
            xytext=(4, 2),
            textcoords="offset points",
            fontsize="small",
        )
    axes.set(xlabel="ids", ylabel=unit)
    low, high = table.index.min(), table.index.max()
    axes.set_xlim(low, high * (high / low) ** 0.5)  # room for the names
    axes.set_xticks(table.index)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(EngFormatter(sep="\N{THIN SPACE}"))
        axis.set_minor_formatter(NullFormatter())
    axes.minorticks_off()
    _name_points(axes, names, sides=[7], colours=colours)
    return axes


def frontiers(points, references=None, highest=1.0):
    """Show how low an error each method reaches at each size.

    Args:
        points: a dict from methods to DataFrames with columns `bytes` and `mse`,
            smallest model first, as `memembed.experiments.frontiers` returns it. The
            last method has the widest line.
        references: a dict from a name to bytes and an error: a star, and a dotted line
            from it to smaller models.
        highest: the greatest error that is drawn.
    """
    axes, names, colours = _new_axes(height=4.6), {}, {}
    *_, newest = points
    for (method, models), colour in zip(points.items(), PALETTE, strict=False):
        shown = models[models.mse <= highest]
        axes.plot(
            *(shown.bytes, shown.mse, "o-"),
            color=colour,
            linewidth=2.4 if method == newest else 1.2,
            markersize=5 if method == newest else 3,
        )
        names[method] = tuple(shown[["bytes", "mse"]].iloc[0])
        colours[method] = colour
    for name, (size, error) in (references or {}).items():
        axes.plot(size, error, "k*", markersize=8)
        axes.plot([1, size], [error, error], "k:", linewidth=0.8)
        axes.annotate(
            name,
            (0, error),
            xycoords=axes.get_yaxis_transform(),
            xytext=(4, 2),
            textcoords="offset points",
            fontsize="small",
        )
    axes.set(
        xscale="log",
        xlabel="bytes of weights",
        ylabel=METRICS["mse"],
        xlim=(3e3, 6e6),
        ylim=(0.68, highest),
    )
    axes.xaxis.set_major_formatter(EngFormatter(unit="B"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    _name_points(axes, names, colours=colours)
    return axes


def step_times(times):
    """Show how long a step takes, by the size of the vocabulary.

    Args:
        times: a DataFrame of `vocabulary`, `variant`, and milliseconds: `low`, `median`
            and `high`. A line for each variant, in a band from low to high.
    """
    axes = _new_axes()
    for label, rows in times.groupby("variant", sort=False):
        (line,) = axes.loglog(
            rows["vocabulary"], rows["median"], marker="o", label=label
        )
        axes.fill_between(
            rows["vocabulary"],
            rows["low"],
            rows["high"],
            color=line.get_color(),
            alpha=0.2,
            linewidth=0,
        )
    axes.set(xlabel="ids in the vocabulary", ylabel="milliseconds a step")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axes.legend(frameon=False)
    return axes


def bars(frame, unit):
    """Compare quantities as bars: a group for each row, a bar for each column.

    Args:
        frame: a DataFrame of numbers, or a dict from a label to a number.
        unit: unit of the numbers, such as `"B"` or `"s"`.
    """
    if not isinstance(frame, pd.DataFrame):
        frame = pd.Series(frame).to_frame()
    axes = _new_axes()
    size = EngFormatter(unit=unit, places=1)
    height = 0.8 / frame.shape[1]
    rows = np.arange(len(frame))
    for i, (label, values) in enumerate(frame.items()):
        drawn = axes.barh(rows + i * height, values, height, label=label)
        axes.bar_label(drawn, [size(value) for value in values], padding=4)
    axes.set_yticks(rows + (frame.shape[1] - 1) * height / 2, frame.index)
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(EngFormatter(unit=unit))
    axes.set_xlim(right=1.15 * frame.to_numpy().max())
    axes.grid(visible=False, axis="y")
    if frame.shape[1] > 1:
        axes.legend(frameon=False)
    return axes


def table(frame):
    """Show a table with thousands separators, 4 decimals, and a dash for NaN.

    Args:
        frame: a DataFrame, such as `memembed.training.summary` returns.

    Returns:
        A pandas `Styler`, which a notebook displays.
    """
    if frame.index.nlevels == frame.columns.nlevels == 1:  # one row of headers, not two
        frame = frame.rename_axis(index=None, columns=frame.index.name)
    style = frame.style.format(precision=4, thousands=",", na_rep="–")
    style = style.format_index(precision=2)
    return style.set_table_attributes('class="dataframe"')  # for book themes
