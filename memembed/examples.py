"""Read the examples that `fit` takes, batch by batch."""

import keras
import numpy as np
from keras import tree


def batches(examples, batch_size, name="examples"):
    """Yield examples in batches, from any form that `fit` takes.

    Args:
        examples: what `keras.Model.fit` takes: a `tf.data.Dataset`, a
            `keras.utils.PyDataset` or a Torch `DataLoader`, which yield batches
            already; or arrays: the inputs, in the structure that the model takes, or a
            tuple of inputs, labels and sample weights, where labels or weights may be
            missing.
        batch_size: examples per batch, if they are arrays.
        name: what errors call the examples.

    Yields:
        A tuple of inputs, labels and sample weights, None where there are none.

    Raises:
        TypeError: `examples` can be iterated only once, such as a generator.
        ValueError: `examples` is empty, or arrays differ in length, or a dataset has no
            end.

    Example:
        >>> x, y = np.arange(5), np.arange(5) / 2
        >>> [(batch[0].tolist(), batch[1].tolist()) for batch in batches((x, y), 3)]
        [([0, 1, 2], [0.0, 0.5, 1.0]), ([3, 4], [1.5, 2.0])]
    """
    empty = True
    for batch in _parts(examples, batch_size, name):
        empty = False
        batch = batch if isinstance(batch, tuple) else (batch,)
        if len(batch) > 3:
            raise ValueError(
                f"`{name}` must be inputs, labels and sample weights. "
                f"Received: a tuple of {len(batch)}"
            )
        yield (*batch, None, None)[:3]
    if empty:
        raise ValueError(f"`{name}` must not be empty. Received: none")


def count_batches(examples, batch_size):
    """Return how many batches there will be, or None if that is not known.

    Args:
        examples: as in `batches`.
        batch_size: as in `batches`.

    Example:
        >>> count_batches({"user": np.arange(5), "movie": np.arange(5)}, 3)
        2
    """
    if isinstance(examples, keras.utils.PyDataset):
        return examples.num_batches
    if isinstance(examples, (tuple, list, dict)) or hasattr(examples, "__array__"):
        lengths = [len(x) for x in tree.flatten(examples) if np.ndim(x)]
        return -(-lengths[0] // batch_size) if lengths else None
    if hasattr(examples, "cardinality"):  # of tf.data: negative if not known
        return max(int(examples.cardinality()), 0) or None
    return len(examples) if hasattr(examples, "__len__") else None


def _parts(examples, batch_size, name):
    if isinstance(examples, keras.utils.PyDataset):
        if examples.num_batches is None:
            raise ValueError(f"`{name}` must have an end. Received: no num_batches")
        return (examples[i] for i in range(examples.num_batches))
    if isinstance(examples, (tuple, list, dict)) or hasattr(examples, "__array__"):
        return _slices(examples, batch_size, name)
    if not hasattr(examples, "__iter__") or iter(examples) is examples:
        raise TypeError(
            f"`{name}` must be arrays, or a dataset that can be iterated more "
            f"than once. Received: {examples!r}"
        )
    if getattr(examples, "cardinality", int)() == -1:  # of tf.data: infinite
        raise ValueError(
            f"`{name}` must have an end. Received: {examples!r}, which repeats"
        )
    # A Torch DataLoader makes lists of tuples.
    return (tuple(x) if isinstance(x, list) else x for x in examples)


def _slices(examples, batch_size, name):
    arrays = tree.map_structure(
        lambda x: None if x is None else np.asarray(x), examples
    )
    found = [x for x in tree.flatten(arrays) if x is not None]
    if any(x.ndim == 0 for x in found):
        raise ValueError(
            f"`{name}` must be arrays, not numbers. Received: {examples!r}"
        )
    lengths = {len(x) for x in found}
    if len(lengths) > 1:
        raise ValueError(
            f"`{name}` must be arrays of the same length. "
            f"Received: lengths {sorted(lengths)}"
        )

    def part(start):
        rows = slice(start, start + batch_size)
        return tree.map_structure(lambda x: None if x is None else x[rows], arrays)

    return (part(start) for start in range(0, max(lengths, default=0), batch_size))
