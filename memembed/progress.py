"""Progress of long work, shown where somebody sees it."""

import os
import sys

# JupyterLab and Colab set these in the kernels that they start for a reader. A kernel
# that runs a chapter for the book, or for a test, has neither.
OPENED_BY_A_READER = ("JPY_SESSION_NAME", "COLAB_RELEASE_TAG")


def in_notebook():
    """Return whether the code runs in a Jupyter kernel."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return getattr(shell, "kernel", None) is not None


def is_watched(stream):
    """Return whether a reader sees what is written to a stream.

    True for a terminal, and for a notebook that is open in JupyterLab or Colab. False
    for a log, and for a notebook that is executed for the book.

    Args:
        stream: `sys.stdout` or `sys.stderr`.
    """
    if in_notebook():
        return any(name in os.environ for name in OPENED_BY_A_READER)
    return stream.isatty()


def bar(items=None, desc=None, **options):
    """Return a `tqdm` bar, which prints nothing in logs and in the book."""
    from tqdm.auto import tqdm  # only the chapters depend on it

    return tqdm(items, desc, disable=not is_watched(sys.stderr), **options)
