"""What the repository says in several places must agree, and its tools must work."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import colab
import make_venv
import repository
import sphinx_repository
import sphinx_signatures

ROOT = Path(__file__).resolve().parents[1]
OWNER, NAME = repository.configured(ROOT)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
# Each lock's extras, as in the Makefile, and the backend that it holds.
LOCKS = {
    "requirements.lock": (["dev"], {"tensorflow", "jax"}),
    "requirements-jax.lock": (["test-layers", "distributed"], {"jax"}),
    "requirements-torch.lock": (["test-layers"], set()),
}
each_lock = pytest.mark.parametrize("lock", LOCKS)


def load_yaml(name):
    return yaml.safe_load((ROOT / name).read_text("utf-8"))


def requirements(*extras):
    """Return the requirements in pyproject.toml, with these extras and their extras."""
    asked = [Requirement(each) for each in PROJECT["dependencies"]]
    for extra in extras:
        for each in map(Requirement, PROJECT["optional-dependencies"][extra]):
            own = each.name == PROJECT["name"]
            asked += requirements(*each.extras) if own else [each]
    return asked


def pinned(name):
    """Return the (name, version) pairs of a file of `name==version` lines."""
    text = (ROOT / name).read_text("utf-8")
    return re.findall(r"^([\w.-]+)(?:\[.*?\])?==([^\s;]+)", text, re.MULTILINE)


def tracked(root):
    """Return the project's files that git tracks, as bytes by name."""
    try:
        listed = subprocess.check_output(["git", "ls-files", "-z"], cwd=root, text=True)
    except subprocess.CalledProcessError:
        pytest.skip("needs git to list the project's files, but this is not a checkout")
    return {name: (root / name).read_bytes() for name in listed.split("\0")[:-1]}


# The address.


def test_the_address_is_the_same_in_all_places():
    url, book = (
        f"https://github.com/{OWNER}/{NAME}",
        f"https://{OWNER}.github.io/{NAME}",
    )
    config, citation = load_yaml("_config.yml"), load_yaml("CITATION.cff")
    assert config["html"]["baseurl"].rstrip("/") == book
    assert (citation["repository-code"], citation["url"]) == (url, book)
    assert PROJECT["urls"] == {"Source": url, "Book": book, "Issues": f"{url}/issues"}


