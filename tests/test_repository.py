"""What the repository says in several places must agree, and its tools must work."""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from packaging.requirements import Requirement

import make_venv
import repository
import sphinx_repository
import sphinx_signatures

ROOT = Path(__file__).resolve().parents[1]
OWNER, NAME = repository.configured(ROOT)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))[
    "project"
]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
# Each backend's environment, and each lock's extras, as in the Makefile.
ENVIRONMENTS = {"tensorflow": ".venv", "jax": ".venv-jax", "torch": ".venv-torch"}
LOCKS = {
    "requirements.lock": ["dev"],
    "requirements-jax.lock": ["test-layers", "jax"],
    "requirements-torch.lock": ["test-layers"],
}
each_lock = pytest.mark.parametrize("lock", LOCKS)


def load_yaml(name):
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def requirements(*extras):
    """What pyproject.toml asks for, with these extras and those that they name."""
    asked = [Requirement(each) for each in PROJECT["dependencies"]]
    for extra in extras:
        for each in map(Requirement, PROJECT["optional-dependencies"][extra]):
            own = each.name == PROJECT["name"]
            asked += requirements(*each.extras) if own else [each]
    return asked


def pinned(name):
    """The (name, version) pairs of a file of `name==version` lines."""
    text = (ROOT / name).read_text(encoding="utf-8")
    return re.findall(r"^([\w.-]+)==([^\s;]+)", text, re.MULTILINE)


def outside_make():
    """The environment without what a make that runs the tests, or a reader, set."""
    ours = ("MAKE", "MFLAGS", "MEMEMBED")
    return {name: os.environ[name] for name in os.environ if not name.startswith(ours)}


# The address.


@pytest.fixture(scope="module")
def files():
    try:
        return dict(repository.text_files(ROOT))
    except subprocess.CalledProcessError:
        pytest.skip("needs git to list the project's files, and this is no checkout")


def test_every_address_is_that_of_the_configuration(files):
    name = re.escape(NAME).encode()
    address = re.compile(
        rb"(?:github\.com|google\.com/github)/([\w-]+)/%b\b|([\w-]+)\.github\.io/%b\b"
        % (name, name)
    )
    others = [
        (file, match[0])
        for file, data in files.items()
        for match in address.finditer(data)
        if (match[1] or match[2]) != OWNER.encode()
    ]
    assert others == []


def test_the_address_is_where_readers_and_tools_look_for_it():
    url, book = (
        f"https://github.com/{OWNER}/{NAME}",
        f"https://{OWNER}.github.io/{NAME}",
    )
    config, citation = load_yaml("_config.yml"), load_yaml("CITATION.cff")
    assert config["html"]["baseurl"].rstrip("/") == book
    assert (citation["repository-code"], citation["url"]) == (url, book)
    assert PROJECT["urls"] == {"Source": url, "Book": book, "Issues": f"{url}/issues"}


@pytest.fixture
def copy(files, tmp_path):
    """A copy of the project that git knows."""
    for name, data in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    return tmp_path


# Put together here, since a file that held it would stop the move.
FORK = ("a-reader", "their.fork")
NEW = "https://github.com/" + "/".join(FORK)


def test_moving_there_and_back_changes_nothing(copy, files):
    there = repository.move(copy, NEW)
    moved = dict(repository.text_files(copy))
    assert {"_config.yml", "pyproject.toml", "CITATION.cff"} <= set(there)
    assert {name for name in files if files[name] != moved[name]} == set(there)
    assert repository.configured(copy) == FORK
    assert not any(
        repository.pattern(OWNER, NAME).search(data) for data in moved.values()
    )
    for name in there:
        if name.endswith(".ipynb"):
            json.loads(moved[name])
    assert repository.move(copy, NEW) == []

    assert repository.move(copy, f"https://github.com/{OWNER}/{NAME}") == there
    assert dict(repository.text_files(copy)) == files


@pytest.mark.parametrize("ending", ["", "/", ".git", ".git/"])
def test_an_address_is_read_with_any_ending(ending):
    assert repository.parse(NEW + ending) == FORK


@pytest.mark.parametrize(
    "url",
    [
        "",
        "o/n",
        "http://github.com/o/n",
        "https://gitlab.com/o/n",
        "https://github.com/o",
        "https://github.com/o/..",
        "https://github.com/-o/n",
        "https://github.com/o/n/tree/main",
        "https://github.com/o/n n",
    ],
)
def test_a_bad_address_changes_nothing(copy, files, url):
    with pytest.raises(ValueError, match="Not a repository's address"):
        repository.move(copy, url)
    assert dict(repository.text_files(copy)) == files


