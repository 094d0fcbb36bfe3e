"""Progress of long work, shown where somebody watches it."""

import os
import sys

# JupyterLab and Colab set these in the kernels that they start for a reader. A kernel
# that runs a chapter for the book, or for a test, has neither.
OPENED_BY_A_READER = ("JPY_SESSION_NAME", "COLAB_RELEASE_TAG")


def in_notebook():
    """Tell whether the code runs in a Jupyter kernel."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return getattr(shell, "kernel", None) is not None


def is_watched(stream):
    """Tell whether a reader sees now what is written to a stream.

    So it is in a terminal, and in a notebook that is open in JupyterLab or Colab. It is
    not in a log, nor in a notebook that is run for the book.

    Args:
        stream: `sys.stdout` or `sys.stderr`.
    """
    if in_notebook():
        return any(name in os.environ for name in OPENED_BY_A_READER)
    return stream.isatty()


def bar(items=None, desc=None, **options):
    """Return a bar of `tqdm`, which is silent where nobody watches."""
    from tqdm.auto import tqdm  # Keras needs no tqdm, so the layers do not either

    return tqdm(items, desc, disable=not is_watched(sys.stderr), **options)
