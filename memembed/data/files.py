"""Files of a data set on this machine."""

import os
from pathlib import Path

import pooch


def local_copy(*places):
    """Return the first of `places` that exists in `$MEMEMBED_DATA_DIR`, or None."""
    named = os.environ.get("MEMEMBED_DATA_DIR")
    if not named:
        return None
    folder = Path(named).expanduser().absolute()
    if not folder.is_dir():
        raise FileNotFoundError(
            f"MEMEMBED_DATA_DIR={named}, but there is no folder {folder}."
        )
    for path in (folder / place for place in places):
        if path.exists():
            return path
        for link in (path.parent, path):
            if link.is_symlink() and not link.exists():
                raise FileNotFoundError(
                    f"{link} is a broken link: there is no {link.readlink()}."
                )
    return None


def check_hash(path, sha256, url):
    """Raise an error if a file is not, byte for byte, the one at `url`."""
    received = pooch.file_hash(path)
    if received != sha256:
        raise ValueError(
            f"{path} is damaged, or is another archive: expected SHA-256 {sha256}, "
            f"received {received}. Delete it and download {url} again."
        )
