"""The rating models that the chapters train."""

import keras
from keras import layers, ops

MAX_RATING = 5
# Since then, Keras divides an activity regularizer's penalty by the size of the batch.
DIVIDES = tuple(int(part) for part in keras.version().split(".")[:2]) >= (3, 14)


@keras.saving.register_keras_serializable(package="memembed")
class LookupL2(keras.regularizers.Regularizer):
    """Activity regularizer of an embedding: the squares of what is looked up.

    It is `keras.regularizers.L2`, but its penalty is a mean over the batch on any
    version of Keras. Before 3.14, that of `L2` is a sum, so that the same `l2` holds
    back a thousand times more in batches of a thousand.

    Args:
        l2: what the sum of squares of an embedding is multiplied by.

    Example:
        >>> import keras
        >>> from memembed.models import LookupL2
        >>> penalty = LookupL2(0.5)
        >>> layer = keras.layers.Embedding(9, 4, "ones", activity_regularizer=penalty)
        >>> embeddings = layer(keras.ops.arange(3))
        >>> float(layer.losses[0])  # 4 ones, halved, whatever the batch
        2.0
    """

    def __init__(self, l2):
        self.l2 = float(l2)

    def __call__(self, x):
        """Return the penalty that Keras expects for these embeddings, a scalar."""
        penalty = self.l2 * ops.sum(ops.square(x))
        if DIVIDES:
            return penalty
        return penalty / ops.cast(ops.shape(x)[0], penalty.dtype)

    def get_config(self):
        """Return the arguments of the regularizer, a dict."""
        return {"l2": self.l2}


def dot_product_model(user_embedding, movie_embedding, biases=False):
    """Rate a movie by the dot product of its embedding with the user's.

    The rating is `5 * sigmoid(user . movie)`, or with biases
    `5 * sigmoid(user . movie + user bias + movie bias)`.

    Args:
        user_embedding: a layer from rows of users, integers of any shape, to vectors,
            such as `keras.layers.Embedding`, `QREmbedding` or `MDEmbedding`.
        movie_embedding: the same for movies, with vectors of the same length.
        biases: whether each user and each movie has a bias, starting at zero; or the
            two layers for them, users' first, from rows to vectors of length 1.

    Returns:
        A `keras.Model`. Inputs: `{"user": ..., "movie": ...}`, int32 of shape
        `(batch,)`. Output: ratings, float32 of shape `(batch, 1)`.

    Raises:
        ValueError: the two layers' vectors differ in length.

    Example:
        >>> import keras
        >>> from memembed.models import dot_product_model
        >>> users = keras.layers.Embedding(6040, 64)
        >>> movies = keras.layers.Embedding(3706, 64)
        >>> dot_product_model(users, movies).count_params()
        623744
    """
    if user_embedding.output_dim != movie_embedding.output_dim:
        raise ValueError(
            "`user_embedding` and `movie_embedding` must have the same `output_dim`. "
            f"Received: {user_embedding.output_dim} and {movie_embedding.output_dim}"
        )
    inputs = _inputs()
    score = layers.Dot(axes=1, name="dot_product")(
        [user_embedding(inputs["user"]), movie_embedding(inputs["movie"])]
    )
    if biases:
        if biases is True:
            biases = _biases(user_embedding.input_dim, movie_embedding.input_dim)
        terms = _bias_terms(inputs, biases)
        score = layers.Add(name="score")([score, *terms])
    return keras.Model(inputs, _rating(score), name="dot_product_model")


def bias_model(user_bias, movie_bias):
    """Rate a movie by one number for the user and one for the movie.

    The rating is `5 * sigmoid(user bias + movie bias)`: the floor that a model with
    embeddings has to beat.

    Args:
        user_bias: how many users there are; or a layer from rows of users to vectors of
            length 1, as in `dot_product_model`.
        movie_bias: the same for movies.

    Returns:
        A `keras.Model` with the inputs and the output of `dot_product_model`.

    Example:
        >>> from memembed.models import bias_model
        >>> bias_model(6040, 3706).count_params()
        9746
    """
    inputs = _inputs()
    terms = _bias_terms(inputs, _biases(user_bias, movie_bias))
    score = layers.Add(name="score")(terms)
    return keras.Model(inputs, _rating(score), name="bias_model")


