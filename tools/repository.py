"""Move every link to the repository, and to its book, to another repository.

    make repository URL=https://github.com/OWNER/NAME

The address in _config.yml is the one that is replaced. Files are edited as bytes, so
that nothing else in them changes, the layout of a notebook's JSON included.
"""

import re
import subprocess
import sys
from pathlib import Path

# GitHub's own rules for the two names.
URL = re.compile(
    r"https://github\.com/(?P<owner>[A-Za-z\d](?:-?[A-Za-z\d]){0,38})"
    r"/(?P<name>(?!\.\.?$)[\w.-]{1,100}?)(?:\.git)?/?",
    re.ASCII,
)


def parse(url):
    """Split a repository's address into owner and name.

    Raises:
        ValueError: if this is no address of a repository on GitHub.
    """
    match = URL.fullmatch(url)
    if not match:
        raise ValueError(
            f"Not a repository's address: {url!r}. Say, for example, "
            "`make repository URL=https://github.com/OWNER/NAME`."
        )
    return match["owner"], match["name"]


def configured(root):
    """The owner and name that _config.yml holds."""
    config = (Path(root) / "_config.yml").read_text(encoding="utf-8")
    return parse(re.search(r"^repository:\n  url: (\S+)$", config, re.MULTILINE)[1])


def pattern(owner, name):
    """Match the ways in which a file names a repository, as bytes.

    The name must end there: another repository's may begin with it.
    """
    owner, name = re.escape(owner), re.escape(name)
    return re.compile(
        rf"(?P<code>github\.com/|colab\.research\.google\.com/github/){owner}/{name}"
        rf"(?!\.(?!git\b)\w|[\w-])"
        rf"|(?<![\w.-]){owner}\.github\.io/{name}(?!\.\w|[\w-])".encode()
    )


def replace(data, old, new):
    """Return these bytes with one repository's addresses replaced by another's."""

    def other(match):
        if match["code"] is not None:
            return match["code"] + "/".join(new).encode()
        return "{}.github.io/{}".format(*new).encode()

    return pattern(*old).sub(other, data)


def text_files(root):
    """Every file of the project that git tracks or would, but for binary ones."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        check=True,
        capture_output=True,
    ).stdout.decode()
    for name in sorted(filter(None, listed.split("\0"))):
        path = Path(root) / name
        if path.is_file() and not path.is_symlink():
            data = path.read_bytes()
            if b"\0" not in data:
                yield name, data


def move(root, url):
    """Rewrite the files below root, and return the names of those that changed.

    Raises:
        ValueError: if the address is no good, or if a file names that repository
            already, so that moving back could not tell the two apart.
    """
    old, new = configured(root), parse(url)
    if old == new:
        return []
    files = list(text_files(root))
    for name, data in files:
        if pattern(*new).search(data):
            raise ValueError(f"{name} names {url} already: nothing was changed.")
    moved = {name: replace(data, old, new) for name, data in files}
    changed = [name for name, data in files if moved[name] != data]
    for name in changed:
        (Path(root) / name).write_bytes(moved[name])
    return changed


def main(arguments):
    """Run as a command."""
    try:
        changed = move(Path(__file__).resolve().parent.parent, " ".join(arguments))
    except ValueError as problem:
        sys.exit(str(problem))
    except (OSError, subprocess.CalledProcessError):
        sys.exit("This needs git, and a copy of the project that git knows.")
    print("\n".join(changed) or "Nothing to change.")


if __name__ == "__main__":
    main(sys.argv[1:])
