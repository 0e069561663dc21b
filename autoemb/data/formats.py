"""Reading a data set: find its files, recognise their format, clean their rows, sort them."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import polars as pl

from autoemb.data.clean import clean
from autoemb.data.head import read_head
from autoemb.data.interactions import Interactions
from autoemb.data.layouts import double_colons, netflix, netflix_files, separated, tabs
from autoemb.data.message import printable
from autoemb.data.parquet import parquet
from autoemb.data.table import COLUMNS, Table, refuse
from autoemb.errors import UserError

_WITHOUT_HEADER = (netflix, double_colons, tabs)
# polars panics, with an exception of its own, over about one in a hundred damaged Parquet files.
_READ_ERRORS = (
    OSError,
    EOFError,
    UnicodeError,
    zlib.error,
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
    columns: Mapping[str, str] | None = None,
    skip_bad_rows: bool = False,
) -> Interactions:
    r"""Read a file or folder of ratings, in whichever known format, sorted by time.

    The format is recognised by content: MovieLens 100K (``u.data``), 1M and 10M (``ratings.dat``),
    20M, 25M, 32M and latest (``ratings.csv``), MovieTweetings, both layouts of the Netflix Prize,
    and CSV, TSV or Parquet with the columns user_id, item_id, rating and timestamp.

    Rows are sorted by timestamp; rows of the same second keep the order of the file. A row that
    occurs twice is two events and both are kept. Blank lines are no rows.

    Parameters
    ----------
    path : str or path
        The file, or the folder that holds the data set.
    columns : mapping of str to str, optional
        What a CSV or Parquet file calls our columns, where it differs: ``{"user_id": "uid"}``.
    skip_bad_rows : bool, default False
        Leave out the rows that are unusable, and count them in ``skipped_rows``, instead of
        refusing the file.

    Returns
    -------
    Interactions
        Ids are Int64 where the file's are integers and String otherwise. Timestamps are whole
        seconds: fractions are cut off, and dates and datetimes without an offset are UTC.
        ``max_rating`` is the least of 1, 5, 10 and 100 that no rating exceeds, and at least 5 for
        the formats whose scale is known.

    Raises
    ------
    UserError
        Where there is no such file, nothing in it is recognised, a folder holds several data sets,
        or a row is unusable: a field missing or too many; an id that is negative, past int64 or, in
        a column of integers, no integer; a rating that is not between 0 and 100; a timestamp that
        is neither seconds nor an ISO 8601 date, or before 1970. The message names file, row
        (1-based, the line of a text file) and reason.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from autoemb.data import load
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "ratings.dat")
    ...     _ = file.write_text("1::1193::5::978300760\n1::661::3::978302109\n2::661::4::97\n")
    ...     stream = load(folder)
    >>> stream.format, stream.user.to_list(), stream.rating.to_list(), stream.max_rating
    ('MovieLens 1M', [2, 1, 1], [4.0, 5.0, 3.0], 5.0)
    """
    names = _checked_columns(columns)
    if str(path) == "":
        raise UserError("the path of the data is empty; expected a file or a folder")
    source = Path(path)
    with _reading(source):
        table = _find(source, names)
    with _reading(table.path):
        frame, skipped = clean(table, skip_bad_rows)
    frame = frame.lazy().sort("timestamp", maintain_order=True).collect(engine="streaming")
    rating = frame["rating"]
    top = max(table.scale, float(rating.max() or 0.0))  # type: ignore[arg-type]
    return Interactions(
        name=printable(source.resolve().name or source),
        user=frame["user_id"].alias("user"),
        item=frame["item_id"].alias("item"),
        rating=rating,
        timestamp=frame["timestamp"],
        max_rating=next(scale for scale in _SCALES if scale >= top),
        format=table.format if isinstance(table.format, str) else table.format(rating),
        skipped_rows=skipped,
    )


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Say in one line that `path` cannot be read, whoever finds out."""
    try:
        yield
    except _READ_ERRORS as error:
        said = getattr(error, "strerror", None) or f"{error}\n".splitlines()[0]
        raise refuse(path, f"cannot be read: {printable(said, 200)}") from None


def _checked_columns(columns: Mapping[str, str] | None) -> dict[str, str]:
    names = dict(columns or {})
    for ours in names:
        if ours not in COLUMNS:
            raise UserError(
                f"columns renames '{printable(ours)}'; expected some of {', '.join(COLUMNS)}"
            )
    return names


def _find(path: Path, columns: dict[str, str]) -> Table:
    """Return the one data set at `path`."""
    if not path.exists():
        raise refuse(path, "there is no such file or folder")
    if not path.is_dir():
        return _recognise(path, columns)
    files = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    if (path / "training_set").is_dir():
        files += sorted((path / "training_set").iterdir())
    files = [file for file in files if file.is_file()]
    known = [file for file in files if _KNOWN_NAME.fullmatch(file.name)]
    candidates = known or files
    if len(candidates) == 1:
        return _recognise(candidates[0], columns)
    tables = []
    for file in candidates:
        try:
            tables.append(_recognise(file, columns))
        except UserError:
            if known:
                raise
    return _only_one(path, tables, files)


def _only_one(path: Path, tables: list[Table], files: list[Path]) -> Table:
    if tables and all(table.format == "Netflix Prize" for table in tables):
        return netflix_files(path, sorted((table.path for table in tables), key=_natural))
    if len(tables) == 1:
        return tables[0]
    if tables:
        raise refuse(
            path,
            f"holds several data sets ({_listed([table.path for table in tables])}); "
            "give the path of one",
        )
    found = f"it holds {_listed(files)}" if files else "it holds no files"
    raise refuse(path, f"holds no ratings in a known format; {found}")


def _recognise(path: Path, columns: dict[str, str]) -> Table:
    """Return the data set in one file, or refuse it."""
    with _reading(path):
        head = read_head(path)
        table = parquet(head, columns)
    if table:
        return table
    for layout in _WITHOUT_HEADER:
        table = layout(head)
        if table and columns:
            raise refuse(path, "has no header, so columns cannot rename its columns")
        if table:
            return table
    return separated(head, columns)


def _listed(paths: list[Path], most: int = 5) -> str:
    shown = ", ".join(printable(path.name, 60) for path in paths[:most])
    return f"{shown} and {len(paths) - most} more" if len(paths) > most else shown


def _natural(path: Path) -> tuple[int, str]:
    """Order combined_data_10 behind combined_data_2."""
    digits = re.findall(r"\d+", path.name)
    return (int(digits[-1]) if digits else 0, path.name)
