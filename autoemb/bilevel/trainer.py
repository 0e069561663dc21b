"""Algorithm 1 of the AutoEmb paper over any module that takes (ids, weights)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from autoemb.bilevel.hypergradient import KINDS, gradients, hypergradient, leaves_of
from autoemb.bilevel.passes import evaluating, same_random_numbers
from autoemb.bilevel.working_set import Batch, Features, Functional, View, views_of
from autoemb.nn.controller import select_hard, spread
from autoemb.ops import Plan
from autoemb.optim import ROW_OPTIMIZERS, ROW_RATES, RowOptimizer
from autoemb.optim.dense import DENSE_OPTIMIZERS


class Outcome(NamedTuple):
    """What one training step predicted, before it learnt.

    Attributes
    ----------
    logits : Tensor[B, outputs]
    losses : Tensor[B]
        Loss of each event.
    weights : list of F Tensor[U_f, N], or None
        Mix given to each distinct id.
    plans : list of F Plan
        Distinct ids; ``plans[f].inverse`` spreads ``weights[f]`` over the events.
    """

    logits: Tensor
    losses: Tensor
    weights: list[Tensor] | None
    plans: list[Plan]

    @property
    def rows(self) -> list[Tensor]:
        """Row numbers [U_f] of the distinct ids of each field."""
        return [plan.rows for plan in self.plans]


class _Learner:
    """A module with the optimisers of its dense and row parameters."""

    def __init__(
        self,
        module: nn.Module,
        optimizer: str,
        learning_rate: float,
        row_rate: float,
    ) -> None:
        self.function = Functional(module)
        self.dense_optimizer: torch.optim.Optimizer | None = None
        self.row_optimizer: RowOptimizer | None = None
        if self.function.dense:
            parameters: list[Tensor] = [*self.function.dense.values()]
            self.dense_optimizer = DENSE_OPTIMIZERS[optimizer](parameters, learning_rate)
        if stored := self.function.stored:
            self.row_optimizer = ROW_OPTIMIZERS[optimizer](stored, lr=learning_rate * row_rate)

    def apply(self, grads: Mapping[str, Tensor], rows: list[Tensor]) -> None:
        """Step with gradients of dense parameters and of the rows in play."""
        if self.dense_optimizer is not None:
            for name, parameter in self.function.dense.items():
                parameter.grad = grads[name]
            self.dense_optimizer.step()
            for parameter in self.function.dense.values():
                parameter.grad = None
        if self.row_optimizer is not None:
            for name, (owner, own_name, field) in self.function.tables.items():
                owner.update_rows(own_name, rows[field], grads[name], self.row_optimizer.update)

    def state_dict(self) -> dict[str, Any]:
        parts = {"dense": self.dense_optimizer, "rows": self.row_optimizer}
        return {"module": self.function.module.state_dict()} | {
            name: part.state_dict() for name, part in parts.items() if part is not None
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.function.module.load_state_dict(state["module"])
        if self.dense_optimizer is not None:
            self.dense_optimizer.load_state_dict(state["dense"])
        if self.row_optimizer is not None:
            self.row_optimizer.load_state_dict(state["rows"])


class BilevelTrainer:
    """Train a model's weights on the newest batch and a controller on past or new ones.

    Parameters
    ----------
    model : torch.nn.Module
        ``model(ids [B, F], weights [B, F, N]) -> logits``. Tables that should cost what a batch
        needs must belong to a :class:`autoemb.nn.rows.RowModule` (:class:`autoemb.SoftEmbedding`
        does) and be looked up for ids of the batch alone; any other parameter is treated as dense.
        Frozen parameters stay as they are. While the trainer works in one thread, no other may
        call the model.
    controller : torch.nn.Module, optional
        ``controller(ids, features) -> weights``, see :mod:`autoemb.nn.controller`. None trains the
        model alone and calls it with ``weights=None``.
    loss : callable
        (logits, target) -> loss of each event [B].
    features : callable, optional
        (field, rows [U]) -> controller input [U, C], such as ``InteractionState.features``.
    joint : bool, default False
        Update the controller with the weights on the training batch (the baseline SAM) instead of
        by :meth:`controller_step`.
    hypergradient : {"first", "finite-difference", "exact"}, default "first"
    learning_rate : float, default 0.001
        Of the model.
    controller_learning_rate : float, default 0.0001
    xi : float, optional
        Step size of the virtual weight step; the model's learning rate by default.
    row_rate : float, optional
        Learning rate of the rows of tables, as a multiple of the model's (controller's) learning
        rate; by default the optimiser's in ``autoemb.optim.ROW_RATES``: 30 for adam, else 1. The
        virtual step does not take it: ``xi`` is one for all weights.
    optimizer : {"adam", "adagrad", "rowwise-adagrad", "sgd"}, default "adam"
        Of dense parameters; tables take its row-sparse variant.
    hard : bool, default False
        Score predictions with each id's largest size alone (Eq. 6); training stays soft.

    Raises
    ------
    ValueError
        For an unknown hypergradient or optimizer.

    Examples
    --------
    >>> import torch
    >>> from autoemb import BilevelTrainer, PerIdLogits, RatingModel, SoftEmbedding, task_for
    >>> from autoemb.schema import STARS
    >>> from autoemb.bilevel import Batch
    >>> _ = torch.manual_seed(0)
    >>> model = RatingModel(SoftEmbedding([100, 50], (1, 4)), hidden=(8,))
    >>> loss = task_for("regression", STARS).loss
    >>> trainer = BilevelTrainer(model, PerIdLogits([100, 50], 2), loss=loss)
    >>> past = Batch(torch.tensor([[3, 7], [9, 0]]), torch.tensor([1.0, 0.0]))
    >>> trainer.controller_step(validation=past, training=past)
    >>> trainer.step(Batch(torch.tensor([[3, 0], [4, 7]]), torch.tensor([0.0, 1.0]))).losses.shape
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
        learning_rate: float = 0.001,
        controller_learning_rate: float = 0.0001,
        xi: float | None = None,
        row_rate: float | None = None,
        optimizer: str = "adam",
        hard: bool = False,
    ) -> None:
        if hypergradient not in KINDS:
            raise ValueError(
                f"hypergradient must be one of {', '.join(KINDS)}; got {hypergradient!r}"
            )
        if optimizer not in DENSE_OPTIMIZERS:
            raise ValueError(
                f"optimizer must be one of {', '.join(DENSE_OPTIMIZERS)}; got {optimizer!r}"
            )
        self.loss, self.features = loss, features
        self.joint, self.hard, self.hypergradient = joint, hard, hypergradient
        self.xi = learning_rate if xi is None else xi
        row_rate = ROW_RATES[optimizer] if row_rate is None else row_rate
        self._model = _Learner(model, optimizer, learning_rate, row_rate)
        self._controller = (
            None
            if controller is None
            else _Learner(controller, optimizer, controller_learning_rate, row_rate)
        )

    @property
    def bilevel(self) -> bool:
        """Whether the controller learns by :meth:`controller_step`."""
        return self._controller is not None and not self.joint

    def _views(self, batches: Sequence[Batch]) -> list[View]:
        learners = [self._model, *([self._controller] if self._controller else [])]
        tables: dict[int, int] = {}
        for function in (learner.function for learner in learners):
            for owner, _, field in function.tables.values():
                rows = owner.num_rows(field)
                tables[field] = min(rows, tables.get(field, rows))
        fields = range(batches[0].ids.shape[1])
        known = all(field in tables for field in fields)
        return views_of(batches, self.features, [tables[f] for f in fields] if known else None)

    def _mix(
        self, parameters: Mapping[str, Tensor], view: View, frozen: bool
    ) -> list[Tensor] | None:
        if self._controller is None:
            return None
        ids = [plan.rows for plan in view.plans]
        function = self._controller.function
        weights: Any = function(parameters, view.rows, ids, view.features, frozen=frozen)
        return list(weights)

    def _logits(
        self,
        parameters: Mapping[str, Tensor],
        weights: list[Tensor] | None,
        view: View,
        frozen: bool,
    ) -> Tensor:
        mixed = None if weights is None else spread(weights, view.plans)
        return self._model.function(parameters, view.rows, view.ids, mixed, frozen=frozen)

    def controller_step(self, validation: Batch, training: Batch | None = None) -> None:
        """Update the controller on past events; the model, its optimiser and statistics stay.

        Parameters
        ----------
        validation : Batch
            Past events that give the outer loss.
        training : Batch, optional
            The previous training batch, for the virtual weight step; not used by
            ``hypergradient="first"``.

        Raises
        ------
        RuntimeError
            If the trainer has no controller to train this way.
        ValueError
            If the hypergradient needs a training batch and there is none.
        """
        if self._controller is None or self.joint:
            raise RuntimeError("there is no controller that learns from past events")
        self._controller.apply(*self._hypergradient(validation, training))

    def _hypergradient(
        self, validation: Batch, training: Batch | None
    ) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Return the controller's gradient, and the rows in play that it is over."""
        assert self._controller is not None
        first = self.hypergradient == "first"
        if not first and training is None:
            raise ValueError(f"hypergradient={self.hypergradient!r} needs a training batch")
        batches = [validation] if first or training is None else [validation, training]
        views = self._views(batches)
        rows = views[0].rows

        def loss_of(view: View) -> Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], Tensor]:
            def loss(weights: Mapping[str, Tensor], controller: Mapping[str, Tensor]) -> Tensor:
                with same_random_numbers(view.ids.device):
                    mix = self._mix(controller, view, frozen=True)
                    logits = self._logits(weights, mix, view, frozen=True)
                    return self.loss(logits, view.target).mean()

            return loss

        grads = hypergradient(
            self.hypergradient,
            loss_of(views[-1]),
            loss_of(views[0]),
            self._model.function.parameters(rows),
            self._controller.function.parameters(rows),
            self.xi,
        )
        return grads, rows

    def step(
        self, batch: Batch, *, validates: bool = False, previous: Batch | None = None
    ) -> Outcome:
        """Predict a new batch, then learn from it.

        The prediction is the forward pass of the weight step, so it uses the parameters of before
        the batch, and the batch's own statistics of its ids (never its labels).

        Parameters
        ----------
        batch : Batch
            At least two events, if the model takes batch statistics.
        validates : bool, default False
            Let a controller that does not learn jointly learn from this batch, too, as it is before
            the weights learn it. For ``hypergradient="first"`` the one backward pass of the weight
            step gives both gradients: that is joint training.
        previous : Batch, optional
            The training batch before, for the virtual weight step of the other hypergradients; the
            controller waits while there is none.

        Returns
        -------
        Outcome
        """
        first = self.hypergradient == "first"
        joint = self._controller is not None and (self.joint or (validates and first))
        later = None
        if validates and self.bilevel and not first and previous is not None:
            later = self._hypergradient(batch, previous)
        (view,) = self._views([batch])
        rows = view.rows
        values = leaves_of(self._model.function.gather(rows))
        leaves: dict[str, Tensor] = {**self._model.function.dense, **values}
        mix_leaves: dict[str, Tensor] = {}
        if self._controller is not None:
            gathered = self._controller.function.gather(rows)
            if joint:
                gathered = leaves_of(gathered)
                mix_leaves = {**self._controller.function.dense, **gathered}
            with torch.set_grad_enabled(joint):
                weights = self._mix(gathered, view, frozen=False)
        else:
            weights = None
        scored = None
        if self.hard and weights is not None:
            scored = self._score_hard(values, weights, view)
        logits = self._logits(values, weights, view, frozen=False)
        losses = self.loss(logits, view.target)
        grads, mix_grads = gradients(losses.mean(), leaves, mix_leaves)
        self._model.apply(grads, rows)
        if self._controller is not None:
            if joint:
                self._controller.apply(mix_grads, rows)
            elif later is not None:
                self._controller.apply(*later)
        if scored is not None:
            logits, losses = scored, self.loss(scored, view.target)
        if weights is not None:
            weights = [value.detach() for value in weights]
        return Outcome(logits.detach(), losses.detach(), weights, view.plans)

    @torch.no_grad()
    def _score_hard(
        self, values: Mapping[str, Tensor], weights: list[Tensor], view: View
    ) -> Tensor:
        hard = [select_hard(value.detach()) for value in weights]
        with same_random_numbers(view.ids.device):
            return self._logits(values, hard, view, frozen=True)

    @torch.no_grad()
    def predict(self, ids: Tensor, *, hard: bool = False) -> Tensor:
        """Return logits in eval mode; nothing changes.

        Parameters
        ----------
        ids : Tensor[B, F], int64
            Row numbers.
        hard : bool, default False
            Use each id's largest size alone (Eq. 6).

        Returns
        -------
        Tensor[B, outputs]
        """
        (view,) = self._views([Batch(ids, ids)])
        model = self._model.function
        modules, gathered = [model.module], {}
        if self._controller is not None:
            modules.append(self._controller.function.module)
            gathered = self._controller.function.gather(view.rows)
        with evaluating(modules):
            weights = self._mix(gathered, view, frozen=True)
            if hard and weights is not None:
                weights = [select_hard(value) for value in weights]
            return self._logits(model.gather(view.rows), weights, view, frozen=True)

    def reset_rows(self, parameter: nn.Parameter, rows: Tensor) -> None:
        """Forget what the optimiser keeps of rows of a table of the model: they change hands."""
        if self._model.row_optimizer is not None:
            self._model.row_optimizer.reset(parameter, rows)

    def state_dict(self) -> dict[str, Any]:
        """Return parameters, running statistics and optimiser state of model and controller."""
        controller = {} if self._controller is None else self._controller.state_dict()
        return {"model": self._model.state_dict(), "controller": controller}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`; tables must have the rows they were saved with."""
        self._model.load_state_dict(state["model"])
        if self._controller is not None:
            self._controller.load_state_dict(state["controller"])
