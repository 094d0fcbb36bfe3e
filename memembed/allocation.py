"""Choose the bits of each column of each block: the numbers behind `compress`.

This is plain NumPy. It works on tables, on how much their errors count, and on bytes.
"""

import heapq
from dataclasses import dataclass

import numpy as np

from memembed.sizing import block_bytes, code_bytes
from memembed.tables import even_steps

MAX_BITS = 7  # a layer may have 8, but the last bit never gains what it costs


@dataclass(eq=False)  # hashable, by identity
class Layout:
    """One way to hold a table in few bits.

    Attributes:
        table: array of shape `(ids, columns)`. Only the first columns are kept; how
            many is chosen later.
        weights: array of shape `(ids,)`: how much the error of an id counts.
        importance: array of shape `(columns,)`: how much the error of a column counts.
            It is multiplied by the weights.
        blocks: arrays of ids, each with its own bits, offsets and scales.
        projection: array of shape `(columns, output_dim)` that turns the columns into
            embeddings; or None, if the columns are used as embeddings directly.
        all_columns: whether all columns must be kept.
    """

    table: np.ndarray
    weights: np.ndarray
    importance: np.ndarray
    blocks: list
    projection: np.ndarray | None = None
    all_columns: bool = False

    def __post_init__(self):
        self.rows = [len(ids) for ids in self.blocks]
        joined = np.concatenate(self.blocks)
        self.in_order = len(self.blocks) == 1 or bool((np.diff(joined) > 0).all())

    def block_of_ids(self):
        """Return the block of each id, an array."""
        blocks = np.empty(len(self.table), "uint8")
        for i, ids in enumerate(self.blocks):
            blocks[ids] = i
        return blocks

    def overhead(self, columns):
        """Return the bytes of everything except the codes."""
        each = 8 * len(self.blocks)  # an offset and a scale
        if self.projection is not None:
            each += 4 * self.projection.shape[1]
        order = 0 if self.in_order else block_bytes(len(self.table), len(self.blocks))
        return order + columns * each

    def measure(self, progress):
        """Measure the errors of the outputs: `errors` and `left_out`.

        `errors` has an array of shape `(columns, MAX_BITS + 1)` for each block.
        `left_out[n]` is the error of leaving out all columns but the first `n`.
        """
        self.errors = []
        for ids in self.blocks:
            errors = rounding_errors(self.table[ids], self.weights[ids])
            self.errors.append(errors * self.importance[:, None])
            progress(self.table[ids].size)
        squares = np.einsum(
            "i,ij,ij->j", self.weights, self.table, self.table, dtype="float64"
        )
        without = np.cumsum((self.importance * squares)[::-1])[::-1]
        self.left_out = np.append(without, 0)


def equal_shares(counts, num_blocks):
    """Cut ids in order of popularity into blocks with an equal share of the counts.

    Args:
        counts: how often each id occurs, or any other weight of it.
        num_blocks: how many blocks to make. Empty blocks are left out.

    Returns:
        The sizes of the blocks, a list of at most `num_blocks` positive ints.

    Example:
        >>> equal_shares([6, 3, 3, 2, 1, 1, 1, 1], num_blocks=3)
        [1, 2, 5]
    """
    share = np.cumsum(counts) / np.sum(counts)
    cuts = np.searchsorted(share, np.arange(1, num_blocks) / num_blocks) + 1
    sizes = np.diff(np.unique([0, *cuts, len(share)]))
    return sizes.tolist()


def rounding_errors(table, weights):
    """Return the error that rounding makes, for each column and number of bits.

    Args:
        table: array of shape `(ids, columns)`.
        weights: array of shape `(ids,)`: how much the squared error of an id counts.

    Returns:
        An array of shape `(columns, MAX_BITS + 1)`.
    """
    bits = np.arange(MAX_BITS + 1)[:, None]
    return even_steps(table, bits, weights)[2].T * weights.max()


