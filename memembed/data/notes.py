"""Notes to the reader: on the page in a notebook, a warning anywhere else."""

import warnings

from memembed.progress import in_notebook


def announce(headline, details):
    """Show a note: `**headline**details` on a page, `headline` and `details` elsewhere.

    A warning points to the caller of the function that called the caller of this one.
    """
    if in_notebook():
        from IPython.display import Markdown, display

        display(Markdown(f"> **{headline}**{details}"))
    else:
        warnings.warn(headline + details, stacklevel=4)
