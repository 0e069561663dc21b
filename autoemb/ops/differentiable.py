"""What all derivatives of ours share, so that they work under torch.func as under autograd."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

#: Ops called within it are not recorded once more.
BelowAutograd = torch._C._AutoDispatchBelowAutograd


class Differentiable(torch.autograd.Function):
    """An autograd Function with a ``setup_context``, and :func:`torch.func.vmap` by a loop.

    There are no derivatives in forward mode: a Function's jvp would have to be differentiable
    itself, by formulas that nothing else here needs.
    """

    def __init_subclass__(cls) -> None:
        # torch binds the arguments of every call by the signature of `forward`: 17 us to make one
        # anew, 8 us where it is kept.
        cls.forward.__signature__ = inspect.signature(cls.forward)  # type: ignore[attr-defined]

    @classmethod
    def vmap(cls, info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
        """Apply it to one entry after the other: kernels take no further dimension."""
        entries = []
        for i in range(info.batch_size):
            pairs = zip(args, in_dims, strict=True)
            one = (a.select(d, i) if isinstance(a, Tensor) and d is not None else a for a, d in pairs)
            entries.append(cls.apply(*one))
        if isinstance(entries[0], Tensor):
            return torch.stack(entries), 0
        return tuple(map(torch.stack, zip(*entries, strict=True))), (0,) * len(entries[0])

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        """Raise NotImplementedError."""
        raise NotImplementedError(
            "autoemb has no derivatives in forward mode (jvp, jacfwd); take torch.func.vjp or jacrev"
        )
