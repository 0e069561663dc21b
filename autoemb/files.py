"""Writing files so that nothing half-written ever looks whole."""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from autoemb.errors import UserError

#: Ends the names of hidden folders that files are written in.
_UNFINISHED = ".part"


@contextmanager
def told(path: Path, what: str = "cannot be written") -> Iterator[None]:
    """Tell in one line what the system refuses of a file.

    Raises
    ------
    UserError
        For any OSError of the block.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} {what}: {error.strerror or error}") from None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path that takes the place of ``path``, on disk, once the block is through.

    Where the block fails nothing is left behind, and an earlier file is as it was. What killed
    processes left half-written is removed. Whatever writes it, the file may be read by whom new
    files may be read by.

    Raises
    ------
    UserError
        If it cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with replacing(folder / "a.txt") as part:
    ...     _ = part.write_text("whole")
    >>> [file.name for file in folder.iterdir()]
    ['a.txt']
    """
    with told(path):
        remove_unfinished(path)
        # A folder of its own: safetensors makes a file beside the one that it is told to write.
        folder, lock = _locked_folder(path)
        part = folder / path.name
        try:
            part.touch()
            mode = part.stat().st_mode
            part.unlink()
            yield part
            part.chmod(mode)  # safetensors makes files that only their owner can read
            sync(part)
            part.replace(path)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)
        sync(path.parent)


def remove_unfinished(path: Path) -> None:
    """Remove what killed processes left of a file; those that are writing it keep theirs.

    Raises
    ------
    OSError
        If the file's folder cannot be read.
    """
    pattern = re.compile(re.escape(f".{path.name}.") + "[a-z0-9_]{8}" + re.escape(_UNFINISHED))
    for folder in [entry for entry in path.parent.iterdir() if pattern.fullmatch(entry.name)]:
        try:
            lock = _lock(folder)
        except OSError:  # somebody is writing there
            continue
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _locked_folder(path: Path) -> tuple[Path, int]:
    """Make a hidden folder beside a file; return it and the descriptor that holds its lock."""
    while True:
        made = tempfile.mkdtemp(prefix=f".{path.name}.", suffix=_UNFINISHED, dir=path.parent)
        folder = Path(made)
        try:
            lock = _lock(folder)
        except (BlockingIOError, FileNotFoundError):
            continue  # taken for a dead process's in the moment before it was locked
        if folder.exists():
            return folder, lock
        os.close(lock)


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Make a folder for results, and keep others from writing theirs there meanwhile.

    The lock ends with the process, however that ends. A folder that was made for a block that fails
    and leaves nothing in it is removed.

    Raises
    ------
    UserError
        If somebody else is at it, or if it cannot be made.

    Examples
    --------
    >>> folder = Path(tempfile.mkdtemp())
    >>> with sole_writer(folder), sole_writer(folder):  # doctest: +ELLIPSIS
    ...     pass
    Traceback (most recent call last):
        ...
    autoemb.errors.UserError: ... is being written by another process; choose another --out
    """
    new = not exists(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = _lock(folder)
    except BlockingIOError:
        raise UserError(
            f"{folder} is being written by another process; choose another --out"
        ) from None
    except FileExistsError:
        raise UserError(f"{folder} is a file; --out takes a folder") from None
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}") from None
    try:
        yield
    except BaseException:
        if new:
            with suppress(OSError):  # it is not empty
                folder.rmdir()
        raise
    finally:
        os.close(lock)


def _lock(folder: Path) -> int:
    """Return a descriptor that holds a folder's lock until it is closed, by whatever end.

    Raises
    ------
    BlockingIOError
        If another descriptor holds it.
    OSError
        If the folder cannot be opened.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    except OSError:  # network file systems lock files alone
        os.close(descriptor)
        descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise
    return descriptor


def sync(path: Path) -> None:
    """Return when a file, or the names in a folder, would outlast a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # file systems that know no such promise, for a folder
            raise
    finally:
        os.close(descriptor)


def exists(path: Path) -> bool:
    """Return whether there is such a file; not of a name that no file can have."""
    try:
        return path.exists()
    except OSError:
        return False


def is_folder(path: Path) -> bool:
    """Return whether there is such a folder; not of a name that none can have."""
    return exists(path) and path.is_dir()


def json_text(content: Any, indent: int | None = None) -> str:
    """Return strict JSON; what is not finite (the loss of a run that diverged) becomes null.

    Examples
    --------
    >>> json_text({"loss": float("nan"), "events": 3})
    '{"loss": null, "events": 3}'
    """
    return json.dumps(_finite(content), indent=indent, allow_nan=False)


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, whole or not at all."""
    with replacing(path) as part:
        part.write_text(json_text(content, indent=1) + "\n", encoding="utf-8")


def make_folder_of(path: Path) -> None:
    """Make the folder that a file will be written to, for want of which work would be lost.

    Raises
    ------
    UserError
        If it cannot be made.
    """
    with told(path.parent, "cannot be made"):
        path.parent.mkdir(parents=True, exist_ok=True)


def write_text(path: Path, text: str) -> Path:
    """Write a text file, whole or not at all, in a folder that is made if need be.

    Raises
    ------
    UserError
        If it cannot be written.
    """
    make_folder_of(path)
    with replacing(path) as part:
        part.write_bytes(text.encode("utf-8", "replace"))  # half a surrogate becomes "?"
    return path


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
