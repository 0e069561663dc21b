"""Reading a data set: find its files, recognise their format, clean their rows, sort them."""

from __future__ import annotations

import os
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import polars as pl

from autoemb.data.clean import clean
from autoemb.data.dataset import Dataset
from autoemb.data.file import File, files_at, is_collection
from autoemb.data.head import read_head
from autoemb.data.jsonl import json_lines
from autoemb.data.layouts import double_colons, headless, netflix, netflix_files, separated, tabs
from autoemb.data.message import printable
from autoemb.data.notes import notes_of
from autoemb.data.parquet import parquet
from autoemb.data.table import Table, refuse
from autoemb.errors import UserError
from autoemb.schema import Label, Schema

_LAYOUTS = (json_lines, netflix, double_colons, tabs)
# polars panics, with an exception of its own, over about one in a hundred damaged Parquet files.
_READ_ERRORS = (
    OSError,
    EOFError,
    UnicodeError,
    zlib.error,
    zipfile.BadZipFile,
    NotImplementedError,  # a way of packing that Python's zipfile does not know
    pl.exceptions.PolarsError,
    pl.exceptions.PanicException,
)
_SCALES = (1.0, 5.0, 10.0, 100.0)
# Names that the publishers use: they only say where in a folder to look first.
_KNOWN_NAME = re.compile(
    r"u\.data|ratings\.dat|ratings\.csv(\.gz)?|combined_data_\d+\.txt|mv_\d+\.txt"
)


def load(
    path: str | os.PathLike[str],
    *,
    schema: Schema | None = None,
    columns: Sequence[str] | None = None,
    skip_bad_rows: bool = False,
) -> Dataset:
    r"""Read a file or folder of events, in whichever known format, sorted by time.

    The format is recognised by content: MovieLens 100K (``u.data``), 1M and 10M (``ratings.dat``),
    20M, 25M, 32M and latest (``ratings.csv``), MovieTweetings, both layouts of the Netflix Prize;
    Parquet; JSON lines; CSV with a comma, a semicolon or a tab between fields, with or without a
    header. Text may be compressed with gzip, and any of them be in a ZIP archive.

    Rows are sorted by timestamp; rows of the same second keep the order of the file. A row that
    occurs twice is two events and both are kept. Blank lines are no rows.

    Parameters
    ----------
    path : str or path
        The file, or the folder or ZIP archive that holds the data set.
    schema : Schema, optional
        What the columns are. By default what the format brings: those of
        :data:`autoemb.schema.RATINGS` (user_id, item_id, rating, timestamp), which a file of no
        known set must have, too.
    columns : sequence of str, optional
        The names of all columns of a text file without a header, in their order.
    skip_bad_rows : bool, default False
        Leave out the rows that are unusable, and count them in ``skipped_rows``, instead of
        refusing the file.

    Returns
    -------
    Dataset
        Ids are Int64 where all of a table's are integers and String otherwise: a single id that is
        none (``x7``, ``007``, digits past 64 bits) makes all of them text, and 007 is not 7. Only
        in the sets whose publishers number users and items (MovieLens without a header,
        MovieTweetings, Netflix) 007 is 7. Text in Parquet and JSON stays text. Negative integers
        are ids like others. Where the schema lets an id be missing, these events share one.
        Timestamps are whole seconds: fractions are cut off, and dates and datetimes without an
        offset are UTC. The scale of a rating is the schema's; else from 0 to the least of 1, 5, 10
        and 100 that no rating exceeds, and at least 5 for the formats whose scale is known.

    Raises
    ------
    UserError
        Where there is no such file, nothing in it is recognised, a folder holds several data sets,
        a column of the schema is not there, twice there, or of a type that cannot be it (lists for
        one id, text for numbers), or a row is unusable: a field missing or too many; an id missing
        where none may be; a label outside its kind, scale or classes (a rating without a scale:
        outside 0 to 100); a number that is none; an event id that repeats; a timestamp that is
        neither seconds nor an ISO 8601 date, or before 1970. The message names file, row (1-based,
        the line of a text file), column and reason.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from autoemb.data import load
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "ratings.dat")
    ...     _ = file.write_text("1::1193::5::978300760\n1::661::3::978302109\n2::661::4::97\n")
    ...     data = load(folder)
    >>> data.format, data.frame["user_id"].to_list(), data.schema.label.scale
    ('MovieLens 1M', [2, 1, 1], (0.0, 5.0))
    """
    if str(path) == "":
        raise UserError("the path of the data is empty; expected a file or a folder")
    source = Path(path)
    with _reading(source):
        table = _find(source, schema, _checked(columns))
    wanted = table.schema if schema is None else schema
    with _reading(table.path):
        frame, skipped = clean(table, wanted, skip_bad_rows)
    if (time := wanted.timestamp) is not None and not frame[time].is_sorted():
        frame = frame.lazy().sort(time, maintain_order=True).collect(engine="streaming")
    labels = frame[wanted.label.column]
    label = _with_scale(wanted.label, labels, table.scale)
    found = Dataset(
        name=printable(source.resolve().name or source),
        format=table.format if isinstance(table.format, str) else table.format(labels),
        schema=wanted.model_copy(update={"label": label}),
        frame=frame,
        skipped_rows=skipped,
        unused=tuple(name for name in table.columns if name not in table.pick(wanted).values()),
    )
    guessed = wanted.label.scale is None and table.scale == 1.0
    return replace(found, notes=notes_of(found, guessed))


