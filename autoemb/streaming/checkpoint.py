"""Nested state as one safetensors file: parsed on reading, never executed."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from autoemb.errors import UserError
from autoemb.files import exists, is_folder, replacing

_FORMAT = "autoemb checkpoint 1"

#: Dicts and lists in each other; a state has some ten.
DEEPEST = 64

#: Strings of a list from which on they are stored as bytes, not in the header, which must stay
#: below safetensors' 100 MB.
MANY_STRINGS = 32


def _flatten(value: Any, tensors: dict[str, Tensor], depth: int = 0) -> Any:
    """Return ``value`` as JSON in which ``{"tensor": name}`` stands for an entry of ``tensors``."""
    if depth > DEEPEST:
        raise TypeError(f"cannot save what is nested deeper than {DEEPEST}")
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(value.copy())  # PyTorch warns of arrays that are read-only
        return {"array": _flatten(value, tensors)["tensor"]}
    if isinstance(value, Tensor):
        name = str(len(tensors))
        # A copy: safetensors refuses tensors that share memory, as views of one table do.
        tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"tensor": name}
    if isinstance(value, dict):  # pairs, since keys may be integers
        pairs = [[key, _flatten(entry, tensors, depth + 1)] for key, entry in value.items()]
        return {"dict": pairs}
    if isinstance(value, list | tuple):
        if len(value) >= MANY_STRINGS and all(type(entry) is str for entry in value):
            return {"strings": [_flatten(part, tensors)["array"] for part in _joined(value)]}
        return {"list": [_flatten(entry, tensors, depth + 1) for entry in value]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"cannot save a {type(value).__name__}")


def _restore(value: Any, tensors: dict[str, Tensor], depth: int = 0) -> Any:
    """Return what :func:`_flatten` was given, and take the tensors out of ``tensors``.

    So none is there twice, and whoever copies the parts of a state needs as much memory as the
    file has bytes.
    """
    if not isinstance(value, dict):
        return value
    if depth > DEEPEST:
        raise ValueError(f"nested deeper than {DEEPEST}")
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors.pop(content)
    if kind == "array":
        return tensors.pop(content).numpy()
    if kind == "dict":
        return {key: _restore(entry, tensors, depth + 1) for key, entry in content}
    if kind == "list":
        return [_restore(entry, tensors, depth + 1) for entry in content]
    if kind == "strings":
        return _split(*(tensors.pop(name).numpy() for name in content))
    raise ValueError("an entry of no known kind")


def _joined(strings: list[str] | tuple[str, ...]) -> tuple[Any, Any]:
    """Return the UTF-8 of all strings and the ends [n + 1] that divide it."""
    # "surrogatepass": half a surrogate is a str, too.
    encoded = [string.encode("utf-8", "surrogatepass") for string in strings]
    utf8 = np.frombuffer(b"".join(encoded), dtype=np.uint8)
    return utf8, np.cumsum([0, *map(len, encoded)], dtype=np.int64)


def _split(utf8: Any, offsets: Any) -> list[str]:
    if utf8.dtype != np.uint8 or offsets.dtype != np.int64 or utf8.ndim != 1 or offsets.ndim != 1:
        raise ValueError("strings that are not bytes and offsets")
    text, cuts = utf8.tobytes(), offsets.tolist()
    if (
        cuts[:1] != [0]
        or cuts[-1] != len(text)
        or any(end < begin for begin, end in pairwise(cuts))
    ):
        raise ValueError("offsets that do not divide their strings")
    return [text[begin:end].decode("utf-8", "surrogatepass") for begin, end in pairwise(cuts)]


def save(state: dict[str, Any], path: Path) -> None:
    """Write nested dicts and lists of tensors, arrays, numbers and strings; whole or not at all.

    Examples
    --------
    >>> import tempfile, pathlib, torch
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "checkpoint.safetensors"
    >>> save({"step": 3, "rows": [torch.arange(2)]}, path)
    >>> load(path)
    {'step': 3, 'rows': [tensor([0, 1])]}
    """
    tensors: dict[str, Tensor] = {}
    structure = json.dumps(_flatten(state, tensors))
    try:
        with replacing(path) as part:
            save_file(tensors, part, metadata={"format": _FORMAT, "structure": structure})
    except SafetensorError as error:
        raise UserError(f"{path} cannot be written: {error}") from None


def load(path: Path) -> dict[str, Any]:
    """Read what :func:`save` wrote. Memory and time stay in proportion to the file's bytes.

    Raises
    ------
    UserError
        If the file is missing, broken, or not such a file.
    """
    if is_folder(path):
        raise UserError(f"{path} is a folder; expected a file in it")
    try:
        if exists(path) and not path.is_file():
            raise UserError(f"{path} is no ordinary file")  # a pipe would be waited for
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != _FORMAT:
                raise UserError(f"{path} is not an {_FORMAT}")
            tensors = _read_tensors(file, path.stat().st_size)
        state = _restore(json.loads(metadata["structure"]), tensors)
        if not isinstance(state, dict):
            raise TypeError("a checkpoint holds a dict")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except UserError:
        raise
    except (
        OSError,
        SafetensorError,
        RuntimeError,  # of brackets without end, or of PyTorch
        LookupError,
        TypeError,
        ValueError,
        ArithmeticError,
        AttributeError,
    ) as error:
        said = " ".join(str(error).split())[:200]
        raise UserError(f"{path} is not a readable checkpoint: {said}") from None
    return state


def _read_tensors(file: Any, size: int) -> dict[str, Tensor]:
    """Return the tensors of a file of so many bytes, mapped."""
    names = file.keys()
    for name in names:
        # Those with a zero among their sizes take no bytes: what their other sizes promise would
        # be believed by whoever makes others of the same size.
        if max(file.get_slice(name).get_shape(), default=0) > size:
            raise ValueError(f"a tensor is larger than the file of {size} bytes")
    return {name: file.get_tensor(name) for name in names}
