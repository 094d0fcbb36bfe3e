"""MovieLens 1M, a synthetic stand-in for it, and the way from ratings to arrays.

Two environment variables decide where ratings come from:

- `MEMEMBED_DATA_DIR`: a folder that holds `ml-1m/ratings.dat` or `ml-1m.zip`.
- `MEMEMBED_DATASET`: `ml-1m` to insist on MovieLens 1M, `synthetic` to ask for the
  stand-in, `synthetic:130000` for one of that many ratings.

With neither set, MovieLens 1M is downloaded once, and the stand-in, announced
in plain sight, takes its place where that cannot be done.
"""

import io
import logging
import os
import re
import sys
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pooch

ARCHIVE_URL = "https://files.grouplens.org/datasets/movielens/ml-1m.zip"
ARCHIVE_SHA256 = "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20"
ARCHIVE_MEMBER = "ml-1m/ratings.dat"

_REMEDY = (
    f"Download {ARCHIVE_URL} and set MEMEMBED_DATA_DIR to the folder that holds it."
)

# What each field of a line may be: its name, its least and its greatest value.
_FIELDS = (
    ("user_id", 1, 2**31 - 1),
    ("movie_id", 1, 2**31 - 1),
    ("rating", 1, 5),
    ("timestamp", 0, 2**53),  # whole numbers are exact to here, even as floats
)

_MIN_RATINGS_PER_USER = 20  # what MovieLens 1M promises
_RATING_SHARES = (0.056, 0.108, 0.261, 0.349, 0.226)  # its ratings 1 to 5


def load_ratings() -> pd.DataFrame:
    """Load MovieLens 1M, or the synthetic stand-in.

    The real ratings are looked for in `$MEMEMBED_DATA_DIR/ml-1m/ratings.dat`,
    `$MEMEMBED_DATA_DIR/ml-1m.zip`, the cache of earlier downloads, and the
    GroupLens server, in this order. See the module's docstring for the variables.

    Returns:
        A table of `user_id`, `movie_id` (int32) and `rating` (float32), one row a
        rating. Its `.attrs["dataset"]` is `"ml-1m"` or `"synthetic"`.

    Raises:
        ValueError: If `MEMEMBED_DATASET` is not understood, or a local file is
            damaged.
        FileNotFoundError: If `MEMEMBED_DATA_DIR` is no folder, or if
            `MEMEMBED_DATASET` is `ml-1m` and no copy can be had.

    Example:
        >>> ratings = load_ratings()  # doctest: +SKIP
        >>> ratings.attrs["dataset"]  # doctest: +SKIP
        'ml-1m'
    """
    wanted = os.environ.get("MEMEMBED_DATASET", "")
    if synthetic := re.fullmatch(r"synthetic(?::([0-9]+))?", wanted):
        size = {"num_ratings": int(synthetic[1])} if synthetic[1] else {}
        try:
            ratings = _stand_in(**size)
        except ValueError as error:
            raise ValueError(f"MEMEMBED_DATASET={wanted}: {error}") from error
        if _in_notebook():
            _announce_stand_in(f"MEMEMBED_DATASET={wanted} asks for them.")
        return ratings
    if wanted not in ("", "ml-1m"):
        raise ValueError(
            "MEMEMBED_DATASET must be 'ml-1m', 'synthetic' or 'synthetic:<number of "
            f"ratings>'. Received: {wanted!r}"
        )

    path = _local_copy()
    if path is None:
        try:
            path = _download()
        except FileNotFoundError as error:
            if wanted == "ml-1m":
                raise FileNotFoundError(
                    f"MEMEMBED_DATASET=ml-1m, but {error}. {_REMEDY}"
                ) from error
            _announce_stand_in(f"{error}. {_REMEDY}")
            return _stand_in()
    ratings = _read_archive(path) if path.suffix == ".zip" else read_ratings(path)
    ratings.attrs["dataset"] = "ml-1m"
    return ratings


