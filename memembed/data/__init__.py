"""MovieLens 1M, a synthetic stand-in for it, and the way from ratings to arrays.

Two environment variables decide where ratings come from:

- `MEMEMBED_DATA_DIR`: a folder that holds `ml-1m/ratings.dat` or `ml-1m.zip`.
- `MEMEMBED_DATASET`: `ml-1m` to insist on MovieLens 1M, `synthetic` to ask for the
  stand-in, `synthetic:130000` for one of that many ratings.

With neither set, MovieLens 1M is downloaded once. Where that cannot be done, the
stand-in takes its place, and a note or a warning says so.
"""

from memembed.data.loading import load_ratings
from memembed.data.movielens import format_ratings, read_ratings
from memembed.data.splits import Examples, RatingData, Split, prepare, split
from memembed.data.synthetic import synthetic_ratings
from memembed.data.vocabulary import Vocabulary

__all__ = [
    "Examples",
    "RatingData",
    "Split",
    "Vocabulary",
    "format_ratings",
    "load_ratings",
    "prepare",
    "read_ratings",
    "split",
    "synthetic_ratings",
]
