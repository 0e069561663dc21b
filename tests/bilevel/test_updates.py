"""How the parameters of a level are updated: one's own optimiser, schedules, clipping, decay."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

from autoemb.nn.rows import row_parameters

METHODS = ["fse", "autoemb"]


def dense_of(model):
    return {n: p for n, p in model.named_parameters() if n not in row_parameters(model)}


@pytest.fixture
def reference(build, batch, dense_forward):
    """Return what PyTorch's own loop makes of the model's parameters in three batches."""

    def run(method, make_dense, rows, schedule=None, max_norm=None, **options):
        model, controller, trainer = build(method, dtype=torch.float64, **options)
        model = copy.deepcopy(model)
        dense = dense_of(model)
        tables = [p for n, p in model.named_parameters() if n not in dense]
        one, other = make_dense([*dense.values()]), rows(tables)
        turns = None if schedule is None else schedule(one)
        for seed in range(3):
            events = batch(seed, dtype=torch.float64)
            logits = dense_forward(model, controller, trainer, events)
            for part in (one, other):
                part.zero_grad()
            trainer.loss(logits, events.label).mean().backward()
            if max_norm is not None:
                nn.utils.clip_grad_norm_([*dense.values()], max_norm)
            one.step()
            other.step()
            if turns is not None:
                turns.step()
        return dict(model.named_parameters())

    return run


def check_alike(model, expected):
    for name, value in model.named_parameters():
        torch.testing.assert_close(value, expected[name], rtol=1e-10, atol=1e-11)


def train(trainer, batch):
    for seed in range(3):
        trainer.step(batch(seed, dtype=torch.float64))


OWN = {
    "momentum": partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True),
    "adamw": partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1),
}


@pytest.mark.parametrize("own", OWN.values(), ids=OWN)
@pytest.mark.parametrize("method", METHODS)
def test_an_optimizer_of_ones_own_steps_on_dense_parameters_alone(
    build, batch, reference, method, own
):
    options = {"optimizer": "sgd", "learning_rate": 0.3, "row_rate": 1.0}
    # Adam magnifies the noise that rounding leaves in a bias that batch statistics cancel.
    options["norm"] = "none"
    model, _, trainer = build(method, dtype=torch.float64, dense_optimizer=own, **options)
    train(trainer, batch)
    check_alike(model, reference(method, own, partial(torch.optim.SGD, lr=0.3), **options))


@pytest.mark.parametrize("method", METHODS)
def test_a_schedule_turns_the_rate_of_dense_parameters_after_every_batch(
    build, batch, reference, method
):
    options = {"optimizer": "sgd", "learning_rate": 0.3, "row_rate": 1.0}
    halve = partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5)
    model, _, trainer = build(method, dtype=torch.float64, schedule=halve, **options)
    train(trainer, batch)
    sgd = partial(torch.optim.SGD, lr=0.3)
    check_alike(model, reference(method, sgd, sgd, schedule=halve, **options))
    assert trainer.model.dense_optimizer.param_groups[0]["lr"] == 0.3 / 8
    assert trainer.model.row_optimizer.param_groups[0]["lr"] == 0.3


@pytest.mark.parametrize("method", METHODS)
def test_dense_gradients_are_scaled_down_together(build, batch, reference, method):
    options = {"optimizer": "sgd", "learning_rate": 0.3, "row_rate": 1.0}
    sgd, norm = partial(torch.optim.SGD, lr=0.3), 0.01
    model, _, trainer = build(method, dtype=torch.float64, max_grad_norm=norm, **options)
    before = {name: p.detach().clone() for name, p in dense_of(model).items()}
    trainer.step(batch(0, dtype=torch.float64))
    moved = [(p.detach() - before[name]).flatten() for name, p in dense_of(model).items()]
    # torch adds 1e-6 to the norm that it divides by
    assert torch.cat(moved).norm().item() == pytest.approx(0.3 * norm, rel=1e-3)
    for seed in (1, 2):
        trainer.step(batch(seed, dtype=torch.float64))
    check_alike(model, reference(method, sgd, sgd, max_norm=norm, **options))


@pytest.mark.parametrize("optimizer", ["sgd", "adagrad"])
def test_rows_in_play_decay_and_no_others(build, batch, optimizer):
    """As by an L2 penalty of the rows that a batch holds: their gradient and decay * row."""
    options = {"learning_rate": 0.1, "row_rate": 1.0, "dtype": torch.float64}
    plain, _, without = build("fse", optimizer="sgd", **options)
    model, _, trainer = build("fse", optimizer=optimizer, row_weight_decay=0.5, **options)
    start = model.embedding.table_0.detach().clone()
    events = batch(0, dtype=torch.float64)
    without.step(events)
    trainer.step(events)
    held = events.inputs.ids["user_id"].unique()
    others = torch.ones(len(start), dtype=torch.bool).index_fill(0, held, False)
    after = model.embedding.table_0.detach()
    assert torch.equal(after[others], start[others])
    grad = (start - plain.embedding.table_0.detach())[held] / 0.1 + 0.5 * start[held]
    step = grad if optimizer == "sgd" else grad / (grad.abs() + 1e-10)  # Adagrad's first
    torch.testing.assert_close(after[held], start[held] - 0.1 * step, rtol=1e-9, atol=1e-11)
    if optimizer == "sgd":
        for name, value in dense_of(model).items():
            assert torch.equal(value, dense_of(plain)[name])


def test_own_options_are_of_the_model_and_not_of_the_controller(build):
    _, _, trainer = build(
        "autoemb",
        dense_optimizer=OWN["momentum"],
        schedule=partial(torch.optim.lr_scheduler.StepLR, step_size=1),
        max_grad_norm=1.0,
        row_weight_decay=0.5,
    )
    assert type(trainer.model.dense_optimizer) is torch.optim.SGD
    assert type(trainer.controller.dense_optimizer) is torch.optim.Adagrad
    assert trainer.controller.schedule is None
    assert trainer.controller.max_grad_norm is None
    assert trainer.model.row_optimizer.param_groups[0]["weight_decay"] == 0.5
    _, _, darts = build("darts", row_weight_decay=0.5)
    assert darts.controller.row_optimizer.param_groups[0]["weight_decay"] == 0


@pytest.mark.parametrize("own", OWN.values(), ids=OWN)
def test_ones_own_optimizer_and_schedule_continue_to_the_last_bit(build, batch, own, assert_same):
    options = {
        "dense_optimizer": own,
        "schedule": partial(torch.optim.lr_scheduler.StepLR, step_size=2, gamma=0.5),
        "max_grad_norm": 0.1,
    }
    _, _, trainer = build("autoemb", **options)
    for seed in range(3):
        trainer.step(batch(seed))
    _, _, restored = build("autoemb", **options)
    restored.load_state_dict(copy.deepcopy(trainer.state_dict()))
    for seed in range(3, 6):
        first, second = (one.step(batch(seed)) for one in (trainer, restored))
        assert torch.equal(first.logits, second.logits)
    assert_same(trainer.state_dict(), restored.state_dict())
