"""Gradients of the outer problem: how the controller's parameters change the validation loss.

With weights W, controller parameters A and the virtual step W' = W - xi dL_train(W, A)/dW, the
total derivative of L_val(W', A) is (Eq. 9 of the AutoEmb paper)::

    dL_val(W', A)/dA - xi * d^2 L_train(W, A)/(dA dW) v,        v = dL_val(W', A)/dW'

``first`` takes xi = 0. ``finite-difference`` approximates the mixed term with two gradients at
W +- eps v, eps = R/||v||, divided by 2 eps. ``exact`` differentiates twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Tensors = dict[str, Tensor]
Loss = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], Tensor]

KINDS = ("first", "finite-difference", "exact")

#: R of DARTS: the distance of the finite difference in the space of W.
FINITE_DIFFERENCE_DISTANCE = 0.01


def gradients(
    loss: Tensor, *groups: Mapping[str, Tensor], create_graph: bool = False
) -> list[Tensors]:
    """Return d loss / d parameters for each group, zero where the loss does not depend on one.

    Examples
    --------
    >>> w = torch.tensor(3.0, requires_grad=True)
    >>> gradients(w * w, {"w": w}, {})
    [{'w': tensor(6.)}, {}]
    """
    leaves = [value for group in groups for value in group.values()]
    if not loss.requires_grad:  # a module without parameters, or none that it depends on
        return [{n: torch.zeros_like(value) for n, value in group.items()} for group in groups]
    values = iter(
        torch.autograd.grad(loss, leaves, create_graph=create_graph, materialize_grads=True)
    )
    return [{name: next(values) for name in group} for group in groups]


def leaves_of(values: Mapping[str, Tensor]) -> Tensors:
    """Return detached copies that share memory and require gradients."""
    return {name: value.detach().requires_grad_() for name, value in values.items()}


def hypergradient(
    kind: str,
    training_loss: Loss,
    validation_loss: Loss,
    weights: Mapping[str, Tensor],
    controller: Mapping[str, Tensor],
    xi: float,
    distance: float = FINITE_DIFFERENCE_DISTANCE,
) -> Tensors:
    """Return the gradient of the validation loss with respect to the controller's parameters.

    Parameters
    ----------
    kind : {"first", "finite-difference", "exact"}
    training_loss, validation_loss : callable
        (weights, controller) -> scalar. Called several times; must be deterministic and free of
        side effects. ``training_loss`` is not called for ``kind="first"``.
    weights, controller : mapping of str to Tensor
        Current W and A. They are not changed; for ``kind="first"`` no gradient with respect to W
        is computed.
    xi : float
        Step size of the virtual step.
    distance : float, default 0.01
        R of the finite difference.

    Returns
    -------
    dict of str to Tensor
        By the names of ``controller``.

    Raises
    ------
    ValueError
        For an unknown kind.

    Examples
    --------
    L_train = a w^2 / 2 makes w' = w (1 - xi a); L_val = w'^2 / 2 has dL_val/da = -xi w w'.

    >>> w, a = {"w": torch.tensor(3.0)}, {"a": torch.tensor(2.0)}
    >>> train = lambda w, a: a["a"] * w["w"] ** 2 / 2
    >>> validation = lambda w, a: w["w"] ** 2 / 2
    >>> hypergradient("exact", train, validation, w, a, xi=0.1)
    {'a': tensor(-0.7200)}
    """
    if kind not in KINDS:
        raise ValueError(f"hypergradient must be one of {', '.join(KINDS)}; got {kind!r}")
    alpha = leaves_of(controller)
    if kind == "first":
        fixed = {name: value.detach() for name, value in weights.items()}
        return gradients(validation_loss(fixed, alpha), alpha)[0]

    exact = kind == "exact"
    start = leaves_of(weights)
    slope = gradients(training_loss(start, alpha), start, create_graph=exact)[0]
    moved = leaves_of({name: value - xi * slope[name] for name, value in start.items()})
    direct, direction = gradients(validation_loss(moved, alpha), alpha, moved)
    if exact:
        inner = sum((slope[name] * direction[name]).sum() for name in start)
        mixed = gradients(torch.as_tensor(inner), alpha)[0]
    else:
        mixed = _finite_difference(training_loss, weights, alpha, direction, distance)
    return {name: value - xi * mixed[name] for name, value in direct.items()}


def _finite_difference(
    training_loss: Loss,
    weights: Mapping[str, Tensor],
    alpha: Tensors,
    direction: Tensors,
    distance: float,
) -> Tensors:
    norm = torch.stack([value.norm() for value in direction.values()]).norm()
    # A zero direction has a zero product; the clamp keeps 0/0 out without a branch on the device.
    eps = distance / norm.clamp_min(torch.finfo(norm.dtype).tiny ** 0.5)
    ends = []
    for sign in (1, -1):
        shifted = {
            name: value.detach() + sign * eps * direction[name] for name, value in weights.items()
        }
        ends.append(gradients(training_loss(shifted, alpha), alpha)[0])
    return {name: (ends[0][name] - ends[1][name]) / (2 * eps) for name in alpha}
