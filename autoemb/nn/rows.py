"""Row parameters: what an id owns inside a module.

A row parameter is a table whose first dimension is indexed by the ids of one field: embeddings,
or the per-id logits of DARTS. Modules that own some derive from :class:`RowModule`, which lets

- tables grow while ids keep appearing, and
- a trainer replace each table by the few rows that a batch needs (:func:`in_play`), so that no
  gradient, copy or optimiser pass ever has the size of a table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from autoemb.ops import look_up, rows_of

#: (parameter [R, ...], rows [U], gradients [U, ...]) -> None
RowUpdate = Callable[[nn.Parameter, Tensor, Tensor], None]


class RowModule(nn.Module):
    """A module that owns tables indexed by the ids of a field.

    A subclass finds ids in its tables by :meth:`lookup`, or by :meth:`positions` and
    :meth:`table`, never by the ids alone: a trainer may have cut the tables down.

    Examples
    --------
    >>> import torch
    >>> class Bias(RowModule):
    ...     def __init__(self, num_embeddings):
    ...         super().__init__()
    ...         for field, rows in enumerate(num_embeddings):
    ...             self.register_rows(f"bias_{field}", field, torch.empty(rows, 1))
    ...
    ...     def init_rows(self, name, rows):
    ...         rows.zero_()
    ...
    ...     def forward(self, ids):
    ...         return self.lookup("bias_0", ids[:, 0]) + self.lookup("bias_1", ids[:, 1])
    >>> bias = Bias([2, 3])
    >>> bias.grow([8, 3])
    >>> [tuple(parameter.shape) for parameter in bias.parameters()]
    [(8, 1), (3, 1)]
    """

    def __init__(self) -> None:
        super().__init__()
        self.row_fields: dict[str, int] = {}
        self._rows_in_play: Sequence[Tensor] | None = None

    def register_rows(self, name: str, field: int, table: Tensor) -> None:
        """Register a table [V, ...] of ``field`` as a parameter and initialise its rows."""
        self.row_fields[name] = field
        self.register_parameter(name, nn.Parameter(table))
        with torch.no_grad():
            self.init_rows(name, table)

    def init_rows(self, name: str, rows: Tensor) -> None:
        """Fill new rows of the table ``name`` in place."""
        raise NotImplementedError

    def stored(self, name: str) -> list[nn.Parameter]:
        """Return the parameters that hold the rows of the table ``name``: here it alone."""
        return [self.get_parameter(name)]

    def rows_of_table(self, name: str, rows: Tensor) -> Tensor:
        """Return copies of rows [U] of the table ``name``, differentiable."""
        return self.get_parameter(name).index_select(0, rows)

    def update_rows(self, name: str, rows: Tensor, grad: Tensor, update: RowUpdate) -> None:
        """Let an optimiser step on rows [U] of the table ``name``.

        Parameters
        ----------
        name : str
        rows : Tensor[U], int64
            Distinct, but for padding.
        grad : Tensor[U, ...]
        update : callable
            (parameter, rows, gradients) -> None: a row optimiser's.
        """
        update(self.get_parameter(name), rows, grad)

    def table(self, name: str) -> Tensor:
        """Return a table, or the rows in play where a trainer put these in its place."""
        value: Tensor = getattr(self, name)
        return value

    def positions(self, field: int, ids: Tensor) -> Tensor:
        """Return where the tables of a field hold ids: what a module indexes them by.

        Parameters
        ----------
        field : int
        ids : Tensor[...], int64

        Returns
        -------
        Tensor[...], int64
            The ids themselves, or their places among the rows in play. On a GPU an id out of
            range is past the end of the tables; :meth:`lookup` gives zeros for it.

        Raises
        ------
        IndexError
            For an id out of range; names the field. On a GPU a later call raises it.
        """
        if self._rows_in_play is None:
            return rows_of(ids.reshape(-1, 1), [self.num_rows(field)], field).view(ids.shape)
        return torch.searchsorted(self._rows_in_play[field], ids.contiguous())

    def lookup(self, name: str, ids: Tensor) -> Tensor:
        """Return the rows [..., width] that the table ``name`` holds for ids [...] of its field."""
        return look_up(self.table(name), self.positions(self.row_fields[name], ids))

    def num_rows(self, field: int) -> int:
        """Return how many rows the tables of ``field`` have."""
        return min(len(self.get_parameter(n)) for n, f in self.row_fields.items() if f == field)

    @torch.no_grad()
    def grow(self, num_rows: Sequence[int]) -> None:
        """Give every table of field f at least ``num_rows[f]`` rows; those it has stay.

        The parameters stay the same objects, so optimisers keep working.
        """
        for name, field in self.row_fields.items():
            parameter = self.get_parameter(name)
            table, missing = parameter.data, num_rows[field] - len(parameter)
            if missing > 0:
                new = table.new_empty(missing, *table.shape[1:])
                self.init_rows(name, new)
                replace_table(parameter, torch.cat([table, new]))


def replace_table(parameter: nn.Parameter, table: Tensor) -> None:
    """Give a parameter a longer table; its gradient, hooks and identity stay."""
    grad, parameter.grad = parameter.grad, None
    # Autograd remembers the shape of a parameter while a graph that used it is alive, such as that
    # of the last loss. A change of dtype makes it forget.
    other = torch.float32 if table.dtype == torch.float64 else torch.float64
    parameter.data = table.new_empty(0, dtype=other)
    parameter.data = table
    if grad is None:
        return
    if grad.is_sparse:
        parameter.grad = torch.sparse_coo_tensor(
            grad._indices(),
            grad._values(),
            table.shape,
            is_coalesced=grad.is_coalesced(),
            check_invariants=False,  # the old table's rows are rows of the new one
        )
    else:
        parameter.grad = torch.cat([grad, grad.new_zeros(len(table) - len(grad), *grad.shape[1:])])


@contextmanager
def in_play(module: nn.Module, rows: Sequence[Tensor]) -> Iterator[None]:
    """Let every :class:`RowModule` in ``module`` find ids in tables cut down to ``rows``.

    Parameters
    ----------
    module : torch.nn.Module
    rows : sequence of F Tensor[U_f], int64
        Ascending row numbers of each field, as :func:`gather` took them; they hold every id that
        is looked up.
    """
    inside = [child for child in module.modules() if isinstance(child, RowModule)]
    for child in inside:
        child._rows_in_play = rows
    try:
        yield
    finally:
        for child in inside:
            child._rows_in_play = None


class Table(NamedTuple):
    """A table of a :class:`RowModule` inside another module.

    Attributes
    ----------
    owner : RowModule
    name : str
        In the owner.
    field : int
    """

    owner: RowModule
    name: str
    field: int


def row_tables(module: nn.Module) -> dict[str, Table]:
    """Return all tables in ``module`` by the name that their parameters have there.

    Examples
    --------
    >>> from autoemb import SoftEmbedding
    >>> tables = row_tables(torch.nn.Sequential(SoftEmbedding([4, 5])))
    >>> {name: table.field for name, table in tables.items()}
    {'0.table_0': 0, '0.table_1': 1}
    """
    return {
        f"{prefix}.{name}" if prefix else name: Table(child, name, field)
        for prefix, child in module.named_modules()
        if isinstance(child, RowModule)
        for name, field in child.row_fields.items()
    }


def grow(module: nn.Module, num_rows: Sequence[int]) -> None:
    """Grow the tables of every :class:`RowModule` inside ``module``.

    Examples
    --------
    >>> from autoemb import SoftEmbedding
    >>> embedding = SoftEmbedding([4, 5])
    >>> grow(torch.nn.Sequential(embedding), [8, 5])
    >>> embedding.num_rows(0), embedding.num_rows(1)
    (8, 5)
    """
    for child in module.modules():
        if isinstance(child, RowModule):
            child.grow(num_rows)


def gather(tables: Mapping[str, Table], rows: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return copies of the rows in play, by the name of the table.

    Parameters
    ----------
    tables : mapping of str to Table
        From :func:`row_tables`.
    rows : sequence of F Tensor[U_f], int64
        Distinct row numbers of each field.

    Returns
    -------
    dict of str to Tensor[U_f, ...]
        Detached from the tables.

    Examples
    --------
    >>> from autoemb import SoftEmbedding
    >>> embedding = SoftEmbedding([4, 5], (1, 2))
    >>> rows = [torch.tensor([3]), torch.tensor([0, 1])]
    >>> gather(row_tables(embedding), rows)["table_1"].shape
    torch.Size([2, 3])
    """
    with torch.no_grad():
        return {
            name: table.owner.rows_of_table(table.name, rows[table.field])
            for name, table in tables.items()
        }
