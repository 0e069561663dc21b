"""The soft multi-size embedding."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from autoemb.batch import Bag
from autoemb.nn.checks import check_arguments, check_mix
from autoemb.nn.draws import Keys, normal_rows
from autoemb.nn.inputs import by_name
from autoemb.nn.logical import LogicalState
from autoemb.nn.places import find_rows
from autoemb.nn.reading import Reading, check_id_columns, check_named, taken
from autoemb.nn.rows import RowModule
from autoemb.ops import distinct, look_up, soft_embedding
from autoemb.ops.native import check_choice
from autoemb.ops.sizes import size_slices
from autoemb.schema import Sparse

NORMS = ("none", "batch", "running")
PROJECTIONS = ("identity", "uniform")

#: The mix of sizes: of each event [B, F, N], of each row of the tables by name, or uniform.
Mix = Tensor | Mapping[str, Tensor] | None


class SoftEmbedding(LogicalState, RowModule):
    """Embeddings of several sizes for every id, mixed by weights.

    For each table f and size n: look up a row of width d_n, transform it linearly to width
    D = embedding_dims[-1], standardise, apply tanh, and return the weighted sum over sizes
    (AutoEmb, Eqs. 1, 2 and 7)::

        out[b, f] = (1/N) sum_n weights[b, f, n] tanh(normalise(E_n[ids[b, f]] W_n + b_n))

    Parameters
    ----------
    num_embeddings : sequence of int
        Rows of each table.
    embedding_dims : sequence of int, default (2, 16, 128)
        The N sizes, ascending. The last is the output width D.
    features : sequence of str or Sparse, optional
        What the module reads, by name, in the order of its output; bags as
        :class:`autoemb.schema.Bag`. Features that name one table share its rows, projection and
        statistics; tables are in the order in which features first name them. Without features the
        module reads one column of ids for each table, and no trainer can give it rows.
    norm : {"none", "batch", "running"}, default "none"
        What sizes are normalised with in training mode: nothing, so that biases are vectors that
        all ids share; the batch's own statistics (the paper's BatchNorm); or the running statistics
        of the batches before it, as constants. In eval mode running statistics either way. No
        affine part.
    eps : float, default 1.0
        Added to the variance; not used by ``norm="none"``. The paper's BatchNorm has 1e-5.
    momentum : float, default 0.1
        Weight of the newest batch in the running statistics.
    init_std : float, default 0.1
        Standard deviation of the rows of ids never seen.
    average : bool, default False
        Keep Eq. 7's factor 1/N.
    projection : {"identity", "uniform"}, default "identity"
        How W and b start: with the identity for the widest size and zero biases, so that the widest
        size starts as a plain embedding within tanh, or as in :class:`torch.nn.Linear`.
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
        For an empty or non-positive argument, an unknown ``norm``, ``projection`` or ``backend``,
        or as many tables as ``num_embeddings`` has not.
    RuntimeError
        For ``backend="native"`` in a build without native kernels.

    Notes
    -----
    In memory the sizes of a table lie side by side in one parameter ``table_{f}`` [V_f, S]. The
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
        features: Sequence[str | Sparse] | None = None,
        norm: str = "none",
        eps: float = 1.0,
        momentum: float = 0.1,
        init_std: float = 0.1,
        average: bool = False,
        projection: str = "identity",
        backend: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        sparse: bool = False,
    ) -> None:
        super().__init__(features)
        check_arguments(num_embeddings, embedding_dims, init_std, backend)
        check_choice("norm", norm, NORMS)
        check_choice("projection", projection, PROJECTIONS)
        self.reading = Reading(self.features, len(num_embeddings))
        self.embedding_dims = tuple(embedding_dims)
        self.norm, self.eps, self.momentum, self.init_std = norm, eps, momentum, init_std
        self.average, self.backend, self.sparse = average, backend, sparse
        tables, sizes, width = len(num_embeddings), len(embedding_dims), embedding_dims[-1]
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        self.register_tables(num_embeddings, **options)
        self.projection = nn.Parameter(torch.empty(tables, width, sum(embedding_dims), **options))
        self.bias = nn.Parameter(torch.empty(tables, sizes, width, **options))
        options["dtype"] = torch.promote_types(self.bias.dtype, torch.float32)
        self.register_buffer("running_mean", torch.zeros(tables, sizes, width, **options))
        self.register_buffer("running_var", torch.ones(tables, sizes, width, **options))
        self.register_buffer(
            "num_batches_tracked", torch.zeros(tables, sizes, dtype=torch.int64, device=device)
        )
        self.running_mean: Tensor
        self.running_var: Tensor
        self.num_batches_tracked: Tensor
        self._begin_projections(projection)

    @torch.no_grad()
    def _begin_projections(self, projection: str) -> None:
        for n, columns in enumerate(size_slices(self.embedding_dims)):
            bound = 1 / math.sqrt(self.embedding_dims[n])  # of torch.nn.Linear, per size
            self.projection[:, :, columns].uniform_(-bound, bound)
            self.bias[:, n].uniform_(-bound, bound)
        if projection == "identity":
            self.projection[:, :, -self.output_dim :] = torch.eye(self.output_dim)
            self.bias.zero_()

    def register_tables(self, num_embeddings: Sequence[int], **options: Any) -> None:
        """Make a parameter [V_f, S] for each table, sizes side by side."""
        for f, (table, rows) in enumerate(zip(self.reading.tables, num_embeddings, strict=True)):
            values = torch.empty(rows, sum(self.embedding_dims), **options)
            self.register_rows(f"table_{f}", table, values)

    @property
    def num_features(self) -> int:
        """F, the number of embeddings that an event gets."""
        return len(self.features) or len(self.row_tables)

    @property
    def output_dim(self) -> int:
        """D, the width of the output."""
        return self.embedding_dims[-1]

    @property
    def tables(self) -> list[Tensor]:
        """The tables [V_f, S], sizes side by side."""
        return [self.table(name) for name in self.row_tables]

    def new_rows(self, name: str, keys: Keys) -> Tensor:
        """Draw rows [U, S] from a normal distribution."""
        width = sum(self.embedding_dims)
        return normal_rows(keys, width, self.init_std, self.table(name))

    def init_rows(self, name: str, rows: Tensor) -> None:
        """Draw rows from a normal distribution by PyTorch's random numbers."""
        rows.normal_(0, self.init_std)

    def forward(self, ids: Any, weights: Mix = None) -> Tensor:
        """Return the mixed embeddings.

        Parameters
        ----------
        ids : Tensor[B, F], int64; Inputs; mapping; or KeyedJaggedTensor
            Row numbers: a column for each table, or by the name of the feature
            (:class:`autoemb.nn.Inputs`; a mapping of str to Tensor[B] or :class:`autoemb.Bag`).
        weights : Tensor[B, F, N], or mapping of str to Tensor[V_f, N], optional
            Mix of the sizes: of each event and feature (all ids of a bag share it), or of each row
            by table. Of the module's dtype; under autocast of any. By default all sizes have 1/N.

        Returns
        -------
        Tensor[B, F, D]

        Raises
        ------
        IndexError
            For an id outside its table; names the table. The CUDA kernels treat such an id as one
            without rows and raise at a later call, or in :func:`autoemb.ops.check_ids`.
        RuntimeError
            For a wrong dtype.
        ValueError
            For a wrong shape, a feature that is missing or of another kind, or a batch of one in
            training mode with ``norm="batch"``.
        """
        columns: list[Any] = []
        if isinstance(ids, Tensor):
            check_id_columns(ids, len(self.row_tables), self.features)
        else:
            columns = check_named(by_name(ids, self.features), self.features)
        batch = ids.shape[0] if isinstance(ids, Tensor) else _events(columns[0])
        shape = batch, self.num_features, len(self.embedding_dims)
        check_mix(weights, self.projection.dtype, shape, self.reading.tables)
        if isinstance(ids, Tensor):
            every = slice(0, len(self.row_tables))
            return self._op(every, *self._found(every, ids, weights))
        pieces: dict[int, Tensor] = {}
        for run in self.reading.runs:
            mix = weights[:, run.features] if isinstance(weights, Tensor) else weights
            found = self._found(run.tables, columns[run.features], mix)
            pieces[run.features.start] = self._op(run.tables, *found)
        for table, own in self.reading.shared.items():
            pieces |= self._shared(table, own, columns, weights)
        ordered = [pieces[first] for first in sorted(pieces)]
        return ordered[0] if len(ordered) == 1 else torch.cat(ordered, 1)

    def _found(
        self, tables: slice, columns: Tensor | Sequence[Tensor], weights: Mix
    ) -> tuple[Tensor, Tensor]:
        """Return positions [B, k] and mix [B, k, N] of features that alone read k tables."""
        names = self.reading.tables[tables]
        if self._in_play is not None:
            each = columns.unbind(1) if isinstance(columns, Tensor) else columns
            ids = torch.stack([*map(self.positions, names, each)], 1)
        else:  # the op looks at ids by itself, all columns at once
            ids = columns if isinstance(columns, Tensor) else torch.stack([*columns], 1)
        return ids, self._mix_of_columns(weights, names, ids)

    def _mix_of_columns(self, weights: Mix, tables: Sequence[str], ids: Tensor) -> Tensor:
        """Return the mix [B, k, N] of ids [B, k], a column for each of k tables."""
        if isinstance(weights, Tensor):
            return weights
        if weights is None:
            sizes = len(self.embedding_dims)
            return self.projection.new_full((*ids.shape, sizes), 1 / sizes)
        mixes = [weights[table] for table in tables]
        if self._in_play is None:  # of whole tables, which are not copied
            find_rows(ids, {name: self.num_rows(name) for name in tables})
            pairs = zip(mixes, ids.unbind(1), strict=True)
            return torch.stack([look_up(mix, column) for mix, column in pairs], 1)
        # In one look-up, one table after the other: thirty tables cost little more than one.
        ends = [*accumulate(len(mix) for mix in mixes)]
        columns = zip(ids.unbind(1), (0, *ends), mixes, strict=False)
        # An id without a row gets the mix of another: the op gives it zeros, whatever its mix.
        joined = [ids.clamp_max(len(mix) - 1) + begin for ids, begin, mix in columns]
        return look_up(torch.cat(mixes), torch.stack(joined, 1))

    def _mix_of(self, weights: Mapping[str, Tensor] | None, table: str, rows: Tensor) -> Tensor:
        """Return the mix [M, N] of some rows of a table."""
        if weights is None:
            sizes = len(self.embedding_dims)
            return self.projection.new_full((len(rows), sizes), 1 / sizes)
        # The gradient of an embedding sums in a fixed order on a GPU; index_select's does not.
        return look_up(weights[table], rows)

    def _shared(
        self, table: int, own: Sequence[int], columns: Sequence[Any], weights: Mix
    ) -> dict[int, Tensor]:
        """Return the embeddings [B, 1, D] of the features that share a table, or are bags."""
        name = self.reading.tables[table]
        parts = [columns[f] for f in own]
        flat = [self.positions(name, p.values if isinstance(p, Bag) else p) for p in parts]
        lengths = [len(part) for part in flat]
        positions = torch.cat(flat)
        which = slice(table, table + 1)
        if isinstance(weights, Tensor) or (self.training and self.norm != "none"):
            # The mix, or what the statistics count, is that of each event.
            each = [
                self._mix_of_part(weights, name, *one) for one in zip(own, parts, flat, strict=True)
            ]
            values = self._op(which, positions.unsqueeze(1), torch.cat(each).unsqueeze(1))
            found = torch.arange(len(positions), device=positions.device)
        else:  # all that the embedding depends on is the id: once for each distinct one
            rows, found = self._distinct(name, positions)
            mixed = self._mix_of(weights, name, rows).unsqueeze(1)
            values = self._op(which, rows.unsqueeze(1), mixed)
        split = zip(own, parts, found.split_with_sizes(lengths), strict=True)
        values = values.squeeze(1)
        return {f: taken(self.features[f], p, values, rows).unsqueeze(1) for f, p, rows in split}

    def _distinct(self, table: str, positions: Tensor) -> tuple[Tensor, Tensor]:
        if self._in_play is not None:
            return torch.arange(self.num_rows(table), device=positions.device), positions
        plan = distinct(positions)
        return plan.rows, plan.inverse

    def _mix_of_part(
        self, weights: Mix, table: str, feature: int, part: Tensor | Bag, rows: Tensor
    ) -> Tensor:
        if not isinstance(weights, Tensor):
            return self._mix_of(weights, table, rows)
        own = weights[:, feature]
        if isinstance(part, Bag):
            return own.repeat_interleave(part.offsets.diff(), 0)
        return own

    def _op(self, tables: slice, positions: Tensor, weights: Tensor) -> Tensor:
        """Return the op's output [M, k, D] for positions [M, k] in k tables."""
        own = self.training and self.norm == "batch"
        tracked = self.training and self.norm != "none"
        batch = positions.shape[0]
        running = self._of(self.running_mean, tables), self._of(self.running_var, tables)
        if own and batch == 1:
            raise ValueError(
                f"Expected more than 1 value per channel when training, got ids of shape "
                f"{list(positions.shape)}: table {tables.start} has one event to take statistics "
                "from"
            )
        try:
            result = soft_embedding(
                self.tables[tables],
                positions,
                weights,
                self._of(self.projection, tables),
                self._of(self.bias, tables),
                None if own else running,
                dims=self.embedding_dims,
                eps=0.0 if self.norm == "none" else self.eps,  # of means 0 and variances 1
                average=self.average,
                sparse=self.sparse,
                backend=self.backend,
                statistics=tracked,
            )
        except IndexError:
            names = self.reading.tables[tables]
            find_rows(positions, {name: self.num_rows(name) for name in names})  # names the table
            raise
        if tracked and batch:
            self._track(tables, result.mean, result.variance, batch)
        return result.output

    def _of(self, value: Tensor, tables: slice) -> Tensor:
        """Return the part [k, ...] of some tables; all of it without a view, nor its gradient's."""
        return value if tables == slice(0, len(self.row_tables)) else value[tables]

    @torch.no_grad()
    def _track(self, tables: slice, mean: Tensor, variance: Tensor, batch: int) -> None:
        """Let the running statistics of some tables follow those of a batch."""
        running_mean, running_var = self.running_mean[tables], self.running_var[tables]
        unbiased = variance * (batch / max(batch - 1, 1))
        momentum: float | Tensor = self.momentum
        if self.norm == "running":
            # What the next batch is normalised with: of the first batch alone while there is no
            # other, and with the spread of the batches' means, which for a few users is large.
            first = (self.num_batches_tracked[tables] == 0).unsqueeze(2).to(mean.dtype)
            momentum = self.momentum + (1 - self.momentum) * first
            unbiased += (1 - momentum) * (mean - running_mean).square()
        running_mean.lerp_(mean, momentum)
        running_var.lerp_(unbiased, momentum)
        self.num_batches_tracked[tables] += 1

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
        return {prefix + name for name in (*self.row_tables, *names)}

    def extra_repr(self) -> str:
        """Describe the tables for ``repr``."""
        rows = [len(table) for table in self.tables]
        names = f", features={[f.column for f in self.features]}" if self.features else ""
        return f"{rows}, embedding_dims={self.embedding_dims}{names}, norm={self.norm!r}"


def _events(column: Tensor | Bag) -> int:
    return len(column.offsets) - 1 if isinstance(column, Bag) else len(column)
