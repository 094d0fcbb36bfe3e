"""The evidence: other data, other tasks, and rivals of the same size.

`make study` measures all of it and keeps the rows in `results/evidence.csv`. It can be
stopped at any time, and resumes from there.
"""

import time
from dataclasses import asdict, fields, replace
from functools import cache, lru_cache

import keras
import pandas as pd
from tqdm import tqdm

from memembed.compression import average, compress, num_bytes, pack
from memembed.data import load_ratings, prepare
from memembed.experiments.journal import measure_and_keep
from memembed.experiments.rivals import RIVALS, Candidate, stored_as
from memembed.experiments.tasks import TASKS
from memembed.fine_tuning import compress_and_train, fine_tune
from memembed.models import bias_model, embeddings_of
from memembed.tables import as_weights, principal_axes, turned, weighted_triangle
from memembed.training import Settings, split_hash, versions

KEY = [
    *("task", "method", "size", "split_seed", "split", "seed", "detail"),
    *(each.name for each in fields(Settings)),
]
MEASURES = ("mse", "mae", "recall", "ndcg")
COLUMNS = [
    *("task", "dataset", "method", "size", "split_seed", "split", "seed", "detail"),
    *(each.name for each in fields(Settings)),
    *("parameters", "bytes", "seconds"),
    *(f"val_{measure}" for measure in MEASURES),
    *MEASURES,
    "versions",
]
NAMES = dict(zip(MEASURES, ("MSE", "MAE", "Recall@20", "NDCG@20"), strict=True))
FEW_BITS = ("few bits, not trained", "few bits", "few bits of an average")
SEEDS = range(5)  # for the bar of each task
CURVE_SEEDS = range(2)  # for all sizes and rivals
NUM_AVERAGED = 4
STEPS = 2  # from a penalty of full tables to its double
PENALTIES = (0, 0.01, 0.05, 0.25, 1)  # of a rival, as shares of the full tables' one
FIRST_PENALTY = 0.05
NUM_TUNED = 3  # how many candidates made of trained tables are trained further
RATES = (1 / 3, 3)  # learning rates to try, as multiples of the first one


