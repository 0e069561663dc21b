"""The part of model and controller that a few batches need.

Tables are replaced by the distinct rows in play, so that whatever a trainer differentiates, copies
or updates has the size of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from autoemb.batch import Bag
from autoemb.bilevel.lock import Lock
from autoemb.nn.inputs import Inputs
from autoemb.nn.places import InPlay, find_rows
from autoemb.nn.reading import check_named
from autoemb.nn.rows import RowModule, gather, in_play, row_modules, row_parameters
from autoemb.ops import Plan, distinct, distinct_columns
from autoemb.ops.lookup import NO_ROW
from autoemb.schema import Bag as BagFeature
from autoemb.schema import Sparse

#: Rows [U] by table -> the controller's input [U, C] by table.
Features = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]


class Example(NamedTuple):
    """Events whose ids are row numbers already, where a trainer can use them.

    Attributes
    ----------
    inputs : Inputs
    label : Tensor[B]
        What is to be predicted.
    weight : Tensor[B], optional
        Of each event in the loss.
    grade : Tensor[B], optional
        What the label says beyond that, from 0 to 1 (:meth:`autoemb.tasks.Task.grade`).
    """

    inputs: Inputs
    label: Tensor
    weight: Tensor | None = None
    grade: Tensor | None = None


class View(NamedTuple):
    """What a pass over one batch needs.

    Attributes
    ----------
    play : InPlay
        Rows in play: the distinct ids of this batch and of those viewed with it.
    plans : dict of str to Plan
        Distinct ids of this batch, by table.
    places : dict of str to Tensor[B], int64
        Of each sparse feature: where its ids are in the plan of their table.
    features : mapping of str to Tensor[U, C]
        Controller input of the rows in play, by table.
    example : Example
    """

    play: InPlay
    plans: dict[str, Plan]
    places: dict[str, Tensor]
    features: Mapping[str, Tensor]
    example: Example


class _Probe(nn.Module):
    """A module that also returns its buffers as they are when it is through."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        # Found once: looking for them took a twentieth of a step.
        self._owners = [(path, *_owner(inner, path)) for path, _ in inner.named_buffers()]

    def buffers_now(self) -> dict[str, Any]:
        return {path: owner._buffers[name] for path, owner, name in self._owners}

    def forward(self, *args: Any) -> tuple[Any, dict[str, Tensor]]:
        return self.inner(*args), self.buffers_now()


def _owner(module: nn.Module, path: str) -> tuple[nn.Module, str]:
    *parents, name = path.split(".")
    return module.get_submodule(".".join(parents)), name