def test_an_address_that_is_there_already_changes_nothing(copy):
    (copy / "a.md").write_text(f"See {NEW}.")
    before = dict(repository.text_files(copy))
    with pytest.raises(ValueError, match=r"a\.md names .* already"):
        repository.move(copy, NEW)
    assert dict(repository.text_files(copy)) == before


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

    monkeypatch.setenv("GITHUB_REPOSITORY", "/".join(FORK))
    monkeypatch.delenv("GITHUB_SERVER_URL", raising=False)
    sphinx_repository.use_this_repository(None, config)
    assert config.html_theme_options == {"repository_url": NEW}
    assert config.html_baseurl == "https://{}.github.io/{}/".format(*FORK)


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


def test_conda_installs_the_lock_and_lists_no_version_of_its_own():
    *conda, pip = load_yaml("environment.yml")["dependencies"]
    assert conda == ["python >=3.11,<3.14", "pip"]
    assert pip == {"pip": ["-r requirements.lock"]}
    assert PROJECT["requires-python"] == ">=3.11"


@each_lock
def test_a_lock_holds_hashes_and_no_address(lock):
    text = (ROOT / lock).read_text(encoding="utf-8")
    assert "://" not in text
    entries = re.split(r"\n(?=\S)", text.strip())
    assert [entry for entry in entries if "--hash=sha256:" not in entry] == []
    assert len(entries) == len(pinned(lock))


@each_lock
def test_a_lock_is_within_the_bounds(lock):
    locked = pinned(lock)
    for asked in requirements(*LOCKS[lock]):
        versions = [version for name, version in locked if name == asked.name]
        assert versions, asked
        assert all(asked.specifier.contains(version) for version in versions), asked


def test_jupyter_book_2_is_not_allowed():
    (asked,) = (each for each in requirements("book") if each.name == "jupyter-book")
    assert not asked.specifier.contains("2.0")


def test_the_torch_that_is_tested_is_within_its_bound():
    (asked,) = map(Requirement, PROJECT["optional-dependencies"]["torch"])
    name, version = make_venv.TORCH.split("==")
    assert name == asked.name
    assert asked.specifier.contains(version)


@each_lock
def test_a_package_has_the_same_version_in_every_lock(lock):
    everything = pinned("requirements.lock")
    names = {name for name, _ in everything}
    shared = {(name, version) for name, version in pinned(lock) if name in names}
    assert {"keras", "numpy"} <= {name for name, _ in shared}
    assert shared <= set(everything)


def test_the_tests_of_one_backend_have_no_other():
    for lock, backends in zip(LOCKS, [{"tensorflow"}, {"jax"}, set()], strict=True):
        assert {name for name, _ in pinned(lock)} & set(ENVIRONMENTS) == backends


def test_the_bounds_admit_what_colab_has():
    colab = dict(pinned("tests/colab-constraints.txt"))
    asked = [each for each in requirements("dev") if each.name in colab]
    assert {each.name for each in asked} == set(colab)
    for each in asked:
        assert each.specifier.contains(colab[each.name]), each


def test_the_workflows_test_every_python_that_make_accepts():
    tested = load_yaml(".github/workflows/ci.yml")["jobs"]["test"]["strategy"]["matrix"]
    accepted = [
        f"3.{minor}" for minor in range(40) if not make_venv.python_problem((3, minor))
    ]
    assert tested["python"] == accepted


def test_the_workflow_tests_every_backend():
    jobs = load_yaml(".github/workflows/ci.yml")["jobs"]
    tested = jobs["backends"]["strategy"]["matrix"]["backend"]
    assert tested == list(ENVIRONMENTS)
    assert set(jobs["publish"]["needs"]) == set(jobs) - {"publish"}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned(path):
    used = re.findall(r"uses: (.*)", path.read_text(encoding="utf-8"))
    assert used
    for action in used:
        assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action), action


# The commands.


def test_old_pythons_can_read_make_venv():
    source = (ROOT / "tools" / "make_venv.py").read_text(encoding="ascii")
    ast.parse(source, feature_version=(3, 6))


@pytest.mark.parametrize(
    ("version", "words"),
    [((2, 7), "too old"), ((3, 10, 4), "3.10 is too old"), ((3, 14, 0), "too new")],
)
def test_a_python_that_will_not_do_is_named(version, words):
    problem = make_venv.python_problem(version)
    assert words in problem
    assert "make PYTHON=" in problem
    assert "\n" not in problem