class Study:
    """All models of one task on one split of its ratings.

    Args:
        task: a `memembed.experiments.tasks.Task`.
        data: `memembed.data.RatingData`.
        split_seed: seed of the split.
        journal: a `memembed.experiments.journal.Journal` with the columns `COLUMNS`.
        like: a study whose settings to use. Default: the settings that do best on the
            validation part.
        progress: `tqdm`, or a replacement.
    """

    def __init__(self, task, data, split_seed, journal, like=None, progress=tqdm):
        self.task, self.data, self.journal = task, data, journal
        self.known = {"task": task.name, "dataset": data.dataset}
        self.known |= {"split_seed": split_seed, "split": split_hash(data)}
        self.full = lru_cache(NUM_AVERAGED)(self.full)
        self.averaged = lru_cache(1)(self.averaged)
        self.candidates = cache(self.candidates)  # it builds hundreds of models
        if like is None:
            self.build, self.settings = self.choose_full(progress)
        else:
            self.build, self.settings = like.build, like.settings

    def choose_full(self, progress):
        """Return the name of the best model of full tables, and its settings."""
        start = self.task.settings

        def at(power):
            return replace(start, l2=start.l2 * 2 ** (power / STEPS))

        def loss(build, settings):
            def make():
                plain = self.task.plain
                return self.trained(lambda: plain(self.data, build), settings, seed=0)

            return self.loss_of(settings, make, 1, build)

        tried = {}
        for build in progress(self.task.builds, desc=f"{self.task.name}, settings"):
            found = walk(lambda power, build=build: loss(build, at(power)))
            tried |= {(build, at(power)): value for power, value in found.items()}
            best = min(found, key=found.get)
            for power in (best - 0.5, best + 0.5):
                tried[build, at(power)] = loss(build, at(power))
        build, best = min(tried, key=tried.get)
        for factor in RATES:
            rated = replace(best, learning_rate=start.learning_rate * factor)
            tried[build, rated] = loss(build, rated)
        return min(tried, key=tried.get)

    def full(self, seed, number=0):
        """Return trained full tables: number 0 of this seed, or a further one."""
        # The further ones need seeds that no first one has.
        model = self.trained(self.plain, self.settings, seed + 100 * number)
        return self.compiled(model)

    def averaged(self, seed):
        """Return the average of several full tables."""
        further = range(1, NUM_AVERAGED)
        # To the cache of `full`, `full(seed, 0)` would be another model.
        models = [self.full(seed), *(self.full(seed, number) for number in further)]
        return self.compiled(average(models))

    def cut_back(self, seed):
        """Return the average, cut back to the number of columns of the full tables."""
        model = self.plain()
        layers, wide = embeddings_of(model), embeddings_of(self.averaged(seed))
        tables = {name: layer.get_weights()[0] for name, layer in wide.items()}
        triangles = [
            weighted_triangle(tables[side], as_weights(each.counts, tables[side]))
            for side, each in (("user", self.data.users), ("movie", self.data.movies))
        ]
        axes = principal_axes(*triangles)
        for side, turn in zip(("user", "movie"), axes, strict=True):
            tables[side] = turned(tables[side], turn[:, : self.task.columns])
        for name, layer in layers.items():
            layer.set_weights([tables[name]])
        return self.compiled(model)

    def plain(self):
        """Return full tables, untrained."""
        return self.task.plain(self.data, self.build)

    def trained(self, build, settings, seed):
        """Build a model, train it from scratch, and return it."""
        keras.utils.set_random_seed(seed)
        model = build()
        self.task.train(model, self.data, settings)
        return model

    def compiled(self, model, rate=None):
        """Compile a model to be trained further, and return it."""
        optimizer = keras.optimizers.Adam(rate or self.settings.learning_rate)
        model.compile(optimizer, self.task.loss)
        return model

    def fine_tuned(self, model, seed):
        """Train a compiled model further, as `compress_and_train` does."""
        return fine_tune(model, **self.options(seed))

    def options(self, seed):
        """Return the arguments of `fine_tune`, apart from the model."""
        keras.utils.set_random_seed(seed)
        return {
            "examples": self.task.arrays(self.data, "train"),
            "validation_data": self.task.arrays(self.data, "validation"),
            "score": self.task.validation_score(self.data),
            "batch_size": self.settings.batch_size,
            "verbose": 0,
        }

    def references(self, seed):
        """Measure biases alone, and full tables and averages after further training."""
        if self.task.biases:
            self.biases_alone(seed)
        tuned = "full tables, fine-tuned"
        self.row(tuned, lambda: self.fine_tuned(self.full(seed), seed), seed)
        if self.task.averages:
            self.row("average", lambda: self.averaged(seed), seed)
            self.row(
                "average, cut back and fine-tuned",
                lambda: self.fine_tuned(self.cut_back(seed), seed),
                seed,
            )

    def bar(self, seed):
        """Measure full tables, and few bits at the size of the task's bar."""
        self.row("full tables", lambda: self.full(seed), seed, detail=self.build)
        self.few_bits(self.task.bar, seed)

    def biases_alone(self, seed):
        """Measure the baseline: a model without embeddings."""

        def build():
            sizes = len(self.data.users), len(self.data.movies)
            return bias_model(*sizes, mean_rating=float(self.data.train.rating.mean()))

        best, settings = self.choose([Candidate("biases alone", build)], 1)
        self.row(
            "biases alone",
            lambda: self.trained(best.build, settings, seed),
            seed,
            settings=settings,
            detail=best.name,
        )

    def few_bits(self, size, seed):
        """Measure few bits: not trained, trained, and made of an average."""
        limit = self.max_bytes(size)

        def untrained():
            options = {"batch_size": self.settings.batch_size, "verbose": 0}
            inputs = self.data.train.inputs
            return pack(compress(self.full(seed), inputs, limit, **options))

        def made_of(start):
            options = self.options(seed)
            return compress_and_train(start(seed), max_bytes=limit, **options)

        self.row("few bits, not trained", untrained, seed, size)
        self.row("few bits", lambda: made_of(self.full), seed, size)
        if self.task.averages:
            name = "few bits of an average"
            self.row(name, lambda: made_of(self.averaged), seed, size)

    def rival(self, name, size, seed):
        """Measure a rival, with the shape and settings chosen with the first seed.

        Of the candidates that fit, the one with the lowest validation loss after
        training is kept. If it is trained from scratch, its penalty is raised or
        lowered as long as that helps; then two other learning rates are tried. The
        result is trained further, as few bits are.
        """
        limit = self.max_bytes(size)
        candidates = self.candidates(name, limit, 0)
        if not candidates:
            return
        if not RIVALS[name][0].from_scratch:
            best = self.choose_trained(candidates, size)

            def make():
                found = self.candidates(name, limit, seed)
                (same,) = (each for each in found if each.name == best.name)
                return self.compiled(same.build())

            settings = self.settings
        else:
            best, settings = self.choose(candidates, size)

            def make():
                model = self.trained(best.build, settings, seed)
                return self.compiled(model, settings.learning_rate)

        self.row(
            name,
            lambda: stored_as(self.fine_tuned(make(), seed), best.dtype),
            seed,
            size,
            settings,
            best.name,
        )

    def candidates(self, name, max_bytes, seed):
        """Return a list of a rival's candidates. `seed` is that of the full tables."""
        return [
            candidate
            for kind in RIVALS[name]
            for candidate in kind.candidates(
                self.data,
                lambda users, movies, **biases: self.task.builds[self.build](
                    users, movies, self.data, **biases
                ),
                max_bytes,
                self.task.biases,
                **({} if kind.from_scratch else {"trained": self.full(seed)}),
            )
        ]

    def choose(self, candidates, size):
        """Return the best candidate of those trained from scratch, and its settings."""

        def loss(candidate, share, rate=1):
            settings = replace(
                self.settings,
                l2=self.settings.l2 * share,
                learning_rate=self.settings.learning_rate * rate,
            )
            return self.candidate_loss(candidate, size, settings), settings

        best = min(candidates, key=lambda each: loss(each, FIRST_PENALTY)[0])
        first = PENALTIES.index(FIRST_PENALTY)
        places = range(-first, len(PENALTIES) - first)
        tried = walk(lambda at: loss(best, PENALTIES[first + at])[0], places)
        share = PENALTIES[first + min(tried, key=tried.get)]
        rated = [loss(best, share, rate) for rate in (1, *RATES)]
        return best, min(rated, key=lambda each: each[0])[1]

    def choose_trained(self, candidates, size):
        """Return the best candidate of those made of trained tables.

        The 3 with the lowest loss before training are trained further.
        """

        def untrained(candidate):
            return self.candidate_loss(candidate, size)

        def tuned(candidate):
            def make():
                return self.fine_tuned(self.compiled(candidate.build()), seed=0)

            name = f"{candidate.name}, fine-tuned"
            return self.loss_of(self.settings, make, size, name)

        return min(sorted(candidates, key=untrained)[:NUM_TUNED], key=tuned)

    def candidate_loss(self, candidate, size, settings=None):
        """Return the loss of a rival's candidate on the validation part.

        With `settings`, it is trained from scratch with them.
        """

        def make():
            if settings is None:
                return candidate.build()
            model = self.trained(candidate.build, settings, seed=0)
            return stored_as(model, candidate.dtype)

        return self.loss_of(settings or self.settings, make, size, candidate.name)

    def loss_of(self, settings, make, size, detail):
        """Return a loss on the validation part. Measure it if it is not stored.

        Args:
            settings: `Settings`.
            make: a function without arguments that returns the trained model.
            size: how many times fewer bytes than the full tables.
            detail: name of the model that is measured.
        """
        row = self.row("choice", make, 0, size, settings, detail, evaluation=False)
        measure, sign = self.task.score
        return sign * float(row[f"val_{measure}"])

    def max_bytes(self, size):
        """Return the bytes of full tables, divided by `size`."""
        return num_bytes(self.plain()) // size

    def row(
        self, method, make, seed, size=1, settings=None, detail="", evaluation=True
    ):
        """Return the row of a model: the journal's, or a new one."""
        key = self.known | {"method": method, "size": size, "seed": seed}
        key |= {"detail": detail} | asdict(settings or self.settings)
        if key not in self.journal:
            start = time.perf_counter()
            model = make()
            seconds = round(time.perf_counter() - start, 1)
            errors = {
                f"val_{name}": value
                for name, value in self.errors(model, "validation").items()
            }
            if evaluation:
                errors |= self.errors(model, "evaluation")
            row = dict.fromkeys(COLUMNS) | key | errors
            row |= {"parameters": model.count_params(), "bytes": num_bytes(model)}
            row |= {"seconds": seconds}
            row |= {"versions": versions("memembed", "keras", "numpy")}
            self.journal.append(row)
        return self.journal[key]

    def errors(self, model, part):
        """Return the measures of a model on one part, a dict."""
        return self.task.errors(model, self.data, part)


