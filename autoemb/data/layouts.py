"""Text layouts: MovieLens, MovieTweetings, Netflix Prize and CSV, each told by its first lines.

Each function returns a `Table` where the start of the file has its layout, and else None.
"""

from __future__ import annotations

import csv
import re
from bisect import bisect_right
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

import polars as pl

from autoemb.data.head import Head
from autoemb.data.message import printable
from autoemb.data.table import COLUMNS, Table, pick_columns, refuse
from autoemb.data.text import has_quotes, read_lines, split, split_quoted

_SAMPLE = 50  # first lines, of which one must have the layout: the others may be broken
_POSITIONS = {name: at for at, name in enumerate(COLUMNS)}
_MOVIELENS = dict(zip(COLUMNS, ("userId", "movieId", "rating", "timestamp"), strict=True))
_MOVIE_LINE = re.compile(r"\s*\d+:\s*")
_RATING_LINE = re.compile(r"\s*\d+,\d+,\d+-\d+-\d+\s*")


def tabs(head: Head) -> Table | None:
    """Recognise ``u.data`` of MovieLens 100K: user, item, rating, seconds between tabs."""
    return _without_header(head, "\t", "MovieLens 100K")


def double_colons(head: Head) -> Table | None:
    """Recognise ``ratings.dat`` of MovieLens 1M and 10M and of MovieTweetings."""

    def name(rating: pl.Series) -> str:
        if (rating > 5).any():
            return "MovieTweetings"
        return "MovieLens 10M" if (rating % 1 != 0).any() else "MovieLens 1M"

    return _without_header(head, "::", name)


def _without_header(
    head: Head, separator: str, format: str | Callable[[pl.Series], str]
) -> Table | None:
    sample = [[_is_number(field) for field in line.split(separator)] for _, line in head.lines]
    has_header = not any(sample[0])
    if has_header or [True] * len(COLUMNS) not in sample[:_SAMPLE]:
        return None

    def scan() -> pl.LazyFrame:
        return split(read_lines([head.path]), separator, len(COLUMNS), _POSITIONS)

    return Table(format, head.path, scan, typed=False, scale=5.0)


def netflix(head: Head) -> Table | None:
    """Recognise a file of the Netflix Prize: a line ``movie:``, then lines ``user,rating,date``."""
    lines = [line for _, line in head.lines[:_SAMPLE]]
    if not (_MOVIE_LINE.fullmatch(lines[0]) and any(map(_RATING_LINE.fullmatch, lines))):
        return None
    return netflix_files(head.path, [head.path])


def netflix_files(path: Path, parts: list[Path]) -> Table:
    """Return the interactions of all the `parts` of a Netflix Prize folder, in their order."""

    def scan() -> pl.LazyFrame:
        text = pl.col("text").str.strip_chars()
        is_movie = text.str.ends_with(":")
        movie = pl.when(is_movie).then(text.str.strip_suffix(":")).forward_fill()
        lines = read_lines(parts).with_columns(item_id=movie).filter(~is_movie)
        return split(lines, ",", 3, {"user_id": 0, "rating": 1, "timestamp": 2})

    def locate(row: int) -> tuple[Path, int]:
        ends = list(accumulate(_count_lines(part) for part in parts))
        at = bisect_right(ends, row - 1)
        return parts[at], row - (ends[at - 1] if at else 0)

    return Table("Netflix Prize", path, scan, typed=False, scale=5.0, locate=locate)


def _count_lines(path: Path) -> int:
    return int(read_lines([path]).select(pl.len()).collect(engine="streaming").item())


def separated(head: Head, columns: dict[str, str]) -> Table:
    """Read a file with a header, ``ratings.csv`` of MovieLens or another, or refuse it."""
    number, header = head.lines[0]
    separator = "\t" if "\t" in header else ","
    if separator not in header:
        raise refuse(
            head.path,
            f"is in no known format: its first line is '{printable(header)}' (expected MovieLens, "
            f"MovieTweetings, Netflix Prize, or CSV or Parquet with {', '.join(COLUMNS)})",
        )
    try:
        found = [name.strip() for name in next(csv.reader([header], delimiter=separator))]
    except csv.Error as error:
        raise refuse(head.path, f"has a first line that is no header ({error})") from None
    if all(_is_number(name) for name in found):
        raise refuse(
            head.path,
            "has no header in its first line and none of the layouts known without one "
            f"(expected the columns {', '.join(COLUMNS)})",
        )
    movielens = not columns and set(_MOVIELENS.values()) <= set(found)
    names = pick_columns(head.path, found, _MOVIELENS if movielens else columns)
    picks = {ours: found.index(theirs) for ours, theirs in names.items()}

    def scan() -> pl.LazyFrame:
        lines = read_lines([head.path]).filter(pl.col("row") > number)
        if has_quotes(lines):
            return split_quoted(head, number, separator, len(found), picks)
        return split(lines, separator, len(found), picks)

    if movielens:
        return Table("MovieLens ratings.csv", head.path, scan, typed=False, scale=5.0)
    return Table("CSV" if separator == "," else "TSV", head.path, scan, typed=False)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
