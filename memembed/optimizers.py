"""An optimizer with one number of state for each row of a table."""

import keras
import numpy as np
from keras import ops


@keras.saving.register_keras_serializable(package="memembed")
class RowwiseAdagrad(keras.optimizers.Optimizer):
    """Adagrad with a state for each row, not for each number.

    The state of a row is the sum, over all steps, of the mean square of its gradient. A
    step of the row is the gradient times the learning rate, divided by the square root
    of the state. So a table of 64 columns has a state of 1/64 of its bytes, where Adam
    has two slots as large as the table. A weight with one axis, such as a bias, has a
    state for each number. The states of weights in float16 or bfloat16 are in float32.

    The states start at 0. If the loss is a mean over a large batch, the gradient of one
    row is tiny: Keras's Adagrad, whose states start at 0.1, moves the row very little.

    A row that no id of the batch looks up does not change, and its state does not
    change. On TensorFlow, in a model compiled with `jit_compile=True`, such a row is
    not even read: a step takes about as long on a large table as on a small one.
    Without `jit_compile`, TensorFlow copies the table. On JAX and Torch, Keras's
    gradients are dense, and a step goes through the whole table.

    Args:
        learning_rate: as in `keras.optimizers.Adagrad`, default 0.01.
        initial_accumulator_value: the initial value of the states, not negative.
        epsilon: added to the square root of a state, positive.
        name: name of the optimizer.
        **kwargs: as in `keras.optimizers.Optimizer`, such as `clipnorm`. On TensorFlow,
            `clipvalue` clips the gradients of a row that a batch looks up twice before
            they are added up.

    Raises:
        ValueError: `initial_accumulator_value` is negative, or `epsilon` is not
            positive.

    Example:
        >>> import keras
        >>> from memembed.optimizers import RowwiseAdagrad
        >>> model = keras.Sequential([keras.Input(()), keras.layers.Embedding(900, 64)])
        >>> model.compile(RowwiseAdagrad(), "mse")
        >>> model.optimizer.build(model.trainable_variables)
        >>> [tuple(state.shape) for state in model.optimizer.variables][-1]
        (900, 1)

    References:
        Duchi et al., Adaptive Subgradient Methods for Online Learning and Stochastic
        Optimization, 2011, for Adagrad. Mudigere et al., Software-Hardware Co-design
        for Fast and Scalable Training of Deep Learning Recommendation Models, 2022,
        arXiv:2104.05158, for a state of each row.
    """

    def __init__(
        self,
        learning_rate=0.01,
        initial_accumulator_value=0.0,
        epsilon=1e-8,
        name="rowwise_adagrad",
        **kwargs,
    ):
        super().__init__(learning_rate, name=name, **kwargs)
        if not 0 <= initial_accumulator_value < np.inf:
            raise ValueError(
                "`initial_accumulator_value` must not be negative. "
                f"Received: {initial_accumulator_value}"
            )
        if not 0 < epsilon < np.inf:
            raise ValueError(f"`epsilon` must be positive. Received: {epsilon}")
        self.initial_accumulator_value = initial_accumulator_value
        self.epsilon = epsilon

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._states = []
        for variable in variables:
            state = self.add_variable(
                _shape_of_state(variable.shape),
                initializer=keras.initializers.Constant(self.initial_accumulator_value),
                dtype=_dtype_of_state(variable.dtype),
                name=f"{variable.path.replace('/', '_')}_state",
            )
            self._states.append(state)

    def update_step(self, gradient, variable, learning_rate):
        state = self._states[self._get_variable_index(variable)]
        gradient = ops.cast(gradient, state.dtype)
        rate = ops.cast(learning_rate, state.dtype)
        if hasattr(gradient, "dense_shape"):  # IndexedSlices: rows that were looked up
            self._update_rows(_each_row_once(gradient), variable, state, rate)
        else:
            self.assign_add(state, _mean_square(gradient))
            step = self._step(gradient, state, rate)
            self.assign_sub(variable, ops.cast(step, variable.dtype))

    def _update_rows(self, gradient, variable, state, rate):
        import tensorflow as tf

        rows, values = gradient.indices, gradient.values
        self.assign_add(state, tf.IndexedSlices(_mean_square(values), rows))
        step = self._step(values, tf.gather(state.value, rows), rate)
        step = ops.cast(step, variable.dtype)
        self.assign_sub(variable, tf.IndexedSlices(step, rows))

    def _step(self, gradient, state, rate):
        return gradient * rate / (ops.sqrt(state) + self.epsilon)

    def get_config(self):
        return {
            **super().get_config(),
            "initial_accumulator_value": self.initial_accumulator_value,
            "epsilon": self.epsilon,
        }


def _shape_of_state(shape):
    return shape if len(shape) < 2 else (shape[0],) + (1,) * (len(shape) - 1)


def _dtype_of_state(dtype):
    # A sum of squares, and `epsilon`, may be 0 in float16.
    return "float32" if dtype in ("float16", "bfloat16") else dtype


def _mean_square(gradient):
    """Return the mean square of each row, or of each number of a single axis."""
    axes = tuple(range(1, len(gradient.shape)))
    square = ops.square(gradient)
    return ops.mean(square, axis=axes, keepdims=True) if axes else square


def _each_row_once(gradient):
    """Add up the entries of a TensorFlow gradient that belong to the same row.

    The shapes do not change, so that XLA can compile this. The entries that are no
    longer used become a gradient of 0 for the first row.
    """
    import tensorflow as tf

    order = tf.argsort(gradient.indices)
    rows, values = (tf.gather(x, order) for x in (gradient.indices, gradient.values))
    first = tf.zeros_like(rows[:1], "int32")  # empty if the batch looks nothing up
    is_new = tf.concat([first, tf.cast(rows[1:] != rows[:-1], "int32")], axis=0)
    place, size = tf.cumsum(is_new), tf.shape(rows)[0]
    values = tf.math.unsorted_segment_sum(values, place, size)
    rows = tf.math.unsorted_segment_max(rows, place, size)
    return tf.IndexedSlices(values, tf.maximum(rows, 0))
