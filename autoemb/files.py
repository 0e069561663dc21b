"""Writing files so that nothing half-written ever looks whole."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from autoemb.errors import UserError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path beside ``path`` that takes its place once the block is through.

    Where the block fails nothing is left behind, and an earlier file is as it was. Whatever writes
    it, the file may be read by whom new files may be read by.

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
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        try:
            part.touch()
            mode = part.stat().st_mode
            part.unlink()
            yield part
            part.chmod(mode)  # safetensors makes files that only their owner can read
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from None


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
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path.parent} cannot be made: {error.strerror}") from None


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
