"""Train a compiled model for one epoch, as fast as its backend allows."""

import keras
import numpy as np
from keras import tree

from memembed.rebuild import layers_in


def epoch_function(model, examples, batch_size):
    """Return a function that trains a compiled model for one epoch.

    It does what `fit` does in one epoch. On TensorFlow, if the examples are arrays and
    XLA can compile the model, it is several times as fast. There, a step on a thousand
    examples takes less time than calling it from Python and passing the tables to it
    and back. So the loop over the batches is compiled together with the step.

    The compiled loop differs from `fit` in two things. Examples that do not fill the
    last batch are left out, different ones in each epoch. And a row that a batch looks
    up twice has one gradient, as on JAX and Torch; `fit` on TensorFlow passes two
    gradients to the optimizer.

    Args:
        model: a compiled `keras.Model`.
        examples: what `fit` takes, as a tuple: inputs, labels and sample weights, or
            one dataset.
        batch_size: examples per step, if they are arrays.

    Returns:
        A function without arguments that returns the mean loss.

    Example:
        >>> import keras
        >>> import numpy as np
        >>> from memembed.epochs import epoch_function
        >>> x = np.arange(300) % 20
        >>> model = keras.Sequential([keras.Input(()), keras.layers.Embedding(20, 1)])
        >>> model.compile("adam", "mse")
        >>> epoch = epoch_function(model, (x, x / 20), batch_size=100)
        >>> first, second = epoch(), epoch()
        >>> second < first
        True
    """
    data = dict(zip(("x", "y", "sample_weight"), examples, strict=False))
    # A dataset of files that are read in order is shuffled already.
    data["shuffle"] = not getattr(examples[0], "in_order", False)
    averages = getattr(model.optimizer, "use_ema", False)

    def fit():
        loss = model.fit(**data, batch_size=batch_size, verbose=0).history["loss"][0]
        if averages:
            # On JAX, weights and their averages are the same arrays now. Keras would
            # donate these twice in the next epoch, which JAX refuses.
            for each in model.optimizer.variables:
                each.assign(keras.ops.copy(each))
        return loss

    if (
        keras.backend.backend() != "tensorflow"
        or model.run_eagerly
        or type(model).train_step is not keras.Model.train_step
        or averages
        or not all(layer.supports_jit for layer in layers_in(model))
        or not all(map(_is_numeric, tree.flatten(examples)))
    ):
        return fit
    run = _compiled(model, examples, batch_size)

    def epoch():
        nonlocal run
        try:
            return run()
        except Exception as error:
            # A layer may hold an operation that XLA has not, such as a lookup.
            if "unsupported operations" not in str(error):
                raise
        run = fit
        return run()

    return epoch


def _is_numeric(x):
    return x is None or (hasattr(x, "__array__") and np.asarray(x).dtype.kind in "biuf")


def _compiled(model, examples, batch_size):
    import tensorflow as tf

    data = tree.map_structure(
        lambda x: None if x is None else tf.convert_to_tensor(x), tuple(examples)
    )
    count = len(next(x for x in tree.flatten(data) if x is not None))
    batch_size = int(min(batch_size, count))  # a NumPy integer would make `rows` int64
    variables, optimizer = model.trainable_variables, model.optimizer

    def loss_of(rows, training):
        batch = tree.map_structure(
            lambda x: None if x is None else tf.gather(x, rows), data
        )
        x, y, weights = (*batch, None, None)[:3]
        outputs = model(x, training=training)
        return model.compute_loss(x, y, outputs, weights, training=training)

    # Build the model and the optimizer: variables cannot be created in the loop.
    loss_of(tf.range(batch_size), training=False)
    if not optimizer.built:
        optimizer.build(variables)

    def step(rows):
        with tf.GradientTape() as tape:
            loss = loss_of(rows, training=True)
            scaled = optimizer.scale_loss(loss)
        gradients = [
            None if each is None else tf.convert_to_tensor(each)
            for each in tape.gradient(scaled, variables)
        ]
        optimizer.apply(gradients, variables)
        return tf.cast(loss, "float32")

    @tf.function(jit_compile=True)
    def run(order):
        def next_batch(i, total):
            rows = tf.gather(order, i * batch_size + tf.range(batch_size))
            return i + 1, total + step(rows)

        _, total = tf.while_loop(
            lambda i, _: i < count // batch_size, next_batch, (0, 0.0)
        )
        return total / (count // batch_size)

    def epoch():
        return float(run(tf.random.shuffle(tf.range(count))))

    return epoch
