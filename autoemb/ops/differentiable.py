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

    There are no derivatives in forward mode: a Function's jvp would have to be differentiable
    itself, by formulas that nothing else here needs.
    """

    @classmethod
    def apply(cls, *args: Any) -> Any:
        """Apply it, without torch's look at the signature of ``forward``: 17 us a call."""
        if torch._C._are_functorch_transforms_active():
            return super().apply(*args)  # type: ignore[no-untyped-call]
        return super(torch.autograd.Function, cls).apply(*unwrap_dead_wrappers(args))

    @classmethod
    def vmap(cls, info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
        """Apply it to one entry after the other: kernels take no further dimension."""
        entries = []
        for i in range(info.batch_size):
            pairs = zip(args, in_dims, strict=True)
            one = (
                a.select(d, i) if isinstance(a, Tensor) and d is not None else a for a, d in pairs
            )
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
