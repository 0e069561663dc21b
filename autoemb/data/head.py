"""The start of a file, which is all that recognising its format takes."""

from __future__ import annotations

from dataclasses import dataclass

from autoemb.data.file import ZIP_MAGIC, File
from autoemb.data.table import refuse

_BYTES = 1 << 16
PARQUET_MAGIC = b"PAR1"
BYTE_ORDER_MARK = "\ufeff"


@dataclass(frozen=True)
class Head:
    """The first bytes of a file and, of a text file, its first lines.

    Parameters
    ----------
    file : File
    start : bytes
        Its first 64 KiB, decompressed.
    lines : list of (int, str)
        Number (1-based) and text of the lines in there that are not blank.
    """

    file: File
    start: bytes
    lines: list[tuple[int, str]]


def read_head(file: File) -> Head:
    """Read the start of a file, and refuse what is neither text nor Parquet."""
    path = file.path
    if file.archive is None and not path.is_file():  # a pipe or a device could keep us waiting
        raise refuse(path, "is not a regular file")
    with file.open() as stream:
        start = stream.read(_BYTES)
    if start.startswith(PARQUET_MAGIC):
        return Head(file, start, [])
    if start.startswith(ZIP_MAGIC):
        raise refuse(path, "is a ZIP archive in another or in a folder; give its own path")
    if b"\0" in start:
        raise refuse(path, "is binary; expected text in UTF-8 or Parquet")
    texts = start.decode("utf-8", errors="replace").removeprefix(BYTE_ORDER_MARK).split("\n")
    if len(start) == _BYTES and len(texts) > 1:
        texts.pop()  # cut off in the middle of a line
    lines = [(number, text.rstrip("\r")) for number, text in enumerate(texts, 1) if text.strip()]
    if not lines:
        raise refuse(path, "is empty")
    return Head(file, start, lines)
