"""How the kernels run the chapters: IPYTHONDIR points here, in make and in the book.

So a reader's own IPython profile does not change what the pages show.
"""

import os

# TensorFlow logs from C++, partly before it reads this level. Output that libraries
# write outside Python goes to the terminal; Python's own stderr still goes to the page.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
c = get_config()  # noqa: F821
c.IPKernelApp.capture_fd_output = False

# Suppress the warning, at every start, that messages are not encrypted: these kernels
# communicate only on their own machine.
c.IPKernelApp.log_level = "ERROR"
