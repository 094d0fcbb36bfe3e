"""The machine and the versions of a run, and how numbers are written."""

import os
import platform
import resource
import subprocess
from pathlib import Path

from memembed import training

ROOT = Path(__file__).parents[1]
# Each backend's Python, in an environment where the others are not installed.
PYTHONS = {
    backend: ROOT / venv / "bin" / "python"
    for backend, venv in (
        ("tensorflow", ".venv"),
        ("jax", ".venv-jax"),
        ("torch", ".venv-torch"),
    )
}


def machine():
    """Return the processor and the number of its cores that are available."""
    try:
        cpus = Path("/proc/cpuinfo").read_text()
        name = next(x for x in cpus.splitlines() if x.startswith("model name"))
        processor = name.partition(": ")[2]
    except (OSError, StopIteration):
        processor = platform.processor() or platform.machine()
    return f"{len(os.sched_getaffinity(0))} cores of {processor}"


def peak_bytes():
    """Return the most memory that this process has held, on Linux."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def versions():
    """Return the versions of Python and packages in this process."""
    packages = training.versions("keras", "tensorflow", "numpy", "memembed")
    return f"Python {platform.python_version()}, {packages}"


def backend_versions():
    """Return the versions of Keras and of each backend, in its environment."""
    ask = "import keras, {0}; print(keras.__version__, {0}.__version__)"
    found = [f"Python {platform.python_version()}"]
    for backend, python in PYTHONS.items():
        command = [python, "-c", ask.format(backend)]
        environment = os.environ | {"KERAS_BACKEND": backend}
        found_there = subprocess.check_output(command, text=True, env=environment)
        keras, own = found_there.split()
        found.append(f"keras {keras} on {backend} {own}")
    return ", ".join(found)


def spread(values, form="{:.3g}"):
    """Write a median and a range, or the value if there is only one."""
    median, low, high = (form.format(x) for x in values.quantile([0.5, 0, 1]))
    return f"{median} ({low} to {high})" if len(values) > 1 else median