def test_changing_the_address_and_back_changes_nothing(tmp_path):
    files = tracked(ROOT)
    for name, data in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    for command in (["init", "--quiet"], ["add", "--all", "--force"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)

    # Joined here, because otherwise moving back would also change this file.
    fork = "https://github.com/" + "/".join(("a-reader", "their.fork"))
    there = repository.move(tmp_path, f"{fork}.git")
    moved = tracked(tmp_path)
    assert {"_config.yml", "pyproject.toml", "CITATION.cff"} <= set(there)
    assert {name for name in files if files[name] != moved[name]} == set(there)
    address = f"(github.com|google.com/github)/[^/]+/{NAME}\\b|github.io/{NAME}\\b"
    assert not [n for n in moved if re.search(address.encode(), moved[n])]

    assert repository.move(tmp_path, f"https://github.com/{OWNER}/{NAME}/") == there
    assert tracked(tmp_path) == files
    with pytest.raises(ValueError, match="`URL` must be"):
        repository.move(tmp_path, "https://gitlab.com/o/n")
    assert tracked(tmp_path) == files


def test_only_addresses_are_replaced():
    same = b"n o/n github.com/o/n-data github.com/o/n.js github.com/x/n x-o.github.io/n"
    both = b"(https://github.com/o/n.git) https://github.com/o/n. o.github.io/n/a.html"
    moved = b"(https://github.com/p/q.git) https://github.com/p/q. p.github.io/q/a.html"
    assert repository.replace(same, ("o", "n"), ("p", "q")) == same
    assert repository.replace(both, ("o", "n"), ("p", "q")) == moved


def test_a_fork_builds_a_book_that_opens_the_fork(monkeypatch):
    config = SimpleNamespace(html_theme_options={}, html_baseurl="as configured")
    monkeypatch.delenv("GITHUB_REPOSITORY", raising=False)
    sphinx_repository.use_this_repository(None, config)
    assert (config.html_theme_options, config.html_baseurl) == ({}, "as configured")

    monkeypatch.setenv("GITHUB_REPOSITORY", "reader/fork")
    monkeypatch.delenv("GITHUB_SERVER_URL", raising=False)
    sphinx_repository.use_this_repository(None, config)
    url = "https://github.com/reader/fork"
    assert config.html_theme_options == {"repository_url": url}
    assert config.html_baseurl == "https://reader.github.io/fork/"


def test_the_api_pages_show_a_layers_own_arguments():
    class Layer:
        def __init__(self, size: int, *, name="a", **kwargs):
            pass

    def shown(signature):
        return sphinx_signatures.own_signature(
            None, "class", "Layer", Layer, None, signature, None
        )

    assert shown("(*args, **kwargs)") == ("(size, *, name='a', **kwargs)", None)
    assert shown("(size)") is None


# The versions.


def test_the_library_needs_keras_and_numpy_alone():
    assert {each.name for each in requirements()} == {"keras", "numpy"}


def test_conda_installs_the_lock_and_lists_no_version_of_its_own():
    *conda, pip = load_yaml("environment.yml")["dependencies"]
    assert conda == ["python >=3.11,<3.14", "pip"]
    assert pip == {"pip": ["-r requirements.lock"]}
    assert PROJECT["requires-python"] == ">=3.11"


@each_lock
def test_a_lock_holds_hashes_and_no_address(lock):
    text = (ROOT / lock).read_text("utf-8")
    assert "://" not in text
    entries = re.split(r"\n(?=\S)", text.strip())
    assert [entry for entry in entries if "--hash=sha256:" not in entry] == []
    assert len(entries) == len(pinned(lock))


@each_lock
def test_a_lock_names_the_extras_that_packages_ask_for(lock):
    """Or pip, unlike uv, would refuse it."""
    text = (ROOT / lock).read_text("utf-8")
    listed = re.findall(r"^([\w.-]+)(\[.*?\])?==", text, re.MULTILINE)
    locked = {name: set(re.findall(r"[\w.-]+", extras)) for name, extras in listed}
    asked = 0
    for name, extras in locked.items():
        try:
            required = metadata.requires(name) or []
        except metadata.PackageNotFoundError:  # it is in another environment
            continue
        options = ["", *extras]
        for each in map(Requirement, required):
            marker = each.marker
            used = not marker or any(marker.evaluate({"extra": x}) for x in options)
            if each.extras and used:
                asked += 1
                assert each.extras <= locked[canonicalize_name(each.name)], each
    # Its packages are installed where this test runs, so some are found to ask.
    assert asked or lock != "requirements.lock"


@each_lock
def test_a_lock_is_within_the_bounds_and_has_its_backends(lock):
    extras, backends = LOCKS[lock]
    locked = pinned(lock)
    for asked in requirements(*extras):
        versions = [version for name, version in locked if name == asked.name]
        assert versions, asked
        assert all(asked.specifier.contains(version) for version in versions), asked
    assert {name for name, _ in locked} & {"tensorflow", "jax", "torch"} == backends


@each_lock
def test_a_package_has_the_same_version_in_every_lock(lock):
    everything = pinned("requirements.lock")
    names = {name for name, _ in everything}
    assert {each for each in pinned(lock) if each[0] in names} <= set(everything)


def test_jupyter_book_2_is_not_allowed():
    (asked,) = (each for each in requirements("book") if each.name == "jupyter-book")
    assert not asked.specifier.contains("2.0")


def test_the_torch_that_is_tested_is_within_its_bound():
    (asked,) = map(Requirement, PROJECT["optional-dependencies"]["torch"])
    name, version = make_venv.TORCH.split("==")
    assert name == asked.name
    assert asked.specifier.contains(version)


def test_the_bounds_allow_the_versions_on_colab():
    versions = dict(pinned("tests/colab-constraints.txt"))
    asked = [each for each in requirements("dev") if each.name in versions]
    assert {each.name for each in asked} == set(versions)
    for each in asked:
        assert each.specifier.contains(versions[each.name]), each


def test_colab_versions_are_taken_from_its_own_list(tmp_path):
    pins, freeze = tmp_path / "pins.txt", tmp_path / "freeze.txt"
    pins.write_text("# What Colab has.\njinja2==3.0\nkeras==3.13.2\n")
    freeze.write_text(
        "# pip freeze\nJinja2==3.1.6\nkeras==3.14.0\nx @ file:///x?a==b==c\n"
    )
    colab.update(pins, freeze.as_uri())
    assert pins.read_text() == "# What Colab has.\njinja2==3.1.6\nkeras==3.14.0\n"
    freeze.write_text("keras==3.14.0\n")
    with pytest.raises(SystemExit, match="no longer has jinja2"):
        colab.update(pins, freeze.as_uri())


def test_the_workflow_tests_every_python_that_make_accepts_and_every_backend():
    jobs = load_yaml(".github/workflows/ci.yml")["jobs"]
    accepted = [
        f"3.{minor}"
        for minor in range(40)
        if not make_venv.problem((3, minor, 1), free=10**9, gigabytes=1)
    ]
    assert jobs["test"]["strategy"]["matrix"]["python"] == accepted
    backends = jobs["backends"]["strategy"]["matrix"]["backend"]
    assert backends == ["tensorflow", "jax", "torch"]
    assert set(jobs["publish"]["needs"]) == set(jobs) - {"publish"}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned(path):
    used = re.findall(r"uses: (.*)", path.read_text("utf-8"))
    assert used
    for action in used:
        assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action), action


# The commands.


def test_missing_requirements_are_reported_even_on_an_old_python(monkeypatch):
    source = (ROOT / "tools" / "make_venv.py").read_text("ascii")
    ast.parse(source, feature_version=(3, 6))
    assert make_venv.problem((3, 12, 1), 5 * 10**9, 4) is None
    assert "3.10" in make_venv.problem((3, 10, 1), 5 * 10**9, 4)
    assert "4 GB" in make_venv.problem((3, 12, 1), 3 * 10**9, 4)
    assert "read-only" in make_venv.problem((3, 12, 1), 5 * 10**9, 4, writable=False)
    monkeypatch.setitem(sys.modules, "ensurepip", None)
    assert "python3-venv" in make_venv.problem((3, 12, 1), 5 * 10**9, 4)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, "unset"),
        ("", "unset"),
        ("data", f"{ROOT}/data"),
        ("../my data", f"{ROOT}/../my data"),
        ("/a b/c", "/a b/c"),
    ],
)
def test_make_gives_kernels_an_absolute_data_folder(given, expected):
    makefile = 'include Makefile\nshow:\n\t@echo "$${MEMEMBED_DATA_DIR-unset}"\n'
    # Without variables that are set by the user, or by a make that runs the tests.
    ours = ("MAKE", "MFLAGS", "MEMEMBED")
    env = {name: os.environ[name] for name in os.environ if not name.startswith(ours)}
    if given is not None:
        env["MEMEMBED_DATA_DIR"] = given
    shown = subprocess.run(
        ["make", "--file=-", "show"],
        input=makefile,
        env=env,
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    assert shown.stdout.strip() == expected
