"""Change every link to the repository, and to its book, to another repository.

    make repository URL=https://github.com/OWNER/NAME

It replaces the address in _config.yml. Files are edited as bytes, so that nothing else
in them changes, not even the layout of a notebook's JSON.
"""

import re
import subprocess
import sys
from pathlib import Path

URL = re.compile(r"https://github\.com/([\w-]+)/([\w.-]+?)(?:\.git)?/?", re.ASCII)


def configured(root):
    """Return the owner and name in _config.yml."""
    config = (Path(root) / "_config.yml").read_text(encoding="utf-8")
    url = re.search(r"^repository:\n  url: (\S+)$", config, re.MULTILINE)[1]
    return URL.fullmatch(url).groups()


def replace(data, old, new):
    """Return these bytes with one repository's addresses replaced by another's.

    Both are an owner and a name. A repository whose name only starts with the old name
    is left alone.
    """
    owner, name = map(re.escape, old)
    address = (
        rf"(github\.com/|google\.com/github/){owner}/{name}(?!\.(?!git\b)\w|[\w-])"
        rf"|(?<![\w.-]){owner}(\.github\.io/){name}(?!\.\w|[\w-])"
    )
    return re.sub(
        address.encode(),
        lambda match: (
            match[1] + "/".join(new).encode()
            if match[1]
            else new[0].encode() + match[2] + new[1].encode()
        ),
        data,
    )


def move(root, url):
    """Rewrite the files below root that git tracks; return the names of changed files.

    Raises:
        ValueError: `url` is not the address of a repository on GitHub.
    """
    new = URL.fullmatch(url)
    if not new:
        raise ValueError(
            f"`URL` must be https://github.com/OWNER/NAME. Received: URL={url!r}"
        )
    old = configured(root)
    listed = subprocess.check_output(["git", "ls-files", "-z"], cwd=root, text=True)
    before = {
        name: (Path(root) / name).read_bytes() for name in listed.split("\0")[:-1]
    }
    after = {name: replace(data, old, new.groups()) for name, data in before.items()}
    changed = [name for name in before if after[name] != before[name]]
    for name in changed:
        (Path(root) / name).write_bytes(after[name])
    return changed


if __name__ == "__main__":
    try:
        print("\n".join(move(Path(__file__).parents[1], " ".join(sys.argv[1:]))))
    except (ValueError, OSError, subprocess.CalledProcessError) as problem:
        sys.exit(str(problem))