def plan_bits(errors, rows, max_bytes):
    """Choose the bits of each column of each block, for the least error in a budget.

    Args:
        errors: for each block an array of shape `(columns, most bits + 1)`: the error
            of a column at each number of bits.
        rows: the number of rows of each block.
        max_bytes: how many bytes the codes of all blocks may take.

    Returns:
        For each block the bits of its columns, a list; and the error. Or None and
        infinity, if one bit in each block takes more than `max_bytes`.

    Example:
        >>> errors = [np.array([[8.0, 2.0, 0.5], [4.0, 1.0, 0.3]])]
        >>> bits, error = plan_bits(errors, [8], max_bytes=3)
        >>> bits, float(error)
        ([[2, 1]], 1.5)
    """
    left = max_bytes - sum(code_bytes(each, [1]) for each in rows)
    if left < 0:
        return None, np.inf
    bits, totals = [[0] * len(error) for error in errors], [1] * len(errors)
    # For each column and number of bits: the step to more bits that gains most per bit.
    # `gains` is its gain per bit, `targets` the number of bits after the step.
    gains, targets, steps = [], [], []
    for block, error in enumerate(errors):
        # Every block needs a bit: it gets one in the column where it gains most.
        bits[block][np.argmax(error[:, 0] - error[:, 1])] = 1
        further = np.arange(error.shape[1]) - np.arange(error.shape[1])[:, None]
        gain = error[:, :, None] - error[:, None, :]
        gain = np.where(further > 0, gain / (np.maximum(further, 1) * rows[block]), 0)
        gains.append(gain.max(axis=2))
        targets.append(gain.argmax(axis=2))
        steps += [
            (-gains[block][j, now], block, j) for j, now in enumerate(bits[block])
        ]
    heapq.heapify(steps)
    while steps:
        loss, block, column = heapq.heappop(steps)
        if loss >= 0:
            break
        then = int(targets[block][column, bits[block][column]])
        total = totals[block] + then - bits[block][column]
        extra = code_bytes(rows[block], [total]) - code_bytes(
            rows[block], [totals[block]]
        )
        if extra > left:
            continue  # a step of another column may still fit
        left, totals[block], bits[block][column] = left - extra, total, then
        heapq.heappush(steps, (-gains[block][column, then], block, column))
    pairs = zip(errors, bits, strict=True)
    return bits, sum(error[range(len(each)), each].sum() for error, each in pairs)


def layouts_in(groups):
    """Return the layouts of all choices of all groups, each once."""
    choices = [choice for group in groups for choice in group]
    return list(dict.fromkeys(way for choice in choices for way in choice.values()))


def allocate(groups, max_bytes, reserved=0, progress=lambda numbers: None):
    """Choose the layout, the number of columns and the bits of each table.

    Args:
        groups: lists of choices. A choice is a dict from a name to a `Layout`; all
            tables of a choice keep the same number of columns.
        max_bytes: how many bytes the tables and the reserved bytes may take together.
        reserved: how many of these bytes are not for tables.
        progress: called for each block, with how many numbers it has.

    Returns:
        A dict from each name to a pair of its `Layout` and a list with an entry for
        each block, which holds the bits of each column that is kept.

    Raises:
        ValueError: `max_bytes` is too small for one bit for each id.
    """
    for layout in layouts_in(groups):
        layout.measure(progress)

    def plan(chosen):
        errors, rows, left_out, left = [], [], 0, max_bytes - reserved
        for choice, columns in chosen:
            for layout in choice.values():
                left -= layout.overhead(columns)
                left_out += layout.left_out[columns]
                errors += [error[:columns] for error in layout.errors]
                rows += layout.rows
        bits, error = plan_bits(errors, rows, left)
        return error + left_out, bits

    def options(group):
        for choice in group:
            most = min(layout.table.shape[1] for layout in choice.values())
            if any(layout.all_columns for layout in choice.values()):
                yield choice, most
            else:
                yield from ((choice, columns) for columns in _steps_to(most))

    def least(option):
        choice, columns = option
        return sum(
            layout.overhead(columns)
            + sum(code_bytes(rows, [1]) for rows in layout.rows)
            for layout in choice.values()
        )

    # Improve one group at a time, the others fixed, until the error stops falling.
    chosen = [min(options(group), key=least) for group in groups]
    needed = reserved + sum(map(least, chosen))
    if needed > max_bytes:
        raise ValueError(
            f"`max_bytes` must be at least {needed}: {reserved} for weights that "
            "are not compressed, and one bit for each id. "
            f"Received: max_bytes={max_bytes}"
        )
    error, before = plan(chosen)[0], np.inf
    while error < before:
        before = error
        for i, group in enumerate(groups):
            tried = [
                [*chosen[:i], option, *chosen[i + 1 :]] for option in options(group)
            ]
            chosen = min([chosen, *tried], key=lambda each: plan(each)[0])
        error = plan(chosen)[0]
    bits = iter(plan(chosen)[1])
    return {
        name: (layout, [next(bits) for _ in layout.blocks])
        for choice, _ in chosen
        for name, layout in choice.items()
    }


def _steps_to(most):
    """Return numbers of columns to try: all up to 16, and some larger ones."""
    return sorted(
        {*range(1, min(most, 16) + 1), *np.geomspace(1, most, 40).astype(int)}
    )
