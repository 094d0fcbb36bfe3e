"""How the kernels run the chapters: IPYTHONDIR leads here, in make and in the book.

Nobody's own IPython profile has a say in what the pages show.
"""

import os

# TensorFlow greets from C++, partly before it reads this level. What libraries write
# past Python goes to the terminal, not into the page; Python's own stderr still does.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
c = get_config()  # noqa: F821
c.IPKernelApp.capture_fd_output = False

# These kernels talk to their own machine alone: no warning, at every start, that they
# do so in plain text.
c.IPKernelApp.log_level = "ERROR"
