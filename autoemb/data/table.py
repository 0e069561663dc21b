"""What a format hands over: the rows of a data set, still as they stand in its files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import polars as pl

from autoemb.data.message import printable
from autoemb.errors import UserError

COLUMNS = ("user_id", "item_id", "rating", "timestamp")


@dataclass(frozen=True)
class Table:
    """Rows not yet judged: text or whatever types the file declares.

    Parameters
    ----------
    format : str, or a function from the ratings to a str
        Name of the layout. A function where sets share a layout and only the ratings tell.
    path : Path
        The file, or the folder that holds the files.
    scan : function without arguments, to a polars.LazyFrame
        Opens the data: the four `COLUMNS`; ``row`` (1-based, the line of a text file); ``text``
        (the line, or null); ``problem`` (why the row as a whole is unusable, or null). Formats are
        recognised without it, so that looking through a folder of many files is quick.
    typed : bool
        Whether the columns' types are the file's own (Parquet) or everything is text.
    scale : float, default 1
        The least top that the rating scale of this format can have.
    locate : function of a row to (path, row in that file), optional
        Given where several files are read as one.
    """

    format: str | Callable[[pl.Series], str]
    path: Path
    scan: Callable[[], pl.LazyFrame]
    typed: bool
    scale: float = 1.0
    locate: Callable[[int], tuple[Path, int]] | None = None

    @cached_property
    def rows(self) -> pl.LazyFrame:
        """What `scan` gives."""
        return self.scan()

    def where(self, row: int) -> str:
        """Return the file and row to print for a value of the column ``row``."""
        path, row = self.locate(row) if self.locate else (self.path, row)
        return f"{printable(path, 300)}: row {row}"


def refuse(path: Path, reason: str) -> UserError:
    """Return the error that says, in one line, why a file or folder cannot be used."""
    return UserError(f"{printable(path, 300)}: {reason}")


def pick_columns(path: Path, found: list[str], columns: dict[str, str]) -> dict[str, str]:
    """Return the file's name for each of `COLUMNS`, or refuse the file where one is missing.

    Parameters
    ----------
    path : Path
        The file, for the message.
    found : list of str
        The names its header or schema has.
    columns : dict
        Our names to theirs, where they differ.
    """
    names = {ours: columns.get(ours, ours) for ours in COLUMNS}
    listed = printable(", ".join(found), 200)
    for ours, theirs in names.items():
        if found.count(theirs) != 1:
            count = "no column" if theirs not in found else "several columns"
            called = "" if ours == theirs else f" for {ours}"
            raise refuse(
                path,
                f"has {count} '{printable(theirs)}'{called}; its columns are: {listed} "
                f"(expected {', '.join(COLUMNS)}, or other names given in columns)",
            )
    return names
