"""Time the embedding layers: a lookup, a pass forward and back, a training step.

Layers are compared in turn, in one process and on the same ids, and ratios are taken
turn by turn: a machine that slows down slows down both. `KERAS_BACKEND` chooses the
backend. The script needs only Keras and NumPy:

    KERAS_BACKEND=jax .venv-jax/bin/python -m benchmarks.one_backend /tmp --quick

`make bench` also makes the allocator keep memory: see `KEEP_MEMORY` in `layers.py`.
"""

import argparse
import csv
import functools
import gc
import itertools
import math
import os
import sys
import time
from pathlib import Path

import keras
import numpy as np
from keras import ops

from memembed.layers import MDEmbedding, QREmbedding

BACKEND = keras.backend.backend()
COLUMNS = 64
VOCABULARIES = (10**4, 10**5, 10**6, 10**7)
if BACKEND == "torch":  # a step on ten million ids takes it half a minute
    VOCABULARIES = VOCABULARIES[:-1]
BATCHES = (128, 4096, 65536)
BLOCK_DIMS = (64, 16, 4)
OPTIMIZERS = ("Adam", "Adafactor", "SGD")
SECONDS = 2.0  # for a comparison
TURN_SECONDS = 0.004  # shorter calls are timed in groups


# Compared layers: functions from the size of the vocabulary to a layer.


def plain(vocabulary):
    return keras.layers.Embedding(vocabulary, COLUMNS)


def same_bytes(vocabulary):
    """Return a plain table as large as both quotient-remainder tables together."""
    return plain(sum(QREmbedding(vocabulary, COLUMNS).table_sizes))


def quotient_remainder(vocabulary):
    return QREmbedding(vocabulary, COLUMNS)


def blocks(vocabulary):
    """Return the sizes of three blocks: 1% of the ids, 10%, and the rest."""
    head, middle = vocabulary // 100, vocabulary // 10
    return head, middle, vocabulary - head - middle


def mixed_dimension(vocabulary):
    return MDEmbedding(blocks(vocabulary), BLOCK_DIMS, COLUMNS)


class MaskedMD(keras.layers.Layer):
    """Mixed dimensions as in the Keras example.

    Every block looks up and projects every id. Rows of other blocks' ids are multiplied
    by 0, and the blocks are summed.
    """

    def __init__(self, block_sizes):
        super().__init__()
        self.ends = list(itertools.accumulate(block_sizes))
        self.tables = [
            keras.layers.Embedding(size, dim)
            for size, dim in zip(block_sizes, BLOCK_DIMS, strict=True)
        ]
        self.projections = [
            keras.layers.Dense(COLUMNS, use_bias=False) for _ in BLOCK_DIMS[1:]
        ]

    def build(self, input_shape=None):
        for table in self.tables:
            table.build()
        for dim, projection in zip(BLOCK_DIMS[1:], self.projections, strict=True):
            projection.build((None, dim))

    def call(self, ids):
        widen = [lambda rows: rows, *self.projections]
        total, start = 0.0, 0
        for end, table, project in zip(self.ends, self.tables, widen, strict=True):
            mine = ops.logical_and(ids >= start, ids < end)
            rows = project(table((ids - start) * ops.cast(mine, ids.dtype)))
            total += rows * ops.expand_dims(ops.cast(mine, rows.dtype), -1)
            start = end
        return total


def masked(vocabulary):
    return MaskedMD(blocks(vocabulary))


VARIANTS = {
    "plain table": plain,
    "plain, same bytes as QR": same_bytes,
    "QREmbedding": quotient_remainder,
    "MDEmbedding": mixed_dimension,
    "masked MD": masked,
}

