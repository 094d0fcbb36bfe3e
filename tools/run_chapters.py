"""Run all chapters, as many at a time as there are cores, for the build of the book.

    python tools/run_chapters.py FOLDER

Their outputs go to the cache in that folder, where the build of the book finds them.
"""

import logging
import sys
from pathlib import Path

from jupyter_cache import get_cache
from jupyter_cache.executors import load_executor

CHAPTERS = Path(__file__).parents[1] / "chapters"


def main(folder, chapters):
    """Run the notebooks in `chapters`; exit with the names of those that failed."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    cache = get_cache(folder / ".jupyter_cache")
    for path in sorted(chapters.glob("*.ipynb")):
        cache.add_nb_to_project(str(path))
    executor = load_executor("local-parallel", cache, logging.getLogger("chapters"))
    run = executor.run_and_cache(timeout=600)
    failed = [*run.excepted, *run.errored]
    if failed:  # the errors themselves are in the log already
        raise SystemExit("\n".join(["These chapters failed:", *failed]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), CHAPTERS)
