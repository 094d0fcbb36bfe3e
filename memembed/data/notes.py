"""Notes to the reader: on the page in a notebook, a warning anywhere else."""

import sys
import warnings


def in_notebook():
    """Tell whether the code runs in a Jupyter kernel."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return getattr(shell, "kernel", None) is not None


def announce(headline, details):
    """Show a note: `**headline**details` on a page, `headline` and `details` elsewhere.

    A warning points to the caller of the function that called the caller of this one.
    """
    if in_notebook():
        from IPython.display import Markdown, display

        display(Markdown(f"> **{headline}**{details}"))
    else:
        warnings.warn(headline + details, stacklevel=4)
