"""Row parameters: what an id owns inside a module.

A row parameter is a table whose first dimension is indexed by the rows of ids: embeddings, or the
per-id logits of DARTS. Modules that own some derive from :class:`RowModule`, which lets

- tables grow while ids keep appearing,
- an id start with what seed, table and raw id decide, and
- a trainer replace each table by the few rows that a batch needs (:func:`in_play`), so that no
  gradient, copy or optimiser pass ever has the size of a table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from autoemb.nn.draws import Keys, random_keys, salted
from autoemb.nn.places import InPlay, find_rows
from autoemb.ops import look_up
from autoemb.schema import Sparse

#: (parameter [R, ...], rows [U], gradients [U, ...]) -> None
RowUpdate = Callable[[nn.Parameter, Tensor, Tensor], None]


class RowModule(nn.Module):
    """A module that owns tables indexed by the rows of ids.

    A subclass finds ids in its tables by :meth:`lookup`, or by :meth:`positions` and
    :meth:`table`, never by the ids alone: a trainer may have cut the tables down.

    Parameters
    ----------
    features : sequence of str or Sparse, optional
        What the module reads, by name; bags as :class:`autoemb.schema.Bag`. A trainer needs it to
        give the module the right rows.

    Attributes
    ----------
    features : tuple of Sparse
    row_tables : dict of str to str
        Parameter to the table whose rows it holds.

    Examples
    --------
    >>> import torch
    >>> class Bias(RowModule):
    ...     def __init__(self, rows, features):
    ...         super().__init__(features)
    ...         for number, feature in enumerate(self.features):
    ...             self.register_rows(f"bias_{number}", feature.table, torch.empty(rows, 1))
    ...
    ...     def new_rows(self, name, keys):
    ...         return torch.zeros(len(keys), 1)
    ...
    ...     def forward(self, inputs, mix=None):
    ...         return sum(
    ...             self.lookup(name, inputs.ids[feature.column])
    ...             for name, feature in zip(self.row_tables, self.features)
    ...         )
    >>> bias = Bias(2, ["user_id", "item_id"])
    >>> bias.grow({"user_id": 8})
    >>> [tuple(parameter.shape) for parameter in bias.parameters()]
    [(8, 1), (2, 1)]
    """

    def __init__(self, features: Sequence[str | Sparse] | None = None) -> None:
        super().__init__()
        self.features = tuple(
            Sparse(column=feature) if isinstance(feature, str) else feature
            for feature in features or ()
        )
        self.row_tables: dict[str, str] = {}
        self._in_play: InPlay | None = None

    def register_rows(self, name: str, table: str, values: Tensor) -> None:
        """Register rows [V, ...] of a table as a parameter and draw them."""
        self.row_tables[name] = table
        self.register_parameter(name, nn.Parameter(values))
        with torch.no_grad():
            if len(values):
                self.init_rows(name, values)

    def init_rows(self, name: str, rows: Tensor) -> None:
        """Fill rows of which no id is known, at random."""
        rows.copy_(self.new_rows(name, random_keys(len(rows))))

    def new_rows(self, name: str, keys: Keys) -> Tensor:
        """Return what ids start with in the parameter ``name``.

        Parameters
        ----------
        name : str
        keys : array [U], uint64
            Of each id (:mod:`autoemb.nn.draws`): all that a row may depend on.

        Returns
        -------
        Tensor[U, ...]
        """
        raise NotImplementedError(f"{type(self).__name__}.new_rows: what do ids start with?")

    @torch.no_grad()
    def begin_rows(self, name: str, rows: Tensor, keys: Keys) -> None:
        """Give rows [U] of the parameter ``name`` to ids that were never seen."""
        self.get_parameter(name)[rows] = self.new_rows(name, keys)

    def shared_by_copies(self) -> Sequence[object]:
        """Return attributes that a copy made for reading shares with the module."""
        return ()

    def stored(self, name: str) -> list[nn.Parameter]:
        """Return the parameters that hold the rows ``name``: here it alone."""
        return [self.get_parameter(name)]

    def rows_of_table(self, name: str, rows: Tensor) -> Tensor:
        """Return copies of rows [U] of the parameter ``name``, differentiable."""
        return self.get_parameter(name).index_select(0, rows)

    def update_rows(self, name: str, rows: Tensor, grad: Tensor, update: RowUpdate) -> None:
        """Let an optimiser step on rows [U] of the parameter ``name``.

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
        """Return a parameter, or the rows in play where a trainer put these in its place."""
        value: Tensor = getattr(self, name)
        return value

    def positions(self, table: str, ids: Tensor) -> Tensor:
        """Return where ids are in the parameters of a table: what a module indexes them by.

        Parameters
        ----------
        table : str
        ids : Tensor[...], int64

        Returns
        -------
        Tensor[...], int64
            The row numbers themselves, or their places among the rows in play. On a GPU an id out
            of range is past the end of the tables; :meth:`lookup` gives zeros for it.

        Raises
        ------
        IndexError
            For an id out of range or not in play; names the table. On a GPU a later call raises it.
        """
        if self._in_play is not None:
            return self._in_play.positions(table, ids)
        number = [*dict.fromkeys(self.row_tables.values())].index(table)
        rows = find_rows(ids.reshape(-1, 1), {table: self.num_rows(table)}, number)
        return rows.view(ids.shape)

    def lookup(self, name: str, ids: Tensor) -> Tensor:
        """Return the rows [..., width] that the parameter ``name`` holds for ids [...]."""
        return look_up(self.table(name), self.positions(self.row_tables[name], ids))

    def num_rows(self, table: str) -> int:
        """Return how many rows the parameters of a table have."""
        return min(len(self.table(name)) for name, own in self.row_tables.items() if own == table)

    @torch.no_grad()
    def grow(self, num_rows: Mapping[str, int]) -> None:
        """Give the parameters of each table at least so many rows; new ones are zeros.

        They belong to no id until :meth:`begin_rows`. Parameters stay the same objects, so
        optimisers keep working.
        """
        for name, table in self.row_tables.items():
            parameter = self.get_parameter(name)
            missing = num_rows.get(table, 0) - len(parameter)
            if missing > 0:
                new = parameter.new_zeros(missing, *parameter.shape[1:])
                replace_table(parameter, torch.cat([parameter.data, new]))

    @torch.no_grad()
    def cut(self, num_rows: Mapping[str, int]) -> None:
        """Give the parameters of each table at most so many rows: the first ones.

        Gradients go; parameters stay the same objects.
        """
        for name, table in self.row_tables.items():
            parameter = self.get_parameter(name)
            if len(parameter) > num_rows.get(table, len(parameter)):
                parameter.grad = None
                replace_table(parameter, parameter.data[: num_rows[table]].clone())