if BACKEND == "torch":
    import torch

    # Torch compiles the same lines of Keras again for each layer.
    torch._dynamo.config.recompile_limit = 1000
    torch._dynamo.config.accumulated_recompile_limit = 100_000

    class TorchQR(torch.nn.Module):
        """The quotient-remainder trick as PyTorch recommenders write it."""

        def __init__(self, vocabulary):
            super().__init__()
            self.buckets = math.isqrt(vocabulary - 1) + 1
            self.remainder = torch.nn.Embedding(self.buckets, COLUMNS)
            self.quotient = torch.nn.Embedding(self.buckets, COLUMNS)

        def forward(self, ids):
            quotient = torch.div(ids, self.buckets, rounding_mode="floor")
            return self.remainder(ids % self.buckets) * self.quotient(quotient)

    class TorchMD(torch.nn.Module):
        """Each block sees only its own ids, so shapes change from batch to batch."""

        def __init__(self, vocabulary):
            super().__init__()
            self.sizes = blocks(vocabulary)
            self.blocks = torch.nn.ModuleList(
                torch.nn.Sequential(
                    torch.nn.Embedding(size, dim),
                    torch.nn.Linear(dim, COLUMNS, bias=False)
                    if dim < COLUMNS
                    else torch.nn.Identity(),
                )
                for size, dim in zip(self.sizes, BLOCK_DIMS, strict=True)
            )

        def forward(self, ids):
            rows = torch.empty(*ids.shape, COLUMNS)
            start = 0
            for size, block in zip(self.sizes, self.blocks, strict=True):
                mine = (ids >= start) & (ids < start + size)
                rows[mine] = block(ids[mine] - start)
                start += size
            return rows

    def in_torch(module):
        return lambda vocabulary: keras.layers.TorchModuleWrapper(module(vocabulary))

    VARIANTS["QR in Torch"] = in_torch(TorchQR)
    VARIANTS["MD in Torch"] = in_torch(TorchMD)


# Timed functions: for each backend, functions of ids and targets that return when done.
# They are compiled as by `model.compile(jit_compile=True)`, the default on TensorFlow
# and JAX.


def loss_of(embeddings, targets):
    """Return a loss whose gradient takes no time: it is `targets`."""
    return ops.sum(embeddings * targets)


def tensorflow_functions(layer):
    import tensorflow as tf

    tf.get_logger().setLevel("ERROR")  # no warning that each size is compiled again

    compiled = tf.function(jit_compile=True)
    variables = layer.trainable_variables

    def gradient(ids, targets):
        with tf.GradientTape() as tape:
            loss = loss_of(layer(ids), targets)
        return loss, tape.gradient(loss, variables)

    def stepper(optimizer):
        def step(ids, targets):
            loss, gradients = gradient(ids, targets)
            optimizer.apply(gradients, variables)
            return loss

        return compiled(step)

    return compiled(lambda ids, targets: layer(ids)), compiled(gradient), stepper


def jax_functions(layer):
    import jax

    weights = [variable.value for variable in layer.trainable_variables]

    def look_up(weights, ids):
        return layer.stateless_call(weights, [], ids)[0]

    def loss(weights, ids, targets):
        return loss_of(look_up(weights, ids), targets)

    def stepper(optimizer):
        slots = [variable.value for variable in optimizer.variables]

        @functools.partial(jax.jit, donate_argnums=(0, 1))
        def update(weights, slots, ids, targets):
            # The loss is returned: otherwise XLA would leave out the lookup.
            value, gradients = jax.value_and_grad(loss)(weights, ids, targets)
            return value, optimizer.stateless_apply(slots, gradients, weights)

        def step(ids, targets):
            value, (weights[:], slots[:]) = update(weights, slots, ids, targets)
            jax.block_until_ready((value, weights))

        return step

    compiled, derive = jax.jit(look_up), jax.jit(jax.value_and_grad(loss))
    return (
        lambda ids, targets: compiled(weights, ids).block_until_ready(),
        lambda ids, targets: jax.block_until_ready(derive(weights, ids, targets)),
        stepper,
    )