def evidence(
    journal,
    tasks=TASKS,
    seeds=SEEDS,
    curve_seeds=CURVE_SEEDS,
    rivals=tuple(RIVALS),
    load=load_ratings,
    progress=tqdm,
):
    """Measure everything that the journal does not have yet.

    First the bar of each task, on all of its splits, seed by seed; then the references
    on the first split; then all sizes and rivals on the first split. All settings are
    chosen on the validation part of the first split.

    Args:
        journal: `memembed.experiments.journal.Journal` with the columns `COLUMNS`.
        tasks: `memembed.experiments.tasks.Task` objects.
        seeds: seeds of the models for the bars.
        curve_seeds: seeds of the models for all sizes.
        rivals: names of rivals.
        load: a function from the name of a dataset to its ratings.
        progress: `tqdm`, or a replacement.
    """
    studies = {}
    for task in tasks:
        ratings = load(task.dataset)
        studies[task] = all_splits = []
        for split in task.splits:
            first = all_splits[0] if all_splits else None
            data = prepare(ratings, seed=split)
            all_splits.append(Study(task, data, split, journal, first, progress))
    for seed in seeds:
        for task, all_splits in studies.items():
            for study in progress(all_splits, desc=f"{task.name}, seed {seed}"):
                study.bar(seed)
                forget()
    for seed in seeds:
        for study, *_ in progress(studies.values(), desc=f"references, seed {seed}"):
            study.references(seed)
            forget()
    for seed in curve_seeds:
        for task, (study, *_) in studies.items():
            all_sizes = sorted({*task.sizes, task.bar}, reverse=True)
            for size in progress(all_sizes, desc=f"{task.name}, seed {seed}"):
                study.few_bits(size, seed)
                for name in rivals:
                    study.rival(name, size, seed)
                    forget()


