"""The soft multi-size embedding of one field in plain PyTorch: the specification of the kernels.

Equations refer to the AutoEmb paper. Shapes: U distinct ids in a batch of B events, N sizes
``dims``, S = sum(dims), D = output width.

    z_n = E_n W_n^T + b_n          (Eq. 1: linear transform of each size to width D)
    y_n = (z_n - mean) / sqrt(var + eps),  t_n = tanh(y_n)      (Eq. 2)
    out_b = (1/N) sum_n a_bn t_n[id_b]                          (Eq. 7)

Everything up to t depends on the id alone, so it is computed once per distinct id; the batch
statistics weigh each distinct id by its multiplicity, which is the same sum in another order.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from autoemb.ops.plan import Plan
from autoemb.ops.sizes import size_slices
from autoemb.ops.tanh import tanh


def project(embeddings: Tensor, projection: Tensor, dims: Sequence[int]) -> Tensor:
    """Return E_n W_n^T for every size: [U, S] and [D, S] to [N, U, D]."""
    columns = size_slices(dims)
    return torch.stack([embeddings[:, c] @ projection[:, c].t() for c in columns])


def mix(activation: Tensor, inverse: Tensor, weights: Tensor, average: bool) -> Tensor:
    """Return Eq. 7: activations [N, U, D] of each event's id, weighed by weights [B, N]."""
    spread = activation.index_select(1, inverse)  # [N, B, D]
    mixed = (spread * weights.t().unsqueeze(2)).sum(0)  # [B, D]
    return mixed / weights.shape[1] if average else mixed


