"""Rivals of few bits, each as large as a budget of bytes allows.

A rival turns a budget into candidates: models to be trained with the same effort, of
which the best on the validation part is kept. The trained model is then stored, see
`stored_as`. All weights of the stored model count, including biases.
"""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from memembed.compression import num_bytes
from memembed.layers import HashEmbedding, MDEmbedding, QREmbedding
from memembed.layers._common import CompressedEmbedding
from memembed.models import embeddings_of
from memembed.rebuild import rebuild
from memembed.sizing import dense_bytes, md_plan, min_buckets, plain_bytes
from memembed.tables import (
    as_weights,
    low_rank,
    principal_axes,
    turned,
    weighted_triangle,
)

STEPS = 2**12  # between the smallest and the largest layer of a kind
MAX_COLUMNS = 128
SIDES = ("user", "movie")


class Candidate(NamedTuple):
    """A model that fits a budget: its name, what builds it, and how it is stored."""

    name: str
    build: Callable
    dtype: str = "float32"


@keras.saving.register_keras_serializable(package="memembed")
class ShuffledQREmbedding(QREmbedding):
    """A `QREmbedding` of ids in a random order.

    The order is drawn again from the seed, so it takes no bytes.
    """

    def __init__(self, input_dim, output_dim, *args, seed=0, **kwargs):
        super().__init__(input_dim, output_dim, *args, **kwargs)
        self.seed = seed
        self._order = np.random.default_rng(seed).permutation(input_dim)

    def look_up(self, ids):
        order = ops.convert_to_tensor(self._order.astype("int32"))
        return super().look_up(ops.take(order, ids, axis=0))

    def get_config(self):
        return {**super().get_config(), "seed": self.seed}


