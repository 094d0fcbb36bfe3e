"""How much the outputs of a Keras model depend on the numbers in its embeddings."""

from dataclasses import dataclass
from itertools import combinations

import keras
import numpy as np
from keras import ops, tree

from memembed.layers._common import known_ids
from memembed.rebuild import rebuild

TURN_TOLERANCE = 1e-2  # of the change if only one table is turned
PAIR_TOLERANCE = 1e-2  # of the larger side of an equation that all pairs satisfy


@dataclass
class Sensitivity:
    """How much small errors in one table change the outputs.

    If all embeddings that are looked up have the same small error `e`, the squared
    changes of the outputs, summed over all look-ups, are `e @ gram @ e`. The share of
    one id in this sum is its share of all weights.

    Attributes:
        weights: array of shape `(input_dim,)`: for each id, the squared slopes (partial
            derivatives) of all outputs by its numbers, summed over its look-ups.
        gram: array of shape `(output_dim, output_dim)`: for each two columns, the
            products of their slopes, summed over all look-ups.
    """

    weights: np.ndarray
    gram: np.ndarray


def measure(model, layers, batches, progress=lambda count: None):
    """Measure how much the outputs depend on each embedding layer.

    Each batch is passed through the model, and the slopes of the sum of all outputs,
    each with a random sign, are computed. The expected square of a slope of this random
    sum is the sum of the squares of the slopes of all outputs. The memory needed is a
    few batches, a number for each id, and a square matrix for each layer.

    Args:
        model: a functional or sequential `keras.Model`. It is not changed.
        layers: its embedding layers.
        batches: tuples that start with the inputs, see `memembed.examples.batches`.
        progress: called after each batch, with 1.

    Returns:
        A dict from a layer to its `Sensitivity`, and a list of pairs of layers whose
        embeddings are used only in their dot products.

    Raises:
        ValueError: an id is not in the vocabulary of its layer, the outputs are not
            finite, or no output depends on a layer.

    References:
        Hutchinson, A Stochastic Estimator of the Trace of the Influence Matrix, 1989;
        Bekas, Kokiopoulou and Saad, An Estimator for the Diagonal of a Matrix, 2007.
    """
    probed = ProbedModel(model, layers)
    found = {
        layer: Sensitivity(np.zeros(layer.input_dim), np.zeros([layer.output_dim] * 2))
        for layer in layers
    }
    rng = np.random.default_rng(0)
    pairs = None
    for inputs, *_ in batches:
        if pairs is None:
            pairs = probed.pairs(inputs, rng)
        look_ups = probed.slopes(inputs, rng)
        pairs = [pair for pair in pairs if _may_be_pair(pair, look_ups)]
        for layer, (ids, slopes) in look_ups.items():
            squares = np.einsum("ij,ij->i", slopes, slopes)
            found[layer].weights += np.bincount(ids, squares, layer.input_dim)
            found[layer].gram += slopes.T @ slopes
        progress(1)
    for layer, sensitivity in found.items():
        if not np.isfinite(sensitivity.gram).all() or not sensitivity.gram.any():
            raise ValueError(
                "`model` must have finite outputs that depend on its embeddings. "
                f"Received: slopes in layer {layer.name!r} of "
                f"{np.unique(sensitivity.gram)[:3]}"
            )
    return found, pairs


def _may_be_pair(pair, look_ups):
    """Return whether a batch agrees with two layers being used only in dot products.

    Turn one table by `I + e A` and the other by `I - e A.T`, with a small `e`. If the
    outputs stay the same for every matrix `A`, the products of embeddings and slopes,
    summed over all look-ups, are the same for both tables.
    """
    products = []
    for layer in pair:
        ids, slopes = look_ups[layer]
        embeddings = ops.convert_to_numpy(ops.cast(layer.call(ids), "float32"))
        products.append(embeddings.T @ slopes)
    one, other = products
    largest = max(np.linalg.norm(one), np.linalg.norm(other))
    return np.linalg.norm(one - other.T) <= PAIR_TOLERANCE * largest


class Probe(keras.Layer):
    """Replaces an embedding layer, to record and to change what is looked up.

    Args:
        source: the embedding layer. It is not changed.
    """

    def __init__(self, source):
        super().__init__(name=source.name, dtype=source.dtype_policy)
        self.autocast = False  # float16 could not hold ids past 2048
        self.supports_masking = source.supports_masking
        self.source = source
        self.reset()

    def reset(self, shifts=None, turn=None):
        """Delete the recorded ids, and set what changes the embeddings.

        Args:
            shifts: what to add to the embeddings of each call, a list; or None.
            turn: a matrix to multiply all embeddings by, or None.
        """
        self.ids, self.shifts, self.turn = [], shifts, turn

    def call(self, ids):
        """Look up ids, and record them in `ids`, including unknown ones."""
        _, known = known_ids(ids, self.source.input_dim)
        # Not through `__call__`, which would keep this call's penalty in the layer.
        embeddings = self.source.call(known)
        if self.turn is not None:
            embeddings = ops.matmul(embeddings, ops.cast(self.turn, embeddings.dtype))
        if self.shifts is not None:
            embeddings = embeddings + self.shifts[len(self.ids)]
        self.ids.append(ids)
        return embeddings

    def compute_mask(self, inputs, mask=None):
        """Return the mask of the embedding layer."""
        return self.source.compute_mask(inputs, mask)

    def compute_output_spec(self, ids):
        """Return the shape and dtype of what `call` returns."""
        shape = (*ids.shape, self.source.output_dim)
        return keras.KerasTensor(shape, self.compute_dtype)