def walk(loss, places=range(-9, 10)):
    """Search from place 0, in both directions, as long as the loss falls.

    Args:
        loss: a function of a place, an integer.
        places: the places that may be tried.

    Returns:
        A dict from the places that were tried to their losses.

    Example:
        >>> walk(lambda place: (place - 1) ** 2)
        {0: 1, -1: 4, 1: 0, 2: 1}
    """
    tried = {0: loss(0)}
    for step in (-1, 1):
        at = 0
        while at + step in places and tried[at] == min(tried.values()):
            at += step
            tried[at] = loss(at)
    return tried


def against_full_tables(rows, tasks=TASKS, methods=FEW_BITS):
    """Compare few bits, or other methods, with full tables at each task's bar.

    Args:
        rows: stored rows, `memembed.experiments.results.stored("evidence")`.
        tasks: `memembed.experiments.tasks.Task` objects.
        methods: methods to compare with full tables, if a task has them.

    Returns:
        A DataFrame with a row for each task and measure, of the evaluation part. Its
        columns: how many times fewer bytes few bits take, how many pairs of a split and
        a seed have all measurements, the mean of the full tables, their standard
        deviation between seeds, and the mean of each method.

    Example:
        >>> from memembed.experiments.results import stored
        >>> list(against_full_tables(stored("evidence")).index.names)
        ['task', 'measure']
    """
    found = {}
    for task in tasks:
        kept = (rows.task == task.name) & rows["size"].isin([1, task.bar])
        of_task = rows[kept & rows.method.isin(["full tables", *methods])]
        for measure in MEASURES:
            pairs = of_task[of_task[measure].notna()].pivot(
                index=["split_seed", "seed"], columns="method", values=measure
            )
            pairs = pairs.dropna()
            if len(pairs):
                full = pairs["full tables"]
                found[task.name, NAMES[measure]] = {
                    "times fewer": task.bar,
                    "pairs": len(pairs),
                    "full tables": full.mean(),
                    "±": full.groupby("split_seed").std().mean(),
                } | {name: pairs[name].mean() for name in methods if name in pairs}
    table = pd.DataFrame.from_dict(found, orient="index")
    return table.rename_axis(["task", "measure"])


def forget():
    """Free compiled functions: those of hundreds of models would fill the memory."""
    keras.utils.clear_session()


def main():
    """Run `python -m memembed.experiments.evidence`."""
    about = evidence.__doc__.splitlines()[0]
    measure_and_keep("evidence", about, COLUMNS, KEY, evidence)


if __name__ == "__main__":
    main()
