"""Downloads that are kept, and checked against their hash."""

import logging
import sys
import time
import warnings
from contextlib import suppress
from pathlib import Path

import pooch

from memembed.progress import is_watched


def download(url, sha256, folder):
    """Return a file in the cache `folder`, downloading it if it isn't there whole.

    Raises:
        FileNotFoundError: it cannot be had; the message is a clause saying why.
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
            # GroupLens's certificate has lapsed more than once. Only because the
            # hash pins the content is it safe to go on without one.
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Unverified HTTPS request")
                return retrieve(verify=False)
    except RequestException as error:
        reason = f"{url} could not be downloaded ({type(error).__name__})"
        raise FileNotFoundError(reason) from error
    except OSError as error:
        reason = f"the cache folder {folder} could not be used ({type(error).__name__})"
        raise FileNotFoundError(reason) from error
    except ValueError as error:
        reason = f"{url} sent something else (its SHA-256 differs)"
        raise FileNotFoundError(reason) from error
    finally:
        logger.setLevel(level)


def _clear_leftovers(folder):
    """Delete the temporary files of downloads that were killed.

    Other processes may be downloading now. They write every few seconds, so a file
    untouched for an hour is nobody's.
    """
    for file in folder.glob("tmp*"):
        with suppress(OSError):  # another process may clear up at the same time
            if time.time() - file.stat().st_mtime > 3600:
                file.unlink()