@keras.saving.register_keras_serializable(package="memembed")
class PQEmbedding(CompressedEmbedding):
    """Embedding in parts, each of which is one of the few vectors of a codebook.

    For each part, an id has a code: the index of a vector in the part's codebook. The
    codes are fixed, and the codebooks are trained.

    Args:
        input_dim: size of the vocabulary.
        output_dim: length of an embedding.
        num_parts: number of parts, all of the same length.
        bits: bits of a code, 4 or 8.
        **kwargs: arguments of `keras.layers.Layer`, such as `name`.

    References:
        Jégou et al., Product Quantization for Nearest Neighbor Search, 2011,
        doi:10.1109/TPAMI.2010.57.
    """

    def __init__(self, input_dim, output_dim, num_parts, bits=8, **kwargs):
        super().__init__(output_dim, **kwargs)
        self.input_dim, self.num_parts, self.bits = input_dim, num_parts, bits
        self.tables = []

    def build(self, input_shape=None):
        self.codes = self.add_weight(
            (-(-self.input_dim * self.num_parts * self.bits // 8),),
            "zeros",
            dtype="uint8",
            trainable=False,
            autocast=False,
            name="codes",
        )
        width = self.output_dim // self.num_parts
        self.codebooks = self.add_weight(
            (self.num_parts, 2**self.bits, width), "zeros", name="codebooks"
        )
        super().build(input_shape)

    def look_up(self, ids):
        part = ops.arange(self.num_parts, dtype="int32")
        place = self.num_parts * ops.expand_dims(ids, -1) + part
        per_byte = 8 // self.bits
        codes = ops.cast(ops.take(self.codes, place // per_byte, axis=0), "int32")
        codes = codes // 2 ** (self.bits * (place % per_byte)) % 2**self.bits
        vectors = ops.reshape(self.codebooks, (-1, self.codebooks.shape[-1]))
        parts = ops.take(vectors, codes + 2**self.bits * part, axis=0)
        return ops.reshape(parts, (*ops.shape(ids), self.output_dim))

    def fill(self, codebooks, codes):
        """Set the codebooks and the codes, which have the shape `(num_parts, ids)`."""
        codes = np.asarray(codes, "uint8").T.ravel()
        if self.bits == 4:  # two per byte, without gaps between ids
            codes = np.append(codes, codes[: len(codes) % 2])
            codes = codes[::2] + 16 * codes[1::2]
        self.build()
        self.codes.assign(codes)
        self.codebooks.assign(np.asarray(codebooks))

    def get_config(self):
        config = {
            name: value
            for name, value in super().get_config().items()
            if not name.startswith("embeddings_")
        }
        sizes = {"input_dim": self.input_dim, "num_parts": self.num_parts}
        return config | sizes | {"bits": self.bits}


def stored_as(model, dtype):
    """Return a model as it is stored: itself, or a copy in Keras's int8 or int4.

    Weights of one column stay in float32, because scales would make them larger.

    Args:
        model: a `keras.Model`, trained.
        dtype: `"float32"`, `"int8"` or `"int4"`.
    """
    if dtype == "float32":
        return model
    copy = rebuild(model, lambda layer: None)
    for part in _quantisable(copy):
        part.quantize(dtype)
    return copy


def stored_bytes(model, dtype):
    """Return the bytes of the model from `stored_as`, without making that model."""
    total = num_bytes(model)
    for part in _quantisable(model) if dtype != "float32" else ():
        bias = getattr(part, "use_bias", None)  # only a Dense layer has it
        rows, columns = part.weights[0].shape
        count = plain_bytes if bias is None else partial(dense_bytes, use_bias=bias)
        total += count(rows, columns, dtype=dtype) - count(rows, columns)
    return total


def _quantisable(model):
    """Return the tables and the dense layers of more than one column."""
    kinds = keras.layers.Embedding, keras.layers.Dense
    parts = [part for each in model.layers for part in getattr(each, "parts", [each])]
    return [x for x in parts if isinstance(x, kinds) and x.weights[0].shape[-1] > 1]


@dataclass(frozen=True)
class Rival:
    """Tables of one kind, trained from scratch.

    Attributes:
        name: which kind of tables, for the names of candidates.
        layer: a function from the counts of all ids, the number of columns, and a size
            from 0 to 1 to an embedding layer, which gets all further arguments.
        columns: numbers of columns to choose from, on the validation part.
        bias: a function like `layer` for biases that are shrunk too, or None.
        dtype: dtype of the stored tables: `"float32"`, `"int8"` or `"int4"`.
    """

    name: str
    layer: Callable
    columns: tuple = (8, 16, 32)
    bias: Callable | None = None
    dtype: str = "float32"
    from_scratch = True

    def candidates(self, data, make, max_bytes, biases=True):
        """Return the candidates that fit, each as large as possible.

        Biases are full if they fit. Otherwise they are shrunk as the tables are, or
        left out if there is no way to shrink them.

        Args:
            data: `memembed.data.RatingData`.
            make: a function of a user and a movie embedding layer that returns a model,
                such as those of `memembed.models`. If there are biases, it gets the
                argument `biases`, as in `dot_product_model`.
            max_bytes: how many bytes the model may take as it is stored.
            biases: whether the model has biases.

        Returns:
            A list of `Candidate` tuples, empty if nothing fits.
        """
        counts = {"user": data.users.counts, "movie": data.movies.counts}

        def build(columns, bias, size):
            layers = [
                self.layer(counts[side], columns, size, name=f"{side}_embedding")
                for side in SIDES
            ]
            if not biases:
                return make(*layers)
            zeros = {"embeddings_initializer": "zeros"}
            terms = bias and [
                bias(counts[side], 1, size, name=f"{side}_bias", **zeros)
                for side in SIDES
            ]
            return make(*layers, biases=terms or False)

        found = []
        for columns in self.columns:
            for bias in (_full, self.bias) if biases else (None,):

                def size_of(step, columns=columns, bias=bias):
                    model = build(columns, bias, step / STEPS)
                    return stored_bytes(model, self.dtype)

                step = bisect_right(range(STEPS + 1), max_bytes, key=size_of) - 1
                if step >= 0:
                    size = step / STEPS
                    width = build(columns, bias, size).get_layer("user_embedding")
                    name = f"{self.name}, {width.output_dim} columns"
                    if biases:
                        how = {_full: "full", None: "no"}.get(bias, "small")
                        name += f", {how} biases"

                    def chosen(columns=columns, bias=bias, size=size):
                        return build(columns, bias, size)

                    found.append(Candidate(name, chosen, self.dtype))
                    break
        return found


def _full(counts, columns, size, **arguments):
    return keras.layers.Embedding(len(counts), columns, **arguments)


def _plain(counts, columns, size, **arguments):
    return keras.layers.Embedding(len(counts), int(MAX_COLUMNS**size), **arguments)


def _hashed(counts, columns, size, **arguments):
    buckets = max(1, round(size * len(counts)))
    return HashEmbedding(len(counts), columns, buckets, **arguments)


def _quotient_remainder(combiner):
    def layer(counts, columns, size, **arguments):
        ids = len(counts)
        least = min_buckets(ids)
        buckets = round(least * (ids / least) ** size)
        return ShuffledQREmbedding(ids, columns, buckets, combiner, **arguments)

    return layer


def _mixed(counts, columns, size, **arguments):
    least, most = len(counts) + columns, len(counts) * columns
    budget = round(least * (most / least) ** size)
    plan = md_plan(counts, columns, max_parameters=budget, alpha=0.8)
    return MDEmbedding(**plan, **arguments)


@dataclass(frozen=True)
class ProductQuantization:
    """Product quantisation of trained tables, by `faiss`.

    The tables are turned to their principal axes. Each part of them has a codebook, by
    k-means with the popularity of the ids as weights. Biases have a codebook too.

    Attributes:
        bits: bits of a code to choose from.
        widths: widths of a part of an embedding to choose from.
    """

    bits: tuple = (4, 8)
    widths: tuple = (1, 2, 4, 8, 16)
    from_scratch = False

    def candidates(self, data, make, max_bytes, biases=True, trained=None):
        """Return the candidates that fit, each with as many parts as possible.

        Args:
            data: `memembed.data.RatingData`.
            make: as in `Rival.candidates`.
            max_bytes: as in `Rival.candidates`.
            biases: whether the model has biases.
            trained: a trained model of `memembed.models`, to be made smaller.

        Returns:
            A list of `Candidate` tuples. Their models must not be trained from scratch:
            their weights approximate those of `trained`.
        """
        counts = {"user": data.users.counts, "movie": data.movies.counts}
        tables, backs = _on_principal_axes(trained, counts)

        @cache
        def fitted(name, bits, start, stop):
            table = tables[name]
            weights = as_weights(counts[name.removesuffix("_bias")], table)
            return _codebook(table[:, start:stop], bits, weights)

        def layer(name, bits, width, parts, filled):
            made = PQEmbedding(
                len(tables[name]),
                width * parts,
                parts,
                bits,
                name=name if name.endswith("bias") else f"{name}_embedding",
            )
            if filled:
                starts = range(0, width * parts, width)
                fits = [fitted(name, bits, start, start + width) for start in starts]
                made.fill(*zip(*fits, strict=True))
            return made

        def build(bits, width, bias_bits, parts, filled=True):
            options = {}
            if biases:
                names = (f"{side}_bias" for side in SIDES)
                options["biases"] = [layer(x, bias_bits, 1, 1, filled) for x in names]
            model = make(
                *(layer(side, bits, width, parts, filled) for side in SIDES), **options
            )
            for each in model.layers:
                if filled and each.weights and not isinstance(each, PQEmbedding):
                    weights = trained.get_layer(each.name).get_weights()
                    if each.name == "hidden_1":
                        kept = [back[: width * parts] for back in backs]
                        weights[0] = np.concatenate(kept)
                    each.set_weights(weights)
            return model

        most = min(tables[side].shape[1] for side in SIDES)
        fit = [bits for bits in self.bits if 2**bits <= min(map(len, tables.values()))]
        found = []
        for way in product(fit, self.widths, fit if biases else fit[:1]):
            bits, width, bias_bits = way
            choices = range(1, most // width + 1)
            parts = bisect_right(
                choices,
                max_bytes,
                key=lambda parts, way=way: num_bytes(build(*way, parts, filled=False)),
            )
            if parts:
                name = f"{parts} x {width} columns, {bits} bits"
                name += f", biases {bias_bits} bits" if biases else ""
                found.append(Candidate(name, partial(build, *way, parts)))
        return found


def _on_principal_axes(model, counts):
    """Return a model's turned tables, and for each the kernel that turns it back.

    In a dot product, both tables are turned and nothing else changes. In an MLP, each
    table has its part of the first hidden layer's kernel, and this part turns it back.
    """
    layers = embeddings_of(model)
    tables = {name: layer.get_weights()[0] for name, layer in layers.items()}
    weights = {side: as_weights(counts[side], tables[side]) for side in SIDES}
    if model.name != "mlp_model":
        triangles = [weighted_triangle(tables[side], weights[side]) for side in SIDES]
        for side, turn in zip(SIDES, principal_axes(*triangles), strict=True):
            tables[side] = turned(tables[side], turn)
        return tables, []
    kernel = model.get_layer("hidden_1").get_weights()[0]
    parts, backs = np.split(kernel, [tables["user"].shape[1]]), []
    for side, part in zip(SIDES, parts, strict=True):
        columns = tables[side].shape[1]
        tables[side], projection = low_rank(tables[side], columns, weights[side])
        backs.append(projection @ part)
    return tables, backs


def _codebook(vectors, bits, weights):
    """Return the codebook of some vectors, and their codes."""
    import faiss  # only the extra `experiments` has it

    vectors = np.ascontiguousarray(vectors, "float32")
    means = faiss.Kmeans(
        vectors.shape[1],
        2**bits,
        min_points_per_centroid=1,
        max_points_per_centroid=len(vectors),  # otherwise, k-means takes a sample
        seed=0,
    )
    # Started at random ids, k-means would end with few vectors for popular ids.
    drawn = np.random.default_rng(0).choice(
        len(vectors), 2**bits, replace=False, p=weights / weights.sum()
    )
    means.train(vectors, weights.astype("float32"), vectors[drawn])
    _, codes = means.index.search(vectors, 1)
    return means.centroids, codes[:, 0]


_add = _quotient_remainder("add")
RIVALS = {  # of several kinds, the best on the validation part is used
    "fewer columns": [Rival("float32", _plain, columns=(None,))],
    "fewer columns in int8": [Rival("int8", _plain, columns=(None,), dtype="int8")],
    "fewer columns in int4": [Rival("int4", _plain, columns=(None,), dtype="int4")],
    "hashing": [Rival("hashing", _hashed, bias=_hashed)],
    "quotient and remainder": [
        Rival("multiply", _quotient_remainder("multiply"), bias=_add),
        Rival("add", _add, bias=_add),
    ],
    "mixed dimensions": [
        Rival("float32", _mixed),
        Rival("int8", _mixed, dtype="int8"),
    ],
    "product quantisation": [ProductQuantization()],
}
