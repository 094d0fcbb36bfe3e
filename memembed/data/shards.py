"""Ratings larger than memory: a folder of Parquet files, read a part at a time.

pyarrow reads the files, and a `keras.utils.PyDataset` hands the batches to `fit`, which
works on TensorFlow, JAX and Torch alike. Only a few row groups and the
vocabularies are in memory.
"""

import re
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from memembed.data.vocabulary import Vocabulary
from memembed.progress import bar
from memembed.shapes import check_size

LEAST_MERGED = 2**20  # how many separate counts are collected before they are merged


class RatingShards:
    """Ratings in the Parquet files of a folder.

    At first, only the metadata of the files is read. If they are named
    `...-00003-of-00010.parquet`, all of them must be there, each once, and no others.

    The length is the number of ratings.

    Args:
        folder: the folder of the files, whose names end in `.parquet`.
        columns: names of the columns of users, movies and ratings. Ids are integers or
            strings.

    Raises:
        ValueError: `columns` are not three names; there is no such folder, no file in
            it, or no rating in them; or a file is missing, does not belong to the
            numbered ones, is not a complete Parquet file, lacks a column, or has a
            column of another type. The message names the file.

    Example:
        >>> import tempfile
        >>> from memembed.data import write_synthetic_shards
        >>> folder = tempfile.mkdtemp()
        >>> write_synthetic_shards(folder, 5000, num_users=300, num_movies=50)
        >>> shards = RatingShards(folder)
        >>> users = shards.vocabulary("user_id")
        >>> movies = shards.vocabulary("movie_id")
        >>> batches = shards.batches(users, movies, batch_size=100)
        >>> inputs, ratings = batches[0]
        >>> inputs["user"].shape, ratings.dtype, len(batches)
        ((100,), dtype('float32'), 50)
    """

    def __init__(self, folder, columns=("user_id", "movie_id", "rating")):
        self.folder, self.columns = Path(folder), tuple(columns)
        if [type(name) for name in self.columns] != [str] * 3:
            raise ValueError(
                "`columns` must be the names of users, movies and ratings. "
                f"Received: columns={self.columns!r}"
            )
        self.files = sorted(self.folder.glob("*.parquet"))
        if not self.files:
            raise ValueError(
                "`folder` must hold Parquet files, whose names end in .parquet. "
                f"Received: folder={str(folder)!r}"
            )
        _check_that_none_is_missing(self.files)
        kinds = {}
        self.groups = [
            (file, group, rows)
            for file in self.files
            for group, rows in enumerate(_rows_of_groups(file, self.columns, kinds))
        ]
        if not len(self):
            raise ValueError(
                "`folder` must hold ratings. "
                f"Received: folder={str(folder)!r}, whose files have none"
            )

    def __len__(self):
        return sum(rows for _, _, rows in self.groups)

    def vocabulary(self, column, min_count=1, progress=bar):
        """Count the ids of a column, and give each a row.

        Only the ids are in memory, not the ratings.

        Args:
            column: name of the column.
            min_count: ids that are rarer have no row of their own. If `min_count` is
                above 1, they share the last row with unknown ids.
            progress: `tqdm`, or a replacement. The default is silent in logs.

        Returns:
            A `Vocabulary`.

        Raises:
            ValueError: `column` is not that of users or movies; or a file can no longer
                be read, or has an id that is null; or no type of integers holds the ids
                of all files.
        """
        min_count = check_size("min_count", min_count)
        if column not in self.columns[:2]:
            raise ValueError(
                f"`column` must be one of {self.columns[:2]}. Received: {column!r}"
            )
        counted, fresh = [], []
        groups = progress(self.groups, f"ids of {column}", unit="group")
        for file, group, _ in groups:
            ids = _read(file, [group], [column])[column]
            found = ids.value_counts()
            fresh.append(pa.table({"ids": found.field(0), "counts": found.field(1)}))
            if sum(map(len, fresh)) > max([LEAST_MERGED, *map(len, counted)]):
                counted, fresh = [_merged(column, [*counted, *fresh])], []
        merged = _merged(column, [*counted, *fresh])
        ids, counts = (merged[name].to_numpy() for name in ("ids", "counts"))
        kept = counts >= min_count
        order = np.argsort(ids[kept])
        return Vocabulary.from_counts(
            ids[kept][order], counts[kept][order], num_oov_indices=int(min_count > 1)
        )

    def batches(
        self,
        users,
        movies,
        batch_size=1024,
        pool_size=2**20,
        seed=0,
        epoch=0,
        process=0,
        processes=1,
    ):
        """Return a dataset of batches, for `fit`.

        In each epoch, the row groups come in a new order. They are read until a pool
        is full, and its ratings are shuffled. While one pool is used, the next one is
        read. Ratings that do not fill a last batch are left out: different ones in each
        epoch.

        Args:
            users: the `Vocabulary` of users.
            movies: the `Vocabulary` of movies.
            batch_size: ratings in a batch, for each process.
            pool_size: how many ratings to shuffle together, at least. About 3 times as
                many are in memory.
            seed: seed of all orders.
            epoch: number of the first epoch. A training that resumes after 2 epochs
                gives 2, and gets the batches that it would have got without a stop.
            process: if several processes train one model, the number of this one, from
                0.
            processes: how many processes there are. Each reads its own row groups, and
                all have the same number of batches.

        Returns:
            A `keras.utils.PyDataset` for `fit(..., shuffle=False)`. A batch is a dict
            of the rows of `"user"` and `"movie"` (int32), and the ratings (float32).

        Raises:
            TypeError: a number is not an integer.
            ValueError: a number is out of range, or there are too few ratings for one
                batch. Later, while it is read: a file is incomplete or gone, or has a
                null, an unknown id, or a rating that is not finite.
        """
        batch_size = check_size("batch_size", batch_size)
        pool_size = check_size("pool_size", pool_size)
        order = check_size("seed", seed, least=0), check_size("epoch", epoch, least=0)
        processes = check_size("processes", processes)
        if check_size("process", process, least=0) >= processes:
            raise ValueError(
                f"`process` must be from 0 to {processes - 1}. Received: {process}"
            )
        shares = [self.groups[i::processes] for i in range(processes)]
        length = min(sum(rows for *_, rows in share) for share in shares) // batch_size
        if not length:
            raise ValueError(
                f"`batch_size` must be smaller: {processes} processes cannot have a "
                f"batch each. Received: batch_size={batch_size}, {len(self)} ratings "
                f"in {len(self.groups)} row groups"
            )
        read = _Reader(self.columns, users, movies)
        return _Batches(shares[process], length, batch_size, pool_size, order, read)


