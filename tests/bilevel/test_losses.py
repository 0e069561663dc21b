"""Losses of each event: what is refused, and what weights of events do."""

import copy

import pytest
import torch

from tests.bilevel.conftest import squared_error

WRONG = {
    "a mean": lambda logits, label: squared_error(logits, label).mean(),
    "a sum": lambda logits, label: squared_error(logits, label).sum(),
    "a column": lambda logits, label: squared_error(logits, label).unsqueeze(1),
    "every pair": lambda logits, label: (logits - label).square(),  # [B, 1] - [B]
    "a half": lambda logits, label: squared_error(logits, label)[::2],
    "one more": lambda logits, label: torch.cat([squared_error(logits, label), label[:1]]),
}
METHODS = ["fse", "sam", "darts", "autoemb"]


@pytest.fixture
def trained(build, cycle):
    """Return a function that builds a trainer that has state to lose."""

    def make(method, **options):
        _, _, trainer = build(method, dtype=torch.float64, **options)
        cycle(trainer, dtype=torch.float64)
        return trainer

    return make


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("wrong", WRONG)
def test_a_loss_that_is_not_of_each_event_is_refused_and_nothing_changes(
    trained, batch, assert_same, method, wrong
):
    trainer = trained(method)
    before, random = copy.deepcopy(trainer.state_dict()), torch.random.get_rng_state()
    loss, trainer.loss = trainer.loss, WRONG[wrong]
    events = batch(5, dtype=torch.float64)
    message = r"the loss of 8 events has shape \[.*\]; expected one number an event: \[8\]"
    with pytest.raises(ValueError, match=message):
        trainer.step(events)
    if trainer.bilevel:
        with pytest.raises(ValueError, match=message):
            trainer.step(events, validates=True, previous=batch(6, dtype=torch.float64))
        with pytest.raises(ValueError, match=message):
            trainer.controller_step(events, batch(6, dtype=torch.float64))
    assert_same(trainer.state_dict(), before)
    assert torch.equal(torch.random.get_rng_state(), random)
    assert all(parameter.grad is None for parameter in trainer.model.function.module.parameters())
    trainer.loss = loss
    twin = trained(method)  # which was never asked
    assert torch.equal(trainer.step(events).logits, twin.step(events).logits)
    assert_same(trainer.state_dict(), twin.state_dict())


def test_a_loss_that_raises_in_the_second_pass_changes_nothing(trained, batch, assert_same):
    trainer = trained("autoemb", hypergradient="exact")
    before, calls = copy.deepcopy(trainer.state_dict()), []
    loss = trainer.loss

    def failing(logits, label):
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("stopped")
        return loss(logits, label)

    trainer.loss = failing
    with pytest.raises(RuntimeError, match="stopped"):
        trainer.step(batch(5, dtype=torch.float64), validates=True, previous=batch(6))
    assert_same(trainer.state_dict(), before)
    assert len(calls) == 3


# Weights of events


def weighted(example, weight):
    return example._replace(weight=torch.as_tensor(weight, dtype=torch.float64))


def repeated(example, times):
    times = torch.tensor(times)
    ids = {name: own.repeat_interleave(times) for name, own in example.inputs.ids.items()}
    label = example.label.repeat_interleave(times)
    return example._replace(inputs=example.inputs._replace(ids=ids), label=label)


def take_turn(trainer, example, past):
    if trainer.bilevel:
        trainer.controller_step(example, past)
    return trainer.step(example)


@pytest.mark.parametrize("hypergradient", ["first", "finite-difference", "exact"])
@pytest.mark.parametrize("method", METHODS)
def test_weights_scale_the_losses_of_their_events(build, batch, assert_same, method, hypergradient):
    """As a loss would that knew them: in every pass, and not in the losses that are told."""
    weight = torch.tensor([0.0, 1.0, 2.5, 1.0, 0.0, 3.0, 1.0, 0.5], dtype=torch.float64)
    states, outcomes = [], []
    for by_loss in (False, True):
        _, _, trainer = build(method, dtype=torch.float64, hypergradient=hypergradient)
        example, past = (weighted(batch(seed, dtype=torch.float64), weight) for seed in (3, 4))
        if by_loss:
            plain = trainer.loss
            trainer.loss = lambda logits, label, plain=plain: plain(logits, label) * weight
            example, past = (one._replace(weight=None) for one in (example, past))
        outcomes.append(take_turn(trainer, example, past))
        states.append(trainer.state_dict())
    assert_same(*states)
    assert torch.equal(outcomes[0].logits, outcomes[1].logits)
    assert torch.equal(outcomes[0].losses * weight, outcomes[1].losses)


@pytest.mark.parametrize("method", METHODS)
def test_a_weight_of_two_is_an_event_twice(build, batch, assert_exact, flat, method):
    """But for the mean over 11 events in the place of 8, which the rates take back."""
    times = [1, 2, 1, 1, 0, 1, 3, 2]
    states = []
    for rate, change in ((0.08, weighted), (0.11, repeated)):
        _, _, trainer = build(
            method, dtype=torch.float64, optimizer="sgd", row_rate=1.0, hypergradient="first",
            norm="running",  # a batch's own statistics count events, whatever their weight
            learning_rate=rate, controller_learning_rate=rate,
        )  # fmt: skip
        trainer.model.function.module.eval()  # running statistics would count them, too
        example = change(batch(3, dtype=torch.float64), times)
        take_turn(trainer, example, example)
        states.append(flat(trainer.state_dict()))
    for path, value in states[0].items():
        if isinstance(value, torch.Tensor) and "module" in path:
            assert_exact(value, states[1][path])


@pytest.mark.parametrize("method", ["fse", "autoemb"])
def test_events_of_weight_zero_teach_nothing(build, batch, flat, method):
    model, controller, trainer = build(method, optimizer="sgd", dtype=torch.float64)
    modules = [module for module in (model, controller) if module is not None]
    before = [p.detach().clone() for module in modules for p in module.parameters()]
    example = weighted(batch(3, dtype=torch.float64), torch.zeros(8))
    outcome = take_turn(trainer, example, example)
    assert outcome.losses.all()  # what is told is the loss of the prediction
    after = [p for module in modules for p in module.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))


@pytest.mark.parametrize("shape", [(1,), (8, 1), (7,), ()])
def test_weights_of_another_shape_are_refused_and_nothing_changes(
    trained, batch, assert_same, shape
):
    trainer = trained("autoemb", hypergradient="first")
    before = copy.deepcopy(trainer.state_dict())
    example = weighted(batch(5, dtype=torch.float64), torch.ones(shape))
    for attempt in (trainer.step, trainer.controller_step):
        with pytest.raises(ValueError, match=r"weight has shape \[.*\]; expected \[8\], one an e"):
            attempt(example)
    assert_same(trainer.state_dict(), before)
