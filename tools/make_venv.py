"""Fill an environment with locked packages and memembed itself: what `make` runs first.

    python tools/make_venv.py .venv         # requirements.lock: everything
    python tools/make_venv.py .venv-jax     # requirements-jax.lock: the layers' tests
    python tools/make_venv.py .venv-torch   # requirements-torch.lock, and Torch

What can go wrong is said in one sentence. Plain enough for a Python 2 to read, so that
an old Python can say that it is too old.
"""

import os
import shutil
import subprocess
import sys

# What must be free for each, where Torch is its build for CPUs.
GIGABYTES = {".venv": 4, ".venv-jax": 2, ".venv-torch": 2}

# Not in the lock: a machine's pip takes the build for CPUs or the one for CUDA, and
# their hashes differ.
TORCH = "torch==2.13.0"

PYTHON_ADVICE = "name another, as in `make PYTHON=python3.12 book`."


def python_of(venv):
    """Name the Python of an environment."""
    return os.path.join(venv, "bin", "python")


def stamp_of(venv):
    """Name the file that says for which folder an environment was filled."""
    return os.path.join(venv, ".installed")


def lock_of(venv):
    """Name the lock: .venv-jax is filled from requirements-jax.lock."""
    return venv.replace(".venv", "requirements") + ".lock"


def python_problem(version):
    """Say why a Python of this version will not do."""
    if version[:2] < (3, 11):
        return (
            "Python %d.%d is too old: memembed needs 3.11, 3.12 or 3.13; " % version[:2]
        ) + PYTHON_ADVICE
    if version[:2] > (3, 13):
        return (
            "Python %d.%d is too new: TensorFlow has no build for it yet; "
            % version[:2]
        ) + PYTHON_ADVICE
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        return (
            "This Python cannot make virtual environments: on Debian and Ubuntu, "
            "`apt install python3-venv` mends that."
        )
    return None


def venv_problem(venv, version):
    """Say why the environment that is there cannot be filled by this Python."""
    python, stamp = python_of(venv), stamp_of(venv)
    was_made = "%s was made " % venv
    advice = "; remove it (rm -rf %s) and run make again." % venv
    if not os.path.lexists(python):
        return None
    try:
        theirs = subprocess.check_output(
            [python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
            stderr=subprocess.STDOUT,
            universal_newlines=True,
        ).strip()
    except (OSError, subprocess.CalledProcessError):
        return was_made + "by a Python that no longer runs" + advice
    ours = "%d.%d" % version[:2]
    if theirs != ours:
        return was_made + "by Python %s, and this is %s" % (theirs, ours) + advice
    if os.path.exists(stamp):
        with open(stamp) as made_for:
            if made_for.read() != os.getcwd():
                return was_made + "in another folder" + advice
    return None


def no_space(venv):
    """Say how much room an environment needs."""
    return (
        "Too little disk space: the packages need about %d GB free where %s is, "
        "and pip about 1 GB for a moment in %s."
        % (GIGABYTES[venv], venv, os.environ.get("TMPDIR", "/tmp"))
    )


def space_problem(venv, free):
    """Say that so many free bytes are too few."""
    return no_space(venv) if free < GIGABYTES[venv] * 10**9 else None


def stop_for(problem):
    """End with this sentence alone, if there is one."""
    if problem:
        sys.exit(problem)


def run(venv, command, failure):
    """Run a command quietly; if it fails, end with its complaint and this sentence."""
    process = subprocess.Popen(command, stderr=subprocess.PIPE, universal_newlines=True)
    complaint = process.communicate()[1]
    if process.returncode:
        if "No space left on device" in complaint:
            sys.exit(no_space(venv))
        sys.exit(complaint + failure)


def main(venv):
    """Make the environment, or bring it up to date."""
    stop_for(python_problem(sys.version_info))
    stop_for(venv_problem(venv, sys.version_info))
    if not os.path.exists(stamp_of(venv)):
        stop_for(space_problem(venv, shutil.disk_usage(".").free))

    lock = lock_of(venv)
    python = python_of(venv)
    pip = [python, "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
    # On a half-made environment this completes it.
    run(venv, [sys.executable, "-m", "venv", venv], "Making %s failed." % venv)
    print("Installing %s into %s (some minutes) ..." % (lock, venv))
    sys.stdout.flush()
    run(
        venv,
        pip + ["--require-hashes", "--requirement", lock],
        "Installing %s failed: see above; `make` tries again." % lock,
    )
    if venv == ".venv-torch":
        run(venv, pip + [TORCH], "Installing %s failed: see above." % TORCH)
    run(
        venv,
        pip + ["--no-deps", "--no-build-isolation", "--editable", "."],
        "Installing memembed itself failed: see above.",
    )
    with open(stamp_of(venv), "w") as stamp:
        stamp.write(os.getcwd())


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in GIGABYTES:
        sys.exit("Name one environment: %s." % ", ".join(sorted(GIGABYTES)))
    try:
        main(sys.argv[1])
    except KeyboardInterrupt:
        sys.exit("Interrupted: the next `make` goes on from here.")
