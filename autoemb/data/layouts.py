"""Text layouts: MovieLens, MovieTweetings, Netflix Prize and CSV, each told by its first lines.

Each function returns a `Table` where the start of the file has its layout, and else None.
"""

from __future__ import annotations

import csv
import re
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path

import polars as pl

from autoemb.data.file import File
from autoemb.data.head import Head
from autoemb.data.message import printable
from autoemb.data.table import COLUMNS, Table, refuse
from autoemb.data.text import has_quotes, read_lines, split, split_quoted

_SAMPLE = 50  # first lines, of which one must have the layout: the others may be broken
_MOVIELENS = dict(zip(COLUMNS, ("userId", "movieId", "rating", "timestamp"), strict=True))
_MOVIE_LINE = re.compile(r"\s*\d+:\s*")
_RATING_LINE = re.compile(r"\s*\d+,\d+,\d+-\d+-\d+\s*")
_NAMES = {",": "CSV", "\t": "TSV"}


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

    def scan(names: Mapping[str, str]) -> pl.LazyFrame:
        lines = read_lines([head.file])
        return split(lines, separator, len(COLUMNS), _positions(COLUMNS, names))

    path = head.file.path
    return Table(format, path, COLUMNS, scan, typed=False, integers=True, scale=5.0)


def netflix(head: Head) -> Table | None:
    """Recognise a file of the Netflix Prize: a line ``movie:``, then lines ``user,rating,date``."""
    lines = [line for _, line in head.lines[:_SAMPLE]]
    if not (_MOVIE_LINE.fullmatch(lines[0]) and any(map(_RATING_LINE.fullmatch, lines))):
        return None
    return netflix_files(head.file.path, [head.file])


def netflix_files(path: Path, parts: list[File]) -> Table:
    """Return the events of all the `parts` of a Netflix Prize folder, in their order."""
    fields = ("user_id", "rating", "timestamp")  # the item is in a line before

    def scan(names: Mapping[str, str]) -> pl.LazyFrame:
        text = pl.col("text").str.strip_chars()
        is_movie = text.str.ends_with(":")
        movie = pl.when(is_movie).then(text.str.strip_suffix(":")).forward_fill()
        items = {ours: movie for ours, theirs in names.items() if theirs == "item_id"}
        lines = read_lines(parts).with_columns(**items).filter(~is_movie)
        others = {ours: theirs for ours, theirs in names.items() if theirs in fields}
        return split(lines, ",", len(fields), _positions(fields, others))

    def locate(row: int) -> tuple[Path, int]:
        ends = list(accumulate(_count_lines(part) for part in parts))
        at = bisect_right(ends, row - 1)
        return parts[at].path, row - (ends[at - 1] if at else 0)

    return Table(
        "Netflix Prize", path, COLUMNS, scan, typed=False, integers=True, scale=5.0, locate=locate
    )


def _count_lines(part: File) -> int:
    return int(read_lines([part]).select(pl.len()).collect(engine="streaming").item())


def separated(head: Head) -> Table:
    """Read a file with a header, ``ratings.csv`` of MovieLens or another, or refuse it."""
    number, header = head.lines[0]
    path = head.file.path
    separator = _separator(header)
    if separator is None:
        raise refuse(
            path,
            f"is in no known format: its first line is '{printable(header)}' (expected MovieLens, "
            "MovieTweetings, Netflix Prize, or CSV, JSON lines or Parquet with "
            f"{', '.join(COLUMNS)} or the columns of a schema)",
        )
    found = _fields(path, header, separator)
    if all(_is_number(name) for name in found):
        raise refuse(
            path,
            "has no header in its first line and none of the layouts known without one "
            f"(expected the columns {', '.join(COLUMNS)}; --columns NAME,NAME,... names those of "
            "a file without a header)",
        )
    movielens = set(_MOVIELENS.values()) <= set(found)
    return Table(
        "MovieLens ratings.csv" if movielens else _NAMES.get(separator, "CSV"),
        path,
        tuple(found),
        _scanner(head, number, separator, found),
        typed=False,
        aliases=_MOVIELENS if movielens else {},
        scale=5.0 if movielens else 1.0,
    )


def headless(head: Head, columns: Sequence[str]) -> Table:
    """Read a file whose columns are named by the caller, in their order."""
    number, line = head.lines[0]
    path = head.file.path
    widths = {separator: len(_fields(path, line, separator)) for separator in "\t;,|"}
    widths["::"] = len(line.split("::"))
    fitting = [separator for separator, width in widths.items() if width == len(columns)]
    if not fitting or len(columns) < 2:
        raise refuse(
            path,
            f"row {number}: has {max(widths.values())} fields and columns names {len(columns)}; "
            "expected a name for each field, at least two",
        )
    separator = fitting[0]
    if {name.strip().strip('"') for name in line.split(separator)} == set(columns):
        raise refuse(path, f"row {number}: is a header, and columns is for files without one")
    scan = _scanner(head, 0, separator, columns)
    return Table(_NAMES.get(separator, "CSV"), path, tuple(columns), scan, typed=False)


def _scanner(
    head: Head, header_line: int, separator: str, columns: Sequence[str]
) -> Callable[[Mapping[str, str]], pl.LazyFrame]:
    def scan(names: Mapping[str, str]) -> pl.LazyFrame:
        picks = _positions(columns, names)
        lines = read_lines([head.file]).filter(pl.col("row") > header_line)
        if len(separator) == 1 and has_quotes(lines):
            return split_quoted(head.file, header_line, separator, len(columns), picks)
        return split(lines, separator, len(columns), picks)

    return scan


def _positions(columns: Sequence[str], names: Mapping[str, str]) -> dict[str, int]:
    return {ours: columns.index(theirs) for ours, theirs in names.items()}


def _separator(header: str) -> str | None:
    """Return what is between the names of a header: a tab, or what is there more often."""
    if "\t" in header:
        return "\t"
    bare = re.sub(r'"[^"]*"', "", header)
    most = max(",;", key=bare.count)
    return most if most in bare else None


def _fields(path: Path, line: str, separator: str) -> list[str]:
    try:
        return [name.strip() for name in next(csv.reader([line], delimiter=separator))]
    except csv.Error as error:
        raise refuse(path, f"has a first line that is no header ({error})") from None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