def torch_functions(layer):
    variables = layer.trainable_variables
    parameters = [variable.value for variable in variables]
    loss = torch.compile(lambda ids, targets: loss_of(layer(ids), targets))

    def gradient(ids, targets):
        return torch.autograd.grad(loss(ids, targets), parameters)

    def stepper(optimizer):
        def step(ids, targets):
            gradients = gradient(ids, targets)
            with torch.no_grad():
                optimizer.apply(gradients, variables)

        return step

    compiled = torch.compile(lambda ids: layer(ids))
    return torch.no_grad()(lambda ids, targets: compiled(ids)), gradient, stepper


functions_of = {
    "tensorflow": tensorflow_functions,
    "jax": jax_functions,
    "torch": torch_functions,
}[BACKEND]


# Timing.


def zipf_ids(vocabulary, batch, rng):
    """Draw ids; the probability of id `i` is proportional to about 1 / (i + 1)."""
    return (np.exp(rng.random(batch) * np.log(vocabulary)) - 1).astype("int32")


def in_turns(functions, rows, vocabulary, batch, seconds, least=5, most=50):
    """Time functions in turn, until `seconds` have passed.

    Args:
        functions: dict of functions of ids and targets.
        rows: dict of the number of rows of each table. Ids are taken modulo it.
        vocabulary: number of ids.
        batch: number of ids in a call.
        seconds: how long to go on.
        least: least number of turns.
        most: greatest number of turns.

    Returns:
        A dict with an array of milliseconds for each function: a number for each turn.
    """
    rng = np.random.default_rng(0)
    targets = ops.convert_to_tensor(rng.normal(size=(batch, COLUMNS)).astype("float32"))

    def timed(name, drawn):
        # New ids at every call: repeated ids would all be in the cache.
        drawn = [ops.convert_to_tensor(ids % rows[name]) for ids in drawn]
        start = time.perf_counter()
        for ids in drawn:
            functions[name](ids, targets)
        return 1000 * (time.perf_counter() - start) / len(drawn)

    def draw(count):
        return [zipf_ids(vocabulary, batch, rng) for _ in range(count)]

    for name in functions:  # compile, and warm up
        timed(name, draw(2))
    slowest = max(timed(name, draw(1)) for name in functions) / 1000
    calls = max(1, min(50, round(TURN_SECONDS / slowest)))
    turns, end = [], time.perf_counter() + seconds
    while len(turns) < least or (time.perf_counter() < end and len(turns) < most):
        names = list(functions)
        if len(turns) % 2:  # so that no function always follows the same one
            names.reverse()
        drawn = draw(calls)
        turn = {}
        for name in names:
            if calls > 1:  # the function before has emptied the cache
                timed(name, drawn[:1])
            turn[name] = timed(name, drawn)
        turns.append(turn)
    return {name: np.array([turn[name] for turn in turns]) for name in functions}


def quartiles(values):
    low, median, high = np.quantile(values, (0.25, 0.5, 0.75))
    return {"low": low, "median": median, "high": high}