def replace_table(parameter: nn.Parameter, table: Tensor) -> None:
    """Give a parameter a table of another length; its gradient, hooks and identity stay."""
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


def row_modules(module: nn.Module) -> list[RowModule]:
    """Return every :class:`RowModule` in a module."""
    return [child for child in module.modules() if isinstance(child, RowModule)]


@contextmanager
def in_play(inside: Sequence[RowModule], play: InPlay) -> Iterator[None]:
    """Let row modules find ids in tables cut down to rows in play."""
    for child in inside:
        child._in_play = play
    try:
        yield
    finally:
        for child in inside:
            child._in_play = None


class RowParameter(NamedTuple):
    """Rows that a :class:`RowModule` inside another module owns.

    Attributes
    ----------
    owner : RowModule
    name : str
        In the owner.
    table : str
    """

    owner: RowModule
    name: str
    table: str


def row_parameters(module: nn.Module) -> dict[str, RowParameter]:
    """Return all row parameters in ``module`` by the name that they have there.

    Examples
    --------
    >>> from autoemb import SoftEmbedding
    >>> embedding = SoftEmbedding([4, 5], features=["user_id", "item_id"])
    >>> found = row_parameters(torch.nn.Sequential(embedding))
    >>> {name: parameter.table for name, parameter in found.items()}
    {'0.table_0': 'user_id', '0.table_1': 'item_id'}
    """
    return {
        f"{prefix}.{name}" if prefix else name: RowParameter(child, name, table)
        for prefix, child in module.named_modules()
        if isinstance(child, RowModule)
        for name, table in child.row_tables.items()
    }


def grow(module: nn.Module, num_rows: Mapping[str, int]) -> None:
    """Grow the tables of every :class:`RowModule` inside ``module``.

    Examples
    --------
    >>> from autoemb import SoftEmbedding
    >>> embedding = SoftEmbedding([4, 5], features=["user_id", "item_id"])
    >>> grow(torch.nn.Sequential(embedding), {"user_id": 8})
    >>> embedding.num_rows("user_id"), embedding.num_rows("item_id")
    (8, 5)
    """
    for child in module.modules():
        if isinstance(child, RowModule):
            child.grow(num_rows)


def cut(module: nn.Module, num_rows: Mapping[str, int]) -> None:
    """Cut the tables of every :class:`RowModule` inside ``module`` to so many rows at most.

    Examples
    --------
    >>> from autoemb import SoftEmbedding
    >>> embedding = SoftEmbedding([4, 5], features=["user_id", "item_id"])
    >>> cut(torch.nn.Sequential(embedding), {"user_id": 2})
    >>> embedding.num_rows("user_id"), embedding.num_rows("item_id")
    (2, 5)
    """
    for child in module.modules():
        if isinstance(child, RowModule):
            child.cut(num_rows)


def begin(parameters: Mapping[str, RowParameter], table: str, rows: Tensor, keys: Keys) -> None:
    """Give rows [U] of a table to ids never seen, in every parameter of the table.

    Parameters
    ----------
    parameters : mapping of str to RowParameter
        From :func:`row_parameters`.
    table : str
    rows : Tensor[U], int64
    keys : array [U], uint64
        Of the ids.
    """
    for path, parameter in parameters.items():
        if parameter.table == table:
            parameter.owner.begin_rows(parameter.name, rows, salted(keys, path))


def gather(parameters: Mapping[str, RowParameter], rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies of the rows in play, by the name of the parameter.

    Parameters
    ----------
    parameters : mapping of str to RowParameter
        From :func:`row_parameters`.
    rows : mapping of str to Tensor[U], int64
        Distinct row numbers of each table.

    Returns
    -------
    dict of str to Tensor[U, ...]
        Detached from the tables.

    Examples
    --------
    >>> from autoemb import SoftEmbedding
    >>> embedding = SoftEmbedding([4, 5], (1, 2), features=["user_id", "item_id"])
    >>> rows = {"user_id": torch.tensor([3]), "item_id": torch.tensor([0, 1])}
    >>> gather(row_parameters(embedding), rows)["table_1"].shape
    torch.Size([2, 3])
    """
    with torch.no_grad():
        return {
            name: parameter.owner.rows_of_table(parameter.name, rows[parameter.table])
            for name, parameter in parameters.items()
        }
