"""What all derivatives of ours share, so that they work under torch.func as under autograd."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._functorch.utils import unwrap_dead_wrappers

#: Ops called within it are not recorded once more.
BelowAutograd = torch._C._AutoDispatchBelowAutograd


class Differentiable(torch.autograd.Function):
    """An autograd Function with a ``setup_context``, and :func:`torch.func.vmap` by a loop.

    There are no derivatives in forward mode, which torch then says: a Function's jvp would have to
    be differentiable itself, by formulas that nothing else here needs.
    """

    @classmethod
    def apply(cls, *args: Any) -> Any:
        """Apply it, without torch's look at the signature of ``forward``: 17 us a call."""
        if torch._C._are_functorch_transforms_active():
            return super().apply(*args)  # type: ignore[no-untyped-call]
        plain: Any = super(torch.autograd.Function, cls)
        return plain.apply(*unwrap_dead_wrappers(args))

    @classmethod
    def vmap(cls, info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
        """Apply it to one entry after the other: kernels take no further dimension."""
        entries = []
        for i in range(info.batch_size):
            pairs = zip(args, in_dims, strict=True)
            entries.append(cls.apply(*(_entry(arg, dim, i) for arg, dim in pairs)))
        if isinstance(entries[0], Tensor):
            return torch.stack(entries), 0
        return tuple(map(torch.stack, zip(*entries, strict=True))), (0,) * len(entries[0])


def needs_function(*tensors: Tensor) -> bool:
    """Return whether a derivative, or a transform of torch.func, may be wanted.

    Examples
    --------
    >>> needs_function(torch.zeros(2)), needs_function(torch.zeros(2, requires_grad=True))
    (False, True)
    """
    if torch._C._are_functorch_transforms_active():
        return True
    return any(tensor.requires_grad for tensor in tensors)


def _entry(arg: Any, dim: Any, i: int) -> Any:
    return arg.select(dim, i) if isinstance(arg, Tensor) and dim is not None else arg
