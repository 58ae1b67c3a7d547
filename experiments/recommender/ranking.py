"""Recall and NDCG of the first items that a model ranks, over all items of the catalogue."""

import numpy as np
import tensorflow as tf

_CHUNK = 100  # users whose scores are in memory at a time


def rank_items(users, items, bias, pairs, seen, first=20):
    """Return how well scores rank the items that users took among all that they had not taken.

        recall@k = hits among the first k / min(k, items wanted)
        NDCG@k = sum over the hits of 1/log2(1 + place) / its largest possible value

    both averaged over the users who are in `pairs`.

    Args:
        users: array (users, r).
        items: array (items, r).
        bias: array (items,): the score is `users @ items.T + bias`.
        pairs: integer array (n, 2), users and items that are wanted.
        seen: integer array (m, 2), users and items that are not ranked: taken before.
        first: int, k.

    Returns:
        A dictionary with recall and ndcg, floats, and hit, a boolean array (n,): whether each
        wanted item was among the first.
    """
    bias, items = tf.constant(bias, tf.float32), tf.constant(items, tf.float32)
    hit, places = np.zeros(len(pairs), bool), np.zeros(len(pairs), int)
    order, starts = _by_user(pairs, len(users))
    seen_order, seen_starts = _by_user(seen, len(users))
    there = np.flatnonzero(np.diff(starts))
    for start in range(0, len(there), _CHUNK):
        chunk = there[start : start + _CHUNK]
        known = [seen[seen_order[seen_starts[u] : seen_starts[u + 1]], 1] for u in chunk]
        rows = np.repeat(np.arange(len(chunk)), [len(k) for k in known])
        scores = tf.matmul(users[chunk].astype("float32"), items, transpose_b=True) + bias
        scores = tf.tensor_scatter_nd_update(
            scores, np.stack([rows, np.concatenate(known)], 1), np.full(len(rows), -np.inf, "f")
        )
        top = tf.math.top_k(scores, first).indices.numpy()
        for user, best in zip(chunk, top, strict=True):
            own = order[starts[user] : starts[user + 1]]
            found = pairs[own, 1][:, None] == best
            hit[own], places[own] = found.any(axis=1), found.argmax(axis=1)
    gain = np.bincount(pairs[:, 0], hit / np.log2(places + 2), len(users))[there]
    wanted = np.minimum(np.diff(starts)[there], first)
    largest = np.cumsum(1 / np.log2(np.arange(first) + 2))[wanted - 1]
    hits = np.bincount(pairs[:, 0], hit, len(users))[there]
    return {"recall": np.mean(hits / wanted), "ndcg": np.mean(gain / largest), "hit": hit}


def _by_user(pairs, users):
    """Return the order that sorts pairs by user, and where each user's begin in it."""
    order = np.argsort(pairs[:, 0], kind="stable")
    return order, np.concatenate([[0], np.cumsum(np.bincount(pairs[:, 0], minlength=users))])
