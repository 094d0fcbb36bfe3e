"""The names of variables that are needed to write a `LayoutMap`."""

import re
from pathlib import Path

import pytest

from memembed import HashEmbedding, LowBitEmbedding, MDEmbedding, QREmbedding

PAGE = Path(__file__).parents[2] / "chapters" / "api.md"
LOW_BIT = LowBitEmbedding(
    40,
    4,
    [[2] * 4, [1] * 4],
    [20, 20],
    store_blocks=True,
    use_projection=True,
    name="user",
)
LAYERS = {
    "QREmbedding": QREmbedding(40, 4, name="user"),
    "QREmbedding, more tables": QREmbedding(40, 4, [4, 4, 4], name="user"),
    "MDEmbedding": MDEmbedding([20, 20], [4, 2], 4, name="user"),
    "HashEmbedding": HashEmbedding(40, 4, 10, name="user"),
    "LowBitEmbedding": LOW_BIT,
    "PackedEmbedding": LOW_BIT,
}


def paths_on_the_page():
    """Return a dict from the table's first column to the paths beside it."""
    found, layer = {}, None
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if len(cells) == 4 and "`user/" in cells[1]:
            layer = cells[0].replace("`", "") or layer
            found.setdefault(layer, []).extend(re.findall("`(user/.*?)`", cells[1]))
    return found


def test_the_page_has_all_layers():
    assert list(paths_on_the_page()) == list(LAYERS)


@pytest.mark.parametrize("name", LAYERS)
def test_the_page_names_the_variables_of_a_layer(name):
    layer = LAYERS[name]
    if not layer.built:
        layer.build()
    if name == "PackedEmbedding":
        layer = layer.pack()
    named = paths_on_the_page()[name]
    paths = [weight.path for weight in layer.weights]
    if "more" in name or name == "MDEmbedding":  # the page writes "and so on"
        kinds = {re.sub(r"\d+", "#", path) for path in paths}
        assert kinds == {re.sub(r"\d+", "#", path) for path in named}
        assert set(named) <= set(paths)
    else:
        assert sorted(named) == sorted(paths)