def _with_scale(label: Label, labels: pl.Series, least: float) -> Label:
    """Return a label with its scale, that of a rating from 0 to as far as the ratings go."""
    if label.kind != "rating" or label.scale is not None:
        return label
    top = max(least, float(labels.max() or 0.0))  # type: ignore[arg-type]
    high = next(scale for scale in _SCALES if scale >= top)
    if label.positive_above is not None and label.positive_above >= high:
        raise UserError(
            f"positive_above is {label.positive_above:g}, and ratings are read on a scale of 0 to "
            f"{high:g}; expected less, or another scale"
        )
    return label.model_copy(update={"scale": (0.0, high)})


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Say in one line that `path` cannot be read, whoever finds out."""
    try:
        yield
    except _READ_ERRORS as error:
        said = getattr(error, "strerror", None) or f"{error}\n".splitlines()[0]
        raise refuse(path, f"cannot be read: {printable(said, 200)}") from None


def _checked(columns: Sequence[str] | None) -> tuple[str, ...]:
    names = tuple(columns or ())
    for name in names:
        if names.count(name) > 1 or not name:
            fault = "twice" if name else "empty"
            raise UserError(f"columns names '{printable(name)}' {fault}; expected different names")
    return names


def _find(path: Path, schema: Schema | None, columns: tuple[str, ...]) -> Table:
    """Return the one data set at `path`."""
    if not path.exists():
        raise refuse(path, "there is no such file or folder")
    if not is_collection(path):
        return _recognise(File(path), columns)
    files = files_at(path)
    known = [file for file in files if _KNOWN_NAME.fullmatch(file.path.name)]
    candidates = known or files
    if len(candidates) == 1:
        return _recognise(candidates[0], columns)
    tables = []
    for file in candidates:
        try:
            table = _recognise(file, columns)
            table.pick(table.schema if schema is None else schema)
            tables.append((file, table))
        except UserError:
            if known:
                raise
    return _only_one(path, tables, [file.path for file in files])


def _only_one(path: Path, tables: list[tuple[File, Table]], files: list[Path]) -> Table:
    if tables and all(table.format == "Netflix Prize" for _, table in tables):
        parts = sorted((file for file, _ in tables), key=lambda file: _natural(file.path))
        return netflix_files(path, parts)
    if len(tables) == 1:
        return tables[0][1]
    if tables:
        raise refuse(
            path,
            f"holds several data sets ({_listed([file.path for file, _ in tables])}); "
            "give the path of one",
        )
    found = f"it holds {_listed(files)}" if files else "it holds no files"
    raise refuse(path, f"holds no events in a known format; {found}")


def _recognise(file: File, columns: tuple[str, ...]) -> Table:
    """Return the data set in one file, or refuse it."""
    with _reading(file.path):
        head = read_head(file)
        table = parquet(head)
    if table is None and columns:
        return headless(head, columns)
    if table is None:
        table = next((found for layout in _LAYOUTS if (found := layout(head))), None)
    if table is None:
        return separated(head)
    if columns:
        raise refuse(file.path, "has names for its columns; columns is for text without a header")
    return table


def _listed(paths: list[Path], most: int = 5) -> str:
    shown = ", ".join(printable(path.name, 60) for path in paths[:most])
    return f"{shown} and {len(paths) - most} more" if len(paths) > most else shown


def _natural(path: Path) -> tuple[int, str]:
    """Order combined_data_10 behind combined_data_2."""
    digits = re.findall(r"\d+", path.name)
    return (int(digits[-1]) if digits else 0, path.name)
