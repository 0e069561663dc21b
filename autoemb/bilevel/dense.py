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
            torch._foreach_div_(scales, group["lr"])
            torch._foreach_addcdiv_(parameters, grads, scales, value=-1)


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

#: Steps at the initial rate; it then falls as 1 / t, to the learning rate itself after
#: ``HELD_STEPS * initial_rate`` steps.
HELD_STEPS = 10


class RateDecay:
    """Start a dense optimiser at a high learning rate and let it fall as 1 / t to its own.

    The rates that suit the first batches of a stream and the rest of it differ by a factor of ten
    (docs/study.md).

    Rate and count are tensors on the parameters' device, so that a CUDA graph can hold the decay.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        One of ``DENSE_OPTIMIZERS``.
    initial_rate : float
        Learning rate of the first steps as a multiple of the optimiser's, at least 1.

    Examples
    --------
    >>> parameter = torch.nn.Parameter(torch.zeros(1))
    >>> optimizer = DENSE_OPTIMIZERS["sgd"]([parameter], 0.5)
    >>> decay = RateDecay(optimizer, initial_rate=4)
    >>> rates = []
    >>> for _ in range(50):
    ...     decay.advance()
    ...     rates.append(float(optimizer.param_groups[0]["lr"]))
    >>> rates[9], rates[19], rates[39], rates[49]
    (2.0, 1.0, 0.5, 0.5)
    """

    def __init__(self, optimizer: torch.optim.Optimizer, initial_rate: float) -> None:
        (group,) = optimizer.param_groups
        device = group["params"][0].device
        self.optimizer, self.initial_rate = optimizer, initial_rate
        self.learning_rate: float = group["lr"]
        self.step = torch.zeros((), dtype=torch.float64, device=device)
        group["lr"] = torch.full((), self.learning_rate * initial_rate, device=device)

    @torch.no_grad()
    def advance(self) -> None:
        """Set the rate of the next step."""
        self.step += 1
        factor = (HELD_STEPS * self.initial_rate / self.step).clamp(1, self.initial_rate)
        self.optimizer.param_groups[0]["lr"].copy_(self.learning_rate * factor)

    def state_dict(self) -> dict[str, Any]:
        """Return the number of steps."""
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict` after the optimiser's."""
        self.step.copy_(state["step"])
        group = self.optimizer.param_groups[0]
        group["lr"] = group["lr"].to(self.step.device)
