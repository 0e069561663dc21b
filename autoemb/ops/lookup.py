"""Rows of ids in tables that torch indexes: on a GPU it must never be given one out of range.

There torch would stop the device for good. The op ``autoemb::rows_of`` is the one place where ids
become rows: what comes out of it may go through :func:`look_up` and
:func:`autoemb.ops.distinct_columns`, and whatever they return is inside the tables.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from autoemb.ops import cuda
from autoemb.ops.bounds import out_of_range
from autoemb.ops.native import has_cuda_kernels

#: Row of an id that has none: behind those of every table, so that sorted rows are searched for it
#: as for any other.
NO_ROW = torch.iinfo(torch.int64).max

torch.library.define("autoemb::rows_of", "(Tensor ids, int[] num_rows, int field) -> Tensor")


def _rows_of(ids: Tensor, num_rows: Sequence[int], field: int) -> Tensor:
    if has_cuda_kernels(ids.device):
        return cuda.rows_of(cuda.kernels, ids, num_rows, field)
    for f, (column, rows) in enumerate(zip(ids.unbind(1), num_rows, strict=True), field):
        check_range(column, rows, f)
    return ids.clone(memory_format=torch.contiguous_format)  # an op must not return its input


def _shape(ids: Tensor, num_rows: Sequence[int], field: int) -> Tensor:
    return ids.new_empty(ids.shape)


torch.library.impl("autoemb::rows_of", "CompositeExplicitAutograd", _rows_of)
torch.library.register_fake("autoemb::rows_of", _shape)


def rows_of(ids: Tensor, num_rows: Sequence[int], field: int = 0) -> Tensor:
    """Return the rows of ids: the ids themselves.

    Parameters
    ----------
    ids : Tensor[B, F], int64
    num_rows : sequence of F int
        Of each field's tables.
    field : int, default 0
        Number of the first column's field.

    Returns
    -------
    Tensor[B, F], int64
        Where CUDA kernels look, ``NO_ROW`` in place of an id out of range.

    Raises
    ------
    IndexError
        For an id out of range; names the field. Where CUDA kernels look, a later call raises it,
        or :func:`autoemb.ops.check_ids`.

    Examples
    --------
    >>> rows_of(torch.tensor([[7, 3]]), [10, 5])
    tensor([[7, 3]])
    """
    rows: Tensor = torch.ops.autoemb.rows_of(ids, num_rows, field)
    return rows


def look_up(table: Tensor, rows: Tensor) -> Tensor:
    """Return rows [..., width] of a table; zeros, without a gradient, where there is no row.

    Examples
    --------
    >>> look_up(torch.tensor([[0.5], [0.25]]), torch.tensor([1, 0, 1])).flatten()
    tensor([0.2500, 0.5000, 0.2500])
    """
    if rows.device.type != cuda.DEVICE:
        return functional.embedding(rows, table)
    inside = functional.embedding(rows.clamp_max(len(table) - 1), table)
    return inside.masked_fill((rows >= len(table)).unsqueeze(-1), 0)


def check_range(ids: Tensor, num_rows: int, field: int | None) -> None:
    """Raise IndexError if an id of this field is outside its table; waits for the device."""
    if len(ids) == 0:
        return
    low, high = torch.aminmax(ids)
    if low < 0 or high >= num_rows:
        cuda.check_ids(ids.device)  # an error met before names an id, this one perhaps NO_ROW
        raise out_of_range(field, int(low if low < 0 else high), num_rows)
