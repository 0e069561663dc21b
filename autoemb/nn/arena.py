"""Rows of one width that ids come to own and give back."""

from __future__ import annotations

import heapq
from typing import Any

import torch
from torch import Tensor, nn

from autoemb.nn.rows import replace_table

#: Rows an arena starts with; it grows by half.
FIRST_ROWS = 64


class Arena(nn.Module):
    """Rows [R, d], of which each belongs to one id or to none.

    The first is shared by all ids that own none; it is zero and stays so.

    Parameters
    ----------
    width : int
        d
    **options
        device, dtype.

    Attributes
    ----------
    rows : Parameter[R, d]

    Examples
    --------
    >>> arena = Arena(2)
    >>> arena.take(3), arena.num_owned
    (tensor([1, 2, 3]), 3)
    >>> arena.release(torch.tensor([2]))
    >>> arena.take(2)
    tensor([2, 4])
    """

    def __init__(self, width: int, **options: Any) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.zeros(FIRST_ROWS, width, **options))
        self._free = [*range(1, FIRST_ROWS)]  # a heap

    @property
    def num_owned(self) -> int:
        """How many ids own a row."""
        return len(self.rows) - 1 - len(self._free)

    @torch.no_grad()
    def take(self, count: int) -> Tensor:
        """Return the lowest free rows [count], int64, zero from now on."""
        missing = count - len(self._free)
        if missing > 0:
            have = len(self.rows)
            new = self.rows.new_zeros(max(missing, have // 2), self.rows.shape[1])
            replace_table(self.rows, torch.cat([self.rows.detach(), new]))
            self._free += range(have, have + len(new))
            heapq.heapify(self._free)
        taken = torch.tensor([heapq.heappop(self._free) for _ in range(count)], dtype=torch.int64)
        self.rows[taken] = 0
        return taken

    def release(self, rows: Tensor) -> None:
        """Take rows [U] from their owners; they keep their values until they are taken."""
        for row in rows.tolist():
            heapq.heappush(self._free, row)

    def take_back(self, rows: Tensor) -> None:
        """Undo :meth:`release`."""
        owned = set(rows.tolist())
        self._free = [row for row in self._free if row not in owned]
        heapq.heapify(self._free)

    def _save_to_state_dict(self, *_: Any) -> None:
        """Leave it to the owner, whose state has other names."""

    def _load_from_state_dict(self, *_: Any) -> None:
        """Leave it to the owner."""

    def resize(self, rows: int) -> None:
        """Have so many rows, of which none is owned yet."""
        replace_table(self.rows, self.rows.detach().new_empty(rows, self.rows.shape[1]))
        self._free = [*range(1, rows)]

    def own(self, rows: Tensor) -> None:
        """Let the rows [U] that are not 0 be owned, and no others.

        Raises
        ------
        ValueError
            For a row that the arena has not, or that two ids own; tells which of the two.
        """
        if len(self.rows) == 0 or bool(((rows < 0) | (rows >= len(self.rows))).any()):
            raise ValueError(f"slots exceed {len(self.rows)} rows")
        owners = torch.bincount(rows.long(), minlength=len(self.rows))
        owners[0] = 1  # shared by all who own none
        if bool((owners > 1).any()):
            raise ValueError("two ids own one row")
        self._free = (owners == 0).nonzero().flatten().tolist()
