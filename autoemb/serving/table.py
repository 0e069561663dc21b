"""What the ids of one table own in a served model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from autoemb.ops import soft_embedding
from autoemb.streaming import IdTable


def sizes_of(name: str, tensor: Tensor, *expected: int | None) -> tuple[int, ...]:
    """Return a float32 tensor's sizes, if they are those expected; None stands for any but 0.

    Only the number of rows that nobody owns may be 0.

    Raises
    ------
    ValueError
        Names the tensor, its sizes and those expected.

    Examples
    --------
    >>> sizes_of("bias", torch.zeros(5, 3), None, 4)
    Traceback (most recent call last):
        ...
    ValueError: bias is torch.float32 [5, 3]; expected float32 [any, 4]
    """
    sizes = tuple(tensor.shape)
    wanted = tuple(
        have if want is None else want for have, want in zip(sizes, expected, strict=False)
    )
    if tensor.dtype != torch.float32 or len(sizes) != len(expected) or sizes != wanted:
        shape = ", ".join("any" if want is None else str(want) for want in expected)
        raise ValueError(f"{name} is {tensor.dtype} {[*sizes]}; expected float32 [{shape}]")
    if sizes[-1] == 0:
        raise ValueError(f"{name} is {[*sizes]}; expected a width above 0")
    return sizes


@dataclass
class ServedTable:
    """What the ids of one table own, whichever features read it.

    The ids are numbered width by width, the narrowest first: those of width k have the numbers
    from ``sum(len(rows[j]) for j < k)`` on, and after them come ids without a row, if the table
    has any. So an id has no index beside its row.

    Attributes
    ----------
    ids : IdTable
        Raw ids to numbers.
    rows : list of K Tensor[R_k, d_k]
        Ascending widths. A row as wide as the output is the embedding itself.
    projections : list of K Tensor[D, d_k]
        Of a narrower width; empty [0, d_k] for rows that are the embedding itself.
    offsets : list of K Tensor[D]
    newcomer : Tensor[D]
        The embedding of every id without a row.

    Raises
    ------
    ValueError
        For tensors whose sizes do not fit together.
    """

    ids: IdTable
    rows: list[Tensor]
    projections: list[Tensor]
    offsets: list[Tensor]
    newcomer: Tensor

    def __post_init__(self) -> None:
        if not len(self.rows) == len(self.projections) == len(self.offsets):
            raise ValueError("expected as many projections and offsets as widths")
        (width,) = sizes_of("newcomer", self.newcomer, None)
        for rows, projection, offset in zip(self.rows, self.projections, self.offsets, strict=True):
            _, own = sizes_of("rows", rows, None, None)
            sizes_of("projection", projection, 0 if own == width else width, own)
            sizes_of("offset", offset, width)
        if sum(map(len, self.rows)) > len(self.ids):
            raise ValueError(f"{len(self.ids)} ids own {sum(map(len, self.rows))} rows")

    def embeddings(self, numbers: Tensor, *, scale: float, linear: bool) -> Tensor:
        """Return the embeddings [U, D] of the ids with these numbers [U]; others are newcomers'.

        Those of width d_k are ``scale * tanh(rows[k] @ projections[k].T + offsets[k])``, without
        scale and tanh where ``linear``.

        Examples
        --------
        >>> table = ServedTable(IdTable(), [], [], [], torch.tensor([0.5, -0.5]))
        >>> table.embeddings(torch.tensor([-1]), scale=1.0, linear=False)
        tensor([[ 0.5000, -0.5000]])
        """
        output = self.newcomer.expand(len(numbers), -1).clone()
        start = 0
        for k, rows in enumerate(self.rows):
            place = numbers - start
            (own,) = ((place >= 0) & (place < len(rows))).nonzero(as_tuple=True)
            if len(own):
                output[own] = self._expanded(k, place[own], scale, linear)
            start += len(rows)
        return output

    def _expanded(self, k: int, place: Tensor, scale: float, linear: bool) -> Tensor:
        """Return the embeddings [U, D] of rows of one width."""
        rows, projection, offset = self.rows[k], self.projections[k], self.offsets[k]
        if not len(projection):
            return rows[place]
        if linear:
            return functional.linear(rows[place], projection, offset)
        standard = torch.zeros(1, 1, len(offset)), torch.ones(1, 1, len(offset))
        return soft_embedding(
            [rows],
            place.unsqueeze(1),
            torch.full((len(place), 1, 1), scale),
            projection.unsqueeze(0),
            offset.view(1, 1, -1),
            standard,
            dims=(rows.shape[1],),
            eps=0.0,
            average=False,
        ).output.squeeze(1)

    def tensors(self) -> tuple[list[Tensor], list[Tensor]]:
        """Return the rows, and what makes embeddings of them."""
        return self.rows, [*self.projections, *self.offsets, self.newcomer]

    def state(self) -> dict[str, Any]:
        """Return everything, for a file."""
        return vars(self) | {"ids": self.ids.state()}
