"""The least time that an epoch of dense Adam could take.

Adam reads and writes every weight and both of its slots at every step, whatever the
batch looked up, and the gradient is written and read once: eight floats for each
parameter. How fast memory moves is measured on arrays as large as those of the model,
because a small model's stay in the processor's cache.
"""

import statistics
import time

import numpy as np

FLOATS_MOVED = 8  # weight, two slots and gradient, each of them read and written
REPEATS = 200


def bytes_per_epoch(parameters, ratings, batch_size=128):
    """Count the bytes that Adam moves in one pass over the ratings."""
    return 4 * FLOATS_MOVED * parameters * -(-ratings // batch_size)


def bandwidth(parameters):
    """Measure bytes per second of a sum on three arrays, on one core.

    Args:
        parameters: the arrays together are as large as the weights, the slots and the
            gradients of a model with so many.
    """
    a, b, total = (np.ones(4 * parameters // 3, "float32") for _ in range(3))
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        np.add(a, b, out=total)
        seconds.append(time.perf_counter() - start)
    return 3 * a.nbytes / statistics.median(seconds)
