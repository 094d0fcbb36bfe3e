"""Notes to the reader: text in a notebook, a warning elsewhere."""

import sys
import warnings


def in_notebook():
    """Return whether the code runs in a Jupyter kernel."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return getattr(shell, "kernel", None) is not None


def announce(headline, details):
    """Show a note in a notebook, its headline in bold; elsewhere, give a warning.

    The warning points 3 calls up, to the code that called the public function.
    """
    if in_notebook():
        from IPython.display import Markdown, display

        display(Markdown(f"> **{headline}**{details}"))
    else:
        warnings.warn(headline + details, stacklevel=4)