class _Reader:
    """Reads row groups, and encodes them."""

    def __init__(self, columns, users, movies):
        self.columns, self.vocabularies = columns, (users, movies)

    def __call__(self, groups):
        """Return users, movies and ratings of a list of row groups."""
        parts = []
        for file, chosen in groupby(groups, key=lambda group: group[0]):
            table = _read(file, [number for _, number, _ in chosen], self.columns)
            *ids, ratings = (table[name].to_numpy() for name in self.columns)
            try:
                rows = [
                    vocabulary.encode(each)
                    for vocabulary, each in zip(self.vocabularies, ids, strict=True)
                ]
            except ValueError as error:
                raise ValueError(f"{file}: {error}") from error
            ratings = ratings.astype("float32")
            if not np.isfinite(ratings).all():
                wrong = ratings[~np.isfinite(ratings)][0]
                raise ValueError(
                    f"{file}: column {self.columns[2]!r} must hold finite numbers. "
                    f"Received: {wrong}"
                )
            parts.append((*rows, ratings))
        return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]


class _Batches(keras.utils.PyDataset):
    """The batches of one process, which can only be read in order.

    Reading the first batch again starts the next epoch if the last batch was read, and
    otherwise the same epoch: Keras reads a few batches before it trains.
    """

    in_order = True  # see `memembed.epochs`

    def __init__(self, groups, length, batch_size, pool_size, order, read):
        super().__init__()
        self.groups, self.length, self.read = groups, length, read
        self.batch_size, self.pool_size = batch_size, pool_size
        self.seed, self.epoch = order
        self.position, self.stream = 0, None

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        if not 0 <= index < self.length:
            raise IndexError(index)
        if index == 0:
            self.epoch += self.position == self.length
            self.position, self.stream = 0, self._stream()
        if index != self.position:
            raise ValueError(
                "Batches of files must be read in order. They are shuffled already: "
                "call `fit` with `shuffle=False`. "
                f"Received: batch {index}, but batch {self.position} is next"
            )
        self.position += 1
        return next(self.stream)

    def _stream(self):
        random, left = np.random.default_rng([self.seed, self.epoch]), None
        for pool in self._pools(random):
            if left is not None:
                pool = [np.concatenate(pair) for pair in zip(left, pool, strict=True)]
            order = random.permutation(len(pool[0]))
            whole = len(order) - len(order) % self.batch_size
            for start in range(0, whole, self.batch_size):
                rows = order[start : start + self.batch_size]
                user, movie, rating = (array[rows] for array in pool)
                yield {"user": user, "movie": movie}, rating
            left = [array[order[whole:]] for array in pool]

    def _pools(self, random):
        """Yield pools. While one is used, read the next one."""
        # A `with` statement would join the thread when the generator ends. The garbage
        # collector may end it at any moment, and joining can then block forever. This
        # thread ends when nothing refers to the executor any more.
        executor, waiting = ThreadPoolExecutor(1), []
        for chosen in self._chosen(random):
            waiting.append(executor.submit(self.read, chosen))
            if len(waiting) == 2:
                yield waiting.pop(0).result()
        for each in waiting:
            yield each.result()

    def _chosen(self, random):
        """Yield lists of row groups, each enough for a pool."""
        chosen, rows = [], 0
        for i in random.permutation(len(self.groups)):
            chosen.append(self.groups[i])
            rows += self.groups[i][2]
            if rows >= self.pool_size:
                yield chosen
                chosen, rows = [], 0
        if chosen:
            yield chosen


