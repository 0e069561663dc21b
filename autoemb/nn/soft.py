"""The soft multi-size embedding."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from autoemb.build import build_info
from autoemb.nn.rows import RowModule
from autoemb.ops import chosen_backend, soft_embedding
from autoemb.ops.sizes import size_slices

NORMS = ("batch", "running", "none")
PROJECTIONS = ("uniform", "identity")


def check_id_columns(ids: Tensor, fields: int) -> None:
    """Raise the errors of torch.nn.Embedding for ids that are not int64 [B, F]."""
    if ids.dtype != torch.int64:
        raise RuntimeError(f"expected ids of dtype torch.int64 but got {ids.dtype}")
    if ids.dim() != 2 or ids.shape[1] != fields:
        raise ValueError(f"expected ids of shape [B, {fields}] (one column a field) but got "
                         f"{list(ids.shape)}")  # fmt: skip


class SoftEmbedding(RowModule):
    """Embeddings of several sizes for every id, mixed by per-event weights.

    For each field f and size n: look up a row of width d_n, transform it linearly to width
    D = embedding_dims[-1], standardise, apply tanh, and return the weighted sum over sizes
    (AutoEmb, Eqs. 1, 2 and 7)::

        out[b, f] = (1/N) sum_n weights[b, f, n] tanh(normalise(E_n[ids[b, f]] W_n + b_n))

    Parameters
    ----------
    num_embeddings : sequence of int
        Rows of each field's table; its length F is the number of fields.
    embedding_dims : sequence of int, default (2, 16, 128)
        The N sizes, ascending. The last is the output width D.
    norm : {"batch", "running", "none"}, default "batch"
        What sizes are normalised with in training mode: the batch's own statistics (the paper's
        BatchNorm), or the running statistics of the batches before it, as constants; in eval mode
        running statistics either way. No affine part. "none" takes sizes as they are, so that
        biases are vectors that all ids share, and takes no statistics.
    eps : float, default 1e-5
        Added to the variance; not used by ``norm="none"``.
    momentum : float, default 0.1
        Weight of the newest batch in the running statistics.
    init_std : float, default 1.0
        Standard deviation of the rows of ids never seen.
    average : bool, default True
        Keep Eq. 7's factor 1/N.
    projection : {"uniform", "identity"}, default "uniform"
        How W and b start: as in :class:`torch.nn.Linear`, or with the identity for the widest size
        and zero biases, so that the widest size starts as a plain embedding within tanh.
    backend : {"auto", "reference", "native"}, default "auto"
        "auto" takes the native kernels where this build has them and they take the module's dtype
        and device; "native" makes it an error where they do not. The environment variable
        AUTOEMB_BACKEND overrides it.
    device, dtype
        As in :class:`torch.nn.Embedding`. Statistics are float32 or wider whatever the dtype.
    sparse : bool, default False
        Give the tables sparse gradients of only the batch's distinct rows, for optimisers that
        take them (:mod:`autoemb.optim`, :class:`torch.optim.SparseAdam`). The bilevel trainer
        gathers rows itself and does not need it.

    Raises
    ------
    ValueError
        For an empty or non-positive argument, or an unknown ``norm``, ``projection`` or
        ``backend``.
    RuntimeError
        For ``backend="native"`` in a build without native kernels.

    Notes
    -----
    In memory the sizes of a field lie side by side in one table ``table_{f}`` [V_f, S]. The
    ``state_dict`` is independent of that: ``tables.{f}.{n}`` [V_f, d_n],
    ``projections.{f}.{n}.weight`` [D, d_n], ``projections.{f}.{n}.bias`` [D],
    ``norms.{f}.{n}.running_mean`` and ``running_var`` [D], ``num_batches_tracked`` [].

    Examples
    --------
    >>> import torch
    >>> embedding = SoftEmbedding([1000, 500])  # 1,000 users, 500 items
    >>> ids = torch.tensor([[3, 7], [999, 0]])  # [B, F]
    >>> weights = torch.full((2, 2, 3), 1 / 3)  # [B, F, N]
    >>> embedding(ids, weights).shape
    torch.Size([2, 2, 128])
    """

    def __init__(
        self,
        num_embeddings: Sequence[int],
        embedding_dims: Sequence[int] = (2, 16, 128),
        *,
        norm: str = "batch",
        eps: float = 1e-5,
        momentum: float = 0.1,
        init_std: float = 1.0,
        average: bool = True,
        projection: str = "uniform",
        backend: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        sparse: bool = False,
    ) -> None:
        super().__init__()
        if not num_embeddings or min(num_embeddings) < 1:
            raise ValueError(f"num_embeddings must be positive, one a field; got {num_embeddings}")
        if not embedding_dims or min(embedding_dims) < 1:
            raise ValueError(f"embedding_dims must be positive sizes; got {embedding_dims}")
        if list(embedding_dims) != sorted(embedding_dims):
            raise ValueError(
                f"embedding_dims must ascend to the output width; got {embedding_dims}"
            )
        for name, value, choices in (
            ("norm", norm, NORMS),
            ("projection", projection, PROJECTIONS),
        ):
            if value not in choices:
                known = ", ".join(f'"{choice}"' for choice in choices)
                raise ValueError(f"{name} must be one of {known}; got {value!r}")
        if not 0 <= init_std < math.inf:
            raise ValueError(f"init_std must be a number from 0; got {init_std}")
        if chosen_backend(backend) == "native":
            info = build_info()
            if not (info["native"] or info["cuda"]):
                raise RuntimeError(f'backend="native" is not in this build: {info["reason"]}')
        self.embedding_dims = tuple(embedding_dims)
        self.norm, self.eps, self.momentum, self.init_std = norm, eps, momentum, init_std
        self.average, self.backend, self.sparse = average, backend, sparse
        fields, sizes, width = len(num_embeddings), len(embedding_dims), embedding_dims[-1]
        total = sum(embedding_dims)
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        self.register_tables(num_embeddings, **options)
        self.projection = nn.Parameter(torch.empty(fields, width, total, **options))
        self.bias = nn.Parameter(torch.empty(fields, sizes, width, **options))
        options["dtype"] = torch.promote_types(self.bias.dtype, torch.float32)
        self.register_buffer("running_mean", torch.zeros(fields, sizes, width, **options))
        self.register_buffer("running_var", torch.ones(fields, sizes, width, **options))
        self.register_buffer(
            "num_batches_tracked", torch.zeros(fields, sizes, dtype=torch.int64, device=device)
        )
        self.running_mean: Tensor
        self.running_var: Tensor
        self.num_batches_tracked: Tensor
        with torch.no_grad():  # torch.nn.Linear's initialisation, per size
            for n, columns in enumerate(size_slices(self.embedding_dims)):
                bound = 1 / math.sqrt(self.embedding_dims[n])
                self.projection[:, :, columns].uniform_(-bound, bound)
                self.bias[:, n].uniform_(-bound, bound)
            if projection == "identity":
                self.projection[:, :, -width:] = torch.eye(width)
                self.bias.zero_()

    def register_tables(self, num_embeddings: Sequence[int], **options: Any) -> None:
        """Make a table [V_f, S] for each field, sizes side by side."""
        for f, rows in enumerate(num_embeddings):
            table = torch.empty(rows, sum(self.embedding_dims), **options)
            self.register_rows(f"table_{f}", f, table)

    @property
    def fields(self) -> int:
        """F, the number of fields."""
        return len(self.projection)

    @property
    def output_dim(self) -> int:
        """D, the width of the output."""
        return self.embedding_dims[-1]

    @property
    def tables(self) -> list[Tensor]:
        """The F tables [V_f, S], sizes side by side."""
        return [self.table(name) for name in self.row_fields]

    def init_rows(self, name: str, rows: Tensor) -> None:
        """Draw new rows from a normal distribution."""
        rows.normal_(0, self.init_std)

    def forward(self, ids: Tensor, weights: Tensor) -> Tensor:
        """Return the mixed embeddings.

        Parameters
        ----------
        ids : Tensor[B, F], int64
        weights : Tensor[B, F, N]
            Mix of the sizes, of the module's dtype; under autocast of any, as a gate gives them.

        Returns
        -------
        Tensor[B, F, D]

        Raises
        ------
        IndexError
            For an id outside its table; names the field. The CUDA kernels treat such an id as one
            without rows and raise at a later call, or in :func:`autoemb.ops.check_ids`.
        RuntimeError
            For a wrong dtype.
        ValueError
            For a wrong shape, or a batch of one in training mode with ``norm="batch"``.
        """
        check_id_columns(ids, self.fields)
        batch, sizes = ids.shape[0], len(self.embedding_dims)
        if weights.shape != (batch, self.fields, sizes):
            raise ValueError(
                f"expected weights of shape {[batch, self.fields, sizes]} ([B, F, N]) but got "
                f"{list(weights.shape)}"
            )
        own = self.training and self.norm == "batch"
        tracked = self.training and self.norm != "none"
        if own and batch == 1:
            raise ValueError(
                f"Expected more than 1 value per channel when training, got ids of shape "
                f"{list(ids.shape)}: field 0 has one event to take statistics from"
            )
        result = soft_embedding(
            self.tables,
            self._positions(ids),
            weights,
            self.projection,
            self.bias,
            None if own else (self.running_mean, self.running_var),
            dims=self.embedding_dims,
            eps=0.0 if self.norm == "none" else self.eps,  # with a mean of 0 and a variance of 1
            average=self.average,
            sparse=self.sparse,
            backend=self.backend,
            statistics=tracked,
        )
        if tracked and batch:
            self._track(result.mean, result.variance, batch)
        return result.output

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, batch: int) -> None:
        """Let the running statistics follow those of a batch."""
        unbiased = variance * (batch / max(batch - 1, 1))
        momentum: float | Tensor = self.momentum
        if self.norm == "running":
            # What the next batch is normalised with: of the first batch alone while there is no
            # other, and with the spread of the batches' means, which for a few users is large.
            first = (self.num_batches_tracked == 0).unsqueeze(2).to(mean.dtype)
            momentum = self.momentum + (1 - self.momentum) * first
            unbiased += (1 - momentum) * (mean - self.running_mean).square()
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(unbiased, momentum)
        self.num_batches_tracked += 1

    def _positions(self, ids: Tensor) -> Tensor:
        if self._rows_in_play is None:
            return ids
        columns = enumerate(ids.unbind(1))
        return torch.stack([self.positions(field, column) for field, column in columns], 1)

    def _apply(self, fn: Any, recurse: bool = True) -> SoftEmbedding:
        # A cast of the module leaves its statistics in float32 or wider, as the constructor does.
        before = {name: self.get_buffer(name) for name in ("running_mean", "running_var")}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, value in before.items():
            after = self.get_buffer(name)
            if after.dtype != (wide := torch.promote_types(after.dtype, torch.float32)):
                self.register_buffer(name, value.to(after.device, wide))
        return self

    def _logical(self) -> Iterator[tuple[str, Tensor]]:
        """Yield each entry of the state_dict as a view into the module's memory."""
        for f, table in enumerate(self.tables):
            for n, columns in enumerate(size_slices(self.embedding_dims)):
                yield f"tables.{f}.{n}", table[:, columns]
                yield f"projections.{f}.{n}.weight", self.projection[f, :, columns]
                yield f"projections.{f}.{n}.bias", self.bias[f, n]
                yield f"norms.{f}.{n}.running_mean", self.running_mean[f, n]
                yield f"norms.{f}.{n}.running_var", self.running_var[f, n]
                yield f"norms.{f}.{n}.num_batches_tracked", self.num_batches_tracked[f, n]

    def _physical(self, prefix: str) -> set[str]:
        """Return the keys that a state_dict would have by the layout in memory."""
        names = ("projection", "bias", "running_mean", "running_var", "num_batches_tracked")
        return {prefix + name for name in (*self.row_fields, *names)}

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for key in self._physical(prefix):
            del destination[key]
        for key, view in self._logical():
            destination[prefix + key] = view if keep_vars else view.detach()

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        if local_metadata.get("assign_to_params_buffers"):
            error_msgs.append(f"{prefix}tables are views of one table: assign=True cannot set them")
            return
        views = {prefix + key: view for key, view in self._logical()}
        physical = self._physical(prefix)
        others = {k: v for k, v in state_dict.items() if k not in views and k not in physical}
        missing: list[str] = []
        super()._load_from_state_dict(
            others, prefix, local_metadata, strict, missing, unexpected_keys, error_msgs
        )
        missing_keys.extend(key for key in missing if key not in physical)
        if strict:
            unexpected_keys.extend(key for key in state_dict if key in physical)
        for key, view in views.items():
            if key not in state_dict:
                if strict:
                    missing_keys.append(key)
                continue
            value = state_dict[key]
            if value.shape != view.shape:
                error_msgs.append(
                    f"size mismatch for {key}: copying a param with shape {value.shape} from "
                    f"checkpoint, the shape in current model is {view.shape}."
                )
                continue
            with torch.no_grad():
                view.copy_(value)

    def extra_repr(self) -> str:
        """Describe the tables for ``repr``."""
        rows = [len(table) for table in self.tables]
        return f"{rows}, embedding_dims={self.embedding_dims}, norm={self.norm!r}"
