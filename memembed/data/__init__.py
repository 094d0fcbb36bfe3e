"""MovieLens 1M, goodbooks-10k, a synthetic stand-in, and their use as arrays.

Two environment variables decide where ratings and titles come from:

- `MEMEMBED_DATA_DIR`: a folder that holds `ml-1m.zip`, or `ml-1m/ratings.dat` and
  `ml-1m/movies.dat`; and `goodbooks/ratings.csv.zip`.
- `MEMEMBED_DATASET`: `ml-1m` refuses the stand-in, for goodbooks-10k too,
  `synthetic` asks for it, and `synthetic:130000` asks for 130,000 ratings of it.

If neither is set, a data set is downloaded once. If that fails, the stand-in takes its
place, and a note or a warning says so.
"""

from memembed.data.loading import load_ratings, load_titles
from memembed.data.movielens import format_ratings, read_ratings
from memembed.data.shards import RatingShards
from memembed.data.splits import Examples, RatingData, Split, prepare, split
from memembed.data.synthetic import synthetic_ratings, write_synthetic_shards
from memembed.data.vocabulary import Vocabulary

__all__ = [
    "Examples",
    "RatingData",
    "RatingShards",
    "Split",
    "Vocabulary",
    "format_ratings",
    "load_ratings",
    "load_titles",
    "prepare",
    "read_ratings",
    "split",
    "synthetic_ratings",
    "write_synthetic_shards",
]
