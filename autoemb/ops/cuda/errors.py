"""Ids out of range: what kernels noted, raised by the host when it next looks."""

from __future__ import annotations

import threading

import torch
from torch import Tensor

from autoemb.ops.bounds import out_of_range

_errors: dict[torch.device, Tensor] = {}
_lock = threading.Lock()


def error_memory(device: torch.device) -> Tensor:
    """Return the 4 numbers that kernels write for the first id out of range."""
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    with _lock:
        if device not in _errors:
            # Pinned memory is the device's too, under the same address.
            pinned = device.type == "cuda"
            _errors[device] = torch.zeros(4, dtype=torch.int64, device="cpu", pin_memory=pinned)
        return _errors[device]


def check_ids(device: torch.device) -> None:
    """Raise IndexError if kernels on this device have met an id out of range since the last look.

    Without waiting for the device: kernels that still run are seen by a later call. Only where
    there is something to raise does it wait, lest the rest of that step is told as a second error.

    Raises
    ------
    IndexError
        Names the field, the id and the rows of its table; of a row that an optimiser was given,
        the row and those of the table.

    Examples
    --------
    >>> import torch
    >>> check_ids(torch.device("cpu"))
    """
    memory = error_memory(device)
    field, bad, rows, event = memory.tolist()
    if field > 0:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        memory.zero_()
        raise out_of_range(None if event < 0 else field - 1, bad, rows)
