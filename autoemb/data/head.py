"""The start of a file, which is all that recognising its format takes."""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path

from autoemb.data.table import refuse

_BYTES = 1 << 16
GZIP_MAGIC = b"\x1f\x8b"
_ZIP = b"PK\x03\x04"
PARQUET_MAGIC = b"PAR1"
BYTE_ORDER_MARK = "\ufeff"


@dataclass(frozen=True)
class Head:
    """The first bytes of a file and, of a text file, its first lines.

    Parameters
    ----------
    path : Path
        The file.
    start : bytes
        Its first 64 KiB, decompressed.
    lines : list of (int, str)
        Number (1-based) and text of the lines in there that are not blank.
    compressed : bool
        Whether the file is compressed with gzip.
    """

    path: Path
    start: bytes
    lines: list[tuple[int, str]]
    compressed: bool


def read_head(path: Path) -> Head:
    """Read the start of a file, and refuse what is neither text nor Parquet."""
    if not path.is_file():  # a pipe or a device could keep us waiting for ever
        raise refuse(path, "is not a regular file")
    with path.open("rb") as file:
        start = file.read(_BYTES)
    compressed = start.startswith(GZIP_MAGIC)
    if compressed:
        try:
            with gzip.open(path) as file:
                start = file.read(_BYTES)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise refuse(path, f"is not a whole gzip file ({error})") from None
    if start.startswith(PARQUET_MAGIC):
        return Head(path, start, [], compressed)
    if start.startswith(_ZIP):
        raise refuse(path, "is a ZIP archive; unpack it first")
    if b"\0" in start:
        raise refuse(path, "is binary; expected text in UTF-8 or Parquet")
    texts = start.decode("utf-8", errors="replace").removeprefix(BYTE_ORDER_MARK).split("\n")
    if len(start) == _BYTES and len(texts) > 1:
        texts.pop()  # cut off in the middle of a line
    lines = [(number, text.rstrip("\r")) for number, text in enumerate(texts, 1) if text.strip()]
    if not lines:
        raise refuse(path, "is empty")
    return Head(path, start, lines, compressed)