def embeddings_of(model):
    """Return the embedding layers of a rating model.

    Args:
        model: a `keras.Model` made by `dot_product_model` or `bias_model`, or loaded.

    Returns:
        A dict of the layers `"user"` and `"movie"`, and if there are biases,
        `"user_bias"` and `"movie_bias"`, as far as the model has them.

    Raises:
        ValueError: `model` is another one.

    Example:
        >>> import keras
        >>> from memembed.models import dot_product_model, embeddings_of
        >>> users, movies = keras.layers.Embedding(9, 2), keras.layers.Embedding(7, 2)
        >>> embeddings_of(dot_product_model(users, movies))["movie"] is movies
        True
    """
    sources = _sources(model)
    tables = sources.get("dot_product", [])
    biases = [name for name in sources.get("score", []) if name != "dot_product"]
    names = dict(zip(("user", "movie"), tables, strict=False))
    names |= zip(("user_bias", "movie_bias"), biases, strict=False)
    found = {side: model.get_layer(name) for side, name in names.items()}
    if (
        {len(tables), len(biases)} not in ({0, 2}, {2})
        or "rating" not in sources
        or not all(hasattr(layer, "input_dim") for layer in found.values())
    ):
        raise ValueError(
            "`model` must be made by `dot_product_model` or `bias_model`. "
            f"Received: a model of {list(sources)}"
        )
    return found


def input_dims(model):
    """Return how many ids each embedding of a functional model knows.

    A list of pairs: the name of an input, and the `input_dim` of a layer that takes it.
    """
    inputs = {tensor.name for tensor in model.inputs}
    return [
        (source, model.get_layer(name).input_dim)
        for name, (source, *_) in _sources(model).items()
        if source in inputs and hasattr(model.get_layer(name), "input_dim")
    ]


def penalize(model, l2):
    """Penalise the squares of the embeddings that a rating model looks up.

    A bias is penalised by a twelfth: one number is looked up instead of many, and there
    is less to hold back.

    Args:
        model: a model made by `dot_product_model` or `bias_model`. It is changed.
        l2: what the sum of the squares of an embedding adds to the loss, times this.
    """
    for name, layer in embeddings_of(model).items():
        bias = name.endswith("bias")
        layer.activity_regularizer = LookupL2(l2 / 12 if bias else l2)


def _sources(model):
    """Return, for each layer of a functional model, the names of those that feed it."""

    def names(value):
        if isinstance(value, dict):
            if "keras_history" in value:
                return [value["keras_history"][0]]
            value = value.values()
        elif not isinstance(value, (list, tuple)):
            return []
        return [name for each in value for name in names(each)]

    found = model.get_config().get("layers", [])
    if not all("inbound_nodes" in layer for layer in found) or not found:
        raise ValueError(
            "`model` must be a functional keras.Model, made from inputs and outputs. "
            f"Received: {model!r}"
        )
    return {
        layer["name"]: names(layer["inbound_nodes"])
        for layer in found
        if layer["inbound_nodes"]
    }


def _inputs():
    return {
        name: keras.Input(shape=(), dtype="int32", name=name)
        for name in ("user", "movie")
    }


def _biases(*sizes):
    """Return both biases' layers, made for so many ids unless they are there."""
    return [
        size
        if isinstance(size, keras.Layer)
        else layers.Embedding(
            size, 1, embeddings_initializer="zeros", name=f"{name}_bias"
        )
        for name, size in zip(("user", "movie"), sizes, strict=True)
    ]


def _bias_terms(inputs, biases):
    return [bias(ids) for bias, ids in zip(biases, inputs.values(), strict=True)]


def _rating(score):
    probability = layers.Activation("sigmoid", name="sigmoid")(score)
    return layers.Rescaling(MAX_RATING, name="rating")(probability)
