"""Predictions beside training: a consistent copy of what a batch needs, and a pass over it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from autoemb.bilevel.lock import Lock
from autoemb.bilevel.working_set import View
from autoemb.nn.controller import select_hard
from autoemb.nn.places import InPlay
from autoemb.nn.rows import RowModule, in_play, row_modules, row_parameters


class _Replica:
    """A module without tables, whose dense parameters follow those of another."""

    def __init__(self, module: nn.Module) -> None:
        memo: dict[int, object] = {}
        for child in module.modules():
            if isinstance(child, RowModule):
                memo |= {id(kept): kept for kept in child.shared_by_copies()}
                for name in child.row_tables:
                    for parameter in {child.get_parameter(name), *child.stored(name)}:
                        empty = parameter.detach()[:0].clone()
                        memo[id(parameter)] = nn.Parameter(empty)
        shared = set(memo)  # deepcopy writes into it all that it copies
        self.module = copy.deepcopy(module, memo).eval()
        self.rows = row_parameters(self.module)
        self._inside = row_modules(self.module)
        self._pairs = [
            (own, other)
            for (_, own), (_, other) in zip(
                [*self.module.named_parameters(), *self.module.named_buffers()],
                [*module.named_parameters(), *module.named_buffers()],
                strict=True,
            )
            if id(other) not in shared
        ]

    def __call__(self, rows: Mapping[str, Tensor], play: InPlay, *args: object) -> Any:
        """Call the module on rows in play.

        Unlike a pass that learns it keeps no buffers apart, which eval mode does not change, and
        puts rows where they belong by hand: a third of a small batch's time was spent on that.
        """
        parts = [(row.owner._parameters, row.name, rows[n]) for n, row in self.rows.items()]
        empty = [parameters[name] for parameters, name, _ in parts]
        for parameters, name, values in parts:
            parameters[name] = values  # type: ignore[assignment]
        try:
            with in_play(self._inside, play):
                return self.module(*args)
        finally:
            for (parameters, name, _), value in zip(parts, empty, strict=True):
                parameters[name] = value

    @torch.no_grad()
    def follow(self) -> None:
        """Take over the dense parameters and buffers as they are now."""
        for own, other in self._pairs:
            own.copy_(other)


class Snapshot(NamedTuple):
    """All that a prediction needs, as it was at one moment.

    Attributes
    ----------
    view : View
    model, controller : _Replica
        With the dense parameters of then.
    rows : tuple of two dict of str to Tensor
        Rows in play of model and controller.
    """

    view: View
    model: _Replica
    controller: _Replica | None
    rows: tuple[Mapping[str, Tensor], Mapping[str, Tensor]]


class Reader:
    """Predict with a model and a controller that somebody else may be training.

    :meth:`take` copies what a batch needs and must not run while the modules change; the pass over
    it (:meth:`logits`) may. Each snapshot has modules of its own, which later ones use again.

    Parameters
    ----------
    model : torch.nn.Module
    controller : torch.nn.Module, optional
    lock : Lock
        Held by whoever changes them.

    Attributes
    ----------
    shares : bool
        Whether a pass reads something of these modules where it is
        (:meth:`autoemb.nn.RowModule.shared_by_copies`), so that it must not run while they change,
        either.
    """

    def __init__(self, model: nn.Module, controller: nn.Module | None, lock: Lock) -> None:
        self._modules, self.lock = (model, controller), lock
        self._free: list[tuple[_Replica, _Replica | None]] = []
        inside = [
            child for part in (model, controller) if part is not None for child in part.modules()
        ]
        self.shares = any(isinstance(c, RowModule) and c.shared_by_copies() for c in inside)

    def take(
        self,
        view: View,
        model_rows: Mapping[str, Tensor],
        controller_rows: Mapping[str, Tensor],
    ) -> Snapshot:
        """Return a snapshot for a batch.

        Parameters
        ----------
        view : View
        model_rows, controller_rows : mapping of str to Tensor[U, ...]
            Copies of the rows in play, by the name of the parameter.
        """
        with self.lock:
            try:
                model, controller = self._free.pop()
            except IndexError:
                of_model, of_controller = self._modules
                model = _Replica(of_model)
                controller = None if of_controller is None else _Replica(of_controller)
            model.follow()
            if controller is not None:
                controller.follow()
        return Snapshot(view, model, controller, (model_rows, controller_rows))

    def logits(self, snapshot: Snapshot, *, hard: bool = False) -> Tensor:
        """Return logits [B, outputs] in eval mode; a snapshot serves once."""
        return self.outcome(snapshot, hard=hard)[0]

    @torch.no_grad()
    def outcome(
        self, snapshot: Snapshot, *, hard: bool = False
    ) -> tuple[Tensor, dict[str, Tensor] | None]:
        """Return logits [B, outputs] and the mix of each distinct id, soft whatever ``hard``."""
        view, model, controller, (model_rows, controller_rows) = snapshot
        mix = given = None
        if controller is not None:
            arguments = view.play.rows, view.features
            mix = given = dict(controller(controller_rows, view.play, *arguments))
            if hard:
                given = {table: select_hard(weights) for table, weights in mix.items()}
        logits: Tensor = model(model_rows, view.play, view.example.inputs, given)
        self._free.append((model, controller))
        return logits, mix