def _check_that_none_is_missing(files):
    names = [re.fullmatch(r"(.*-)(\d+)-of-(\d+)", file.stem) for file in files]
    if any(names) and not all(names):
        raise ValueError(
            f"{files[names.index(None)]} does not belong to the numbered files beside "
            "it. Is it a copy of one of them?"
        )
    sets = {}  # of files that are named alike: a dict from a number to its file
    for file, name in zip(files, names, strict=True):
        if not name:
            continue
        before, number, count = name.groups()
        there = sets.setdefault(before, {})
        first = next(iter(there.values()), file)
        if not first.stem.endswith(f"-of-{count}"):
            raise ValueError(
                f"{file} is not of the same run as {first.name}: their names have "
                "other totals."
            )
        if int(number) >= int(count):
            raise ValueError(f"{file} must have a number below {count}, from 0 on.")
        if int(number) in there:
            raise ValueError(f"{file} has the number of {there[int(number)].name}.")
        there[int(number)] = file
    for before, there in sets.items():
        count = next(iter(there.values())).stem.rpartition("-")[2]
        for i in range(int(count)):
            if i not in there:
                missing = f"{before}{i:0{len(count)}}-of-{count}.parquet"
                raise ValueError(f"{files[0].parent / missing} is missing.")


def _rows_of_groups(file, columns, kinds):
    """Return how many rows each row group has, and check the columns.

    `kinds` is filled with the first file and the type of each column of ids.
    """
    try:
        with pq.ParquetFile(file) as parquet:
            schema, metadata = parquet.schema_arrow, parquet.metadata
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{file} is not a complete Parquet file: {error}") from error
    for name, is_id in zip(columns, (True, True, False), strict=True):
        if name not in schema.names:
            raise ValueError(
                f"{file} must have a column {name!r}. It has: {', '.join(schema.names)}"
            )
        kind = schema.field(name).type
        number = pa.types.is_integer(kind) or (not is_id and pa.types.is_floating(kind))
        text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
        if not (number or (is_id and text)):
            wanted = "integers or strings" if is_id else "numbers"
            raise ValueError(f"{file}: column {name!r} must be {wanted}. It is {kind}")
        first, of_first, was_text = kinds.setdefault(name, (file, kind, text))
        if is_id and text != was_text:
            raise ValueError(
                f"{file}: column {name!r} must be {of_first}, as in {first.name}. "
                f"It is {kind}"
            )
    return [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]


def _read(file, groups, columns):
    try:
        with pq.ParquetFile(file) as parquet:
            table = parquet.read_row_groups(groups, columns=list(columns))
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{file} cannot be read: {error}") from error
    for name in columns:
        if nulls := table[name].null_count:
            raise ValueError(
                f"{file}: column {name!r} must not have nulls. Received: {nulls}"
            )
    return table


def _merged(column, tables):
    """Add up the counts of each id."""
    try:
        together = pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        kinds = sorted({str(each.schema.field("ids").type) for each in tables})
        raise ValueError(
            f"Column {column!r} must have ids of one type in all files. "
            f"Received: {', '.join(kinds)}: {error}"
        ) from error
    added = together.group_by("ids").aggregate([("counts", "sum")])
    return added.rename_columns({"ids": "ids", "counts_sum": "counts"})
