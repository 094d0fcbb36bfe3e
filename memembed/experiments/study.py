"""The study of chapter 5: every way to shrink the tables, at several sizes.

`make study` trains all of it and keeps the rows in `results/study.csv`. It may be stopped at any time, and goes on from there. The chapter trains a small part.
"""

import argparse
import functools
import hashlib
import json
import time
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import keras
import numpy as np
from tqdm import tqdm

from memembed.data import load_ratings, prepare
from memembed.experiments.journal import Journal
from memembed.layers import HashEmbedding, MDEmbedding, QREmbedding
from memembed.models import LookupL2, bias_model, dot_product_model
from memembed.sizing import md_plan, min_buckets, training_bytes
from memembed.training import cosine, evaluate, train

LAYERS = {
    layer.__name__: layer
    for layer in (keras.layers.Embedding, HashEmbedding, QREmbedding, MDEmbedding)
}
PLAIN = {"layer": "Embedding"}

EXAMPLE = {"learning_rate": 1e-3, "l2": 0.0}
EXAMPLE |= {"epochs": 3, "batch_size": 128, "schedule": "constant"}
SETTINGS = {"epochs": 8, "batch_size": 1024, "schedule": "cosine"}
# What every model may choose from, on the validation split.
CHOICES = [
    {"learning_rate": rate, "l2": l2, **SETTINGS}
    for rate in (3e-3, 1e-2)
    for l2 in (0.0, 0.01, 0.03)
] + [EXAMPLE]
SEEDS = range(5)

PATH = Path(__file__).parent / "results" / "study.csv"

KEY = ["stage", "configuration", "learning_rate", "l2", "epochs", "batch_size"]
KEY += ["schedule", "seed", "split"]
COLUMNS = ["method", "on", "name", *KEY, "parameters", "bytes", "training_bytes"]
COLUMNS += ["seconds", "val_mse", "val_mae", "mse", "mae", "dataset", "versions"]


@dataclass(frozen=True)
class Configuration:
    """One model of the study.

    Attributes:
        method: how the tables are shrunk. The models of one method are a curve.
        on: whose tables are: `"users"`, `"movies"` or `"both"`.
        name: what tells it apart from the others.
        columns: length of an embedding, 0 for biases alone.
        layers: for `"user"` and `"movie"`, and if there are biases, for `"user_bias"`
            and `"movie_bias"`: the class of the layer as `"layer"`, and its arguments.
    """

    method: str
    on: str
    name: str
    columns: int
    layers: dict = field(hash=False)

    def build(self, data, l2=0.0):
        """Return the model, untrained.

        Args:
            data: `memembed.data.RatingData`.
            l2: how much the squares of the embeddings that are looked up add to the
                loss. Those of biases add a twelfth of it.
        """
        sizes = {"user": len(data.users), "movie": len(data.movies)}
        made = {}
        for name, arguments in self.layers.items():
            side, _, bias = name.partition("_")
            arguments = dict(arguments)
            layer = LAYERS[arguments.pop("layer")]
            if layer is not MDEmbedding:
                arguments["input_dim"] = sizes[side]
            arguments["output_dim"] = 1 if bias else self.columns
            if bias:
                arguments["embeddings_initializer"] = "zeros"
            strength = l2 / 12 if bias else l2
            made[name] = layer(
                **arguments,
                activity_regularizer=LookupL2(strength) if l2 else None,
                name=name if bias else f"{name}_embedding",
            )
        if not self.columns:
            return bias_model(made["user_bias"], made["movie_bias"])
        biases = [layer for name, layer in made.items() if name.endswith("bias")]
        return dot_product_model(made["user"], made["movie"], biases=biases)


