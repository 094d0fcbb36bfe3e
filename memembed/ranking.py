"""Train a two-tower model, and rank the whole catalogue."""

import keras
import numpy as np
from keras import ops

from memembed.epochs import epoch_function
from memembed.models import InBatchSoftmax, input_dims, penalize
from memembed.shapes import check_size
from memembed.training import TWO_TOWER

CHUNK = 1024  # users whose scores are held at once


def train_two_tower(model, data, settings=TWO_TOWER):
    """Train a two-tower model with Adam: every rating counts as a watched movie.

    Args:
        model: a model made by `memembed.models.two_tower_model`.
        data: `memembed.data.RatingData`.
        settings: `memembed.training.Settings`. `huber_delta` is not used.

    Returns:
        The loss of each epoch, a list.

    Example:
        >>> import keras
        >>> from memembed.data import prepare, synthetic_ratings
        >>> from memembed.models import two_tower_model
        >>> data = prepare(synthetic_ratings(50, 40, 1200))
        >>> tables = keras.layers.Embedding(50, 4), keras.layers.Embedding(40, 4)
        >>> model = two_tower_model(*tables)
        >>> losses = train_two_tower(model, data)
        >>> recall_and_ndcg(model, data)["recall"] > 0
        True
    """
    if settings.l2:
        penalize(model, settings.l2)
    model.compile(keras.optimizers.Adam(), InBatchSoftmax())
    share = data.movies.counts[data.train.movie] / len(data.train)
    examples = data.train.inputs, share.astype("float32")
    run_epoch, losses = epoch_function(model, examples, settings.batch_size), []
    for rate in settings.learning_rates:
        model.optimizer.learning_rate = rate
        losses.append(run_epoch())
    return losses


def recall_and_ndcg(scores, data, k=20, part="evaluation"):
    """Rank all movies for each user, and measure the first `k`.

    The movies that a user has in the training part are left out, and when the
    evaluation part is ranked, those in the validation part too. Every rating counts as
    a positive, whatever its value: the user watched the movie.

    Recall is the number of a user's positives among the first `k`, divided by the
    number of all their positives, or by `k` if that is smaller. NDCG counts a hit at
    rank `r` as `1 / log2(r + 1)`, and divides by the sum of the best possible order.
    Both are means over the users who have a positive.

    Args:
        scores: a model made by `memembed.models.two_tower_model`; or an array of
            scores, of shape `(users, movies)`, or `(movies,)` if they are the same for
            all users, such as `data.movies.counts` for popularity.
        data: `memembed.data.RatingData`.
        k: how many movies are recommended.
        part: `"evaluation"` or `"validation"`: whose ratings are the positives.

    Returns:
        A dict of `"recall"` and `"ndcg"`.

    Raises:
        ValueError: `part` is neither of the two, or empty; `k` is not positive; or
            `scores` has a wrong shape, is not finite, or is a model of another kind.

    Example:
        >>> from memembed.data import prepare, synthetic_ratings
        >>> data = prepare(synthetic_ratings(50, 40, 1200))
        >>> popular = recall_and_ndcg(data.movies.counts, data)
        >>> opposite = recall_and_ndcg(-data.movies.counts, data)
        >>> popular["ndcg"] > opposite["ndcg"]
        True

    References:
        Liang et al., Variational Autoencoders for Collaborative Filtering, 2018,
        arXiv:1802.05814, section 4.2.
    """
    if part not in ("evaluation", "validation"):
        raise ValueError(
            f"`part` must be 'evaluation' or 'validation'. Received: part={part!r}"
        )
    k = min(check_size("k", k), len(data.movies))
    positives = getattr(data, part)
    users = np.unique(positives.user)
    if not len(users):
        raise ValueError(f"`part` must hold ratings. Received: part={part!r}, empty")
    seen = [data.train] if part == "validation" else [data.train, data.validation]
    score = _scorer(scores, (len(data.users), len(data.movies)))
    discounts = 1 / np.log2(np.arange(2, k + 2))
    best = np.cumsum(discounts)
    recall = ndcg = 0
    for start in range(0, len(users), CHUNK):
        chunk = users[start : start + CHUNK]
        left = score(chunk)
        for examples in seen:
            left[_where(examples, chunk)] = -np.inf
        positive = np.zeros(left.shape, bool)
        positive[_where(positives, chunk)] = True
        first = np.argpartition(-left, k - 1, axis=1)[:, :k]
        order = np.argsort(-np.take_along_axis(left, first, axis=1), axis=1)
        first = np.take_along_axis(first, order, axis=1)
        hits = np.take_along_axis(positive, first, axis=1)
        possible = np.minimum(positive.sum(axis=1), k)
        recall += np.sum(hits.sum(axis=1) / possible)
        ndcg += np.sum(hits @ discounts / best[possible - 1])
    return {"recall": float(recall / len(users)), "ndcg": float(ndcg / len(users))}


def _scorer(scores, shape):
    """Return a function from rows of users to new arrays of all movies' scores."""
    if isinstance(scores, keras.Model):
        users, movies = map(_vectors, (scores, scores), ("user", "movie"), shape)
        return lambda rows: users[rows] @ movies.T
    scores = np.asarray(scores)
    if scores.shape not in (shape, shape[1:]) or not np.isfinite(scores).all():
        raise ValueError(
            f"`scores` must be a model, or finite numbers of shape {shape} or "
            f"{shape[1:]}. Received: shape {scores.shape}, {scores}"
        )
    everyone = np.broadcast_to(scores, shape)
    return lambda rows: everyone[rows].astype("float64")


def _vectors(model, side, size):
    """Return the vectors of all users, or of all movies, from their tower."""
    try:
        vector = model.get_layer(f"{side}_vector").output
        tower = keras.Model(model.input[side], vector)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            "`scores` must be made by `memembed.models.two_tower_model` if it is a "
            f"model. Received: {model!r}"
        ) from error
    known = dict(input_dims(model)).get(side, size)
    if known < size:
        raise ValueError(
            f"`scores` must be a model of all {size} rows of {side!r} in `data`. "
            f"Received: a model of {known}"
        )
    vectors = ops.convert_to_numpy(tower(np.arange(size), training=False))
    if not np.isfinite(vectors).all():
        row, column = np.argwhere(~np.isfinite(vectors))[0]
        raise ValueError(
            f"`scores` must be a model of finite {side} vectors. "
            f"Received: {vectors[row, column]} in row {row}"
        )
    return vectors


def _where(examples, users):
    """Return the positions of some users' examples in their `(users, movies)` table."""
    row = np.searchsorted(users, examples.user).clip(max=len(users) - 1)
    of_them = users[row] == examples.user
    return row[of_them], examples.movie[of_them]
