"""The models of ratings and of rankings that the chapters train."""

import math

import keras
from keras import layers, ops

from memembed.shapes import check_sizes

MAX_RATING = 5
_TABLES, _BIASES = ("user", "movie"), ("user_bias", "movie_bias")
# From 3.14 on, Keras divides an activity regularizer's penalty by the batch size.
DIVIDES = tuple(int(part) for part in keras.version().split(".")[:2]) >= (3, 14)


@keras.saving.register_keras_serializable(package="memembed")
class LookupL2(keras.regularizers.Regularizer):
    """Activity regularizer of an embedding: the squares of what is looked up.

    It is `keras.regularizers.L2`, but its penalty is a mean over the batch on any
    version of Keras. Before 3.14, the penalty of `L2` is a sum, so that the same `l2`
    is 1,000 times as strong in batches of 1,000.

    Args:
        l2: factor of the sum of squares of an embedding.

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
        # The type of a loss. In mixed precision, `x` may be float16, which is too
        # small for a sum over a batch.
        penalty = self.l2 * ops.sum(ops.square(ops.cast(x, keras.config.floatx())))
        if DIVIDES:
            return penalty
        return penalty / ops.cast(ops.shape(x)[0], penalty.dtype)

    def get_config(self):
        """Return the arguments of the regularizer, a dict."""
        return {"l2": self.l2}


def dot_product_model(
    user_embedding,
    movie_embedding,
    biases=False,
    mean_rating=None,
    max_rating=MAX_RATING,
):
    """Rate a movie by the dot product of its embedding with the user's.

    The rating is `max_rating * sigmoid(user . movie)`, or with biases
    `max_rating * sigmoid(user . movie + user bias + movie bias)`.

    Args:
        user_embedding: a layer from rows of users, integers of any shape, to vectors,
            such as `keras.layers.Embedding`, `QREmbedding` or `MDEmbedding`.
        movie_embedding: the same for movies, with vectors of the same length.
        biases: whether each user and each movie has a bias, starting at zero; or the
            two layers for them, users' first, from rows to vectors of length 1.
        mean_rating: the rating if all other terms are 0, and about the rating of an
            untrained model. A constant that is added before the sigmoid sets it. The
            constant is not a weight. Default: no constant, so that this rating is
            `max_rating / 2`.
        max_rating: the upper limit of all ratings.

    Returns:
        A `keras.Model`. Inputs: `{"user": ..., "movie": ...}`, int32 of shape
        `(batch,)`. Output: ratings, float32 of shape `(batch, 1)`.

    Raises:
        ValueError: the two layers' vectors differ in length, or `max_rating` is not
            positive, or `mean_rating` is not between 0 and `max_rating`.

    Example:
        >>> import keras
        >>> from memembed.models import dot_product_model
        >>> users = keras.layers.Embedding(6040, 64)
        >>> movies = keras.layers.Embedding(3706, 64)
        >>> dot_product_model(users, movies).count_params()
        623744
    """
    _check_output_dims(user_embedding, movie_embedding)
    inputs = _inputs()
    score = layers.Dot(axes=1, name="dot_product")(
        [user_embedding(inputs["user"]), movie_embedding(inputs["movie"])]
    )
    if biases:
        if biases is True:
            biases = _biases(user_embedding.input_dim, movie_embedding.input_dim)
        terms = _bias_terms(inputs, biases)
        score = layers.Add(name="score")([score, *terms])
    rating = _rating(score, mean_rating, max_rating)
    return keras.Model(inputs, rating, name="dot_product_model")


def bias_model(user_bias, movie_bias, mean_rating=None, max_rating=MAX_RATING):
    """Rate a movie by one number for the user and one for the movie.

    The rating is `max_rating * sigmoid(user bias + movie bias)`. A model with
    embeddings must have a lower error.

    Args:
        user_bias: how many users there are; or a layer from rows of users to vectors of
            length 1, as in `dot_product_model`.
        movie_bias: the same for movies.
        mean_rating: see `dot_product_model`.
        max_rating: see `dot_product_model`.

    Returns:
        A `keras.Model` with the inputs and the output of `dot_product_model`.

    Raises:
        ValueError: as in `dot_product_model`.

    Example:
        >>> from memembed.models import bias_model
        >>> bias_model(6040, 3706).count_params()
        9746
    """
    inputs = _inputs()
    terms = _bias_terms(inputs, _biases(user_bias, movie_bias))
    score = layers.Add(name="score")(terms)
    rating = _rating(score, mean_rating, max_rating)
    return keras.Model(inputs, rating, name="bias_model")


def mlp_model(
    user_embedding,
    movie_embedding,
    hidden=(64, 32),
    mean_rating=None,
    max_rating=MAX_RATING,
):
    """Rate a movie by a network over the concatenated user and movie embeddings.

    Args:
        user_embedding: see `dot_product_model`. The vectors may differ in length.
        movie_embedding: the same for movies.
        hidden: units of each hidden layer, with ReLU.
        mean_rating: see `dot_product_model`.
        max_rating: see `dot_product_model`.

    Returns:
        A `keras.Model` with the inputs and the output of `dot_product_model`.

    Raises:
        ValueError: `hidden` holds a size that is not positive; or as in
            `dot_product_model`.

    Example:
        >>> import keras
        >>> from memembed.models import mlp_model
        >>> users = keras.layers.Embedding(6040, 32)
        >>> movies = keras.layers.Embedding(3706, 32)
        >>> mlp_model(users, movies).count_params() - 32 * (6040 + 3706)
        6273

    References:
        He et al., Neural Collaborative Filtering, 2017, arXiv:1708.05031, section 3.3.
    """
    hidden = check_sizes("hidden", hidden)
    inputs = _inputs()
    score = layers.Concatenate(name="features")(
        [user_embedding(inputs["user"]), movie_embedding(inputs["movie"])]
    )
    for i, units in enumerate(hidden, 1):
        score = layers.Dense(units, activation="relu", name=f"hidden_{i}")(score)
    score = layers.Dense(1, name="score")(score)
    rating = _rating(score, mean_rating, max_rating)
    return keras.Model(inputs, rating, name="mlp_model")


def two_tower_model(user_embedding, movie_embedding):
    """Score every movie of a batch for every user of the batch, by a dot product.

    It learns from what users watched, without ratings: of the movies in a batch, the
    first user watched the first, the second user the second, and the others serve as
    negatives. `InBatchSoftmax` is the loss.

    Args:
        user_embedding: see `dot_product_model`.
        movie_embedding: the same for movies, with vectors of the same length.

    Returns:
        A `keras.Model`. Inputs: `{"user": ..., "movie": ...}`, int32 of shape
        `(batch,)`. Output: scores, float32 of shape `(batch, batch)`, a row for each
        user and a column for each movie. The layers `"user_vector"` and
        `"movie_vector"` output the vectors of the two towers.

    Raises:
        ValueError: the two layers' vectors differ in length.

    Example:
        >>> import keras
        >>> import numpy as np
        >>> from memembed.models import InBatchSoftmax, two_tower_model
        >>> users, movies = np.array([0, 1, 2, 2]), np.array([0, 0, 0, 1])
        >>> probability = np.array([0.75, 0.25])  # of each movie, in a batch
        >>> tables = keras.layers.Embedding(3, 2), keras.layers.Embedding(2, 2)
        >>> model = two_tower_model(*tables)
        >>> model.compile("adam", InBatchSoftmax())
        >>> inputs = {"user": users, "movie": movies}
        >>> history = model.fit(inputs, probability[movies], batch_size=3, verbose=0)

    References:
        Yi et al., Sampling-Bias-Corrected Neural Modeling for Large Corpus Item
        Recommendations, 2019, doi:10.1145/3298689.3346996.
    """
    _check_output_dims(user_embedding, movie_embedding)
    inputs = _inputs()
    vectors = [
        layers.Identity(name=f"{side}_vector")(embedding(inputs[side]))
        for side, embedding in (("user", user_embedding), ("movie", movie_embedding))
    ]
    scores = ops.einsum("ud,md->um", *vectors)
    return keras.Model(inputs, scores, name="two_tower_model")


@keras.saving.register_keras_serializable(package="memembed")
class InBatchSoftmax(keras.losses.Loss):
    """Cross-entropy of each user's own movie among all movies of the batch.

    A popular movie is a negative more often than a rare one. To correct this, the
    logarithm of each movie's probability in a batch is subtracted from its scores. The
    learned scores are then those of a softmax over the whole catalogue. `y_true`, of
    shape `(batch,)` or `(batch, 1)`, is this probability: the movie's share of the
    training examples. `y_pred` has shape `(batch, batch)`, and the movies on its
    diagonal are the positive ones.

    A movie that occurs twice in a batch also counts twice in its share, so both
    occurrences are kept.

    It needs `keras-rs`.

    Example:
        >>> import numpy as np
        >>> from memembed.models import InBatchSoftmax
        >>> loss = InBatchSoftmax()
        >>> float(loss(np.array([0.5, 0.5]), np.zeros((2, 2))))  # log(2)
        0.6931471824645996

    References:
        Yi et al., 2019, doi:10.1145/3298689.3346996, section 3.
    """

    def __init__(self, name="in_batch_softmax", **kwargs):
        from keras_rs.layers import SamplingProbabilityCorrection

        super().__init__(name=name, **kwargs)
        # The default would take all movies below one in a million for equally probable.
        self.correct = SamplingProbabilityCorrection(epsilon=1e-12)

    def call(self, y_true, y_pred):
        """Return the loss of each example, a tensor of shape `(batch,)`."""
        logits = self.correct(y_pred, ops.reshape(y_true, (1, -1)))
        own = ops.arange(ops.shape(logits)[0])
        return ops.sparse_categorical_crossentropy(own, logits, from_logits=True)


def embeddings_of(model):
    """Return the embedding layers of a model of this module.

    Args:
        model: a `keras.Model` made by a function of this module, or loaded.

    Returns:
        A dict from `"user"` and `"movie"`, and for biases `"user_bias"` and
        `"movie_bias"`, to the layers. It has only those that the model has.

    Raises:
        ValueError: `model` is not a model of this module.

    Example:
        >>> import keras
        >>> from memembed.models import dot_product_model, embeddings_of
        >>> users, movies = keras.layers.Embedding(9, 2), keras.layers.Embedding(7, 2)
        >>> embeddings_of(dot_product_model(users, movies))["movie"] is movies
        True
    """
    sources = _sources(model)
    biases = sources.get("score", [])
    found = {
        side + suffix: model.get_layer(name)
        for suffix in ("", "_bias")
        for side in ("user", "movie")
        for name, feeds in sources.items()
        if side in feeds
        and hasattr(model.get_layer(name), "input_dim")
        and (name in biases) == (suffix == "_bias")
    }
    if set(found) not in ({*_TABLES}, {*_BIASES}, {*_TABLES, *_BIASES}):
        raise ValueError(
            "`model` must be made by a function of `memembed.models`. "
            f"Received: a model of {list(sources)}"
        )
    return found


def input_dims(model):
    """Return how many ids each embedding of a functional model knows.

    The result is a list of pairs: the name of an input, and the `input_dim` of a layer
    that takes it.
    """
    inputs = {tensor.name for tensor in model.inputs}
    return [
        (source, model.get_layer(name).input_dim)
        for name, (source, *_) in _sources(model).items()
        if source in inputs and hasattr(model.get_layer(name), "input_dim")
    ]


def penalize(model, l2):
    """Penalise the squares of the embeddings that a model looks up.

    A bias gets 1/12 of the penalty: it is one number instead of many, and needs less
    regularization.

    Args:
        model: a model made by a function of this module. It is changed.
        l2: factor of the sum of squares of an embedding, which is added to the loss.
    """
    for name, layer in embeddings_of(model).items():
        bias = name.endswith("bias")
        layer.activity_regularizer = LookupL2(l2 / 12 if bias else l2)


def _sources(model):
    """Return the names of the layers that feed each layer of a functional model."""

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
    """Return two bias layers: each as given, or made for the given number of ids."""
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


def _check_output_dims(user_embedding, movie_embedding):
    if user_embedding.output_dim != movie_embedding.output_dim:
        raise ValueError(
            "`user_embedding` and `movie_embedding` must have the same `output_dim`. "
            f"Received: {user_embedding.output_dim} and {movie_embedding.output_dim}"
        )


def _rating(score, mean_rating, max_rating):
    if not 0 < max_rating < math.inf:
        raise ValueError(f"`max_rating` must be positive. Received: {max_rating}")
    if mean_rating is not None:
        if not 0 < mean_rating < max_rating:
            raise ValueError(
                f"`mean_rating` must be between 0 and `max_rating`, {max_rating}. "
                f"Received: {mean_rating}"
            )
        logit = math.log(mean_rating / (max_rating - mean_rating))
        score = layers.Rescaling(1.0, offset=logit, name="mean")(score)
    probability = layers.Activation("sigmoid", name="sigmoid")(score)
    return layers.Rescaling(max_rating, name="rating")(probability)
