"""What a format hands over: the rows of a data set, still as they stand in its files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from autoemb.data.message import printable
from autoemb.errors import UserError
from autoemb.schema import RATINGS, Schema

#: The columns of a rating set, in the order in which formats without a header have them.
COLUMNS = ("user_id", "item_id", "rating", "timestamp")


@dataclass(frozen=True)
class Table:
    """Rows not yet judged: text or whatever types the file declares.

    Parameters
    ----------
    format : str, or a function from the labels to a str
        Name of the layout. A function where sets share a layout and only the ratings tell.
    path : Path
        The file, or the folder that holds the files.
    columns : tuple of str
        What the file calls its columns, in its order.
    scan : function of a mapping of str to str, to a polars.LazyFrame
        Opens the data. The mapping gives the name that a column is to have and its name in
        ``columns``. Besides these, the frame has ``row`` (1-based, the line of a text file);
        ``text`` (the line, or null); ``problem`` (why the row as a whole is unusable, or null).
        Formats are recognised without it, so that looking through a folder of many files is quick.
    typed : bool
        Whether the columns' types are the file's own or everything is text.
    integers : bool, default False
        Whether the publisher's ids are integers: 007 is then 7, and other text a broken row.
    aliases : mapping of str to str
        Our name of a column -> the file's.
    scale : float, default 1
        The least top that the rating scale of this format can have.
    locate : function of a row to (path, row in that file), optional
        Given where several files are read as one.
    schema : Schema, default RATINGS
        What the columns are where nobody says so.
    """

    format: str | Callable[[pl.Series], str]
    path: Path
    columns: tuple[str, ...]
    scan: Callable[[Mapping[str, str]], pl.LazyFrame]
    typed: bool
    integers: bool = False
    aliases: Mapping[str, str] = field(default_factory=dict)
    scale: float = 1.0
    locate: Callable[[int], tuple[Path, int]] | None = None
    schema: Schema = RATINGS

    def where(self, row: int) -> str:
        """Return the file and row to print for a value of the column ``row``."""
        path, row = self.locate(row) if self.locate else (self.path, row)
        return f"{printable(path, 300)}: row {row}"

    def pick(self, schema: Schema) -> dict[str, str]:
        """Return the file's name of each column of a schema.

        Raises
        ------
        UserError
            Where the file has no such column, or several.
        """
        picked = {}
        for ours in schema.columns:
            theirs = ours if ours in self.columns else self.aliases.get(ours, ours)
            if self.columns.count(theirs) != 1:
                count = "no column" if theirs not in self.columns else "several columns"
                ask = (
                    f"{', '.join(COLUMNS)}, or others named by a schema"
                    if schema.columns == RATINGS.columns
                    else "the columns that the schema names"
                )
                raise refuse(
                    self.path,
                    f"has {count} '{printable(theirs)}'; its columns are: "
                    f"{printable(', '.join(self.columns), 200)} (expected {ask}{self._hint()})",
                )
            picked[ours] = theirs
        return picked

    def _hint(self) -> str:
        """Say what to do where the names of columns look like the first row of the data."""
        if self.typed or not any(any(c.isdigit() for c in name) for name in self.columns):
            return ""
        return "; --columns NAME,NAME,... names those of a file without a header"


def refuse(path: Path, reason: str) -> UserError:
    """Return the error that says, in one line, why a file or folder cannot be used."""
    return UserError(f"{printable(path, 300)}: {reason}")
