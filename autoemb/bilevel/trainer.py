"""Algorithm 1 of the AutoEmb paper over any module that takes (inputs, mix)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from autoemb.bilevel.hypergradient import KINDS, gradients, hypergradient, leaves_of
from autoemb.bilevel.lock import Lock
from autoemb.bilevel.outcome import Outcome, Update
from autoemb.bilevel.part import Change, MakeOptimizer, MakeSchedule, Part, Updating
from autoemb.bilevel.passes import same_random_numbers
from autoemb.bilevel.reader import Reader, Snapshot
from autoemb.bilevel.wiring import check_wiring
from autoemb.bilevel.working_set import Example, Features, View, views_of
from autoemb.nn.controller import select_hard
from autoemb.nn.inputs import Inputs
from autoemb.nn.places import InPlay
from autoemb.ops.lookup import NO_ROW
from autoemb.optim import OPTIMIZERS


class BilevelTrainer:
    """Train a model's weights on the newest batch and a controller on past or new ones.

    Parameters
    ----------
    model : torch.nn.Module
        ``model(inputs, mix) -> logits``: :class:`autoemb.nn.Inputs`, and the mix [U, N] of the rows
        by table, for :class:`autoemb.SoftEmbedding`. Tables that should cost what a batch needs
        must belong to a :class:`autoemb.nn.RowModule` that names the features it reads; any other
        parameter is treated as dense. Frozen parameters stay as they are. While the trainer works
        in one thread, others may :meth:`predict`, but not call the model.
    controller : torch.nn.Module, optional
        ``controller(rows, features) -> mix``, see :mod:`autoemb.nn.controller`. None trains the
        model alone and calls it with ``mix=None``.
    loss : callable
        (logits, label) -> loss of each event [B].
    features : callable, optional
        Rows [U] by table -> controller input [U, C] by table, such as ``History.features``.
    joint : bool, default False
        Update the controller with the weights on the training batch (the baseline SAM) instead of
        by :meth:`controller_step`.
    hypergradient : {"first", "finite-difference", "exact"}, default "first"
    optimizer : str, default "adagrad"
        One of :data:`autoemb.optim.OPTIMIZERS`: of dense parameters; tables take its row-sparse
        variant.
    learning_rate : float, optional
        Of the model; this and the next two are by default those of the optimiser's record.
    controller_learning_rate : float, optional
    row_rate : float, optional
        Learning rate of the rows of tables, as a multiple of the model's (controller's) learning
        rate. The virtual step does not take it: ``xi`` is one for all weights.
    row_weight_decay : float, default 0.0
        L2 penalty of the model's rows in play.
    dense_optimizer : callable, optional
        The model's dense parameters -> torch.optim.Optimizer, in the place of ``optimizer``'s.
    schedule : callable, optional
        Optimiser of the model's dense parameters -> torch.optim.lr_scheduler.LRScheduler; stepped
        after every batch.
    max_grad_norm : float, optional
        The model's dense gradients are scaled down to this norm together.
    xi : float, optional
        Step size of the virtual weight step; the model's learning rate by default.
    hard : bool, default False
        Score predictions with each id's largest size alone (Eq. 6); training stays soft.

    Raises
    ------
    ValueError
        For an unknown hypergradient or optimizer, and for modules that do not fit together; names
        what and where.

    Examples
    --------
    >>> import torch
    >>> from autoemb import MLP, BilevelTrainer, PerIdLogits, SoftEmbedding
    >>> from autoemb.bilevel import Example
    >>> from autoemb.nn import Inputs
    >>> _ = torch.manual_seed(0)
    >>> tables = ["user_id", "item_id"]
    >>> model = MLP(SoftEmbedding([100, 50], (1, 4), features=tables), hidden=(8,))
    >>> loss = lambda logits, label: (logits.squeeze(1) - label).square()
    >>> trainer = BilevelTrainer(model, PerIdLogits(tables, [100, 50], 2), loss=loss)
    >>> ids = {"user_id": torch.tensor([3, 9]), "item_id": torch.tensor([7, 0])}
    >>> past = Example(Inputs(ids), torch.tensor([1.0, 0.0]))
    >>> trainer.controller_step(validation=past, training=past)
    >>> trainer.step(past).losses.shape
    torch.Size([2])
    """

    def __init__(
        self,
        model: nn.Module,
        controller: nn.Module | None = None,
        *,
        loss: Callable[[Tensor, Tensor], Tensor],
        features: Features | None = None,
        joint: bool = False,
        hypergradient: str = "first",
        optimizer: str = "adagrad",
        learning_rate: float | None = None,
        controller_learning_rate: float | None = None,
        row_rate: float | None = None,
        row_weight_decay: float = 0.0,
        dense_optimizer: MakeOptimizer | None = None,
        schedule: MakeSchedule | None = None,
        max_grad_norm: float | None = None,
        xi: float | None = None,
        hard: bool = False,
    ) -> None:
        for name, value, known in (
            ("hypergradient", hypergradient, KINDS),
            ("optimizer", optimizer, tuple(OPTIMIZERS)),
        ):
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}; got {value!r}")
        self.reads = check_wiring(model, controller)
        self.loss, self.features = loss, features
        self.joint, self.hard, self.hypergradient = joint, hard, hypergradient
        rates = OPTIMIZERS[optimizer].rates
        rate = rates.learning_rate if learning_rate is None else learning_rate
        slow = controller_learning_rate
        slow = rates.controller_learning_rate if slow is None else slow
        rows = rates.row_rate if row_rate is None else row_rate
        self.xi = rate if xi is None else xi
        own = row_weight_decay, dense_optimizer, schedule, max_grad_norm
        self.lock = Lock()
        self.model = Part(model, Updating(optimizer, rate, rows, *own), self.lock)
        self.controller: Part | None = None
        if controller is not None:
            self.controller = Part(controller, Updating(optimizer, slow, rows), self.lock)
        self.reader = Reader(model, controller, self.lock)

    @property
    def bilevel(self) -> bool:
        """Whether the controller learns by :meth:`controller_step`."""
        return self.controller is not None and not self.joint

    @property
    def tables(self) -> tuple[str, ...]:
        """The tables whose rows the model reads, in the order in which features name them."""
        return tuple(dict.fromkeys(feature.table for feature in self.reads.values()))

    def num_rows(self) -> dict[str, int]:
        """Return how many rows the tables have; any number where nobody owns a row."""
        found = dict.fromkeys(self.tables, NO_ROW)
        for part in filter(None, (self.model, self.controller)):
            for row in part.function.rows.values():
                rows = row.owner.num_rows(row.table)
                found[row.table] = min(rows, found.get(row.table, NO_ROW))
        return found

    def views(self, *examples: Example) -> list[View]:
        """View batches over the rows that they need together."""
        return views_of(examples, self.reads, self.num_rows(), self.features)

    def _mix(
        self, parameters: Mapping[str, Tensor], view: View
    ) -> tuple[dict[str, Tensor] | None, dict[str, Tensor]]:
        if self.controller is None:
            return None, {}
        function = self.controller.function
        mix, buffers = function(parameters, view.play, view.play.rows, view.features)
        for table, given in mix.items():
            rows = view.play.rows.get(table)
            if rows is not None and len(given) != len(rows):
                raise ValueError(
                    f"the controller's mix of table {table!r} has shape {list(given.shape)}; "
                    f"expected {len(rows)} rows, one a distinct id"
                )
        return dict(mix), buffers

    @torch.no_grad()
    def mix(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """Return the mix [U, N] that the controller gives rows [U] of every table now."""
        if self.controller is None:
            return None
        function = self.controller.function
        features = {} if self.features is None else self.features(rows)
        mix, _ = function(function.gather(rows), InPlay(rows), rows, features)
        return dict(mix)

    def _losses(self, logits: Tensor, example: Example) -> Tensor:
        losses = self.loss(logits, example.label)
        if losses.shape != (len(example.label),):
            raise ValueError(
                f"the loss of {len(example.label)} events has shape {list(losses.shape)}; expected "
                f"one number an event: [{len(example.label)}]"
            )
        return losses

    def _mean(self, losses: Tensor, example: Example) -> Tensor:
        if example.weight is None:
            return losses.mean()
        if example.weight.shape != losses.shape:
            raise ValueError(
                f"weight has shape {list(example.weight.shape)}; expected {list(losses.shape)}, "
                "one an event"
            )
        return (losses * example.weight).mean()

    def controller_step(self, validation: Example, training: Example | None = None) -> None:
        """Update the controller on past events; the model, its optimiser and statistics stay.

        Parameters
        ----------
        validation : Example
            Past events that give the outer loss.
        training : Example, optional
            The previous training batch, for the virtual weight step; not used by
            ``hypergradient="first"``.

        Raises
        ------
        RuntimeError
            If the trainer has no controller to train this way.
        ValueError
            If the hypergradient needs a training batch and there is none.
        """
        self.apply_controller(self.compute_controller(validation, training))

    def compute_controller(self, validation: Example, training: Example | None = None) -> Change:
        """Compute what :meth:`controller_step` applies; nothing changes."""
        if self.controller is None or self.joint:
            raise RuntimeError("there is no controller that learns from past events")
        first = self.hypergradient == "first"
        if not first and training is None:
            raise ValueError(f"hypergradient={self.hypergradient!r} needs a training batch")
        views = self.views(*([validation] if first or training is None else [validation, training]))
        rows = views[0].play.rows

        def loss_of(view: View) -> Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], Tensor]:
            def loss(weights: Mapping[str, Tensor], controller: Mapping[str, Tensor]) -> Tensor:
                with same_random_numbers(view.example.label.device):
                    mix, _ = self._mix(controller, view)
                    inputs = view.example.inputs
                    logits, _ = self.model.function(weights, view.play, inputs, mix)
                    return self._mean(self._losses(logits, view.example), view.example)

            return loss

        grads = hypergradient(
            self.hypergradient,
            loss_of(views[-1]),
            loss_of(views[0]),
            self.model.function.parameters(rows),
            self.controller.function.parameters(rows),
            self.xi,
        )
        return Change(grads, rows)

    def apply_controller(self, change: Change) -> None:
        """Apply what :meth:`compute_controller` computed."""
        if self.controller is not None:
            with self.lock:
                self.controller.apply(change)

    def step(
        self, example: Example, *, validates: bool = False, previous: Example | None = None
    ) -> Outcome:
        """Predict a new batch, then learn from it.

        The prediction is the forward pass of the weight step, so it uses the parameters of before
        the batch, and the batch's own statistics of its ids (never its labels).

        Parameters
        ----------
        example : Example
            At least two events, if the model takes batch statistics.
        validates : bool, default False
            Let a controller that does not learn jointly learn from this batch, too, as it is before
            the weights learn it. For ``hypergradient="first"`` the one backward pass of the weight
            step gives both gradients: that is joint training.
        previous : Example, optional
            The training batch before, for the virtual weight step of the other hypergradients; the
            controller waits while there is none.

        Returns
        -------
        Outcome
        """
        update = self.compute(example, validates=validates, previous=previous)
        self.apply(update)
        return update.outcome

    def compute(
        self, example: Example, *, validates: bool = False, previous: Example | None = None
    ) -> Update:
        """Compute what :meth:`step` applies; nothing changes but the random numbers drawn."""
        first = self.hypergradient == "first"
        joint = self.controller is not None and (self.joint or (validates and first))
        later = None
        if validates and self.bilevel and not first and previous is not None:
            later = self.compute_controller(example, previous)
        (view,) = self.views(example)
        rows = view.play.rows
        values = leaves_of(self.model.function.gather(rows))
        leaves: dict[str, Tensor] = {**self.model.function.dense, **values}
        mix_leaves: dict[str, Tensor] = {}
        gathered: dict[str, Tensor] = {}
        if self.controller is not None:
            gathered = self.controller.function.gather(rows)
            if joint:
                gathered = leaves_of(gathered)
                mix_leaves = {**self.controller.function.dense, **gathered}
        with torch.set_grad_enabled(joint):
            mix, mix_buffers = self._mix(gathered, view)
        scored = self._score_hard(values, mix, view) if self.hard and mix is not None else None
        inputs = view.example.inputs
        logits, buffers = self.model.function(values, view.play, inputs, mix)
        losses = self._losses(logits, view.example)
        grads, mix_grads = gradients(self._mean(losses, view.example), leaves, mix_leaves)
        if scored is not None:
            logits, losses = scored, self._losses(scored, view.example)
        kept = None if mix is None else {table: value.detach() for table, value in mix.items()}
        outcome = Outcome(logits.detach(), losses.detach(), kept, view.plans, view.places)
        change = Change(mix_grads, rows) if joint else later
        return Update(outcome, Change(grads, rows), change, (buffers, mix_buffers))

    def apply(self, update: Update) -> None:
        """Apply what :meth:`compute` computed."""
        with self.lock:
            self.model.keep(update.buffers[0])
            self.model.apply(update.model)
            if self.controller is not None:
                self.controller.keep(update.buffers[1])
                if update.controller is not None:
                    self.controller.apply(update.controller)

    @torch.no_grad()
    def _score_hard(
        self, values: Mapping[str, Tensor], mix: Mapping[str, Tensor], view: View
    ) -> Tensor:
        hard = {table: select_hard(value.detach()) for table, value in mix.items()}
        with same_random_numbers(view.example.label.device):
            logits: Tensor
            logits, _ = self.model.function(values, view.play, view.example.inputs, hard)
            return logits

    def predict(self, inputs: Inputs, *, hard: bool = False) -> Tensor:
        """Return logits [B, outputs] in eval mode; nothing changes.

        May run in other threads while one trains: it sees the state between two steps.

        Parameters
        ----------
        inputs : Inputs
            Row numbers.
        hard : bool, default False
            Use each id's largest size alone (Eq. 6).
        """
        with self.lock:
            snapshot = self._snapshot(Example(inputs, torch.empty(0)))
            if self.reader.shares:
                return self.reader.logits(snapshot, hard=hard)
        return self.reader.logits(snapshot, hard=hard)

    def score(self, example: Example) -> Outcome:
        """Predict a batch in eval mode, for a step that comes later; nothing changes."""
        with self.lock:
            snapshot = self._snapshot(example)
            logits, mix = self.reader.outcome(snapshot, hard=self.hard)
        view = snapshot.view
        losses = self._losses(logits, view.example)
        return Outcome(logits, losses.detach(), mix, view.plans, view.places)

    def _snapshot(self, example: Example) -> Snapshot:
        (view,) = self.views(example)
        rows = view.play.rows
        controller = {} if self.controller is None else self.controller.function.gather(rows)
        return self.reader.take(view, self.model.function.gather(rows), controller)

    def state_dict(self) -> dict[str, Any]:
        """Return parameters, running statistics and optimiser state of model and controller."""
        controller = {} if self.controller is None else self.controller.state_dict()
        return {"model": self.model.state_dict(), "controller": controller}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`; tables must have the rows they were saved with."""
        self.model.load_state_dict(state["model"])
        if self.controller is not None:
            self.controller.load_state_dict(state["controller"])
