"""Run the chapters with the IPython profile in tools/ipython, and no other."""

import os
from pathlib import Path


def setup(app):
    """Register with Sphinx."""
    os.environ["IPYTHONDIR"] = str(Path(__file__).resolve().parent / "ipython")
    return {"parallel_read_safe": True, "parallel_write_safe": True}
