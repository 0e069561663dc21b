"""A file to read: on disk or in a ZIP archive, compressed with gzip or not."""

from __future__ import annotations

import gzip
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, cast

from autoemb.data.table import refuse

GZIP_MAGIC = b"\x1f\x8b"
ZIP_MAGIC = b"PK\x03\x04"
# Deflate reaches 1,030; event data 3 to 20. What claims more is small, or made to fill the memory.
_LARGEST_RATIO, _SMALL = 200, 1 << 30


@dataclass(frozen=True)
class File:
    """What a format is read from.

    Parameters
    ----------
    path : Path
        What messages name: the file, or the archive with the member's name behind it.
    archive : Path, optional
        The ZIP archive it is in.
    member : str, optional
        Its name there.
    """

    path: Path
    archive: Path | None = None
    member: str = ""

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """Give its bytes as a stream, decompressed."""
        with self._raw() as raw:
            compressed = raw.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        with self._raw() as raw:
            if not compressed:
                yield raw
                return
            try:
                with gzip.open(raw) as file:
                    yield cast("IO[bytes]", file)
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                raise refuse(self.path, f"is not a whole gzip file ({error})") from None

    @contextmanager
    def _raw(self) -> Iterator[IO[bytes]]:
        if self.archive is None:
            with self.path.open("rb") as file:
                yield file
        else:
            with zipfile.ZipFile(self.archive) as archive, archive.open(self.member) as file:
                yield file

    def read(self) -> bytes:
        """Return all of its bytes, decompressed."""
        with self.open() as file:
            return file.read()

    @cached_property
    def source(self) -> Path | bytes:
        """What polars reads lines from: a path, or the bytes of a member of an archive."""
        return self.path.absolute() if self.archive is None else self.read()


def files_at(path: Path) -> list[File]:
    """Return the files at a path: itself, those of a folder, or those in a ZIP archive."""
    if not path.is_dir():
        return _members(path) if _is_zip(path) else [File(path)]
    entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    if (path / "training_set").is_dir():  # of the Netflix Prize
        entries += sorted((path / "training_set").iterdir())
    return [File(entry) for entry in entries if entry.is_file()]


def is_collection(path: Path) -> bool:
    """Return whether a path holds files rather than being one."""
    return path.is_dir() or _is_zip(path)


def _is_zip(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(ZIP_MAGIC)) == ZIP_MAGIC


def _members(path: Path) -> list[File]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = sorted(archive.infolist(), key=lambda member: member.filename)
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise refuse(path, f"is not a whole ZIP archive ({error})") from None
    files = []
    for member in members:
        name = Path(member.filename)
        if member.is_dir() or name.name.startswith(".") or "__MACOSX" in name.parts:
            continue
        if member.flag_bits & 1:
            raise refuse(path, f"holds {member.filename!r} encrypted; unpack it first")
        if member.file_size > max(_SMALL, _LARGEST_RATIO * member.compress_size):
            raise refuse(path, f"holds {member.filename!r} of {member.file_size:,} bytes, packed "
                         f"into {member.compress_size:,}; unpack it first")  # fmt: skip
        files.append(File(path / member.filename, path, member.filename))
    return files
