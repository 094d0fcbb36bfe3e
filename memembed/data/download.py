"""Downloads that are cached and checked against their hash."""

import logging
import sys
import time
import warnings
from contextlib import suppress
from pathlib import Path

import pooch

from memembed.progress import is_watched


def download(url, sha256, folder):
    """Return a file in the cache `folder`; download it if no complete copy is there.

    Raises:
        FileNotFoundError: it cannot be downloaded or cached. The message is a clause
            that says why.
    """
    # Not needed to read a local file, and slow to import.
    from requests.exceptions import RequestException, SSLError

    def retrieve(**options):
        downloader = pooch.HTTPDownloader(
            progressbar=is_watched(sys.stderr),
            timeout=(10, 30),  # seconds to connect, and between bytes
            **options,
        )
        # pooch writes to a temporary file and renames it once the hash matches.
        name = url.rpartition("/")[2]
        return Path(pooch.retrieve(url, sha256, name, folder, downloader=downloader))

    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel(logging.WARNING)  # it reports every download on stderr
    try:
        _clear_leftovers(folder)
        try:
            return retrieve()
        except SSLError:
            # GroupLens's certificate has expired more than once. It is safe to continue
            # without one, because the hash pins the content.
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Unverified HTTPS request")
                return retrieve(verify=False)
    except RequestException as error:
        reason = f"{url} could not be downloaded ({type(error).__name__})"
        raise FileNotFoundError(reason) from error
    except OSError as error:
        why = error.strerror or type(error).__name__
        reason = f"the cache folder {folder} could not be used ({why})"
        raise FileNotFoundError(reason) from error
    except ValueError as error:
        reason = f"{url} sent another file (its SHA-256 differs)"
        raise FileNotFoundError(reason) from error
    finally:
        logger.setLevel(level)


def _clear_leftovers(folder):
    """Delete the temporary files of downloads that were killed.

    Other processes may be downloading now. They write every few seconds, so a file
    that has not changed for an hour belongs to none of them.
    """
    for file in folder.glob("tmp*"):
        with suppress(OSError):  # another process may delete it at the same time
            if time.time() - file.stat().st_mtime > 3600:
                file.unlink()
