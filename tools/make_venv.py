"""Fill .venv with the locked packages and memembed itself: what `make` runs first.

What can go wrong is said in one sentence. Plain enough for a Python 2 to read, so that
an old Python can say that it is too old.
"""

import os
import shutil
import subprocess
import sys

VENV = ".venv"
PYTHON = os.path.join(VENV, "bin", "python")
STAMP = os.path.join(VENV, ".installed")
GIGABYTES = 4

PYTHON_ADVICE = "name another, as in `make PYTHON=python3.12 book`."
REBUILD_ADVICE = "remove it (rm -rf .venv) and run make again."
NO_SPACE = (
    "Too little disk space: the packages need about %d GB free where .venv is, "
    "and pip about 1 GB for a moment in %s."
    % (GIGABYTES, os.environ.get("TMPDIR", "/tmp"))
)


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


def venv_problem(version):
    """Say why the .venv that is there cannot be filled by a Python of this version."""
    if not os.path.lexists(PYTHON):
        return None
    try:
        theirs = subprocess.check_output(
            [PYTHON, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
            stderr=subprocess.STDOUT,
            universal_newlines=True,
        ).strip()
    except (OSError, subprocess.CalledProcessError):
        return ".venv was made by a Python that no longer runs; " + REBUILD_ADVICE
    ours = "%d.%d" % version[:2]
    if theirs != ours:
        return ".venv was made by Python %s, and this is %s; %s" % (
            theirs,
            ours,
            REBUILD_ADVICE,
        )
    if os.path.exists(STAMP):
        with open(STAMP) as stamp:
            if stamp.read() != os.getcwd():
                return ".venv was made in another folder; " + REBUILD_ADVICE
    return None


def space_problem(free):
    """Say that so many free bytes are too few."""
    return NO_SPACE if free < GIGABYTES * 10**9 else None


def stop_for(problem):
    """End with this sentence alone, if there is one."""
    if problem:
        sys.exit(problem)


def run(command, failure):
    """Run a command quietly; if it fails, end with its complaint and this sentence."""
    process = subprocess.Popen(command, stderr=subprocess.PIPE, universal_newlines=True)
    complaint = process.communicate()[1]
    if process.returncode:
        if "No space left on device" in complaint:
            sys.exit(NO_SPACE)
        sys.exit(complaint + failure)


def main():
    """Make the environment, or bring it up to date."""
    stop_for(python_problem(sys.version_info))
    stop_for(venv_problem(sys.version_info))
    if not os.path.exists(STAMP):
        stop_for(space_problem(shutil.disk_usage(".").free))

    pip = [PYTHON, "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
    # On a half-made environment this completes it.
    run([sys.executable, "-m", "venv", VENV], "Making .venv failed.")
    print("Installing the locked packages into .venv (about 3 GB, a few minutes) ...")
    sys.stdout.flush()
    run(
        pip + ["--require-hashes", "--requirement", "requirements.lock"],
        "Installing requirements.lock failed: see above; `make` tries again.",
    )
    run(
        pip + ["--no-deps", "--no-build-isolation", "--editable", "."],
        "Installing memembed itself failed: see above.",
    )
    with open(STAMP, "w") as stamp:
        stamp.write(os.getcwd())


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("Interrupted: the next `make` goes on from here.")
