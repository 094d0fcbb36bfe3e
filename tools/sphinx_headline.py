"""Give the headline figure an address that does not change: `_images/headline.png`.

Executed figures are named by a hash of their content. The picture that other sites show
with a link to the book (`ogp_image` in _config.yml) needs a fixed name, so the figure
that a chapter calls "headline" (in the cell's metadata, mystnb.figure.name) is copied
to that address.
"""

import shutil
from pathlib import Path

from docutils import nodes

NAME = "headline"


def copy_headline(app, exception):
    """Copy the headline figure, once the pages are written."""
    if exception or app.builder.format != "html":
        return
    pictures = [
        Path(app.srcdir, figure.next_node(nodes.image)["uri"])
        for page in app.env.found_docs
        for figure in app.env.get_doctree(page).findall(nodes.figure)
        if NAME in figure["names"]
    ]
    if len(pictures) == 1:  # none where the chapters were not executed
        images = Path(app.outdir, "_images")
        shutil.copyfile(pictures[0], images / f"{NAME}{pictures[0].suffix}")


def setup(app):
    """Register with Sphinx."""
    app.connect("build-finished", copy_headline)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
