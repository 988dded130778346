"""Exact Shapley values, what absent features are worth, and how well a ranking was kept."""

import math

import numpy as np
from sklearn.cluster import KMeans

BLOCK_ANSWERS = 200_000  # of the model, at once
MOST_CLUSTERED = 20_000


def shapley(answer, rows, background, weights):
    """Exact Shapley values (n, features, k) of `answer`, and its expected value (k,).

    `answer` maps rows (m, features) to (m, k). A coalition is worth the mean answer when the features
    outside it are those of the background rows (b, features) with their weights (b,). The values of a
    row add up to its answer less the expected value.
    """
    count = rows.shape[1]
    inside = (np.arange(2**count)[:, None] >> np.arange(count)) & 1 == 1
    size = inside.sum(axis=1)
    order = math.factorial(count)
    joining = [math.factorial(s) * math.factorial(count - s - 1) / order for s in range(count)]
    # The share of each coalition in each feature's value: for it with the feature in, against without.
    shares = np.where(
        inside,
        np.take(joining + [0.0], size - 1)[:, None],
        -np.take(joining + [0.0], size)[:, None],
    )
    block = max(1, BLOCK_ANSWERS // (len(inside) * len(background)))
    values = []
    for start in range(0, len(rows), block):
        some = rows[start : start + block]
        asked = np.where(inside[None, :, None, :], some[:, None, None, :], background[None, None])
        found = answer(asked.reshape(-1, count)).reshape(
            len(some), len(inside), len(background), -1
        )
        worth = np.einsum("rcbk,b->rck", found, weights)
        values.append(np.einsum("rck,cf->rfk", worth, shares))
    return np.concatenate(values), worth[0, 0]


def clusters(features, count, seed):
    """Centres of clusters of the rows, features by their spread, and the share of each."""
    if count == 1:
        return features.mean(axis=0, keepdims=True), np.ones(1)
    random = np.random.RandomState(seed)
    rows = features[random.permutation(len(features))[:MOST_CLUSTERED]]
    spread = rows.std(axis=0)
    scaled = rows / np.where(spread > 0, spread, 1)
    count = min(count, len(np.unique(scaled, axis=0)))
    found = KMeans(count, n_init=3, random_state=seed).fit_predict(scaled)
    centres = np.array([rows[found == place].mean(axis=0) for place in range(count)])
    return centres, np.bincount(found, minlength=count) / len(found)


def ndcg(before, now):
    """How well the ranking of features by their values now keeps what mattered before, 1 at best.

    Both are dicts by feature; values count by their size.
    """
    gain = {name: abs(value) for name, value in before.items()}

    def dcg(ranked):
        return sum(gain[name] / math.log2(place + 2) for place, name in enumerate(ranked))

    best = dcg(sorted(gain, key=lambda name: -gain[name]))
    return dcg(sorted(gain, key=lambda name: -abs(now[name]))) / best if best else 1.0