def test_a_python_without_venv_is_told_what_to_install(monkeypatch):
    assert make_venv.python_problem((3, 12, 1)) is None
    monkeypatch.setitem(sys.modules, "ensurepip", None)
    assert "apt install python3-venv" in make_venv.python_problem((3, 12, 1))


def test_too_little_space_is_told_before_and_after():
    assert make_venv.space_problem(".venv", 5 * 10**9) is None
    assert "4 GB free where .venv is" in make_venv.space_problem(".venv", 3 * 10**9)
    assert make_venv.space_problem(".venv-jax", 3 * 10**9) is None
    script = "import sys; sys.exit('OSError: [Errno 28] No space left on device')"
    with pytest.raises(SystemExit, match=r"^Too little disk space"):
        make_venv.run(".venv", [sys.executable, "-c", script], "It failed.")
    script = "import sys; sys.exit('out of luck')"
    with pytest.raises(SystemExit, match=r"(?s)^out of luck\n.*It failed\."):
        make_venv.run(".venv", [sys.executable, "-c", script], "It failed.")


def stand_in(folder, venv, python):
    """Make an environment in the folder that holds nothing but a link to a Python."""
    link = folder / make_venv.python_of(venv)
    link.parent.mkdir(parents=True)
    link.symlink_to(python)
    return link


@pytest.fixture(params=ENVIRONMENTS.values())
def environment(request, tmp_path, monkeypatch):
    """An environment that this very Python made: its name, and the link."""
    monkeypatch.chdir(tmp_path)
    return request.param, stand_in(tmp_path, request.param, sys.executable)


def test_a_venv_of_this_python_is_filled_further(environment):
    venv, python = environment
    assert make_venv.venv_problem(venv, sys.version_info) is None
    python.unlink()
    assert make_venv.venv_problem(venv, sys.version_info) is None


def test_a_venv_that_will_not_do_is_to_be_removed(environment):
    venv, python = environment

    def problem(version=sys.version_info):
        words = make_venv.venv_problem(venv, version)
        assert words.startswith(f"{venv} was made ")
        assert f"rm -rf {venv})" in words
        return words

    assert "by Python" in problem((3, 99))
    Path(make_venv.stamp_of(venv)).write_text("/elsewhere")
    assert "in another folder" in problem()
    python.unlink()
    python.symlink_to("/gone/python3")
    assert "no longer runs" in problem()


@pytest.mark.parametrize("venv", ENVIRONMENTS.values())
def test_an_environment_is_filled_from_its_own_lock(venv, tmp_path, monkeypatch):
    commands = []
    monkeypatch.chdir(tmp_path)
    (tmp_path / venv).mkdir()
    monkeypatch.setattr(make_venv, "run", lambda _, args, __: commands.append(args))
    monkeypatch.setattr(make_venv, "space_problem", lambda *_: None)
    make_venv.main(venv)
    installed = [args[-1] for args in commands if "install" in args]
    lock, *torch, itself = installed
    assert lock in LOCKS
    assert lock == make_venv.lock_of(venv)
    assert torch == ([make_venv.TORCH] if venv == ".venv-torch" else [])
    assert itself == "."
    assert Path(make_venv.stamp_of(venv)).read_text() == str(tmp_path)


def test_what_is_no_environment_is_said():
    script = [sys.executable, ROOT / "tools" / "make_venv.py", ".venv-mxnet"]
    run = subprocess.run(script, capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr == "Name one environment: .venv, .venv-jax, .venv-torch.\n"


def test_every_backend_has_its_turn_even_after_one_that_fails(copy):
    python = copy / "python"
    python.write_text('#!/bin/sh\necho "[$KERAS_BACKEND $0 $3]"; exit 1\n')
    python.chmod(0o755)
    for venv in ENVIRONMENTS.values():
        stand_in(copy, venv, python)
        (copy / make_venv.stamp_of(venv)).write_text(str(copy))
    run = subprocess.run(
        ["make", "test-backends"],
        env=outside_make(),
        cwd=copy,
        capture_output=True,
        text=True,
    )
    assert run.returncode != 0
    turns = re.findall(r"^\[(\w+) (\S+)/bin/python ", run.stdout, re.MULTILINE)
    assert turns == list(ENVIRONMENTS.items())


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
    given = {} if given is None else {"MEMEMBED_DATA_DIR": given}
    shown = subprocess.run(
        ["make", "--file=-", "show"],
        input=makefile,
        env={**outside_make(), **given},
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    assert shown.stdout.strip() == expected
