"""What is known of each id: how often it was seen, what it was given and how well it went."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from autoemb.ops import Plan, distinct_columns, fill_padding, record, rows_of

#: Octaves of popularity that the encoding tells apart; 2^31 events fill the last.
POPULARITY_WIDTH = 32

#: Share of the old value in the moving-average loss: half of it is forgotten in 7 events.
LOSS_DECAY = 0.9


def popularity_bucket(count: Tensor) -> Tensor:
    """Return the octave of popularity: 0 for no events, 1 for 1 and 2, 2 for 3 to 6, ...

    Examples
    --------
    >>> popularity_bucket(torch.tensor([0, 1, 2, 3, 6, 7]))
    tensor([0, 1, 1, 2, 2, 3])
    """
    bucket = torch.log2(1 + count.to(torch.float64)).long()
    return bucket.clamp_max(POPULARITY_WIDTH - 1)


def encode_popularity(count: Tensor) -> Tensor:
    """Return a 32-wide encoding of log2(1 + count), piecewise linear between octaves.

    Component k is max(0, 1 - abs(log2(1 + count) - k)): two neighbours share a sum of 1, so the
    encoding is continuous in popularity and knows no preset maximum below 2^31 events.

    Examples
    --------
    >>> encode_popularity(torch.tensor([0, 2]))[:, :3]
    tensor([[1.0000, 0.0000, 0.0000],
            [0.0000, 0.4150, 0.5850]])
    """
    octave = torch.log2(1 + count.to(torch.float64)).clamp_max(POPULARITY_WIDTH - 1)
    centres = torch.arange(POPULARITY_WIDTH, dtype=octave.dtype, device=octave.device)
    return (1 - (octave.unsqueeze(1) - centres).abs()).clamp_min(0).to(torch.float32)


#: Logit of the widest size that a prior gives an id never seen, what it adds for every octave of
#: popularity, and the most that it gives. With three sizes the widest then starts with 0.58 of the
#: mix and has 0.94 from 63 events on.
PRIOR_LOGIT, PRIOR_SLOPE, PRIOR_LARGEST = 1.0, 0.4, 3.4


class _FieldState:
    """The state of one field's ids, row by row."""

    def __init__(self, sizes: int, device: torch.device) -> None:
        self.count = torch.zeros(0, dtype=torch.int64, device=device)
        self.last_loss = torch.zeros(0, dtype=torch.float32, device=device)
        self.mean_loss = torch.zeros(0, dtype=torch.float32, device=device)
        self.weights = torch.zeros(0, sizes, dtype=torch.float32, device=device)

    def grow(self, rows: int) -> None:
        missing = rows - len(self.count)
        if missing <= 0:
            return
        for name, value in vars(self).items():
            fill = 1 / value.shape[1] if name == "weights" else 0
            new = value.new_full((missing, *value.shape[1:]), fill)
            setattr(self, name, torch.cat([value, new]))


class InteractionState:
    """Per-id history, and the controller's input made from it.

    Parameters
    ----------
    fields : int
        F, the number of fields.
    sizes : int
        N, the number of embedding sizes.
    device : torch.device or str, default "cpu"
        Where the history is kept. Only :meth:`grow` and :meth:`load_state_dict` put it elsewhere
        in memory, so that a CUDA graph can hold the rest.

    Examples
    --------
    >>> import torch
    >>> state = InteractionState(fields=1, sizes=2)
    >>> state.grow([4])
    >>> state.record(torch.tensor([[3], [3]]), torch.tensor([0.5, 0.1]))
    >>> state.count(0, torch.tensor([3, 0]))
    tensor([2, 0])
    >>> state.features(0, torch.tensor([3])).shape, state.num_features
    (torch.Size([1, 37]), 37)
    """

    def __init__(self, fields: int, sizes: int, device: torch.device | str = "cpu") -> None:
        self.fields = [_FieldState(sizes, torch.device(device)) for _ in range(fields)]
        self.num_features = POPULARITY_WIDTH + sizes + 3

    def grow(self, num_rows: list[int]) -> None:
        """Make room for ``num_rows[f]`` ids of field f."""
        for field, rows in zip(self.fields, num_rows, strict=True):
            field.grow(rows)

    def count(self, field: int, rows: Tensor) -> Tensor:
        """Return the popularity [U] of a plan's rows: how many of their events were recorded."""
        return self.fields[field].count.index_select(0, rows)

    def features(self, field: int, rows: Tensor) -> Tensor:
        """Return the controller's input [U, 32 + N + 3].

        Popularity encoding (32), the weights last given (N), the last loss, log(1 + count) and
        the moving-average loss.
        """
        state = self.fields[field]
        count, last_loss, mean_loss, weights = (
            values.index_select(0, rows)
            for values in (state.count, state.last_loss, state.mean_loss, state.weights)
        )
        scalars = torch.stack([last_loss, torch.log1p(count.to(torch.float32)), mean_loss], 1)
        return torch.cat([encode_popularity(count), weights, scalars], 1)

    def popularity_prior(self) -> Tensor:
        """Return logits [32 + N + 3, N] by feature: the widest size's rises with popularity.

        What :class:`autoemb.Controller` takes as ``prior``. As the encoding of popularity is
        piecewise linear, so is the logit, in log2(1 + count).

        Examples
        --------
        >>> state = InteractionState(fields=1, sizes=2)
        >>> state.grow([2])
        >>> state.record(torch.zeros(7, 1, dtype=torch.int64), torch.zeros(7))
        >>> state.features(0, torch.tensor([1, 0])) @ state.popularity_prior()
        tensor([[0.0000, 1.0000],
                [0.0000, 2.2000]])
        """
        octaves = torch.arange(POPULARITY_WIDTH)
        prior = torch.zeros(self.num_features, self.num_features - POPULARITY_WIDTH - 3)
        prior[:POPULARITY_WIDTH, -1] = (PRIOR_LOGIT + PRIOR_SLOPE * octaves).clamp_max(
            PRIOR_LARGEST
        )
        return prior

    def record(
        self,
        ids: Tensor,
        losses: Tensor,
        weights: list[Tensor] | None = None,
        plans: list[Plan] | None = None,
    ) -> None:
        """Take in a batch, event by event.

        Parameters
        ----------
        ids : Tensor[B, F], int64
            Row numbers.
        losses : Tensor[B]
        weights : list of F Tensor[U_f, N], optional
            Weights given to the distinct ids.
        plans : list of F Plan, optional
            Distinct ids of the columns, where they are known already.

        Raises
        ------
        IndexError
            For an id never grown to, before anything is recorded; on a GPU a later call raises it.
        """
        losses = losses.to(torch.float32)
        if plans is None:
            plans = distinct_columns(rows_of(ids, [len(field.count) for field in self.fields]))
        for f, (field, plan) in enumerate(zip(self.fields, plans, strict=True)):
            record(plan, losses, LOSS_DECAY, field.count, field.last_loss, field.mean_loss)
            if weights is not None:
                given = fill_padding(plan.rows, weights[f].to(torch.float32))
                field.weights.index_copy_(0, plan.rows, given)

    def state_dict(self) -> dict[str, Any]:
        """Return everything, as nested dicts of tensors."""
        return {str(f): dict(vars(field)) for f, field in enumerate(self.fields)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        for f, field in enumerate(self.fields):
            for name, value in vars(field).items():
                setattr(field, name, state[str(f)][name].to(value.device, copy=True))
