"""What data sets, streams and features are called in a page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from bench.pages.words import count, listed, share

#: Title of a data set's folder, and what else a reader must know; other folders are their title.
DATA_SETS = {
    "ml-100k": ("MovieLens 100K", ""),
    "ml-latest-small": ("MovieLens latest small", ""),
    "movietweetings": ("MovieTweetings", ""),
    "ml-1m-users-1-2999": ("MovieLens 1M", "the first ratings of its file: users 1 to 2,999"),
}
_ORDERS = {"chronological": "time order"}
#: More names than these would bury the sentence around them; the tables have all.
FEW = 4


class Stream(NamedTuple):
    """A data set with a task, in an order."""

    data: str
    task: str
    order: str = "chronological"


def title(data: str) -> str:
    """Return what a data set is called.

    Examples
    --------
    >>> title("ml-100k"), title("mine")
    ('MovieLens 100K', 'mine')
    """
    return DATA_SETS.get(data, (data, ""))[0]


def row_name(stream: Stream, *, order: bool = False) -> str:
    """Return a stream's name in a table.

    Examples
    --------
    >>> row_name(Stream("ml-100k", "regression"), order=True)
    'MovieLens 100K, regression, time order'
    """
    words = [title(stream.data), stream.task]
    return ", ".join([*words, _ORDERS.get(stream.order, stream.order)] if order else words)


def prose_name(stream: Stream) -> str:
    """Return a stream's name in a sentence.

    Examples
    --------
    >>> prose_name(Stream("movietweetings", "regression"))
    "MovieTweetings' regression"
    """
    name = title(stream.data)
    return f"{name}'{'' if name.endswith('s') else 's'} {stream.task}"


def grouped(chosen: Sequence[Stream], every: Sequence[Stream]) -> list[str]:
    """Return streams in words, all tasks of a data set in one.

    Examples
    --------
    >>> every = [Stream("a", "x"), Stream("a", "y"), Stream("b", "x"), Stream("b", "y")]
    >>> grouped(every[:3], every)
    ['both tasks of a', "b's x"]
    """
    words = []
    for data in dict.fromkeys(stream.data for stream in chosen):
        own, whole = ([s for s in many if s.data == data] for many in (chosen, every))
        if len(own) == len(whole) > 1:
            words.append(f"{'both' if len(own) == 2 else f'all {count(len(own))}'} tasks of "
                         f"{title(data)}")  # fmt: skip
        else:
            words += [prose_name(stream) for stream in own]
    return words


def on_streams(chosen: Sequence[Stream], every: Sequence[Stream]) -> str:
    """Return on how many streams something holds, and on which where they are few.

    Examples
    --------
    >>> every = [Stream("a", "x"), Stream("a", "y"), Stream("b", "x")]
    >>> on_streams(every[:2], every), on_streams([], every)
    ('on two of three streams (both tasks of a)', 'on none of three streams')
    """
    said = f"on {share(chosen, every)} stream{'' if len(every) == 1 else 's'}"
    names = grouped(chosen, every)
    if 0 < len(names) <= FEW and len(chosen) < len(every):
        said += f" ({listed(names)})"
    return said


def plural(feature: str) -> str:
    """Return what ids of a feature are called.

    Examples
    --------
    >>> plural("user"), plural("item_id")
    ('users', 'items')
    """
    return f"{feature.removesuffix('_id')}s"
