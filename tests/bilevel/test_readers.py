"""Predictions beside training: in other threads, by modules of their own, of the state of now."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from autoemb import MLP, BilevelTrainer, PerIdLogits, SoftEmbedding
from autoemb.nn.arena import Arena
from autoemb.nn.granted_sizes import GrantedEmbedding
from autoemb.nn.rows import grow
from tests.bilevel.conftest import squared_error
from tests.bilevel.small import TABLES, example_of
from tests.nn.small import PAPER, let_own

ROWS, STEPS = (40, 30), 120


@pytest.fixture
def switching():
    """Let threads take turns as often as they can: every few lines of Python."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


class Normed(nn.Module):
    """Batch norm between an embedding and a linear layer: buffers that a step moves."""

    def __init__(self, embedding):
        super().__init__()
        self.embedding, width = embedding, embedding.num_features * embedding.output_dim
        self.norm, self.last = nn.BatchNorm1d(width), nn.Linear(width, 1)

    def forward(self, inputs, mix=None):
        return self.last(self.norm(self.embedding(inputs, mix).flatten(1)))


def make(kind, **options):
    torch.manual_seed(0)
    if kind == "granted":
        embedding = GrantedEmbedding(ROWS, (1, 2), features=TABLES)
        for table, rows in enumerate(ROWS):
            for size in range(2):
                let_own(embedding, table, torch.arange(size, rows, 2), size)
    else:
        norm = "running" if kind == "running" else "none"
        embedding = SoftEmbedding(ROWS, (1, 2), features=TABLES, **PAPER | {"norm": norm})
    model = Normed(embedding) if kind == "normed" else MLP(embedding, hidden=(4,))
    controller = PerIdLogits(TABLES, ROWS, 2)
    # Steps that move a prediction by far more than rounding does.
    options = {"learning_rate": 0.1, "controller_learning_rate": 0.1, "row_rate": 1.0} | options
    return BilevelTrainer(model, controller, loss=squared_error, **options)


KINDS = ["soft", "running", "normed", "granted"]


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_in_other_threads_are_of_a_state_between_two_steps(kind, batch, switching):
    trainer, probe = make(kind), batch(99).inputs
    allowed, seen, errors = {key(trainer.predict(probe))}, [], []
    done = threading.Event()

    def read():
        try:
            while not done.is_set():
                seen.append(key(trainer.predict(probe)))
        except BaseException as error:
            errors.append(error)
            raise

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        for step in range(STEPS):
            events = batch(step % 20)
            trainer.controller_step(events)
            allowed.add(key(trainer.predict(probe)))
            trainer.step(events)
            allowed.add(key(trainer.predict(probe)))
    finally:
        done.set()
        for reader in readers:
            reader.join()
    assert errors == []
    assert len(allowed) > STEPS  # nearly every step changes the prediction
    assert len({*seen}) > 5
    assert {*seen} <= allowed


def key(logits):
    return tuple(logits.flatten().tolist())


@pytest.mark.parametrize("kind", KINDS)
def test_training_goes_on_as_if_nobody_read(kind, batch, switching, assert_same):
    alone, read = make(kind), make(kind)
    done = threading.Event()

    def predict():
        while not done.is_set():
            read.predict(batch(99).inputs)

    reader = threading.Thread(target=predict)
    reader.start()
    try:
        for trainer in (alone, read):
            for step in range(30):
                trainer.controller_step(batch(step))
                trainer.step(batch(step + 1))
    finally:
        done.set()
        reader.join()
    assert_same(alone.state_dict(), read.state_dict())


@pytest.mark.parametrize("kind", KINDS)
def test_a_prediction_is_by_the_parameters_and_buffers_of_now(kind, batch):
    trainer, inputs = make(kind), batch(99).inputs
    model, controller = trainer.model.function.module, trainer.controller.function.module
    every = {table: torch.arange(rows) for table, rows in zip(TABLES, ROWS, strict=True)}
    for step in range(3):
        model.eval()
        expected = model(inputs, controller(every, {})).detach()
        model.train()
        torch.testing.assert_close(trainer.predict(inputs), expected)
        trainer.controller_step(batch(step))
        trainer.step(batch(step + 1))
        assert not torch.allclose(trainer.predict(inputs), expected, rtol=1e-3)
    with torch.no_grad():  # by whoever changes them
        for parameter in model.parameters():
            parameter.mul_(0.5)
    model.eval()
    torch.testing.assert_close(
        trainer.predict(inputs), model(inputs, controller(every, {})).detach()
    )


