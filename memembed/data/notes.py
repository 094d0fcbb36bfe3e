"""Notes to the reader: text in a notebook, a warning elsewhere."""

import warnings

from memembed.progress import in_notebook


def announce(headline, details):
    """Show a note in a notebook, its headline in bold; elsewhere, give a warning.

    The warning points 3 calls up, to the code that called the public function.
    """
    if in_notebook():
        from IPython.display import Markdown, display

        display(Markdown(f"> **{headline}**{details}"))
    else:
        warnings.warn(headline + details, stacklevel=4)
