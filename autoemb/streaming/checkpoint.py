"""Nested state as one safetensors file: parsed on reading, never executed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from autoemb.errors import UserError
from autoemb.files import replacing

_FORMAT = "autoemb checkpoint 1"


def _flatten(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Return ``value`` as JSON in which ``{"tensor": name}`` stands for an entry of ``tensors``."""
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(value.copy())  # PyTorch warns of arrays that are read-only
        return {"array": _flatten(value, tensors)["tensor"]}
    if isinstance(value, Tensor):
        name = str(len(tensors))
        # A copy: safetensors refuses tensors that share memory, as views of one table do.
        tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"tensor": name}
    if isinstance(value, dict):  # pairs, since keys may be integers
        return {"dict": [[key, _flatten(entry, tensors)] for key, entry in value.items()]}
    if isinstance(value, list | tuple):
        return {"list": [_flatten(entry, tensors) for entry in value]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"cannot save a {type(value).__name__}")


def _restore(value: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "array":
        return tensors[content].numpy()
    if kind == "dict":
        return {key: _restore(entry, tensors) for key, entry in content}
    if kind == "list":
        return [_restore(entry, tensors) for entry in content]
    raise KeyError(kind)


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
    """Read what :func:`save` wrote.

    Raises
    ------
    UserError
        If the file is missing, broken, or not such a file.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder; expected a file in it")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if metadata.get("format") != _FORMAT:
            raise UserError(f"{path} is not an {_FORMAT}")
        state = _restore(json.loads(metadata["structure"]), tensors)
        if not isinstance(state, dict):
            raise TypeError("a checkpoint holds a dict")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except UserError:
        raise
    except (OSError, SafetensorError, RecursionError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not a readable checkpoint: {error}") from None
    return state