def _local_copy() -> Path | None:
    """Return the file in `$MEMEMBED_DATA_DIR`, if there is one."""
    named = os.environ.get("MEMEMBED_DATA_DIR")
    if not named:
        return None
    folder = Path(named).expanduser().absolute()
    if not folder.is_dir():
        raise FileNotFoundError(
            f"MEMEMBED_DATA_DIR={named}, but there is no folder {folder}."
        )
    ratings, archive = folder / "ml-1m" / "ratings.dat", folder / "ml-1m.zip"
    if ratings.exists():
        return ratings
    if not archive.exists():
        return None
    received = pooch.file_hash(archive)
    if received != ARCHIVE_SHA256:
        raise ValueError(
            f"{archive} is damaged or another archive: expected SHA-256 "
            f"{ARCHIVE_SHA256}, received {received}. Delete it and download "
            f"{ARCHIVE_URL} again."
        )
    return archive


def _download() -> Path:
    """Return the archive in the cache, downloading it if it isn't there whole.

    Raises:
        FileNotFoundError: If it cannot be had; the message is a clause saying why.
    """
    # Not needed to read a local file, and slow to import.
    from requests.exceptions import RequestException, SSLError

    folder = pooch.os_cache("memembed")

    def retrieve(**options) -> Path:
        downloader = pooch.HTTPDownloader(
            progressbar=sys.stderr.isatty() and not _in_notebook(),
            timeout=(10, 30),  # seconds to connect, and between bytes
            **options,
        )
        # pooch writes to a temporary file and renames it once the hash matches.
        return Path(
            pooch.retrieve(
                ARCHIVE_URL,
                ARCHIVE_SHA256,
                fname="ml-1m.zip",
                path=folder,
                downloader=downloader,
            )
        )

    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel(logging.WARNING)  # it reports every download on stderr
    try:
        try:
            return retrieve()
        except SSLError:
            # The server's certificate has lapsed more than once. Only because
            # the hash pins the content is it safe to go on without one.
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Unverified HTTPS request")
                return retrieve(verify=False)
    except RequestException as error:
        raise FileNotFoundError(
            f"{ARCHIVE_URL} could not be downloaded ({type(error).__name__})"
        ) from error
    except OSError as error:
        raise FileNotFoundError(
            f"the cache folder {folder} could not be used ({type(error).__name__})"
        ) from error
    except ValueError as error:
        raise FileNotFoundError(
            f"{ARCHIVE_URL} sent something else (its SHA-256 differs)"
        ) from error
    finally:
        logger.setLevel(level)


def _read_archive(path: Path) -> pd.DataFrame:
    """Read the ratings inside the archive; nothing is extracted to disk."""
    with zipfile.ZipFile(path) as archive:
        try:
            member = archive.open(ARCHIVE_MEMBER)
        except KeyError:
            raise ValueError(f"{path} holds no {ARCHIVE_MEMBER}.") from None
        with member:
            return read_ratings(member)


def _stand_in(**size) -> pd.DataFrame:
    """Return synthetic ratings that went through the same format and parser."""
    ratings = read_ratings(io.BytesIO(format_ratings(synthetic_ratings(**size))))
    ratings.attrs["dataset"] = "synthetic"
    return ratings


