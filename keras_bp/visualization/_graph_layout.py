"""The layout of a graph in rows: what goes where, so that lines are short and cross rarely."""

import collections
import dataclasses

import numpy as np

GAP = 0.3  # inches, between the items of a row
SHORTCUT = 0.02  # the weight of a line past other boxes
_SWEEPS, _STARTS = 12, 6


@dataclasses.dataclass(eq=False)
class Item:
    """Something with a place: a box, or a line's place between the boxes of other ranks.

    Attributes:
        rank: integer, its row, 0 on top.
        left: float, how far it reaches to the left of the line through it.
        right: float, likewise.
        height: float.
        weight: float, how strongly it and its neighbours draw each other.
        half: float, half of a box's width.
        x: float, where the line through it is.
        top: float, its upper end.
        span: tuple of two floats, its row's upper and lower end.
        above: list of the items of the row above that it is joined with.
        below: likewise.
    """

    rank: int
    left: float = 0.06
    right: float = 0.06
    height: float = 0.0
    weight: float = 1.0
    half: float = 0.0
    x: float = 0.0
    top: float = 0.0
    span: tuple = ()
    above: list = dataclasses.field(default_factory=list)
    below: list = dataclasses.field(default_factory=list)


def ranks_of(names, edges):
    """Return name -> row: by the longest path, and what nothing feeds just above what it feeds.

    Args:
        names: list of strings, sorted so that edges go forward.
        edges: list of (source, target).
    """
    sources, targets = collections.defaultdict(list), collections.defaultdict(list)
    for source, target in edges:
        sources[target].append(source)
        targets[source].append(target)
    ranks = {}
    for name in names:
        ranks[name] = max((ranks[source] + 1 for source in sources[name]), default=0)
    for name in names:
        if not sources[name] and targets[name]:
            ranks[name] = min(ranks[target] for target in targets[name]) - 1
    return ranks


def place(items):
    """Order the items of each rank so that few lines cross, and give each its `x`."""
    ranks = [[] for _ in range(1 + max(item.rank for item in items))]
    for item in items:
        ranks[item.rank].append(item)
    random = np.random.default_rng(0)
    starts = [ranks, [rank[::-1] for rank in ranks]]
    starts += [[_shuffled(rank, random) for rank in ranks] for _ in range(_STARTS)]
    ranks = min((_fewest_crossings(start) for start in starts), key=_crossings)
    for rank in ranks:
        right = 0.0
        for item in rank:
            item.x = right + item.left
            right = item.x + item.right + GAP
    # The last one goes down, so that a chain hangs straight.
    for sweep in range(2 * _SWEEPS):
        for rank in ranks if sweep % 2 else ranks[::-1]:
            _straighten(rank, down=bool(sweep % 2))
    return ranks


def _shuffled(rank, random):
    return [rank[i] for i in random.permutation(len(rank))]


def _fewest_crossings(ranks):
    """Return the best order that sweeps down and up lead to: each item among its neighbours."""
    best, fewest, ranks = ranks, _crossings(ranks), [list(rank) for rank in ranks]
    for sweep in range(_SWEEPS):
        if not fewest:
            break
        down = sweep % 2 == 0
        for number in range(len(ranks))[:: 1 if down else -1]:
            beside = number - 1 if down else number + 1
            rows = ranks[beside] if 0 <= beside < len(ranks) else []
            index = {id(other): i for i, other in enumerate(rows)}
            centre = {
                id(item): _mean([index[id(o)] for o in _beside(item, down)], default=i)
                for i, item in enumerate(ranks[number])
            }
            ranks[number].sort(key=lambda item, centre=centre: centre[id(item)])
        crossings = _crossings(ranks)
        if crossings < fewest:
            best, fewest = [list(rank) for rank in ranks], crossings
    return best


def _beside(item, down):
    return item.above if down else item.below


def _mean(values, default):
    return sum(values) / len(values) if values else default


def _crossings(ranks):
    number = 0
    for rank in ranks[1:]:
        index = {id(other): i for item in rank for i, other in enumerate(ranks[item.rank - 1])}
        lines = [(index[id(other)], i) for i, item in enumerate(rank) for other in item.above]
        for i, (a, b) in enumerate(lines):
            number += sum((a - c) * (b - d) < 0 for c, d in lines[:i])
    return number


def _straighten(rank, down):
    """Move a rank's items towards their neighbours, in their order and without overlap.

    That is a least-squares fit under the order's constraints: neighbours that would overlap are
    pooled, and take their mean.
    """
    wanted = []
    for item in rank:
        beside = _beside(item, down)
        weights = [other.weight for other in beside]
        wanted.append(np.average([o.x for o in beside], weights=weights) if beside else None)
    offsets = np.zeros(len(rank))
    for i in range(1, len(rank)):
        offsets[i] = offsets[i - 1] + rank[i - 1].right + GAP + rank[i].left
    pools = []
    for item, goal, offset in zip(rank, wanted, offsets, strict=True):
        goal, weight = (item.x, SHORTCUT) if goal is None else (goal, item.weight)
        pools.append([goal - offset, weight, 1])
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            x, weight, number = pools.pop()
            last = pools[-1]
            last[0] = (last[0] * last[1] + x * weight) / (last[1] + weight)
            last[1:] = last[1] + weight, last[2] + number
    starts = np.repeat([pool[0] for pool in pools], [pool[2] for pool in pools])
    for item, x in zip(rank, starts + offsets, strict=True):
        item.x = float(x)
