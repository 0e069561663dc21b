"""Where ids are: at their row of a table, or at a place among the rows that are in play."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from autoemb.ops import rows_of


class InPlay:
    """The rows that a pass needs, and where among them the ids of its features are.

    Parameters
    ----------
    rows : mapping of str to Tensor[U], int64
        Distinct row numbers of each table, ascending.
    places : iterable of (table, ids, positions)
        Ids that are handed to modules, and their positions in the table's rows.
    """

    def __init__(
        self, rows: Mapping[str, Tensor], places: Iterable[tuple[str, Tensor, Tensor]] = ()
    ) -> None:
        self.rows = rows
        # By identity: a module hands on the very tensors that it was given.
        self._places = {(table, id(ids)): (ids, found) for table, ids, found in places}

    def positions(self, table: str, ids: Tensor) -> Tensor:
        """Return the positions of ids among the rows in play.

        Raises
        ------
        IndexError
            For an id that is not among them; names id and table. On a GPU a later call raises it.
        """
        known = self._places.get((table, id(ids)))
        if known is not None:
            return known[1]
        if table not in self.rows:
            raise IndexError(f"table {table!r} has no rows in play; no feature read names it")
        if ids is self.rows[table]:
            return torch.arange(len(ids), device=ids.device)
        rows, ids = self.rows[table], ids.contiguous()
        found = torch.searchsorted(rows, ids)
        absent = rows[found.clamp_max(len(rows) - 1)] != ids if len(rows) else found == found
        if ids.device.type == "cpu":
            if bool(absent.any()):
                bad = ids[absent][0].item()
                raise IndexError(f"table {table!r}: id {bad} is not among the rows in play")
            return found
        found = found.masked_fill(absent, torch.iinfo(torch.int64).max)
        return rows_of(found.reshape(-1, 1), [len(rows)]).view(ids.shape)


def find_rows(ids: Tensor, num_rows: Mapping[str, int], number: int = 0) -> Tensor:
    """Return the rows of ids, a column for each table: the ids themselves, checked.

    Parameters
    ----------
    ids : Tensor[B, F], int64
    num_rows : mapping of str to int
        Of each of F tables.
    number : int, default 0
        Of the first of them, by which a GPU tells of an id.

    Returns
    -------
    Tensor[B, F], int64
        On a GPU :data:`autoemb.ops.lookup.NO_ROW` in place of an id out of range.

    Raises
    ------
    IndexError
        For an id out of range; names id and table. On a GPU a later call raises it.

    Examples
    --------
    >>> find_rows(torch.tensor([[7], [12]]), {"item_id": 10})
    Traceback (most recent call last):
        ...
    IndexError: table 'item_id': id 12 is not in [0, 9]
    """
    try:
        return rows_of(ids, [*num_rows.values()], number)
    except IndexError:
        for column, (table, rows) in zip(ids.unbind(1), num_rows.items(), strict=True):
            outside = column[(column < 0) | (column >= rows)]
            if ids.device.type == "cpu" and len(outside):
                bad = int(outside[0])
                raise IndexError(f"table {table!r}: id {bad} is not in [0, {rows - 1}]") from None
        raise  # of an earlier call
