"""Who has taken which item: synthetic interactions whose law is known, or those of a file."""

import csv
import hashlib
import typing

import numpy as np

COLUMNS = ("user",), ("item", "movie")  # how their names begin, in capitals or not


class Interactions(typing.NamedTuple):
    """Pairs of a user and an item that they took, in three parts.

    Attributes:
        users: int, the number of users.
        items: int, the number of items.
        train: int32 array (n, 2).
        validation: int32 array likewise, to choose rates by.
        test: int32 array likewise.
        truth: the score of an item for a user, up to a constant for each user, as three arrays:
            users (users, r), items (items, r) and bias (items,); `None` if it is unknown.
    """

    users: int
    items: int
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    truth: tuple | None = None

    def counts(self):
        """Return how often each item is in `train`."""
        return np.bincount(self.train[:, 1], minlength=self.items)


def synthetic(users, items, rank, strength, each, seed):
    """Return synthetic `Interactions`: a score of low rank times Zipf's popularity.

        P(the next item of u is i) ~ exp(<p_u, q_i>) / rank_i    for an i that he has not taken

    Args:
        users: number of users.
        items: number of items, in a random order of popularity.
        rank: length of the factors p_u and q_i, which are normally distributed.
        strength: standard deviation of <p_u, q_i> over users and items.
        each: number of items that each user takes.
        seed: int.
    """
    rng = np.random.default_rng(seed)
    of_users = rng.normal(size=(users, rank)).astype("float32")
    of_items = rng.normal(size=(items, rank)).astype("float32")
    of_users *= strength / np.sqrt(rank)
    popularity = -np.log(1.0 + rng.permutation(items)).astype("float32")
    taken = np.stack([draw(of_items @ vector + popularity, each, rng) for vector in of_users])
    pairs = np.stack([np.repeat(np.arange(users), each), taken.ravel()], axis=1)
    return Interactions(users, items, *split(pairs, rng), (of_users, of_items, popularity))


def popular(items, users=5000, pairs=200_000):
    """Return `Interactions` by Zipf's law alone, without a test, to time steps with."""
    rng = np.random.default_rng(0)
    law = np.cumsum(1.0 / np.arange(1, items + 1))
    taken = rng.permutation(items)[np.searchsorted(law, law[-1] * rng.random(pairs))]
    train = np.stack([rng.integers(users, size=pairs), taken], axis=1).astype("int32")
    return Interactions(users, items, train, train[:0], train[:0])


def draw(scores, number, rng):
    """Return so many different items, each drawn by the softmax of scores over those that remain.

    These are the first arrivals of a race in which item i arrives after a time that is
    exponentially distributed with the rate exp(scores_i): the Gumbel-top-k trick. They come in
    this order.
    """
    times = rng.standard_exponential(len(scores), dtype="float32") * np.exp(scores.min() - scores)
    # The last of the first arrivals among some items comes no earlier than that among all.
    some = times[:: max(1, len(times) // (8 * number))]
    early = np.flatnonzero(times <= np.partition(some, number - 1)[number - 1])
    return early[np.argsort(times[early])[:number]]


def split(pairs, rng, part=0.1, fewest=5):
    """Return train, validation and test pairs: a tenth of each user's for either of the last two.

    Args:
        pairs: integer array (n, 2) of different pairs.
        rng: `numpy.random.Generator`.
        part: share of a user's pairs that validation and test get each, rounded down.
        fewest: number of pairs below which a user is in `train` only.
    """
    pairs = pairs[rng.permutation(len(pairs))]
    pairs = pairs[np.argsort(pairs[:, 0], kind="stable")].astype(np.int32)
    counts = np.bincount(pairs[:, 0])
    place = np.arange(len(pairs)) - np.repeat(np.cumsum(counts) - counts, counts)
    held_out = np.where(counts < fewest, 0, np.maximum(1, part * counts).astype(int))
    held_out = np.repeat(held_out, counts)
    test, validation = place < held_out, (place >= held_out) & (place < 2 * held_out)
    return pairs[~test & ~validation], pairs[validation], pairs[test]


def read(path, seed=0):
    """Return the `Interactions` of a CSV file, in UTF-8, with a column of users and one of items.

    These are the first columns whose names begin with one of `COLUMNS`; others are not read. A pair
    that is repeated counts once, and blank lines do not count.

    Args:
        path: `pathlib.Path` of the file.
        seed: int, of the split.
    """
    if not path.is_file():
        raise SystemExit(f"--ratings must be a CSV file. Received: {path}, which is no file")
    try:
        header, pairs, bad = _rows(path)
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise SystemExit(
            f"{path} must be a CSV file in UTF-8. Received: the byte 0x{byte:02x} where UTF-8 has "
            "none: another encoding, or no text"
        ) from error
    except csv.Error as error:
        raise SystemExit(f"{path} must be a CSV file. Received: {error}") from error
    if bad:
        raise SystemExit(
            f"{path} must have {len(header)} columns in each row, as in its header, and a user and "
            f"an item. Received: {len(bad)} other rows, the first in {bad[0]}"
        )
    if len(pairs) < 100:
        raise SystemExit(f"{path} must hold 100 pairs or more. Received: {len(pairs)}")
    names, ids = zip(
        *[np.unique(column, return_inverse=True) for column in np.array(pairs).T], strict=True
    )
    pairs = np.unique(np.stack(ids, axis=1), axis=0)
    parts = split(pairs, np.random.default_rng(seed))
    if not len(parts[2]):
        raise SystemExit(f"{path} must hold users with 5 items or more. Received: none")
    return Interactions(*map(len, names), *parts)


def source(settings):
    """Return which data a dictionary of settings names, as a dictionary."""
    return {key: settings[key] for key in ("data", "synthetic", "sha256") if key in settings}


def digest(path):
    """Return what a file's bytes are known by in the records: the first places of their SHA-256."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def _rows(path):
    """Return the header of a CSV file, its pairs of user and item, and the rows without one."""
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = csv.reader(file)
        header = next(rows, [])
        if len(header) == 1:
            raise SystemExit(f"{path} must have commas between columns. Received: {header[0]!r}")
        places = [_column(path, header, names) for names in COLUMNS]
        pairs, bad = [], []
        for row in filter(None, rows):
            pair = [row[place] for place in places if place < len(row)]
            if len(row) == len(header) and all(pair):
                pairs.append(pair)
            else:
                bad.append(f"line {rows.line_num}: {row}")
    return header, pairs, bad


def _column(path, header, beginnings):
    for place, name in enumerate(header):
        if name.strip().lower().startswith(beginnings):
            return place
    names = [name + end for name in beginnings for end in ("", "_id", "Id")]
    raise SystemExit(
        f"{path} must begin with a header that has a column {', '.join(names[:-1])} or "
        f"{names[-1]}. Received: {header}"
    )