class ProbedModel:
    """A copy of a model that shows what its embedding layers look up.

    Args:
        model: a functional or sequential `keras.Model`. It is not changed.
        layers: the embedding layers whose look-ups are recorded.
    """

    def __init__(self, model, layers):
        self.probes = {layer: Probe(layer) for layer in layers}
        self.model = rebuild(model, self.probes.get)
        self.shapes = {}
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf  # runs a graph in a tenth of the time

            self._slopes = tf.function(self._slopes)

    def outputs(self, inputs, shifts=None, turns=None):
        """Return the outputs, a list, with shifted or turned embeddings."""
        for layer, probe in self.probes.items():
            probe.reset((shifts or {}).get(layer), (turns or {}).get(layer))
        outputs = tree.flatten(self.model(inputs, training=False))
        floats = [
            ops.cast(x, "float32")
            for x in outputs
            if keras.backend.is_float_dtype(x.dtype)
        ]
        if not floats:
            raise ValueError(
                "`model` must have an output of floats: integers have no slopes. "
                f"Received: outputs of {[str(x.dtype) for x in outputs]}"
            )
        return floats

    def slopes(self, inputs, rng):
        """Return, for each layer, all ids that are looked up and the outputs' slopes.

        They are arrays of shape `(look-ups,)` and `(look-ups, output_dim)`.
        """
        key = tuple(np.shape(each) for each in tree.flatten(inputs))
        if key not in self.shapes:
            signs = [tuple(each.shape) for each in self.outputs(inputs)]
            calls = {layer: probe.ids for layer, probe in self.probes.items()}
            self.shapes[key] = (
                signs,
                {
                    layer: [(*each.shape, layer.output_dim) for each in ids]
                    for layer, ids in calls.items()
                },
            )
        outputs, calls = self.shapes[key]
        signs = [
            ops.convert_to_tensor(rng.choice([-1.0, 1.0], shape), "float32")
            for shape in outputs
        ]
        shifts = [
            ops.zeros(shape, self.probes[layer].compute_dtype)
            for layer, shapes in calls.items()
            for shape in shapes
        ]
        ids, slopes = self._slopes(inputs, signs, shifts)
        ids, slopes = (iter(map(ops.convert_to_numpy, each)) for each in (ids, slopes))
        found = {}
        for layer, shapes in calls.items():
            rows = np.concatenate([next(ids).ravel() for _ in shapes])
            self._check_ids(layer, rows)
            found[layer] = (
                rows.astype("int64"),
                np.concatenate(
                    [next(slopes).reshape(-1, layer.output_dim) for _ in shapes]
                ).astype("float32"),
            )
        return found

    def _slopes(self, inputs, signs, shifts):
        """Return all ids, and the slopes of the sum of the outputs with these signs."""

        def total(shifts):
            left = iter(shifts)
            shifts = {
                layer: [next(left) for _ in counts[layer]] for layer in self.probes
            }
            outputs = self.outputs(inputs, shifts)
            return sum(ops.sum(s * x) for s, x in zip(signs, outputs, strict=True))

        key = tuple(tuple(np.shape(each)) for each in tree.flatten(inputs))
        counts = self.shapes[key][1]
        slopes = _gradients(total, shifts)
        return [ids for probe in self.probes.values() for ids in probe.ids], slopes

    def pairs(self, inputs, rng):
        """Return the pairs of layers whose embeddings are used only in dot products.

        For such a pair, the outputs stay the same if the embeddings of one layer are
        multiplied by a matrix, and those of the other layer by its transposed inverse.
        This is tested on one batch, which finds a dot product in any form. Other
        batches may show another use of a table. No layer is in two pairs.
        """
        pairs, plain = [], self.outputs(inputs)
        for layer, probe in self.probes.items():
            for ids in probe.ids:
                self._check_ids(layer, ops.convert_to_numpy(ids))

        def change(turns):
            pairs = zip(self.outputs(inputs, turns=turns), plain, strict=True)
            return max(float(ops.max(ops.abs(x - y))) for x, y in pairs)

        for one, other in combinations(self.probes, 2):
            dim = one.output_dim
            if not 1 < dim == other.output_dim or {one, other} & set(sum(pairs, ())):
                continue
            turn = np.eye(dim) + rng.uniform(-1, 1, (dim, dim)) / dim
            turns = {one: turn, other: np.linalg.inv(turn).T}
            alone = min(change({layer: turns[layer]}) for layer in turns)
            if change(turns) < TURN_TOLERANCE * alone:
                pairs.append((one, other))
        return pairs

    def _check_ids(self, layer, ids):
        low, high = ids.min(initial=0), ids.max(initial=0)
        if not (low >= 0 and high < layer.input_dim):  # also if one is NaN
            raise ValueError(
                f"`examples` must hold ids from 0 to {layer.input_dim - 1} for layer "
                f"{layer.name!r}. Received: ids from {low} to {high}"
            )


def _gradients(function, tensors):
    """Return the gradients of a function of a list of tensors, a list."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return jax.grad(function)(tensors)
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(tensors)
            result = function(tensors)
        return tape.gradient(result, tensors, unconnected_gradients="zero")
    if backend == "torch":
        import torch

        tensors = [tensor.requires_grad_() for tensor in tensors]
        return torch.autograd.grad(
            function(tensors), tensors, allow_unused=True, materialize_grads=True
        )
    raise ValueError(
        "Keras's backend must be 'tensorflow', 'jax' or 'torch'. "
        f"Received: backend {backend!r}"
    )
