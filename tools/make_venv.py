"""Fill an environment with locked packages and memembed itself: what `make` runs first.

    python tools/make_venv.py .venv         # requirements.lock: everything
    python tools/make_venv.py .venv-jax     # requirements-jax.lock: the layers' tests
    python tools/make_venv.py .venv-torch   # requirements-torch.lock, and Torch

It starts from scratch each time; uv caches its downloads. If the machine lacks
something, it exits with one sentence. An old Python must be able to print it, so this
file uses only syntax of Python 3.6.
"""

import os
import re
import shutil
import subprocess
import sys

# Disk space that each needs, with the CPU build of Torch.
GIGABYTES = {".venv": 4, ".venv-jax": 2, ".venv-torch": 2}

# Not in the lock: depending on the machine, pip installs the CPU or the CUDA build, and
# their hashes differ.
TORCH = "torch==2.13.0"


def problem(version, free, gigabytes, writable=True):
    """Return what a machine lacks, as a sentence, or None. `free` is in bytes."""
    if not (3, 11) <= version[:2] <= (3, 13):
        return (
            "memembed needs Python 3.11, 3.12 or 3.13, and this is "
            f"{version[0]}.{version[1]}. Choose another, for example: "
            "`make PYTHON=python3.12 book`."
        )
    try:
        import ensurepip  # noqa: F401
    except ImportError:
        return (
            "This Python cannot make virtual environments. On Debian and Ubuntu, "
            "`apt install python3-venv` fixes this."
        )
    if not writable:
        return f"{os.getcwd()} is read-only: clone memembed to a folder of your own."
    if free < gigabytes * 10**9:
        return f"The packages need about {gigabytes} GB of free disk space."
    return None


def run(command, **settings):
    """Run a command; if it fails, exit with a message below its own error."""
    if subprocess.run(command, **settings).returncode:
        sys.exit("Installing failed: see above; `make` tries again.")


def main(venv):
    """Make the environment."""
    free, writable = shutil.disk_usage(".").free, os.access(".", os.W_OK)
    lacking = problem(sys.version_info, free, GIGABYTES[venv], writable)
    if lacking:
        sys.exit(lacking)
    lock = venv.replace(".venv", "requirements") + ".lock"
    print(f"Installing {lock} into {venv} (a minute or so) ...", flush=True)
    run([sys.executable, "-m", "venv", "--clear", venv])
    python = os.path.join(venv, "bin", "python")
    quiet = [] if sys.stderr.isatty() else ["--quiet"]  # bars in a terminal
    pip = [python, "-m", "pip", "--disable-pip-version-check", *quiet, "install"]
    uv = [os.path.join(venv, "bin", "uv"), "pip", "install", *quiet]
    # Compiled here once: where PYTHONDONTWRITEBYTECODE is set, as in many containers,
    # each process would compile TensorFlow again, which takes 10 seconds.
    uv += ["--python", python, "--compile-bytecode"]
    os.environ.setdefault("UV_HTTP_TIMEOUT", "180")  # seconds: some networks are slow

    with open("requirements.lock") as file:
        locked_uv = re.search(r"^uv==.*(?:\n .*)*", file.read(), re.MULTILINE)[0]
    run([*pip, "--require-hashes", "-r", "/dev/stdin"], input=locked_uv.encode())
    locked = ["--require-hashes", "-r", lock]
    if subprocess.run([*uv, *locked]).returncode:  # some networks support only pip
        run([*pip, *locked])
    if venv == ".venv-torch":  # the machine's pip settings choose the build
        run([*pip, TORCH])
    run([*uv, "--no-deps", "--no-build-isolation", "--editable", "."])
    with open(os.path.join(venv, ".installed"), "w") as stamp:
        stamp.write(os.getcwd())


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except KeyboardInterrupt:
        sys.exit("Interrupted: the next `make` starts again.")