def measure(vocabularies, batches, optimizers, seconds):
    """Time the variants at every size, on the backend that Keras runs on.

    Args:
        vocabularies: numbers of ids.
        batches: numbers of ids in a call.
        optimizers: names of Keras optimizers. The first is timed for every variant and
            batch, the others only for three layers and at the middle batch.
        seconds: how long each comparison goes on, after compilation.

    Returns:
        Two lists of dicts: times, in milliseconds, and bars (targets). `low` and `high`
        are quartiles.
    """
    times, bars = [], []
    cells = [
        (vocabulary, what, batch)
        for vocabulary in vocabularies
        for what in ("lookup", *optimizers)
        for batch in batches
        if what in ("lookup", *optimizers[:1]) or batch == batches[len(batches) // 2]
    ]
    made = None
    for number, (vocabulary, what, batch) in enumerate(cells, start=1):
        print(f"layers on {BACKEND}: {number} of {len(cells)}", file=sys.stderr)
        if made != vocabulary:
            layers = functions = steps = None  # two sizes together may not fit
            gc.collect()
            layers = {name: make(vocabulary) for name, make in VARIANTS.items()}
            for layer in layers.values():
                layer.build((None,))
            functions = {name: functions_of(layer) for name, layer in layers.items()}
            rows = dict.fromkeys(VARIANTS, vocabulary)
            same = "plain, same bytes as QR"
            rows[same] = layers[same].input_dim
            made, optimizer = vocabulary, None
        if what == "lookup":
            turns = {
                ("lookup", name): look_up for name, (look_up, *_) in functions.items()
            }
        else:
            if what != optimizer:
                optimizer, steps = what, None  # free the slots of the last optimizer
                gc.collect()
                steps = {
                    name: new_step(layers[name], stepper, what)
                    for name, (*_, stepper) in functions.items()
                    if what == optimizers[0] or name in COMPARED_OPTIMIZERS
                }
            turns = {
                key: function
                for name, step in steps.items()
                for key, function in (
                    (("forward and backward", name), functions[name][1]),
                    ((f"step with {what}", name), step),
                )
            }
        milliseconds = in_turns(
            turns, {key: rows[key[1]] for key in turns}, vocabulary, batch, seconds
        )
        for name in {name: None for _, name in turns} if what != "lookup" else ():
            milliseconds[f"{what} alone", name] = (
                milliseconds[f"step with {what}", name]
                - milliseconds["forward and backward", name]
            )
        size = {"backend": BACKEND, "vocabulary": vocabulary, "batch": batch}
        times += [
            {**size, "variant": name, "what": timed, **quartiles(values)}
            for (timed, name), values in milliseconds.items()
            if timed != "forward and backward" or what == optimizers[0]
        ]
        bars += [{**size, **bar} for bar in bars_of(milliseconds, vocabulary)]
    return times, bars


COMPARED_OPTIMIZERS = ("plain table", "QREmbedding", "MDEmbedding")


def new_step(layer, stepper, optimizer):
    optimizer = getattr(keras.optimizers, optimizer)(learning_rate=1e-4)
    optimizer.build(layer.trainable_variables)
    return stepper(optimizer)


def bars_of(milliseconds, vocabulary):
    """Yield the bars for the times of one cell, with the quartiles of each ratio."""
    passes, step = "forward and backward", "step with Adam"
    bars = [
        (passes, "MDEmbedding", "masked MD", 0.5),
        (passes, "MDEmbedding", "masked MD", 1.0),
        ("lookup", "MDEmbedding", "masked MD", 1.0),
        (step, "MDEmbedding", "masked MD", 1.0),
        ("lookup", "QREmbedding", "plain, same bytes as QR", 1.5),
    ]
    if vocabulary * COLUMNS * 4 > cache_bytes():
        bars.append(("lookup", "QREmbedding", "plain table", 1.0))
    if vocabulary >= 10**5:
        bars += [
            (step, "QREmbedding", "plain table", 1.0),
            (step, "MDEmbedding", "plain table", 1.0),
        ]
    for what, ours, theirs, bound in bars:
        if {(what, ours), (what, theirs)} <= set(milliseconds):
            ratio = quartiles(milliseconds[what, ours] / milliseconds[what, theirs])
            yield {
                "bar": f"{what}: {ours} / {theirs}",
                "bound": bound,
                **ratio,
                "met": ratio["median"] <= bound,
            }


def cache_bytes():
    """Return the bytes of the level-3 cache, or 2**25 if unknown."""
    try:
        return os.sysconf("SC_LEVEL3_CACHE_SIZE") or 2**25
    except (ValueError, OSError):
        return 2**25


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where to write both tables")
    parser.add_argument("--quick", action="store_true", help="small sizes, few repeats")
    arguments = parser.parse_args()
    sizes = VOCABULARIES, BATCHES, OPTIMIZERS, SECONDS
    if arguments.quick:
        sizes = VOCABULARIES[:2], BATCHES[:2], OPTIMIZERS[:1], SECONDS / 10
    for name, rows in zip(("layers", "layers_bars"), measure(*sizes), strict=True):
        with (arguments.folder / f"{name}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0] if rows else [])
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