def configurations(data):
    """Return all models of the study, a list of `Configuration`.

    Args:
        data: `memembed.data.RatingData`.
    """
    sizes = {"user": len(data.users), "movie": len(data.movies)}
    counts = {"user": data.users.counts, "movie": data.movies.counts}
    plain_biases = {"user_bias": PLAIN, "movie_bias": PLAIN}

    def two_sided(on, make):
        """Return a layer for each side: what `make` returns of it, or a plain table."""
        return {
            side: make(side) if on in (f"{side}s", "both") else PLAIN for side in sizes
        }

    def plain():
        for columns in (1, 2, 4, 8, 12, 16, 32, 64):
            layers = {"user": PLAIN, "movie": PLAIN}
            name = f"{columns} column{'s' * (columns > 1)}"
            yield "plain", "both", name, columns, layers
            yield "plain and biases", "both", name, columns, layers | plain_biases

    def biases_alone():
        one = {"layer": "HashEmbedding", "num_buckets": 1}
        yield "biases alone", "both", "biases alone", 0, plain_biases
        layers = {"user_bias": one, "movie_bias": PLAIN}
        yield "biases alone", "movies", "biases of movies", 0, layers

    def hashing():
        def make(fraction):
            return lambda side: {
                "layer": "HashEmbedding",
                "num_buckets": -(-sizes[side] // fraction),
            }

        for fraction in (2, 8, 32):
            name = f"1/{fraction} of the rows"
            layers = two_sided("both", make(fraction))
            yield "hashing", "both", name, 16, layers
            biases = {f"{side}_bias": make(fraction)(side) for side in sizes}
            yield "hashing and biases", "both", name, 16, layers | biases
        for on in ("users", "movies"):
            yield "hashing", on, "1/8 of the rows", 16, two_sided(on, make(8))

    def quotient_remainder():
        def make(times, combiner):
            return lambda side: {
                "layer": "QREmbedding",
                "num_buckets": times * min_buckets(sizes[side]),
                "combiner": combiner,
            }

        for combiner in ("multiply", "add", "concatenate"):
            method = f"QR, {combiner}"
            for times, columns in ((1, 8), (1, 16), (1, 64), (4, 16), (16, 16)):
                name = f"{columns} columns, {times} x sqrt buckets"
                layers = two_sided("both", make(times, combiner))
                yield method, "both", name, columns, layers
            for on in ("users", "movies"):
                layers = two_sided(on, make(1, combiner))
                yield method, on, "16 columns, 1 x sqrt buckets", 16, layers
        for times, columns in ((1, 8), (1, 16), (4, 16), (16, 16)):
            name = f"{columns} columns, {times} x sqrt buckets"
            layers = two_sided("both", make(times, "multiply"))
            biases = {f"{side}_bias": make(times, "add")(side) for side in sizes}
            yield "QR, multiply, and biases", "both", name, columns, layers | biases

    def mixed_dimension():
        cuts = {"user": (1200, 3200), "movie": (400, 1700)}

        def by_hand(dims):
            return lambda side: {
                "layer": "MDEmbedding",
                "block_sizes": np.diff([0, *cuts[side], sizes[side]]).tolist(),
                "block_dims": dims,
            }

        def by_plan(columns):
            """Plan for as many parameters as a plain table of so many columns has."""

            def make(side):
                budget = columns * sizes[side]
                plan = md_plan(counts[side], 16, max_parameters=budget, alpha=0.8)
                blocks = {name: plan[name] for name in ("block_sizes", "block_dims")}
                return {"layer": "MDEmbedding", **blocks}

            return make

        for dims in ([16, 8, 4], [16, 4, 1]):
            name = f"blocks {', '.join(map(str, dims))} wide"
            layers = two_sided("both", by_hand(dims))
            yield "MD by hand", "both", name, 16, layers
            yield "MD by hand and biases", "both", name, 16, layers | plain_biases
        for columns in (2, 4, 8, 12):
            name = f"the size of {columns} columns"
            layers = two_sided("both", by_plan(columns))
            yield "MD by plan", "both", name, 16, layers
            yield "MD by plan and biases", "both", name, 16, layers | plain_biases
        for on in ("users", "movies"):
            hand, plan = by_hand([16, 8, 4]), by_plan(4)
            yield "MD by hand", on, "blocks 16, 8, 4 wide", 16, two_sided(on, hand)
            yield "MD by plan", on, "the size of 4 columns", 16, two_sided(on, plan)

    def example():
        user = {"layer": "QREmbedding", "num_buckets": [120, 120]}
        movie = {
            "layer": "MDEmbedding",
            "block_sizes": [401, 1301, sizes["movie"] - 1699],
            "block_dims": [64, 32, 16],
            "use_bias": True,
        }
        layers = {"user": user, "movie": movie}
        yield "QR and MD combined", "both", "the Keras example's", 64, layers

    groups = (
        *(plain, biases_alone, example),
        *(hashing, quotient_remainder, mixed_dimension),
    )
    return [Configuration(*each) for group in groups for each in group()]


def run(configuration, data, settings, seed, stage):
    """Train one model, and return what the study keeps of it.

    Args:
        configuration: a `Configuration`.
        data: `memembed.data.RatingData`.
        settings: a dict of `learning_rate`, `l2`, `epochs`, `batch_size` and
            `schedule`: `"constant"` or `"cosine"`.
        seed: seed of the initial weights and of the order of the batches.
        stage: `"choose"` leaves the evaluation split alone; `"report"` and `"example"`
            evaluate the trained model on it.

    Returns:
        A row of the study, as a dict.
    """
    keras.utils.set_random_seed(seed)
    model = configuration.build(data, settings["l2"])
    rates = settings["learning_rate"]
    if settings["schedule"] == "cosine":
        rates = cosine(rates, settings["epochs"])
    start = time.perf_counter()
    history = train(
        model,
        data,
        epochs=settings["epochs"],
        batch_size=settings["batch_size"],
        learning_rate=rates,
    )
    seconds = time.perf_counter() - start
    memory = training_bytes([weight.shape for weight in model.trainable_weights])
    errors = {} if stage == "choose" else evaluate(model, data.evaluation)
    return {
        **identity(configuration, data, settings, seed, stage),
        "method": configuration.method,
        "on": configuration.on,
        "name": configuration.name,
        "parameters": model.count_params(),
        "bytes": memory["weights"],
        "training_bytes": memory["total"],
        "seconds": round(seconds, 2),
        "val_mse": history["val_mse"][-1],
        "val_mae": history["val_mae"][-1],
        "mse": errors.get("mse"),
        "mae": errors.get("mae"),
        "dataset": data.dataset,
        "versions": versions(),
    }


def rerun(row, data):
    """Train again what a stored row is about.

    Args:
        row: a row of the study, a dict or a pandas `Series`.
        data: `memembed.data.RatingData`.

    Returns:
        What `run` returns.
    """
    layers = json.loads(row["configuration"])
    columns = layers.pop("columns")
    configuration = Configuration(
        row["method"], row["on"], row["name"], columns, layers
    )
    settings = {name: row[name] for name in EXAMPLE}
    return run(configuration, data, settings, int(row["seed"]), row["stage"])


def identity(configuration, data, settings, seed, stage):
    """Return what tells one row of the study from all others."""
    described = {"columns": configuration.columns, **configuration.layers}
    return {
        "stage": stage,
        "configuration": json.dumps(described, separators=(",", ":")),
        **settings,
        "seed": seed,
        "split": split_hash(data),
    }


@functools.lru_cache(maxsize=4)
def split_hash(data):
    """Return a hash of which rating is in which split, and of the order of the ids."""
    found = hashlib.sha256()
    for part in (data.train, data.validation, data.evaluation):
        found.update(np.ascontiguousarray(part.user, "<i4"))
        found.update(np.ascontiguousarray(part.movie, "<i4"))
        found.update(np.ascontiguousarray(part.rating, "<f4"))
    return found.hexdigest()[:16]


def versions():
    """Name the versions that results depend on."""
    packages = ("memembed", "keras", "tensorflow", "numpy")
    return ", ".join(f"{package} {version(package)}" for package in packages)


def study(data, journal, progress=tqdm):
    """Train what the journal does not have yet.

    Each configuration is trained once with each of `CHOICES`. The one with the least
    validation error, the mean square, is then trained with each of `SEEDS`, and
    evaluated. The Keras example's two models and their control are trained with its own
    settings as well.

    Args:
        data: `memembed.data.RatingData`.
        journal: `memembed.experiments.journal.Journal` with the columns `COLUMNS`.
        progress: `tqdm`, or what takes its place.
    """
    models = configurations(data)
    like_the_example = [
        model
        for model in models
        if (model.method, model.columns) in {("plain", 64), ("plain", 12)}
        or model.method == "QR and MD combined"
    ]
    total = len(models) * (len(CHOICES) + len(SEEDS))
    total += len(like_the_example) * len(SEEDS)
    with progress(total=total, desc="study", unit="run") as bar:

        def once(model, settings, seed, stage):
            row = identity(model, data, settings, seed, stage)
            if row not in journal:
                bar.set_postfix_str(f"{model.method}, {model.name}")
                journal.append(run(model, data, settings, seed, stage))
            bar.update()

        for model in models:
            for choice in CHOICES:
                once(model, choice, 0, "choose")
            for seed in SEEDS:
                once(model, chosen(model, data, journal), seed, "report")
        for model in like_the_example:
            for seed in SEEDS:
                once(model, EXAMPLE, seed, "example")


def chosen(model, data, journal):
    """Return which of `CHOICES` had the least validation error with this model."""

    def error(choice):
        row = journal[identity(model, data, choice, 0, "choose")]
        return float(row["val_mse"])

    return min(CHOICES, key=error)


def summary(rows):
    """Return a table of the study: a row for each model, its seeds taken together.

    Args:
        rows: rows of the study, a DataFrame.

    Returns:
        A DataFrame indexed by method, side and name. Its columns are the parameters,
        the kilobytes of the weights and of training, the mean seconds of training, and
        the mean of MSE and MAE, each with its standard deviation between the seeds.
    """
    models = rows.groupby(["method", "on", "name"], sort=False)
    table = models[["parameters", "bytes", "training_bytes", "seconds"]].mean()
    table["bytes"] /= 1000
    table["training_bytes"] /= 1000
    table = table.round().astype("int64")
    table = table.rename(
        columns={"bytes": "weights, kB", "training_bytes": "training, kB"}
    )
    for error in ("mse", "mae"):
        table[error.upper()] = models[error].mean()
        table[f"{error.upper()} ±"] = models[error].std()
    return table


def main():
    """Run `python -m memembed.experiments.study`."""
    parser = argparse.ArgumentParser(description=study.__doc__.splitlines()[0])
    parser.add_argument("--path", type=Path, default=PATH, help="the file of results")
    path = parser.parse_args().path
    study(prepare(load_ratings()), Journal(path, COLUMNS, KEY))


if __name__ == "__main__":
    main()