def normalise(
    embeddings: Tensor,
    plan: Plan,
    projection: Tensor,
    bias: Tensor,
    running: tuple[Tensor, Tensor] | None,
    dims: Sequence[int],
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Project and standardise the distinct ids of one field.

    Parameters
    ----------
    embeddings : Tensor[U, S]
        Rows of the distinct ids, the sizes side by side.
    plan : Plan
        Distinct ids of the batch; ``plan.rows`` itself is not used.
    projection, bias : Tensor[D, S], Tensor[N, D]
        Linear transforms of Eq. 1.
    running : (Tensor[N, D], Tensor[N, D]) or None
        Mean and variance to normalise with; None takes the batch's own.
    dims, eps
        Sizes and Eq. 2's epsilon.

    Returns
    -------
    normalised : Tensor[N, U, D]
        y.
    scale : Tensor[N, 1, D]
        1 / sqrt(variance + eps).
    mean, variance : Tensor[N, D]
        The statistics used; the mean is that of z with its bias.
    """
    z = project(embeddings, projection, dims)  # [N, U, D], without the bias
    if running is None:
        mean, variance, centred = statistics(z, plan)
        mean = mean + bias  # which shifts mean and z alike and cancels, exactly
    else:
        mean, variance = running
        centred = z - (mean - bias).unsqueeze(1)
    scale = torch.rsqrt(variance + eps).unsqueeze(1)
    return centred * scale, scale, mean, variance


def statistics(z: Tensor, plan: Plan) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean and variance [N, D] over the events of a batch, and z [N, U, D] less the mean.

    Two passes over centred values: raw moments lose every digit of the variance once mean/std
    reaches 1000 in float32.
    """
    share = shares(plan, z.dtype)
    mean = share @ z
    centred = z - mean.unsqueeze(1)
    return mean, share @ centred.square(), centred


def shares(plan: Plan, dtype: torch.dtype) -> Tensor:
    """Return each distinct id's part [U] of the events that have a row."""
    return plan.counts.to(dtype) / plan.counts.sum().clamp_min(1)


def sum_events(events: Tensor, plan: Plan, distinct: int) -> Tensor:
    """Sum [N, B, D] over the events of each distinct id: [N, U, D], in a fixed order."""
    if events.device.type == "cpu":
        sums = events.new_zeros(events.shape[0], distinct, events.shape[2])
        return sums.index_add_(1, plan.inverse, events)
    # index_add_ adds by atomics on a GPU, in another order every time; this sorts.
    rows = events.transpose(0, 1).flatten(1)  # [B, N * D]
    flat = torch.ops.aten.embedding_dense_backward(rows, plan.inverse, distinct, -1, False)
    result: Tensor = flat.view(distinct, *events.shape[::2]).transpose(0, 1)
    return result


def backward_weights(grad: Tensor, activation: Tensor, inverse: Tensor, average: bool) -> Tensor:
    """Return d loss / d weights [B, N] = <G_b, t_n[id_b]> (1/N) for G = ``grad`` [B, D]."""
    spread = activation.index_select(1, inverse)  # [N, B, D]
    inner = (spread * grad).sum(2).t()
    return inner / len(activation) if average else inner


def backward_embeddings(
    grad: Tensor,
    embeddings: Tensor,
    plan: Plan,
    weights: Tensor,
    projection: Tensor,
    normalised: Tensor,
    scale: Tensor,
    activation: Tensor,
    dims: Sequence[int],
    average: bool,
    training: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of embeddings [U, S], projection [D, S] and bias [N, D].

    The gradient of a distinct row is the sum over its events. In training mode the bias cancels
    and its gradient is exactly zero: the rounding noise that a generic backward leaves there
    (1e-15) would be turned into steps of the learning rate by Adam.
    """
    scaled = (weights / len(dims) if average else weights).t()  # [N, B]
    summed = sum_events(scaled.unsqueeze(2) * grad, plan, len(embeddings))  # [N, U, D]
    dy = torch.ops.aten.tanh_backward(summed, activation)  # [N, U, D]
    if training:
        share = shares(plan, dy.dtype).unsqueeze(1)  # [U, 1]
        moments = dy.sum(1, keepdim=True), (dy * normalised).sum(1, keepdim=True)
        dz = (dy - share * (moments[0] + normalised * moments[1])) * scale
        bias_grad = torch.zeros_like(scale).squeeze(1)
    else:
        dz = dy * scale
        bias_grad = dz.sum(1)
    embeddings_grad = torch.empty_like(embeddings)
    projection_grad = torch.empty_like(projection)
    for n, columns in enumerate(size_slices(dims)):
        torch.mm(dz[n], projection[:, columns], out=embeddings_grad[:, columns])
        torch.mm(dz[n].t(), embeddings[:, columns], out=projection_grad[:, columns])
    return embeddings_grad, projection_grad, bias_grad


def double_backward(
    cotangents: Sequence[Tensor],
    grad: Tensor,
    embeddings: Tensor,
    plan: Plan,
    weights: Tensor,
    projection: Tensor,
    bias: Tensor,
    running: tuple[Tensor, Tensor] | None,
    dims: Sequence[int],
    eps: float,
    average: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Differentiate the backward pass.

    Parameters
    ----------
    cotangents : 4 Tensor
        Of the gradients of embeddings [U, S], weights [B, N], projection [D, S] and bias [N, D].
    grad : Tensor[B, D]
        G, as in the backward pass.
    running
        As in :func:`normalise`.

    Returns
    -------
    tuple of Tensor
        Derivatives with respect to grad, embeddings, weights, projection and bias.

    Notes
    -----
    Reverse mode over the lines of :func:`backward_embeddings`: each name ending in ``_2`` is the
    derivative with respect to the quantity before it.
    """
    embeddings_cot, weights_cot, projection_cot, bias_cot = cotangents
    training = running is None
    y, scale, *_ = normalise(embeddings, plan, projection, bias, running, dims, eps)
    share = shares(plan, y.dtype).unsqueeze(1)  # [U, 1]
    t = tanh(y)
    factor = 1 / len(dims) if average else 1.0
    scaled = (weights * factor).t().unsqueeze(2)  # [N, B, 1]
    summed = sum_events(scaled * grad, plan, len(embeddings))  # [N, U, D]
    slope = 1 - t.square()
    dy = summed * slope

    x = _cotangent_of_dz(embeddings_cot, projection_cot, embeddings, projection, dims)
    if training:
        first, second = dy.sum(1, keepdim=True), (dy * y).sum(1, keepdim=True)
        inner = dy - share * (first + y * second)
        q = x * scale
        first_2, second_2 = -(share * q).sum(1, keepdim=True), -(share * q * y).sum(1, keepdim=True)
        dy_2 = q + first_2 + second_2 * y
        y_2 = second_2 * dy - share * q * second
        scale_2 = (x * inner).sum(1, keepdim=True)
    else:
        x = x + bias_cot.unsqueeze(1)
        inner = dy
        dy_2 = x * scale
        y_2 = torch.zeros_like(dy)

    summed_2, dz = dy_2 * slope, inner * scale
    scaled_cot = (weights_cot * factor).t().unsqueeze(2)  # [N, B, 1]
    t_2 = sum_events(scaled_cot * grad, plan, len(embeddings)) - 2 * t * summed * dy_2
    y_2 = y_2 + t_2 * slope
    spread_t, spread_2 = t.index_select(1, plan.inverse), summed_2.index_select(1, plan.inverse)
    grad_2 = (scaled_cot * spread_t + scaled * spread_2).sum(0)
    weights_2 = (spread_2 * grad).sum(2).t() * factor

    z_2 = y_2 * scale
    if training:
        scale_2 = scale_2 + (y_2 * y).sum(1, keepdim=True) / scale
        z_2 = z_2 - share * y * (scale_2 * scale.square())
        z_2 = z_2 - share * z_2.sum(1, keepdim=True)
        bias_2 = torch.zeros_like(bias)
    else:
        bias_2 = z_2.sum(1)
    embeddings_2, projection_2 = torch.empty_like(embeddings), torch.empty_like(projection)
    for n, c in enumerate(size_slices(dims)):
        embeddings_2[:, c] = z_2[n] @ projection[:, c] + dz[n] @ projection_cot[:, c]
        projection_2[:, c] = z_2[n].t() @ embeddings[:, c] + dz[n].t() @ embeddings_cot[:, c]
    return grad_2, embeddings_2, weights_2, projection_2, bias_2


def _cotangent_of_dz(
    embeddings_cot: Tensor,
    projection_cot: Tensor,
    embeddings: Tensor,
    projection: Tensor,
    dims: Sequence[int],
) -> Tensor:
    """Return that of dz [N, U, D], in which both gradients are linear: dz W and dz^T E."""
    return torch.stack(
        [
            embeddings_cot[:, c] @ projection[:, c].t()
            + embeddings[:, c] @ projection_cot[:, c].t()
            for c in size_slices(dims)
        ]
    )
