"""The study of chapter 5: every way to shrink the tables, at several sizes.

`make study` trains all of it and keeps the rows in `results/study.csv`. It can be
stopped at any time, and resumes from there. The chapter trains a small part.
"""

import json
from dataclasses import asdict, dataclass, field, fields

import keras
import numpy as np
from tqdm import tqdm

from memembed.data import load_ratings, prepare
from memembed.experiments.journal import measure_and_keep
from memembed.layers import HashEmbedding, MDEmbedding, QREmbedding
from memembed.models import bias_model, dot_product_model
from memembed.sizing import md_plan, min_buckets
from memembed.training import (
    EXAMPLE,
    RESULT_COLUMNS,
    Settings,
    experiment,
    split_hash,
)

LAYERS = {
    layer.__name__: layer
    for layer in (keras.layers.Embedding, HashEmbedding, QREmbedding, MDEmbedding)
}
PLAIN = {"layer": "Embedding"}

# The settings to choose from for each model, on the validation part.
CHOICES = [
    *(
        Settings(rate, "cosine", epochs=8, batch_size=1024, l2=l2)
        for rate in (3e-3, 1e-2)
        for l2 in (0.0, 0.01, 0.03)
    ),
    EXAMPLE,
]
SEEDS = range(5)

SETTINGS = [setting.name for setting in fields(Settings)]
KEY = ["stage", "configuration", *SETTINGS, "seed", "split"]
COLUMNS = ["stage", "method", "on", "configuration", *RESULT_COLUMNS]


@dataclass(frozen=True)
class Configuration:
    """One model of the study.

    Attributes:
        method: how the tables are shrunk. The models of one method form a curve.
        on: whose tables are shrunk: `"users"`, `"movies"` or `"both"`.
        name: what distinguishes it from other models of the method.
        columns: length of an embedding, 0 for biases alone.
        layers: a dict with the keys `"user"` and `"movie"`, and if there are biases,
            `"user_bias"` and `"movie_bias"`. The values are dicts of the class of the
            layer, as `"layer"`, and its arguments.
    """

    method: str
    on: str
    name: str
    columns: int
    layers: dict = field(hash=False)

    def build(self, data):
        """Return the model, untrained.

        Args:
            data: `memembed.data.RatingData`.
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
            made[name] = layer(**arguments, name=name if bias else f"{name}_embedding")
        if not self.columns:
            return bias_model(made["user_bias"], made["movie_bias"])
        biases = [layer for name, layer in made.items() if name.endswith("bias")]
        return dot_product_model(made["user"], made["movie"], biases=biases)

    def described(self):
        """Return the columns and the layers as JSON."""
        return json.dumps(
            {"columns": self.columns, **self.layers}, separators=(",", ":")
        )


def combined(data):
    """Return the Keras example's memory-efficient model, a `Configuration`.

    It has the example's number of parameters, including unused rows: quotients that no
    user has, and a row in each block for unknown movies.

    Args:
        data: `memembed.data.RatingData`.
    """
    users = {"layer": "QREmbedding", "num_buckets": [120, 120]}
    movies = {
        "layer": "MDEmbedding",
        "block_sizes": [401, 1301, len(data.movies) - 1699],
        "block_dims": [64, 32, 16],
        "use_bias": True,
    }
    layers = {"user": users, "movie": movies}
    return Configuration(
        "QR and MD combined", "both", "the Keras example's", 64, layers
    )


def configurations(data):
    """Return all models of the study, a list of `Configuration`.

    Args:
        data: `memembed.data.RatingData`.
    """
    vocabularies = {"user": data.users, "movie": data.movies}

    def plain(side):
        return PLAIN

    def hashed(fraction):
        return lambda side: {
            "layer": "HashEmbedding",
            "num_buckets": -(-len(vocabularies[side]) // fraction),
        }

    def quotient_remainder(times, combiner):
        return lambda side: {
            "layer": "QREmbedding",
            "num_buckets": times * min_buckets(len(vocabularies[side])),
            "combiner": combiner,
        }

    def mixed_by_hand(dims):
        cuts = {"user": (1200, 3200), "movie": (400, 1700)}
        return lambda side: {
            "layer": "MDEmbedding",
            "block_sizes": np.diff([0, *cuts[side], len(vocabularies[side])]).tolist(),
            "block_dims": dims,
        }

    def mixed_by_plan(columns):
        """Plan for as many parameters as a plain table with `columns` has."""

        def layer(side):
            counts = vocabularies[side].counts
            budget = columns * len(counts)
            plan = md_plan(counts, 16, max_parameters=budget, alpha=0.8)
            blocks = {name: plan[name] for name in ("block_sizes", "block_dims")}
            return {"layer": "MDEmbedding", **blocks}

        return layer

    def model(method, name, columns, layer, biases=None, on="both"):
        """Shrink the tables of one side, or of both, and add biases if asked to."""
        layers = {}
        if columns:
            layers = {
                side: layer(side) if on in (f"{side}s", "both") else PLAIN
                for side in vocabularies
            }
        if biases:
            layers |= {f"{side}_bias": biases(side) for side in vocabularies}
        return Configuration(method, on, name, columns, layers)

    def models():
        for columns in (1, 2, 4, 8, 12, 16, 32, 64):
            name = f"{columns} column{'s' * (columns > 1)}"
            yield model("plain", name, columns, plain)
            yield model("plain and biases", name, columns, plain, plain)

        yield model("biases alone", "biases alone", 0, None, plain)
        one = {"user": {"layer": "HashEmbedding", "num_buckets": 1}, "movie": PLAIN}
        yield model("biases alone", "biases of movies", 0, None, one.get, on="movies")

        yield combined(data)

        for fraction in (2, 8, 32):
            name, layer = f"1/{fraction} of the rows", hashed(fraction)
            yield model("hashing", name, 16, layer)
            yield model("hashing and biases", name, 16, layer, layer)
        for on in ("users", "movies"):
            yield model("hashing", "1/8 of the rows", 16, hashed(8), on=on)

        for combiner in ("multiply", "add", "concatenate"):
            method, name = f"QR, {combiner}", "{} columns, {} x sqrt buckets"
            for times, columns in ((1, 8), (1, 16), (1, 64), (4, 16), (16, 16)):
                layer = quotient_remainder(times, combiner)
                yield model(method, name.format(columns, times), columns, layer)
            for on in ("users", "movies"):
                layer = quotient_remainder(1, combiner)
                yield model(method, name.format(16, 1), 16, layer, on=on)
        for times, columns in ((1, 8), (1, 16), (4, 16), (16, 16)):
            layer, biases = (
                quotient_remainder(times, each) for each in ("multiply", "add")
            )
            method = "QR, multiply, and biases"
            yield model(method, name.format(columns, times), columns, layer, biases)

        for dims in ([16, 8, 4], [16, 4, 1]):
            name = f"blocks {', '.join(map(str, dims))} wide"
            layer = mixed_by_hand(dims)
            yield model("MD by hand", name, 16, layer)
            yield model("MD by hand and biases", name, 16, layer, plain)
        for columns in (2, 4, 8, 12):
            name, layer = f"the size of {columns} columns", mixed_by_plan(columns)
            yield model("MD by plan", name, 16, layer)
            yield model("MD by plan and biases", name, 16, layer, plain)
        for on in ("users", "movies"):
            for method, name, layer in (
                ("MD by hand", "blocks 16, 8, 4 wide", mixed_by_hand([16, 8, 4])),
                ("MD by plan", "the size of 4 columns", mixed_by_plan(4)),
            ):
                yield model(method, name, 16, layer, on=on)

    return list(models())


def run(configuration, data, settings, seed, stage, compiled=None):
    """Train one model, and return its row.

    Args:
        configuration: a `Configuration`.
        data: `memembed.data.RatingData`.
        settings: `memembed.training.Settings`.
        seed: seed of the initial weights and of the order of the ratings.
        stage: `"choose"` does not use the evaluation part; `"report"` and `"example"`
            evaluate the trained model on it.
        compiled: see `memembed.training.train`.

    Returns:
        A row of the study, a dict with the columns `COLUMNS`.
    """
    result = experiment(
        configuration.name,
        lambda: configuration.build(data),
        data,
        settings,
        seed=seed,
        compiled=compiled,
        evaluation=stage != "choose",
        verbose=False,
    )
    return {
        "stage": stage,
        "method": configuration.method,
        "on": configuration.on,
        "configuration": configuration.described(),
        **result.row(),
    }


def rerun(row, data):
    """Train the model of a stored row again.

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
    known = {name: row[name] for name in SETTINGS if row[name] == row[name]}  # not NaN
    return run(configuration, data, Settings(**known), int(row["seed"]), row["stage"])


