"""The op ``autoemb::soft_embedding``: schemas, shapes, autograd of first and second order.

Forward, backward and double backward are registered ops, so that the backward pass has a
derivative (the exact hypergradient needs it). Between the passes only inputs and statistics are
kept. Results for distinct ids are padded to B rows, so that no shape depends on the data and a
compiled graph keeps each op as one node.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from autoemb.ops import implementation

torch.library.define(
    "autoemb::soft_embedding",
    "(Tensor[] tables, Tensor ids, Tensor weights, Tensor projection, Tensor bias,"
    " Tensor? running_mean, Tensor? running_variance, int[] dims, float eps, bool average,"
    " bool sparse, str backend, bool statistics=False)"
    " -> (Tensor output, Tensor mean, Tensor variance)",
)
torch.library.define(
    "autoemb::soft_embedding_backward",
    "(Tensor grad, Tensor[] tables, Tensor ids, Tensor weights, Tensor projection, Tensor bias,"
    " Tensor mean, Tensor variance, int[] dims, float eps, bool average, bool training,"
    " bool embeddings, str backend) -> (Tensor embeddings_grad, Tensor weights_grad,"
    " Tensor projection_grad, Tensor bias_grad, Tensor rows)",
)
torch.library.define(
    "autoemb::soft_embedding_double_backward",
    "(Tensor[] cotangents, Tensor grad, Tensor[] tables, Tensor ids, Tensor weights,"
    " Tensor projection, Tensor bias, Tensor mean, Tensor variance, int[] dims, float eps,"
    " bool average, bool training, bool embeddings) -> (Tensor grad_2, Tensor embeddings_2,"
    " Tensor weights_2, Tensor projection_2, Tensor bias_2, Tensor rows)",
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


def _forward_shapes(
    tables: list[Tensor],
    ids: Tensor,
    weights: Tensor,
    projection: Tensor,
    bias: Tensor,
    running_mean: Tensor | None,
    running_variance: Tensor | None,
    dims: Sequence[int],
    *_: Any,
) -> SoftEmbeddingOutput:
    batch, fields = ids.shape
    sizes, width = len(dims), projection.shape[1]
    dtype = implementation.compute_dtype(projection.dtype)
    return SoftEmbeddingOutput(
        weights.new_empty(batch, fields, width),
        projection.new_empty(fields, sizes, width, dtype=dtype),
        projection.new_empty(fields, sizes, width, dtype=dtype),
    )


def _backward_shapes(
    grad: Tensor,
    tables: list[Tensor],
    ids: Tensor,
    weights: Tensor,
    projection: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    dims: Sequence[int],
    eps: float,
    average: bool,
    training: bool,
    embeddings: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    batch, fields = ids.shape
    kept = fields if embeddings else 0
    return (
        projection.new_empty(kept, batch, projection.shape[2]),
        torch.empty_like(weights, memory_format=torch.contiguous_format),
        projection.new_empty(kept, *projection.shape[1:]),
        bias.new_empty(kept, *bias.shape[1:]),
        ids.new_empty(kept, batch),
    )


def _double_backward_shapes(
    cotangents: list[Tensor],
    grad: Tensor,
    tables: list[Tensor],
    ids: Tensor,
    weights: Tensor,
    projection: Tensor,
    bias: Tensor,
    *_: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    batch, fields = ids.shape
    return (
        torch.empty_like(grad),
        projection.new_empty(fields, batch, projection.shape[2]),
        torch.empty_like(weights),
        torch.empty_like(projection),
        torch.empty_like(bias),
        ids.new_empty(fields, batch),
    )


def _table_grads(
    embeddings_grad: Tensor, tables: Sequence[Tensor], rows: Tensor, sparse: bool
) -> list[Tensor]:
    """Spread the gradients of distinct rows [F, B, S] over the tables, dense or sparse.

    The padding adds zeros to a row in play: no shape depends on the data, and an optimiser meets
    no row that the batch does not hold.
    """
    grads = []
    for f, table in enumerate(tables):
        if sparse:
            grads.append(
                torch.sparse_coo_tensor(
                    rows[f : f + 1], embeddings_grad[f], table.shape, check_invariants=False
                )
            )
        else:
            grads.append(torch.zeros_like(table).index_add(0, rows[f], embeddings_grad[f]))
    return grads


class _SoftEmbedding(torch.autograd.Function):
    """Autograd of the op; tables last, one by one, since a Function takes no list of tensors."""

    @staticmethod
    def forward(
        ctx: Any,
        running: tuple[Tensor | None, Tensor | None],
        options: tuple[Any, ...],
        ids: Tensor,
        weights: Tensor,
        projection: Tensor,
        bias: Tensor,
        *tables: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        with torch._C._AutoDispatchBelowAutograd():
            output, mean, variance = torch.ops.autoemb.soft_embedding(
                tables, ids, weights, projection, bias, *running, *options
            )
        ctx.mark_non_differentiable(mean, variance)
        ctx.set_materialize_grads(False)
        ctx.options, ctx.training = options[:5], running[0] is None
        used = [mean, variance]
        if options[5] and running[0] is not None:
            # Copies: the caller will update the running ones before the backward pass.
            used = [x.to(mean.dtype, copy=True) for x in running if x is not None]
        ctx.save_for_backward(ids, weights, projection, bias, *used, *tables)
        return output, mean, variance

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        if grads[0] is None:
            return (None,) * len(ctx.needs_input_grad)
        saved, tables = ctx.saved_tensors[:6], ctx.saved_tensors[6:]
        dims, eps, average, sparse, backend = ctx.options
        _, _, _, needs_weights, needs_projection, needs_bias, *needs_tables = ctx.needs_input_grad
        embeddings = any(needs_tables) or needs_projection or needs_bias
        embeddings_grad, weights_grad, projection_grad, bias_grad, rows = (
            torch.ops.autoemb.soft_embedding_backward(
                grads[0], tables, *saved, dims, eps, average, ctx.training, embeddings, backend
            )
        )
        table_grads: list[Tensor | None] = [None] * len(tables)
        if any(needs_tables):
            table_grads = [*_table_grads(embeddings_grad, tables, rows, sparse)]
        if not embeddings:
            projection_grad = bias_grad = None
        weights_grad = weights_grad if needs_weights else None
        return None, None, None, weights_grad, projection_grad, bias_grad, *table_grads


class _SoftEmbeddingBackward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        options: tuple[Any, ...],
        backend: str,
        grad: Tensor,
        ids: Tensor,
        weights: Tensor,
        projection: Tensor,
        bias: Tensor,
        mean: Tensor,
        variance: Tensor,
        *tables: Tensor,
    ) -> tuple[Tensor, ...]:
        saved = ids, weights, projection, bias, mean, variance
        with torch._C._AutoDispatchBelowAutograd():
            result: tuple[Tensor, ...] = torch.ops.autoemb.soft_embedding_backward(
                grad, tables, *saved, *options, backend
            )
        ctx.mark_non_differentiable(result[-1])
        ctx.options = options
        ctx.save_for_backward(grad, *saved, *tables)
        return result

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        grad, *saved = ctx.saved_tensors[:7]
        tables = ctx.saved_tensors[7:]
        grad_2, embeddings_2, weights_2, projection_2, bias_2, rows = (
            torch.ops.autoemb.soft_embedding_double_backward(
                cotangents[:-1], grad, tables, *saved, *ctx.options
            )
        )
        table_grads = _table_grads(embeddings_2, tables, rows, sparse=False)
        statistics = None, None
        return None, None, grad_2, None, weights_2, projection_2, bias_2, *statistics, *table_grads


def _differentiable_forward(
    tables: list[Tensor],
    ids: Tensor,
    weights: Tensor,
    projection: Tensor,
    bias: Tensor,
    running_mean: Tensor | None,
    running_variance: Tensor | None,
    dims: Sequence[int],
    eps: float,
    average: bool,
    sparse: bool,
    backend: str,
    statistics: bool = False,
) -> Any:
    options = dims, eps, average, sparse, backend, statistics
    return _SoftEmbedding.apply(  # type: ignore[no-untyped-call]
        (running_mean, running_variance), options, ids, weights, projection, bias, *tables
    )


def _differentiable_backward(grad: Tensor, tables: list[Tensor], *rest: Any) -> Any:
    *tensors, options, backend = *rest[:6], rest[6:11], rest[11]
    return _SoftEmbeddingBackward.apply(  # type: ignore[no-untyped-call]
        options, backend, grad, *tensors, *tables
    )


for _name, _implementation, _shapes in (
    ("soft_embedding", implementation.forward, _forward_shapes),
    ("soft_embedding_backward", implementation.backward, _backward_shapes),
    ("soft_embedding_double_backward", implementation.double_backward, _double_backward_shapes),
):
    torch.library.impl(f"autoemb::{_name}", "CompositeExplicitAutograd", _implementation)
    torch.library.register_fake(f"autoemb::{_name}", _shapes)
# torch.library.register_autograd would do, but flattens its arguments, a list of tensors among
# them, in Python: forward and backward together cost 290 us beside the arithmetic with it, and
# 200 us without.
torch.library.impl("autoemb::soft_embedding", "Autograd", _differentiable_forward)
torch.library.impl("autoemb::soft_embedding_backward", "Autograd", _differentiable_backward)


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
        Mix of the N sizes per event and field.
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
    mean, variance = (None, None) if running is None else running
    return SoftEmbeddingOutput(
        *torch.ops.autoemb.soft_embedding(
            [*tables],
            ids,
            weights,
            projection,
            bias,
            mean,
            variance,
            dims,
            eps,
            average,
            sparse,
            backend,
            statistics,
        )
    )
