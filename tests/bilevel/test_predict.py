"""Serving and scoring: eval mode, nothing changed, soft weights or the largest size alone."""

import copy

import pytest
import torch

from autoemb import task_for
from autoemb.nn.controller import select_hard
from autoemb.schema import STARS
from tests.bilevel.small import example_of

LOSS = task_for("regression", STARS).loss


def mix_of_events(controller, trainer, inputs):
    """The mix [B, F, N] of each event."""
    mix = controller(inputs.ids, trainer.features(inputs.ids))
    return torch.stack([*mix.values()], 1).detach()


def test_predict_is_the_model_in_eval_mode_and_changes_nothing(
    build, batch, cycle, dense_forward, assert_exact, method, assert_same
):
    model, controller, trainer = build(method, dtype=torch.float64)
    cycle(trainer, dtype=torch.float64)
    before, events = copy.deepcopy(trainer.state_dict()), batch(7, dtype=torch.float64)
    logits = trainer.predict(events.inputs)
    assert_same(trainer.state_dict(), before)
    assert model.training
    assert not logits.requires_grad
    model.eval()
    expected = dense_forward(model, controller, trainer, events).detach()
    assert_exact(logits, expected)
    one = events.inputs._replace(ids={t: own[:1] for t, own in events.inputs.ids.items()})
    assert_exact(trainer.predict(one), expected[:1])
    assert not model.training


def test_predict_leaves_the_module_alone_after_an_error(build, batch, monkeypatch):
    model, _, trainer = build("fse")
    expected = model(batch(0).inputs)

    def broken(*args):
        raise ValueError("broken")

    with monkeypatch.context() as patch:
        patch.setattr(type(model), "forward", broken)
        with pytest.raises(ValueError, match="broken"):
            trainer.predict(batch(0).inputs)
    assert model.training
    assert torch.equal(model(batch(0).inputs), expected)
    assert torch.equal(trainer.predict(batch(0).inputs), expected)


def test_an_id_beyond_the_tables_is_an_error(build):
    _, _, trainer = build("fse")
    inputs = example_of(torch.tensor([[0, 1000]]), None).inputs
    with pytest.raises(IndexError, match=r"table 'item_id': id 1000 is not in \[0, 29\]"):
        trainer.predict(inputs)


def test_predict_leaves_the_mode_of_every_part_of_the_model(build, batch):
    model, _, trainer = build("autoemb")
    model.hidden.eval()
    trainer.predict(batch(0).inputs)
    assert model.training
    assert not model.hidden.training


@pytest.mark.parametrize("method", ["sam", "darts", "autoemb"])
def test_hard_prediction_takes_the_largest_size_alone(build, batch, assert_exact, method):
    model, controller, trainer = build(method, dtype=torch.float64)
    inputs = batch(0).inputs
    weights = mix_of_events(controller, trainer, inputs)
    hard = select_hard(weights)
    assert hard.sum(2).unique().tolist() == [1.0]
    assert len(weights.argmax(2).unique()) == 2
    model.eval()
    expected = model(inputs, hard).detach()
    model.train()
    assert_exact(trainer.predict(inputs, hard=True), expected)
    assert not torch.allclose(trainer.predict(inputs), expected, rtol=1e-3)


def test_hard_scoring_trains_softly(build, cycle, method, assert_same):
    results = {}
    for hard in (False, True):
        _, _, trainer = build(method, hard=hard)
        results[hard] = [cycle(trainer, seed) for seed in range(3)], trainer.state_dict()
    (soft, soft_state), (scored, hard_state) = results[False], results[True]
    assert_same(soft_state, hard_state)
    for first, second in zip(soft, scored, strict=True):
        assert torch.equal(first.logits, second.logits) == (method == "fse")
        assert torch.equal(first.losses, second.losses) == (method == "fse")


def test_hard_scores_are_those_of_the_largest_size_before_the_step(build, batch, assert_exact):
    model, controller, trainer = build("darts", dtype=torch.float64, hard=True)
    events = batch(0, dtype=torch.float64)
    weights = mix_of_events(controller, trainer, events.inputs)
    logits = copy.deepcopy(model)(events.inputs, select_hard(weights)).detach()
    outcome = trainer.step(events)
    assert_exact(outcome.logits, logits)
    assert_exact(outcome.losses, LOSS(logits, events.label))
