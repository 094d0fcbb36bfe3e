"""Draw the pictures of the landing page and the README: `make pictures`.

JupyterLab and GitHub show the landing page without the built book, so its pictures are
committed. Each holds a digest of what it shows: a test tells when one is out of date.
"""

import hashlib
import json
from pathlib import Path

import matplotlib.pyplot as plt

from memembed import plotting
from memembed.experiments.frontiers import frontiers, references

FOLDER = Path(__file__).parents[1] / "chapters" / "pictures"
BOXES = {  # a name, and its column and row from the top
    "1 The data": (0, 0),
    "2 The baseline": (0, 2),
    "3 Quotient,\nremainder:\nfewer rows": (1, 0),
    "4 Mixed\ndimensions:\nfewer columns": (1, 2),
    "5 The\ncomparison": (2, 0),
    "6 Fewer bits": (2, 2),
    "7 Your own\nmodel": (3, 0),
    "8 Beyond one\nmachine": (3, 2),
    "Which one\nshould I use?": (4, 1),
}
ARROWS = ["1-2", "2-3", "2-4", "3-5", "4-5", "5-6", "6-7", "6-8", "7-W", "8-W"]
WIDTH, HEIGHT, STEP = 1.2, 0.8, (1.6, 0.65)  # of a box, and between two


def draw_map():
    """Draw the chapters, and which one builds on which."""
    figure, axes = plt.subplots(figsize=(6.4, 1.9), facecolor="white")
    places = {}
    for name, (column, row) in BOXES.items():
        x, y = column * STEP[0], -row * STEP[1]
        places[name[0]] = x, y
        box = plt.Rectangle(
            (x - WIDTH / 2, y - HEIGHT / 2), WIDTH, HEIGHT, fc="#eaf3fa", ec="#0072b2"
        )
        axes.add_patch(box)
        axes.text(x, y, name, ha="center", va="center", fontsize=8)
    for start, _, end in ARROWS:
        (x, y), (to_x, to_y) = places[start], places[end]
        if x == to_x:
            y, to_y = y - HEIGHT / 2, to_y + HEIGHT / 2
        else:
            x, to_x = x + WIDTH / 2, to_x - WIDTH / 2
        arrow = {"arrowstyle": "-|>", "color": "#555555", "shrinkA": 1, "shrinkB": 1}
        axes.annotate("", (to_x, to_y), (x, y), arrowprops=arrow)
    axes.set(xlim=(-0.65, 7.05), ylim=(-1.75, 0.45), aspect="equal")
    axes.axis("off")
    figure.tight_layout(pad=0.2)
    return figure


def draw_headline():
    """Draw the error of each method against its bytes, as chapter 6 does."""
    return plotting.frontiers(frontiers(), references(), highest=0.9).figure


def shown_in_headline():
    """Return the numbers that the headline shows."""
    lines = {
        name: points[["bytes", "mse"]].astype(float).round(4).values.tolist()
        for name, points in frontiers().items()
    }
    stars = {name: [size, round(mse, 4)] for name, (size, mse) in references().items()}
    return [lines, stars, plotting.PALETTE]


PICTURES = {
    "headline": (draw_headline, shown_in_headline),
    "map": (draw_map, lambda: [BOXES, ARROWS]),
}


def digest(name):
    """Return a digest of what a picture shows."""
    _, shown = PICTURES[name]
    return hashlib.sha256(json.dumps(shown(), default=int).encode()).hexdigest()


def main():
    """Draw all pictures."""
    FOLDER.mkdir(exist_ok=True)
    for name, (draw, _) in PICTURES.items():
        about = {"Description": digest(name), "Date": None}
        with plt.rc_context({"svg.hashsalt": "memembed"}):  # the same ids each time
            draw().savefig(FOLDER / f"{name}.svg", metadata=about)


if __name__ == "__main__":
    main()