@pytest.mark.parametrize("kind", KINDS)
def test_what_predictions_go_through_holds_no_tables(kind, batch):
    trainer = make(kind)
    trainer.predict(batch(0).inputs)
    ((model, controller),) = trainer.reader._free
    for part, replica in ((trainer.model, model), (trainer.controller, controller)):
        stored = {id(parameter) for parameter in part.function.stored}
        pairs = zip(part.function.module.parameters(), replica.module.parameters(), strict=True)
        shared = {id(p) for m in part.function.module.modules() if isinstance(m, Arena)
                  for p in m.parameters()}  # fmt: skip
        tables = len(shared)
        for own, other in pairs:
            if id(own) in shared:
                assert own is other  # read where it is
                continue
            assert own is not other
            if id(own) in stored or other.numel() == 0:
                assert len(other) == 0
                tables += 1
            else:
                assert own.data_ptr() != other.data_ptr()
                assert own.shape == other.shape
        assert tables >= 2
    if kind == "granted":
        ours = trainer.model.function.module.embedding
        assert model.module.embedding.slots(0) is ours.slots(0)  # read where they are


@pytest.mark.parametrize("kind", ["soft", "granted"])
def test_what_is_read_where_it_is_does_not_change_within_a_prediction(kind, batch):
    """The slots of a granted embedding; all else is copied, and training goes on meanwhile."""
    trainer, free = make(kind), []

    def look(*_):
        with ThreadPoolExecutor(1) as other:
            free.append(other.submit(trainer.lock._lock.acquire, blocking=False).result())

    trainer.model.function.module.register_forward_pre_hook(look)
    trainer.predict(batch(0).inputs)
    assert free == [kind == "soft"]


def test_modules_of_predictions_are_used_again(batch):
    trainer = make("soft")
    for seed in range(3):
        trainer.predict(batch(seed).inputs)
        trainer.step(batch(seed))
    assert len(trainer.reader._free) == 1
    first = trainer.reader._free[0][0].module
    trainer.predict(batch(4).inputs)
    assert trainer.reader._free[0][0].module is first


@pytest.mark.parametrize("kind", KINDS)
def test_tables_that_grew_are_read(kind, batch):
    trainer = make(kind)
    trainer.predict(batch(0).inputs)
    for part in (trainer.model, trainer.controller):
        grow(part.function.module, {"user_id": 80})
    inputs = example_of(torch.tensor([[79, 3], [60, 29]]), None).inputs
    assert trainer.predict(inputs).isfinite().all()
    with pytest.raises(IndexError, match=r"table 'user_id': id 80 is not in \[0, 79\]"):
        trainer.predict(example_of(torch.tensor([[80, 3]]), None).inputs)


def test_a_prediction_that_fails_leaves_the_trainer_free(batch):
    trainer = make("soft")
    expected = trainer.predict(batch(0).inputs)
    for _ in range(3):
        with pytest.raises(IndexError):
            trainer.predict(example_of(torch.tensor([[80, 3]]), None).inputs)
    other = []
    reader = threading.Thread(target=lambda: other.append(trainer.predict(batch(0).inputs)))
    reader.start()
    reader.join(timeout=60)
    assert torch.equal(*other, expected)


# Buffers


@pytest.mark.parametrize("hypergradient", ["first", "finite-difference", "exact"])
def test_a_step_keeps_buffers_and_virtual_passes_leave_them(batch, hypergradient):
    trainer = make("normed", hypergradient=hypergradient, hard=True)
    model, controller = trainer.model.function.module, trainer.controller.function.module
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    assert {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked"} <= {*before}
    trainer.controller_step(batch(0), batch(1))
    trainer.predict(batch(2).inputs)
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    events = batch(3)
    mix = controller(events.inputs.ids, {})
    flat = model.embedding(events.inputs, torch.stack([*mix.values()], 1)).flatten(1).detach()
    objects = dict(model.named_buffers())
    trainer.step(events, validates=True, previous=batch(1))
    assert model.norm.num_batches_tracked == 1
    torch.testing.assert_close(model.norm.running_mean, 0.1 * flat.mean(0))
    torch.testing.assert_close(model.norm.running_var, 0.9 + 0.1 * flat.var(0))
    # The same tensors: a graph that was captured, or a reader, holds them.
    assert all(buffer is objects[name] for name, buffer in model.named_buffers())


def test_a_step_that_is_only_computed_changes_no_buffer(batch):
    trainer = make("normed")
    model = trainer.model.function.module
    before = {name: value.clone() for name, value in model.state_dict().items()}
    update = trainer.compute(batch(0), validates=True)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    trainer.apply(update)
    assert model.norm.num_batches_tracked == 1
    assert not torch.equal(model.norm.running_mean, before["norm.running_mean"])
