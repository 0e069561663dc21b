"""Optimisers of dense parameters, whose state lies where the parameters do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


class _DeviceAdagrad(torch.optim.Adagrad):
    """Adagrad with its step counts on the device: PyTorch reads those on the host to decay ``lr``.

    The state is that of :class:`torch.optim.Adagrad`, so that a run may move between devices.
    """

    def __init__(self, params: Sequence[Tensor], lr: float) -> None:
        super().__init__(params, lr=lr)
        self._move()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._move()

    def _move(self) -> None:
        for parameter, state in self.state.items():
            state.update({name: value.to(parameter.device) for name, value in state.items()})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            grads = [p.grad for p in parameters]
            states = [self.state[p] for p in parameters]
            sums = [state["sum"] for state in states]
            torch._foreach_add_([state["step"] for state in states], 1)
            torch._foreach_addcmul_(sums, grads, grads)
            scales = torch._foreach_sqrt(sums)
            torch._foreach_add_(scales, group["eps"])
            torch._foreach_addcdiv_(parameters, grads, scales, value=-group["lr"])


def _adagrad(params: Sequence[Tensor], lr: float) -> torch.optim.Optimizer:
    if all(p.device.type == "cpu" for p in params):  # PyTorch has the fused one there only
        return torch.optim.Adagrad(params, lr=lr, fused=True)
    return _DeviceAdagrad(params, lr=lr)


#: Fused: one pass over parameter, gradient and moments instead of one for each op.
DENSE_OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": lambda params, lr: torch.optim.Adam(params, lr=lr, fused=True, capturable=True),
    "adagrad": _adagrad,
    "rowwise-adagrad": _adagrad,  # row-wise in tables alone
    "sgd": lambda params, lr: torch.optim.SGD(params, lr=lr, fused=True),
}
