"""The embedded default: a made-up stream of ratings with the shape of the problem."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from autoemb.data.dataset import Dataset
from autoemb.errors import UserError
from autoemb.schema import RATINGS, STARS

_Integers = NDArray[np.int64]
_Floats = NDArray[np.float64]
_Floats32 = NDArray[np.float32]

_START = 946_684_800  # 2000-01-01 UTC
_SITTING_EVENTS = 24  # mean; with the two gaps below, 500 events hold about 20 users
_EVENT_GAP = 25.0  # seconds between two ratings of one sitting, mean
_SITTING_GAP = 600.0  # seconds between the starts of two sittings, mean
_OLD_ITEMS = 0.4  # share of the items that are there from the start
_ZIPF = 0.9  # exponent of the items' popularity by rank
_FLOOR = 0.1  # popularity of an item that has gone out of fashion, as a share of its peak
_FASHION = 0.25  # mean time for an item to go out of fashion, as a share of the stream
_TASTES = 8  # groups of users who share most of their taste
_FACTORS = 6  # rank of users' taste times items' character
# Variance of a rating's parts. What a group of users likes is learned from few events of any of
# them; what one user likes only from many of hers, so only ids seen often profit from width.
_VARIANCE = {"user": 0.25, "item": 0.35, "taste": 0.35, "own taste": 0.25, "noise": 0.5}
_SHARES = (0.06, 0.13, 0.31, 0.32, 0.18)  # of the ratings 1..5: half of them are above 3.5


def synthetic(
    num_events: int = 100_000,
    seed: int = 0,
    *,
    num_users: int | None = None,
    num_items: int = 2_000,
) -> Dataset:
    """Make up a stream of ratings that only the arguments decide, byte for byte.

    Users come in sittings of some twenty ratings, so that 500 events in a row hold about 20 users.
    Users and items keep appearing until the end. Popularity follows Zipf's law, and every item's
    fades at its own pace. A rating is the sum of what its user and item are like on their own, of
    how the item suits the user's group and herself, and of noise, cut into stars 1 to 5.
    No user rates an item twice.

    Parameters
    ----------
    num_events : int, default 100,000
        Length E of the stream.
    seed : int, default 0
        Seed of the generator.
    num_users : int, optional
        About how many users appear; by default one for 40 events (2,500 at the default
        length), as few come back often and most come once.
    num_items : int, default 2,000
        Number of items that can appear.

    Returns
    -------
    Dataset
        The columns of :data:`autoemb.schema.RATINGS`: Int64 ids that are not consecutive; ratings
        1 to 5, of which half are above 3.5.

    Raises
    ------
    UserError
        If an argument is not positive (`seed`: negative).

    Examples
    --------
    >>> from autoemb.data import synthetic
    >>> stream = synthetic(1_000, seed=3)
    >>> len(stream), stream.schema.label.scale, stream.frame["timestamp"].is_sorted()
    (1000, (0.0, 5.0), True)
    """
    users = max(1, num_events // 40) if num_users is None else num_users
    least = {"num_events": 1, "num_users": 1, "num_items": 1, "seed": 0}
    given = {
        "num_events": num_events,
        "num_users": users,
        "num_items": num_items,
        "seed": seed,
    }
    for name, value in given.items():
        if value < least[name]:
            raise UserError(f"{name} is {value}; expected {least[name]} or more")
    rng = np.random.default_rng(seed)
    user, item, length = _sittings(rng, num_events, users, num_items)
    time = _START + _seconds(rng, length)
    rating = _ratings(rng, user, item)
    order = np.argsort(time, kind="stable")[:num_events]
    frame = pl.DataFrame(
        {
            "user_id": _raw_ids(rng, user)[order],
            "item_id": _raw_ids(rng, item)[order],
            "rating": rating[order],
            "timestamp": time[order].astype(np.int64),
        }
    )
    schema = RATINGS.model_copy(update={"label": STARS})
    return Dataset("synthetic", "synthetic", schema, frame.select(schema.columns))


def _sittings(
    rng: np.random.Generator, num_events: int, num_users: int, num_items: int
) -> tuple[_Integers, _Integers, _Integers]:
    """Return user and item of each event, sitting after sitting, and every sitting's length."""
    newcomers = min(1.0, num_users * _SITTING_EVENTS / num_events)
    peak = rng.permutation(np.arange(1, num_items + 1) ** -_ZIPF)
    new = num_items - max(1, round(_OLD_ITEMS * num_items))
    birth = np.sort(np.append(rng.uniform(-0.5, 0, num_items - new), rng.uniform(0, 1, new)))
    life = rng.exponential(_FASHION, num_items)

    users: list[int] = []  # of each sitting
    items: list[_Integers] = []  # of each sitting
    seen: list[list[int]] = []  # items of each user
    total = 0
    while total < num_events:
        now = total / num_events
        there = int(np.searchsorted(birth, now, side="right"))
        # Whoever came often comes often: a past sitting, not a user, is drawn.
        user = users[rng.integers(len(users))] if users else 0
        if not users or rng.random() < newcomers or len(seen[user]) >= there:
            user = len(seen)
            seen.append([])
        faded = np.exp((birth[:there] - now) / life[:there])
        rate = peak[:there] * (_FLOOR + (1 - _FLOOR) * faded)
        # The smallest of exponential clocks: a draw without repetition, in proportion to the rates.
        clock = rng.standard_exponential(there) / rate
        clock[seen[user]] = np.inf
        size = min(int(rng.geometric(1 / _SITTING_EVENTS)), there - len(seen[user]))
        chosen = np.argsort(clock)[:size]
        users.append(user)
        items.append(chosen)
        seen[user].extend(chosen.tolist())
        total += size
    length = np.array([len(chosen) for chosen in items])
    return np.repeat(np.array(users), length), np.concatenate(items), length


def _seconds(rng: np.random.Generator, length: _Integers) -> _Floats:
    """Return when each event happens, in seconds from the start of the stream."""
    start = np.cumsum(rng.exponential(_SITTING_GAP, len(length)))
    elapsed = np.cumsum(rng.exponential(_EVENT_GAP, int(length.sum())))
    first = elapsed[np.cumsum(length) - length]
    return np.repeat(start - first, length) + elapsed


def _ratings(rng: np.random.Generator, user: _Integers, item: _Integers) -> _Floats32:
    """Return a rating of 1 to 5 for each event."""
    num_users, num_items = int(user.max()) + 1, int(item.max()) + 1
    deviation = {part: variance**0.5 for part, variance in _VARIANCE.items()}
    character = rng.normal(size=(num_items, _FACTORS)) / _FACTORS**0.5
    shared = rng.normal(size=(_TASTES, _FACTORS))[rng.integers(_TASTES, size=num_users)]
    own = rng.normal(size=(num_users, _FACTORS))
    taste = deviation["taste"] * shared + deviation["own taste"] * own
    score = (
        rng.normal(0, deviation["user"], num_users)[user]
        + rng.normal(0, deviation["item"], num_items)[item]
        + np.einsum("ef,ef->e", taste[user], character[item])
        + rng.normal(0, deviation["noise"], len(user))
    )
    cuts = np.quantile(score, np.cumsum(_SHARES)[:-1])
    rating: _Floats32 = (1 + np.searchsorted(cuts, score, side="right")).astype(np.float32)
    return rating


def _raw_ids(rng: np.random.Generator, index: _Integers) -> _Integers:
    """Return ids in place of indices: what takes one for a row number should fail."""
    return (rng.permutation(10 * (int(index.max()) + 1)) + 1)[index]
