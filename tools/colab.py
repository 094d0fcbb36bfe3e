"""Run chapters as Colab does: each alone in an empty folder, on Colab's versions.

    python tools/colab.py VENV [CHAPTER ...]
    python tools/colab.py --update

Their first cell installs memembed, here from the last commit of this repository. What
was installed before must have the same versions afterwards. `--update` asks Colab for
its newest versions and writes them to tests/colab-constraints.txt.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PREINSTALLED = ROOT / "tests" / "colab-constraints.txt"
# Colab publishes what it preinstalls, as `pip freeze` prints it.
COLAB = "https://raw.githubusercontent.com/googlecolab/backend-info/main/pip-freeze.txt"
RUNNER = ["ipykernel", "ipywidgets", "nbclient"]


def main(venv, chapters):
    """Make the environment, run each chapter in it, and compare the versions."""
    subprocess.run([sys.executable, "-m", "venv", "--clear", venv], check=True)
    bin = Path(venv).resolve() / "bin"
    pip = [bin / "python", "-m", "pip", "--quiet", "--disable-pip-version-check"]
    # The pip that comes with an older Python refuses the address of a local repository.
    subprocess.run([*pip, "install", "--upgrade", "pip"], check=True)
    subprocess.run([*pip, "install", "-r", PREINSTALLED, *RUNNER], check=True)
    before = versions(bin / "python")
    for chapter in chapters:
        subprocess.run([*pip, "uninstall", "--yes", "memembed"], check=True)
        print(f"{chapter.name} ...", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            notebook = Path(folder) / chapter.name
            notebook.write_text(from_here(chapter.read_text("utf-8")), "utf-8")
            environment = os.environ | {"PATH": f"{bin}:{os.environ['PATH']}"}
            command = [bin / "jupyter-execute", "--timeout=600", notebook]
            subprocess.run(command, check=True, cwd=folder, env=environment)
        after = versions(bin / "python")
        assert "memembed" in after, f"{chapter.name} does not install memembed"
        if changed := {
            name: (version, after.get(name))
            for name, version in before.items()
            if after.get(name) != version
        }:
            raise SystemExit(f"{chapter.name} changes what Colab has: {changed}")


def from_here(notebook):
    """Return a notebook that installs memembed from this folder's repository."""
    address = "git+https://github.com/memembed/memembed"
    assert notebook.count(address) == 1, "the first cell has to install memembed, once"
    return notebook.replace(address, f"git+{ROOT.as_uri()}")


def versions(python):
    """Return the version of each package that a Python has."""
    code = (
        "import json; from importlib.metadata import distributions as all; "
        "print(json.dumps({each.name: each.version for each in all()}))"
    )
    return json.loads(subprocess.check_output([python, "-c", code], text=True))


def update(path=PREINSTALLED, address=COLAB):
    """Write Colab's newest versions into the file of constraints."""
    with urllib.request.urlopen(address, timeout=60) as answer:
        listed = answer.read().decode().lower()
    colab = dict(re.findall(r"^([\w.-]+)==(\S+)$", listed, re.MULTILINE))

    def newest(pin):
        if pin[1] not in colab:
            raise SystemExit(f"Colab no longer has {pin[1]}: see {address}")
        return f"{pin[1]}=={colab[pin[1]]}"

    old = path.read_text("utf-8")
    path.write_text(re.sub("^(.+)==.+$", newest, old, flags=re.MULTILINE), "utf-8")


if __name__ == "__main__":
    if sys.argv[1:] == ["--update"]:
        update()
    else:
        venv, *names = sys.argv[1:]
        found = [Path(name).resolve() for name in names]
        main(venv, found or sorted((ROOT / "chapters").glob("*.ipynb")))
