"""Many small tensors in one buffer, so that one copy moves them all between host and device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

T = TypeVar("T")


class Layout:
    """Where tensors of given shapes and dtypes lie in a buffer of bytes.

    Parameters
    ----------
    tensors : sequence of Tensor

    Examples
    --------
    >>> import torch
    >>> tensors = [torch.tensor([0.5]), torch.tensor([[3, 7]])]
    >>> layout = Layout(tensors)
    >>> layout.nbytes, layout.unpack(layout.pack(tensors))
    (20, [tensor([0.5000]), tensor([[3, 7]])])
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._shapes = tuple((tensor.dtype, tensor.shape) for tensor in tensors)
        # Widest numbers first, so that each tensor begins at a multiple of its own width.
        self._order = sorted(range(len(tensors)), key=lambda i: -tensors[i].itemsize)
        self._sizes = [tensors[i].numel() * tensors[i].itemsize for i in self._order]
        self.nbytes = sum(self._sizes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Layout) and self._shapes == other._shapes

    def __hash__(self) -> int:
        return hash(self._shapes)

    def pack(self, tensors: Sequence[Tensor], out: Tensor | None = None) -> Tensor:
        """Return the tensors as bytes [nbytes] where they lie, or in ``out``."""
        pieces = [tensors[i].reshape(-1).view(torch.uint8) for i in self._order]
        return torch.cat(pieces, out=out)

    def unpack(self, buffer: Tensor) -> list[Tensor]:
        """Return views of a buffer [nbytes] as the tensors that it holds."""
        views = [buffer] * len(self._shapes)
        for i, piece in zip(self._order, buffer.split_with_sizes(self._sizes), strict=True):
            dtype, shape = self._shapes[i]
            views[i] = piece.view(dtype).view(shape)
        return views


def tensors_of(value: Any) -> list[Tensor]:
    """Return all tensors in nested lists, dicts and named tuples.

    Examples
    --------
    >>> import torch
    >>> tensors_of([torch.tensor(1), None, [torch.tensor(2)]])
    [tensor(1), tensor(2)]
    """
    if isinstance(value, Tensor):
        return [value]
    if value is None:
        return []
    parts = value.values() if isinstance(value, dict) else value
    return [tensor for part in parts for tensor in tensors_of(part)]


def with_tensors(value: T, tensors: Iterator[Tensor]) -> T:
    """Return ``value`` with other tensors, in the order of :func:`tensors_of`.

    Examples
    --------
    >>> import torch
    >>> with_tensors([torch.tensor(1), None], iter([torch.tensor(5)]))
    [tensor(5), None]
    """
    if value is None:
        return value
    if isinstance(value, Tensor):
        return cast(T, next(tensors))
    if isinstance(value, dict):
        return cast(T, {name: with_tensors(part, tensors) for name, part in value.items()})
    parts = [with_tensors(part, tensors) for part in cast(Iterable[Any], value)]
    return cast(T, parts if isinstance(value, list) else type(value)(*parts))