def _in_notebook() -> bool:
    """Tell whether the code runs in a Jupyter kernel."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return getattr(shell, "kernel", None) is not None


def _announce_stand_in(reason: str) -> None:
    """Tell the reader of the page, or the caller, that the ratings are synthetic."""
    if _in_notebook():
        from IPython.display import Markdown, display

        display(
            Markdown(
                "> **These ratings are synthetic, not MovieLens 1M**, and so is every "
                f"number that follows from them: {reason}"
            )
        )
    else:
        warnings.warn(
            f"These ratings are synthetic, not MovieLens 1M: {reason}", stacklevel=3
        )


def read_ratings(source) -> pd.DataFrame:
    """Read ratings in MovieLens's form, `user::movie::rating::timestamp` a line.

    Args:
        source: A path, or a file opened in binary mode.

    Returns:
        A table of `user_id`, `movie_id` (int32) and `rating` (float32).

    Raises:
        ValueError: If a line is broken, naming the file and the line, or if there
            is none.

    Example:
        >>> read_ratings(io.BytesIO(b"1::7::5::0"))
           user_id  movie_id  rating
        0        1         7     5.0
    """
    if hasattr(source, "read"):
        name, data = getattr(source, "name", "ratings"), source.read()
    else:
        name, data = source, Path(source).read_bytes()
    data = data.rstrip(b"\r\n")
    if not data:
        raise ValueError(f"{name} is empty: there are no ratings in it.")
    try:
        return _parse(data)
    except (ValueError, OverflowError):
        for number, line in enumerate(data.splitlines(), start=1):
            if fault := _fault(line):
                raise ValueError(
                    f"{name}, line {number}: {fault}. Received: {line[:80]!r}"
                ) from None
        raise


def _parse(data: bytes) -> pd.DataFrame:
    """Parse all lines at once; a ValueError or OverflowError if any is broken."""
    # pandas reads one-character separators ten times faster than "::". First
    # make sure that nothing in the data has a meaning to its CSV parser.
    if data.translate(None, delete=b"0123456789:\r\n"):
        raise ValueError("not a number")
    data = data.replace(b"::", b",")
    names, least, greatest = zip(*_FIELDS, strict=True)
    table = pd.read_csv(
        io.BytesIO(data),
        header=None,
        names=names,
        dtype="int64",
        skip_blank_lines=False,
    )
    # A missing field has raised already. A surplus one may have passed for an index.
    if data.count(b",") != 3 * len(table):
        raise ValueError("more than four fields")
    values = table.to_numpy()
    if (values.min(axis=0) < least).any() or (values.max(axis=0) > greatest).any():
        raise ValueError("out of range")
    return table.drop(columns="timestamp").astype(
        {"user_id": "int32", "movie_id": "int32", "rating": "float32"}
    )


def _fault(line: bytes) -> str | None:
    """Say what is wrong with a line, if anything is."""
    fields = line.split(b"::")
    if len(fields) != len(_FIELDS):
        return f"expected user::movie::rating::timestamp, found {len(fields)} field(s)"
    for field, (name, least, greatest) in zip(fields, _FIELDS, strict=True):
        if not re.fullmatch(rb"[0-9]{1,19}", field):
            return f"{name} is not a whole number"
        if not least <= int(field) <= greatest:
            return f"{name} must be from {least} to {greatest}"
    return None


def format_ratings(ratings: pd.DataFrame) -> bytes:
    r"""Write ratings in MovieLens's form, with a timestamp of 0: `read_ratings` undone.

    Args:
        ratings: A table of `user_id`, `movie_id` and `rating`.

    Returns:
        The content of a `ratings.dat`.

    Example:
        >>> ratings = pd.DataFrame({"user_id": [1], "movie_id": [7], "rating": [5.0]})
        >>> format_ratings(ratings)
        b'1::7::5::0\n'
    """
    columns = (ratings[name].tolist() for name in ("user_id", "movie_id", "rating"))
    return b"".join(b"%d::%d::%g::0\n" % row for row in zip(*columns, strict=True))


def synthetic_ratings(
    num_users: int = 6040,
    num_movies: int = 3706,
    num_ratings: int = 1_000_209,
    seed: int = 0,
) -> pd.DataFrame:
    """Generate ratings of MovieLens 1M's shape.

    How active users are and how popular movies are follow gamma laws (a power law
    with an exponential tail) fitted to MovieLens 1M. A rating is the sum of a user's
    effect, a movie's effect (popular movies are rated higher), a taste of rank 8,
    and noise, cut into 1 to 5 at MovieLens 1M's own shares. No user rates a movie
    twice, every user rates at least 20 movies, and every movie is rated.

    Args:
        num_users: How many users, with ids from 1.
        num_movies: How many movies, with ids from 1.
        num_ratings: How many ratings: at least 20 a user and one a movie, at most
            one for each user and movie.
        seed: Equal seeds give equal ratings.

    Returns:
        A table like that of `load_ratings`, sorted by user and movie.

    Raises:
        ValueError: If a size is out of range.

    Example:
        >>> ratings = synthetic_ratings(num_users=50, num_movies=40, num_ratings=1200)
        >>> len(ratings), ratings.user_id.nunique(), ratings.movie_id.nunique()
        (1200, 50, 40)
    """
    for name, size in (("num_users", num_users), ("num_movies", num_movies)):
        if size < 1:
            raise ValueError(f"{name} must be positive. Received: {size}")
    least_active = min(_MIN_RATINGS_PER_USER, num_movies)
    least = max(least_active * num_users, num_movies)
    if not least <= num_ratings <= num_users * num_movies:
        raise ValueError(
            f"num_ratings must be from {least} to {num_users * num_movies} for "
            f"{num_users} users and {num_movies} movies. Received: {num_ratings}"
        )
    rng = np.random.default_rng(seed)
    activity = _share_out(
        num_ratings, rng.gamma(0.6, size=num_users), least_active, num_movies, rng
    )
    popularity = rng.gamma(0.6, size=num_movies)
    user = np.repeat(np.arange(num_users), activity)
    movie = _choose_movies(user, activity, popularity, rng)

    # Weighted so that user and movie biases alone, and then one and eight columns
    # on top of them, predict as well as they do on MovieLens 1M.
    columns = np.arange(1, 9) ** -0.5
    user_taste = columns * rng.normal(size=(num_users, 8))
    movie_taste = rng.normal(size=(num_movies, 8))
    user_effect = 0.44 * rng.normal(size=num_users)
    movie_effect = 0.5 * np.sqrt(popularity) + 0.53 * rng.normal(size=num_movies)
    score = (
        user_effect[user]
        + movie_effect[movie]
        + 0.25 * np.einsum("nk,nk->n", user_taste[user], movie_taste[movie])
        + 0.83 * rng.normal(size=num_ratings)
    )
    cuts = np.quantile(score, np.cumsum(_RATING_SHARES)[:-1])
    ratings = pd.DataFrame(
        {
            "user_id": (user + 1).astype("int32"),
            "movie_id": (movie + 1).astype("int32"),
            "rating": (np.searchsorted(cuts, score) + 1).astype("float32"),
        }
    )
    ratings.attrs["dataset"] = "synthetic"
    return ratings


def _share_out(total, weights, least, most, rng) -> np.ndarray:
    """Draw counts from `least` to `most` that add up to `total`, by weight."""
    counts = np.full(len(weights), least)
    while remaining := total - counts.sum():
        weights = np.where(counts < most, weights, 0)
        drawn = rng.multinomial(remaining, weights / weights.sum())
        counts = np.minimum(counts + drawn, most)
    return counts


def _choose_movies(user, activity, popularity, rng) -> np.ndarray:
    """Draw `activity` distinct movies for each user, popular ones more often."""
    # One rating of each movie is promised to a user drawn by activity.
    promised_to = rng.permutation(user)[: len(popularity)]
    # Active users run out of popular movies: the power makes up for it.
    rate = popularity**1.3
    chosen = []
    for i, count in enumerate(activity):
        # The first arrivals of a race at these rates are a weighted draw without
        # replacement.
        arrival = rng.exponential(size=len(rate)) / rate
        arrival[promised_to == i] = 0
        first = np.argpartition(arrival, count - 1)[:count]
        chosen.append(np.sort(first))
    return np.concatenate(chosen)


class Vocabulary:
    """A two-way map between raw ids and rows, the most popular id first.

    Popularity is counted on the training ids alone, so that nothing of what a model
    is tested on shapes its tables. Ids equally popular are in ascending order. The
    length is the number of rows, with the out-of-vocabulary row if there is one.

    Args:
        train_ids: The ids to count, one for each rating trained on.
        catalogue: All the ids there are. Those without a rating in `train_ids` have
            rows of their own, at the end. Defaults to the ids in `train_ids`.
        num_oov_indices: 1 to add a last row for ids outside the catalogue, 0 to
            refuse them.

    Attributes:
        ids: The raw ids in row order; read-only.
        counts: How often each row is trained on, the out-of-vocabulary row 0 times;
            read-only.

    Raises:
        ValueError: If an id of `train_ids` is not in `catalogue`, or if
            `num_oov_indices` is neither 0 nor 1.

    Example:
        >>> movies = Vocabulary([50, 7, 50, 9], catalogue=[1, 7, 9, 50])
        >>> movies
        Vocabulary(4 rows, most popular first: 50, 7, 9, ...)
        >>> movies.encode([[50, 1]])
        array([[0, 3]], dtype=int32)
        >>> movies.decode([0, 3])
        array([50,  1])
    """

    def __init__(self, train_ids, catalogue=None, num_oov_indices: int = 0):
        if num_oov_indices not in (0, 1):
            raise ValueError(
                f"num_oov_indices must be 0 or 1. Received: {num_oov_indices!r}"
            )
        ids, counts = np.unique(np.asarray(train_ids), return_counts=True)
        if catalogue is not None:
            trained, trained_counts = ids, counts
            ids = np.unique(np.asarray(catalogue))
            where = pd.Index(ids).get_indexer(trained)
            if (where < 0).any():
                raise ValueError(
                    "train_ids must all be in catalogue. Not in it: "
                    f"{_abridged(trained[where < 0])}"
                )
            counts = np.zeros(len(ids), dtype="int64")
            counts[where] = trained_counts
        order = np.argsort(-counts, kind="stable")
        self.num_oov_indices = num_oov_indices
        self.ids = ids[order]
        self.counts = np.append(counts[order], np.zeros(num_oov_indices, dtype="int64"))
        self.ids.flags.writeable = self.counts.flags.writeable = False
        self._rows = pd.Index(self.ids)

    def __len__(self) -> int:
        return len(self.counts)

    def __repr__(self) -> str:
        first = _abridged(self.ids, limit=3)
        return f"Vocabulary({len(self)} rows, most popular first: {first})"

    def encode(self, ids) -> np.ndarray:
        """Map raw ids to rows.

        Args:
            ids: An id or an array of ids, of any shape.

        Returns:
            The rows as int32, in the shape of `ids`.

        Raises:
            ValueError: If an id is unknown and there is no row for such ids.
        """
        ids = np.asarray(ids)
        rows = self._rows.get_indexer(ids.ravel()).astype("int32")
        unknown = rows < 0
        if unknown.any():
            if not self.num_oov_indices:
                raise ValueError(
                    f"ids not in the vocabulary: {_abridged(ids.ravel()[unknown])}"
                )
            rows[unknown] = len(self) - 1
        return rows.reshape(ids.shape)[()]  # a scalar for a scalar, as NumPy does

    def decode(self, rows) -> np.ndarray:
        """Map rows back to raw ids.

        Args:
            rows: A row or an array of rows, of any shape.

        Returns:
            The raw ids, in the shape of `rows`.

        Raises:
            ValueError: If a row has no id: it is outside the table, or is the
                out-of-vocabulary row.
        """
        rows = np.asarray(rows)
        without_id = (rows < 0) | (rows >= len(self.ids))
        if without_id.any():
            raise ValueError(
                f"rows must be from 0 to {len(self.ids) - 1} to have an id. Received: "
                f"{_abridged(rows[without_id])}"
            )
        return self.ids[rows]


def _abridged(values, limit: int = 5) -> str:
    """Write the first few distinct values."""
    values = pd.unique(values)
    shown = ", ".join(repr(value) for value in values[:limit].tolist())
    return shown + ", ..." * (len(values) > limit)


class Split(NamedTuple):
    """Three disjoint parts of a table of ratings."""

    train: pd.DataFrame
    validation: pd.DataFrame
    evaluation: pd.DataFrame


def split(
    ratings: pd.DataFrame,
    evaluation: float = 0.15,
    validation: float = 0.05,
    seed: int = 0,
) -> Split:
    """Split ratings at random into train, validation and evaluation parts.

    The evaluation part is drawn first: it depends on the seed, and not on
    `validation`. Each part keeps the order and the index of `ratings`.

    Args:
        ratings: The table to split.
        evaluation: The fraction of all ratings to evaluate on, above 0.
        validation: The fraction of all ratings to choose settings on; may be 0.
        seed: Equal seeds give equal parts.

    Returns:
        A `Split`: `train`, `validation`, `evaluation`.

    Raises:
        ValueError: If a fraction is out of range, or they leave nothing to train on.

    Example:
        >>> ratings = synthetic_ratings(num_users=50, num_movies=40, num_ratings=1200)
        >>> [len(part) for part in split(ratings)]
        [960, 60, 180]
    """
    if not 0 < evaluation < 1:
        raise ValueError(f"evaluation must be between 0 and 1. Received: {evaluation}")
    if not 0 <= validation < 1 - evaluation:
        raise ValueError(
            "validation must be at least 0 and leave something to train on. "
            f"Received: validation={validation}, evaluation={evaluation}"
        )
    order = np.random.default_rng(seed).permutation(len(ratings))
    first = round(evaluation * len(ratings))
    second = first + round(validation * len(ratings))
    parts = order[second:], order[first:second], order[:first]
    return Split(*(ratings.iloc[np.sort(part)] for part in parts))


@dataclass(frozen=True, eq=False)
class Examples:
    """Ratings as arrays: rows of users, rows of movies (int32), ratings (float32).

    The length is the number of ratings.
    """

    user: np.ndarray
    movie: np.ndarray
    rating: np.ndarray

    def __len__(self) -> int:
        return len(self.rating)

    @property
    def inputs(self) -> dict[str, np.ndarray]:
        """The inputs of a rating model, by name."""
        return {"user": self.user, "movie": self.movie}


@dataclass(frozen=True, eq=False)
class RatingData:
    """All that an experiment needs of its data: see `prepare`."""

    dataset: str
    users: Vocabulary
    movies: Vocabulary
    train: Examples
    validation: Examples
    evaluation: Examples


def prepare(
    ratings: pd.DataFrame,
    seed: int = 0,
    evaluation: float = 0.15,
    validation: float = 0.05,
) -> RatingData:
    """Split ratings, build the vocabularies, and encode every part.

    Every user and movie in `ratings` has a row. How popular they are is counted on
    the training part.

    Args:
        ratings: A table such as `load_ratings` returns.
        seed: See `split`.
        evaluation: See `split`.
        validation: See `split`.

    Returns:
        A `RatingData`.

    Example:
        >>> ratings = synthetic_ratings(num_users=50, num_movies=40, num_ratings=1200)
        >>> data = prepare(ratings)
        >>> len(data.users), len(data.movies), len(data.train)
        (50, 40, 960)
    """
    parts = split(ratings, evaluation, validation, seed)
    users = Vocabulary(parts.train["user_id"], ratings["user_id"])
    movies = Vocabulary(parts.train["movie_id"], ratings["movie_id"])
    examples = {
        name: Examples(
            users.encode(part["user_id"]),
            movies.encode(part["movie_id"]),
            part["rating"].to_numpy("float32", copy=True),  # pandas' own is read-only
        )
        for name, part in parts._asdict().items()
    }
    return RatingData(ratings.attrs.get("dataset", "custom"), users, movies, **examples)