def study(data, journal, models=None, choices=CHOICES, seeds=SEEDS, progress=tqdm):
    """Train all models that the journal does not have yet.

    Each model is trained once with each of the choices. With the choice that has the
    lowest mean squared error on validation data, the model is then trained with each of
    the seeds, and evaluated. The Keras example's two models and their control are also
    trained with the example's own settings.

    Args:
        data: `memembed.data.RatingData`.
        journal: `memembed.experiments.journal.Journal` with the columns `COLUMNS`.
        models: `Configuration` objects. Default: all of them.
        choices: `memembed.training.Settings` to choose from.
        seeds: the seeds to report on.
        progress: `tqdm`, or a replacement.
    """
    models = configurations(data) if models is None else models
    like_the_example = [
        model
        for model in models
        if (model.method, model.columns) in {("plain", 64), ("plain", 12)}
        or model.method == "QR and MD combined"
    ]
    total = len(models) * (len(choices) + len(seeds))
    total += len(like_the_example) * len(seeds)
    with progress(total=total, desc="study", unit="run") as bar:

        def once(model, settings, seed, stage, compiled):
            key = identity(model, data, settings, seed, stage)
            if key not in journal:
                bar.set_postfix_str(f"{model.method}, {model.name}")
                journal.append(run(model, data, settings, seed, stage, compiled))
            bar.update()
            return journal[key]

        for model in models:
            compiled = {}
            tried = [once(model, each, 0, "choose", compiled) for each in choices]
            errors = [float(row["val_mse"]) for row in tried]
            best = choices[errors.index(min(errors))]
            for seed in seeds:
                once(model, best, seed, "report", compiled)
        for model in like_the_example:
            compiled = {}
            for seed in seeds:
                once(model, EXAMPLE, seed, "example", compiled)


def identity(configuration, data, settings, seed, stage):
    """Return the values that identify one row of the study."""
    return {
        "stage": stage,
        "configuration": configuration.described(),
        **asdict(settings),
        "seed": seed,
        "split": split_hash(data),
    }


def main():
    """Run `python -m memembed.experiments.study`."""
    measure_and_keep(
        "study",
        study.__doc__.splitlines()[0],
        COLUMNS,
        KEY,
        lambda journal: study(prepare(load_ratings()), journal),
    )


if __name__ == "__main__":
    main()