class Functional:
    """A module as a function of its parameters, its tables cut down to the rows in play.

    Parameters
    ----------
    module : torch.nn.Module
    lock : Lock, optional
        Held while rows in play are in the module, and while its tables are read; by default one of
        its own.

    Raises
    ------
    ValueError
        For a frozen table.

    Attributes
    ----------
    rows : dict of str to RowParameter
        By the name that a parameter has in the module.

    Examples
    --------
    >>> from autoemb import SoftEmbedding
    >>> function = Functional(SoftEmbedding([1000], (1, 2), features=["user_id"]))
    >>> sorted(function.dense), {name: row.table for name, row in function.rows.items()}
    (['bias', 'projection'], {'table_0': 'user_id'})
    """

    def __init__(self, module: nn.Module, lock: Lock | None = None) -> None:
        self.module, self._probe = module, _Probe(module)
        self.lock = Lock() if lock is None else lock
        self.rows, self._inside = row_parameters(module), row_modules(module)
        for name, row in self.rows.items():
            if not all(stored.requires_grad for stored in row.owner.stored(row.name)):
                raise ValueError(f"table {name} is frozen; a RowModule's tables are trained")
        kept = {id(p) for p in self.stored} | {id(module.get_parameter(n)) for n in self.rows}
        self._dense = {n: p for n, p in module.named_parameters() if id(p) not in kept}

    @property
    def buffers(self) -> dict[str, Tensor]:
        """The module's buffers by name."""
        return self._probe.buffers_now()

    @property
    def stored(self) -> list[nn.Parameter]:
        """The parameters that hold the rows of all tables."""
        return [p for row in self.rows.values() for p in row.owner.stored(row.name)]

    @property
    def dense(self) -> dict[str, nn.Parameter]:
        """Parameters that are neither tables nor frozen."""
        return {name: p for name, p in self._dense.items() if p.requires_grad}

    def gather(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tables' rows in play, detached, by the name of the parameter."""
        with self.lock:
            return gather(self.rows, rows)

    def parameters(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return all parameters, the tables cut down to ``rows``, detached."""
        return {n: p.detach() for n, p in self.dense.items()} | self.gather(rows)

    def __call__(
        self, parameters: Mapping[str, Tensor], play: InPlay, *args: object
    ) -> tuple[Any, dict[str, Tensor]]:
        """Call the module with some parameters replaced, the tables by their rows in play.

        Returns
        -------
        result
        dict of str to Tensor
            The buffers after the call; those of the module stay as they are.
        """
        with self.lock, in_play(self._inside, play):
            replaced = {name: buffer.clone() for name, buffer in self.buffers.items()}
            replaced |= parameters
            named = {f"inner.{name}": value for name, value in replaced.items()}
            result: tuple[Any, dict[str, Tensor]] = functional_call(self._probe, named, args)
        return result


def read_by(module: nn.Module) -> dict[str, Sparse]:
    """Return the features that the row modules inside a module read, by name.

    Raises
    ------
    ValueError
        For two modules that read one feature from different tables, as one id and as a bag, or
        counted in its ids' history and not; and for one that owns rows but names no feature.

    Examples
    --------
    >>> from autoemb import SoftEmbedding
    >>> towers = nn.ModuleList(SoftEmbedding([9], features=[n]) for n in ("user_id", "item_id"))
    >>> list(read_by(towers))
    ['user_id', 'item_id']
    """
    found: dict[str, Sparse] = {}
    for path, owner in module.named_modules():
        if not isinstance(owner, RowModule):
            continue
        named = {feature.table for feature in owner.features}
        if not set(owner.row_tables.values()) <= named:
            raise ValueError(
                f"{type(owner).__name__} ({path or 'the module itself'}) does not say which "
                "features it reads; give it features=[...], so that it gets their rows and no "
                "others"
            )
        for feature in owner.features:
            known = found.setdefault(feature.column, feature)
            for one, other in zip(_read_as(known), _read_as(feature), strict=True):
                if one != other:
                    raise ValueError(
                        f"feature {feature.column!r} is read {one} and {other}; expected one"
                    )
    return found


def _read_as(feature: Sparse) -> tuple[str, str, str]:
    """Return in words what two modules must agree on about a feature."""
    return (
        f"from table {feature.table!r}",
        "as a bag" if isinstance(feature, BagFeature) else "as one id an event",
        "as events of its ids" if feature.counts else "without counting its ids",
    )


def _values(column: Tensor | Bag) -> Tensor:
    values: Tensor = column.values if isinstance(column, Bag) else column
    return values


class _Planned(NamedTuple):
    """Inputs whose ids are inside their tables, with the distinct ids of each table.

    Attributes
    ----------
    inputs : Inputs
        Features that no row module reads are as they were.
    plans : dict of str to Plan
        By table.
    places : dict of str to Tensor
        Of each feature: where its ids are in the plan of their table.
    """

    inputs: Inputs
    plans: dict[str, Plan]
    places: dict[str, Tensor]


def _planned(
    inputs: Inputs, features: Mapping[str, Sparse], num_rows: Mapping[str, int]
) -> _Planned:
    if features:
        check_named(inputs.ids, [*features.values()])
    readers: dict[str, list[str]] = {}
    for name, feature in features.items():
        readers.setdefault(feature.table, []).append(name)
    alone = {
        table: names[0]
        for table, names in readers.items()
        if len(names) == 1 and not isinstance(features[names[0]], BagFeature)
    }
    ids: dict[str, Tensor | Bag] = dict(inputs.ids)
    plans: dict[str, Plan] = {}
    places: dict[str, Tensor] = {}
    if alone:  # in one call: on a GPU one launch for all tables
        columns = torch.stack([_values(inputs.ids[name]) for name in alone.values()], 1)
        rows = find_rows(columns, {table: num_rows[table] for table in alone})
        ids |= dict(zip(alone.values(), rows.unbind(1), strict=True))
        plans |= dict(zip(alone, distinct_columns(rows), strict=True))
        places |= {name: plans[table].inverse for table, name in alone.items()}
    for table, names in readers.items():
        if table in alone:
            continue
        parts = [inputs.ids[name] for name in names]
        lengths = [len(_values(part)) for part in parts]
        flat = torch.cat([_values(part) for part in parts]).unsqueeze(1)
        rows = find_rows(flat, {table: num_rows[table]}).squeeze(1)
        plans[table] = plan = distinct(rows)
        for name, part, own in zip(names, parts, rows.split_with_sizes(lengths), strict=True):
            ids[name] = part._replace(values=own) if isinstance(part, Bag) else own
        places |= dict(zip(names, plan.inverse.split_with_sizes(lengths), strict=True))
    return _Planned(inputs._replace(ids=ids), plans, places)


def views_of(
    examples: Sequence[Example],
    features: Mapping[str, Sparse],
    num_rows: Mapping[str, int],
    history: Features | None = None,
) -> list[View]:
    """View some batches over the rows that they need together.

    Parameters
    ----------
    examples : sequence of Example
    features : mapping of str to Sparse
        What is read, by name.
    num_rows : mapping of str to int
        Of each table. On a GPU an id beyond them is told by a later call; until then its event has
        no row of that table.
    history : callable, optional
        Rows by table -> controller input by table.

    Raises
    ------
    IndexError
        For an id beyond its table.
    ValueError
        For a feature that is missing.

    Examples
    --------
    >>> features = {name: Sparse(column=name) for name in ("user_id", "item_id")}
    >>> examples = [
    ...     Example(Inputs({"user_id": torch.tensor([i, 30]), "item_id": torch.tensor([5, 5])}),
    ...             torch.zeros(2))
    ...     for i in (70, 10)
    ... ]
    >>> views = views_of(examples, features, {"user_id": 100, "item_id": 9})
    >>> views[0].play.rows["user_id"], views[0].plans["user_id"].rows
    (tensor([10, 30, 70]), tensor([30, 70]))
    """
    planned = [_planned(example.inputs, features, num_rows) for example in examples]
    rows = {table: plan.rows for table, plan in planned[0].plans.items()}
    for other in planned[1:]:
        rows = {
            table: distinct(torch.cat([own, other.plans[table].rows])).rows
            for table, own in rows.items()
        }
    inputs_of_history = {} if history is None else history(rows)
    views = []
    for example, one in zip(examples, planned, strict=True):
        play = InPlay(rows, _placed(one, features, rows, alone=len(examples) == 1))
        sparse = {
            name: place
            for name, place in one.places.items()
            if not isinstance(features[name], BagFeature)
        }
        example = example._replace(inputs=one.inputs)
        views.append(View(play, one.plans, sparse, inputs_of_history, example))
    return views


def _placed(
    planned: _Planned, features: Mapping[str, Sparse], rows: Mapping[str, Tensor], alone: bool
) -> Iterable[tuple[str, Tensor, Tensor]]:
    """Yield table, ids and their positions among the rows in play, feature by feature."""
    moved = {}
    if not alone:  # rows in play are those of other batches, too
        moved = {t: torch.searchsorted(rows[t], plan.rows) for t, plan in planned.plans.items()}
    for name, feature in features.items():
        place = planned.places[name]
        if not alone:
            place = moved[feature.table].index_select(0, place)
        ids = _values(planned.inputs.ids[name])
        if planned.plans[feature.table].order is not None:  # padded, as on a GPU
            # An event whose id has no row points at another's in the plan.
            place = place.masked_fill(ids == NO_ROW, NO_ROW)
        yield feature.table, ids, place
