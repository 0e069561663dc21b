"""The op ``autoemb::soft_embedding``: schemas, shapes, autograd of first and second order.

Forward, backward and double backward are registered ops, so that the backward pass has a
derivative (the exact hypergradient needs it). Between the passes only inputs and statistics are
kept. Results for distinct ids are padded to B rows, so that no shape depends on the data and a
compiled graph keeps each op as one node.

Dispatch keys say who computes: the native kernels are registered for CPU and CUDA, where they were
built, and the reference for every other device. The overload ``reference`` has it everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from autoemb.ops import cpu, cuda, reference_op
from autoemb.ops.differentiable import BelowAutograd, Differentiable
from autoemb.ops.native import is_too_old, kernels_for
from autoemb.ops.problem import SCHEMA, Problem, compute_dtype, from_flat

_FORWARD = f"(bool statistics, {SCHEMA}) -> (Tensor output, Tensor mean, Tensor variance)"
_BACKWARD = (
    f"(Tensor grad, bool embeddings, {SCHEMA}) -> (Tensor embeddings_grad, Tensor weights_grad,"
    " Tensor projection_grad, Tensor bias_grad, Tensor rows)"
)
_DOUBLE_BACKWARD = (
    f"(Tensor[] cotangents, Tensor grad, bool embeddings, {SCHEMA}) -> (Tensor grad_2,"
    " Tensor embeddings_2, Tensor weights_2, Tensor projection_2, Tensor bias_2, Tensor rows)"
)


class SoftEmbeddingOutput(NamedTuple):
    """What ``autoemb::soft_embedding`` returns; only ``output`` is differentiable.

    Attributes
    ----------
    output : Tensor[B, F, D]
    mean, variance : Tensor[F, N, D]
        Statistics the batch was normalised with (biased variance), float32 or float64; with
        ``statistics=True`` the batch's own.
    """

    output: Tensor
    mean: Tensor
    variance: Tensor


def _forward_shapes(statistics: bool, *arguments: Any) -> SoftEmbeddingOutput:
    problem = Problem(*arguments)
    dtype = compute_dtype(problem.projection.dtype)
    return SoftEmbeddingOutput(
        problem.weights.new_empty(*problem.ids.shape, problem.projection.shape[1]),
        problem.projection.new_empty(problem.statistics_shape, dtype=dtype),
        problem.projection.new_empty(problem.statistics_shape, dtype=dtype),
    )


def _backward_shapes(grad: Tensor, embeddings: bool, *arguments: Any) -> tuple[Tensor, ...]:
    problem = Problem(*arguments)
    ids, projection, bias = problem.ids, problem.projection, problem.bias
    batch, fields = ids.shape
    kept = fields if embeddings else 0
    return (
        projection.new_empty(kept, batch, projection.shape[2]),
        torch.empty_like(problem.weights, memory_format=torch.contiguous_format),
        projection.new_empty(kept, *projection.shape[1:]),
        bias.new_empty(kept, *bias.shape[1:]),
        ids.new_empty(kept, batch),
    )


def _double_backward_shapes(
    cotangents: list[Tensor], grad: Tensor, embeddings: bool, *arguments: Any
) -> tuple[Tensor, ...]:
    problem = Problem(*arguments)
    batch, fields = problem.ids.shape
    return (
        torch.empty_like(grad),
        problem.projection.new_empty(fields, batch, problem.projection.shape[2]),
        torch.empty_like(problem.weights),
        torch.empty_like(problem.projection),
        torch.empty_like(problem.bias),
        problem.ids.new_empty(fields, batch),
    )


#: The overloads of the forward op, by who computes and whether tables get sparse gradients. The
#: latter is autograd's alone: below it all are the first or the second.
_OVERLOADS = {
    (False, False): "",
    (True, False): ".reference",
    (False, True): ".sparse",
    (True, True): ".sparse_reference",
}
torch.library.define("autoemb::soft_embedding_double_backward", _DOUBLE_BACKWARD)
for _name in ("", ".reference"):
    torch.library.define(f"autoemb::soft_embedding_backward{_name}", _BACKWARD)
for _name in _OVERLOADS.values():
    torch.library.define(f"autoemb::soft_embedding{_name}", _FORWARD)

_ops = torch.ops.autoemb
_forward = {
    key: getattr(_ops.soft_embedding, name[1:] or "default") for key, name in _OVERLOADS.items()
}
_backward = {
    False: _ops.soft_embedding_backward.default,
    True: _ops.soft_embedding_backward.reference,
}
_double_backward = _ops.soft_embedding_double_backward.default


def _table_grads(
    embeddings_grad: Tensor, tables: Sequence[Tensor], rows: Tensor, sparse: bool
) -> list[Tensor]:
    """Spread the gradients of distinct rows [F, B, S] over the tables, dense or sparse.

    The padding adds zeros to a row in play: no shape depends on the data, and an optimiser meets
    no row that the batch does not hold.
    """
    grads = []
    # Where numbers are there to look at: not on a GPU, in a trace or in a transform.
    plain = type(rows) is Tensor and not torch._C._are_functorch_transforms_active()
    looks = plain and rows.device.type == "cpu"
    for f, table in enumerate(tables):
        if sparse:
            grads.append(
                torch.sparse_coo_tensor(
                    rows[f : f + 1], embeddings_grad[f], table.shape, check_invariants=False
                )
            )
        elif looks and _holds_all(rows[f], len(table)):
            grads.append(embeddings_grad[f, : len(table)])  # 28 tables: 2 ms less of 112
        else:
            grads.append(torch.zeros_like(table).index_add(0, rows[f], embeddings_grad[f]))
    return grads


def _holds_all(rows: Tensor, count: int) -> bool:
    """Whether distinct rows [B], ascending, then padded with their last, are 0 to count - 1."""
    if not 2 <= count <= len(rows):
        return False
    # Padding repeats the last row, so the row before tells whether this one is padding.
    return rows[count - 2 : count].tolist() == [count - 2, count - 1]


class _SoftEmbedding(Differentiable):
    """Autograd of the op; ``tensors`` are those of a problem in its flat form."""

    @staticmethod
    def forward(
        reference: bool, sparse: bool, statistics: bool, options: tuple[Any, ...], *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        problem = from_flat(options, tensors)
        with BelowAutograd():
            result: tuple[Tensor, ...] = _forward[reference, False](statistics, *problem)
        if statistics and problem.given is not None:
            # Copies: the caller will update the running ones before the backward pass.
            return *result, *(x.to(result[1].dtype, copy=True) for x in problem.given)
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.reference, ctx.sparse, _, ctx.options, *tensors = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors[:4], *output[-2:], *tensors[6:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        needs = ctx.needs_input_grad[5:]
        needs_weights, needs_projection, needs_bias, _, _, *needs_tables = needs
        if grads[0] is None:
            return (None,) * (5 + len(needs))
        saved = ctx.saved_tensors
        embeddings = any(needs_tables) or needs_projection or needs_bias
        embeddings_grad, weights_grad, projection_grad, bias_grad, rows = _Backward.apply(
            ctx.reference, embeddings, ctx.options, grads[0], *saved
        )
        tables = saved[6:]
        table_grads: list[Tensor | None] = [None] * len(tables)
        if any(needs_tables):
            table_grads = [*_table_grads(embeddings_grad, tables, rows, ctx.sparse)]
        if not embeddings:
            projection_grad = bias_grad = None
        weights_grad = weights_grad if needs_weights else None
        return *(None,) * 5, weights_grad, projection_grad, bias_grad, None, None, *table_grads


class _Backward(Differentiable):
    """Autograd of the backward op, as :class:`_SoftEmbedding`."""

    @staticmethod
    def forward(
        reference: bool, embeddings: bool, options: tuple[Any, ...], grad: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        with BelowAutograd():
            result: tuple[Tensor, ...] = _backward[reference](
                grad, embeddings, *from_flat(options, tensors)
            )
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _, ctx.embeddings, ctx.options, *tensors = inputs
        ctx.mark_non_differentiable(output[-1])
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        grad, *tensors = ctx.saved_tensors
        problem = from_flat(ctx.options, tensors)
        grad_2, embeddings_2, weights_2, projection_2, bias_2, rows = _double_backward(
            cotangents[:-1], grad, ctx.embeddings, *problem
        )
        table_grads = _table_grads(embeddings_2, problem.tables, rows, sparse=False)
        inputs = None, weights_2, projection_2, bias_2, None, None, *table_grads
        return None, None, None, grad_2, *inputs


def _differentiable_forward(
    reference: bool, sparse: bool, statistics: bool, *arguments: Any
) -> tuple[Tensor, ...]:
    flat = Problem(*arguments).flat()
    result = _SoftEmbedding.apply(reference, sparse, statistics, *flat)
    return tuple(result[:3])


def _differentiable_backward(
    reference: bool, grad: Tensor, embeddings: bool, *arguments: Any
) -> tuple[Tensor, ...]:
    options, *tensors = Problem(*arguments).flat()
    return tuple(_Backward.apply(reference, embeddings, options, grad, *tensors))


def _on_cuda(name: str, *arguments: Any) -> Any:
    device = next(x.device for x in arguments if isinstance(x, Tensor))
    if is_too_old(device):
        return getattr(reference_op, name)(*arguments)
    return getattr(cuda, name)(cuda.kernels, *arguments)


def _register(name: str, key: str, function: Any) -> None:
    torch.library.impl(f"autoemb::{name}", key, function)


# torch.library.register_autograd would do, but flattens its arguments, a list of tensors among
# them, in Python: forward and backward together cost 290 us beside the arithmetic with it, and
# 200 us without.
for (_reference, _sparse), _name in _OVERLOADS.items():
    _op = f"soft_embedding{_name}"
    _register(_op, "Autograd", partial(_differentiable_forward, _reference, _sparse))
    _register(_op, "CompositeExplicitAutograd", reference_op.forward)
    torch.library.register_fake(f"autoemb::{_op}", _forward_shapes)
for _reference in (False, True):
    _op = f"soft_embedding_backward{_OVERLOADS[_reference, False]}"
    _register(_op, "Autograd", partial(_differentiable_backward, _reference))
    _register(_op, "CompositeExplicitAutograd", reference_op.backward)
    torch.library.register_fake(f"autoemb::{_op}", _backward_shapes)
_op = "soft_embedding_double_backward"
_register(_op, "CompositeExplicitAutograd", reference_op.double_backward)
torch.library.register_fake(f"autoemb::{_op}", _double_backward_shapes)
for _op in ("soft_embedding", "soft_embedding.sparse", "soft_embedding_backward"):
    _pass = "backward" if _op.endswith("backward") else "forward"
    if cpu.COMPILED:
        _register(_op, "CPU", getattr(cpu, _pass))
    if cuda.COMPILED:
        _register(_op, "CUDA", partial(_on_cuda, _pass))


def soft_embedding(
    tables: Sequence[Tensor],
    ids: Tensor,
    weights: Tensor,
    projection: Tensor,
    bias: Tensor,
    running: tuple[Tensor, Tensor] | None = None,
    *,
    dims: Sequence[int] = (2, 16, 128),
    eps: float = 1e-5,
    average: bool = True,
    sparse: bool = False,
    backend: str = "auto",
    statistics: bool = False,
) -> SoftEmbeddingOutput:
    """Look up every size of every id and return their soft weighted sum (Eqs. 1, 2 and 7).

    Parameters
    ----------
    tables : sequence of F Tensor[V_f, S]
        One row per id, the sizes side by side, S = sum(dims).
    ids : Tensor[B, F], int64
    weights : Tensor[B, F, N]
        Mix of the N sizes per event and field. Under autocast of any dtype: they become the
        projection's, and their gradient their own.
    projection, bias : Tensor[F, D, S], Tensor[F, N, D]
    running : (Tensor[F, N, D], Tensor[F, N, D]), optional
        Mean and variance to normalise with. By default the batch's own.
    dims : sequence of int
        The sizes.
    eps : float
        Added to the variance.
    average : bool
        Keep Eq. 7's factor 1/N.
    sparse : bool
        Give tables sparse gradients that hold only the batch's distinct rows.
    backend : {"auto", "reference", "native"}
        Native kernels where they take these tensors ("auto"), never, or else an error. The
        environment variable AUTOEMB_BACKEND overrides it.
    statistics : bool
        Return the batch's own mean and variance, though it is normalised with ``running``.

    Returns
    -------
    SoftEmbeddingOutput

    Raises
    ------
    IndexError
        If an id is outside its table; names the field. The CUDA kernels treat it as an id without
        rows and raise at a later call, or in :func:`check_ids`.
    NotImplementedError
        For derivatives in forward mode (:func:`torch.func.jvp`).
    RuntimeError
        For ``backend="native"`` where there are no kernels for these tensors, and for a tensor
        whose device or dtype does not fit the others.
    ValueError
        For a tensor whose shape does not fit the others.

    Examples
    --------
    >>> import torch
    >>> tables = [torch.randn(10, 3), torch.randn(20, 3)]
    >>> ids = torch.tensor([[9, 0], [3, 19]])
    >>> weights = torch.full((2, 2, 2), 0.5)
    >>> result = soft_embedding(
    ...     tables, ids, weights, torch.randn(2, 4, 3), torch.zeros(2, 2, 4), dims=(1, 2)
    ... )
    >>> result.output.shape
    torch.Size([2, 2, 4])
    """
    if weights.dtype != projection.dtype:
        if not torch.is_autocast_enabled(weights.device.type):
            raise RuntimeError(
                f"expected weights of dtype {projection.dtype} but got {weights.dtype}"
            )
        weights = weights.to(projection.dtype)
    mean, variance = running or (None, None)
    problem = Problem(
        *(ids, weights, projection, bias, mean, variance),
        *(tables, tuple(dims), eps, average, running is None),
    )
    reference = kernels_for(backend, tables, weights) is None
    if torch.compiler.is_compiling():  # to one node, autograd within
        result = _forward[reference, sparse](statistics, *problem)
    elif torch.is_grad_enabled() or torch._C._are_functorch_transforms_active():
        result = _SoftEmbedding.apply(reference, sparse, statistics, *problem.flat())
    else:
        with BelowAutograd():
            result = _forward[reference, False](statistics, *problem)
    return SoftEmbeddingOutput(*result[:3])
