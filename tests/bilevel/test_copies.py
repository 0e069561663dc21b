"""A trainer that is pickled, copied, saved and loaded goes on alike, and apart from the first."""

import copy
import io
import pickle

import pytest
import torch

from autoemb import MLP, BilevelTrainer, Controller, PerIdLogits, SoftEmbedding
from autoemb.nn.granted_sizes import GrantedEmbedding
from tests.bilevel.conftest import squared_error
from tests.bilevel.small import TABLES
from tests.nn.small import let_own

ROWS = (40, 30)


def history(rows):
    """What a controller reads of ids, at module level so that it can be pickled."""
    return {table: torch.stack([own % 3, own % 7], 1).float() for table, own in rows.items()}


def make(kind):
    torch.manual_seed(0)
    soft = GrantedEmbedding if kind == "granted" else SoftEmbedding
    embedding = soft(ROWS, (1, 2), features=TABLES, norm="running")
    if kind == "granted":
        let_own(embedding, 0, torch.arange(40), 1)
    controller = PerIdLogits(TABLES, ROWS, 2)
    if kind == "network":
        controller = Controller(TABLES, sizes=2, num_features=2)
    options = {"features": history} if kind == "network" else {}
    model = MLP(embedding, hidden=(4,))
    return BilevelTrainer(model, controller, loss=squared_error, **options)


def turn(trainer, batch, seed):
    trainer.controller_step(batch(seed), batch(seed + 1))
    return trainer.step(batch(seed + 2)).logits


def saved(trainer):
    file = io.BytesIO()
    torch.save(trainer.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


KINDS = ["logits", "network", "granted"]


@pytest.mark.parametrize("way", [copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))])
@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_goes_on_alike_and_apart(kind, way, batch, assert_same):
    trainer = make(kind)
    turn(trainer, batch, 0)
    trainer.predict(batch(9).inputs)  # with modules for predictions
    twin = way(trainer)
    before = copy.deepcopy(trainer.state_dict())
    assert twin.lock is not trainer.lock
    assert twin.lock is twin.model.function.lock is twin.reader.lock
    logits = turn(twin, batch, 3), twin.predict(batch(9).inputs)
    assert_same(trainer.state_dict(), before)
    assert torch.equal(turn(trainer, batch, 3), logits[0])
    assert torch.equal(trainer.predict(batch(9).inputs), logits[1])
    assert_same(trainer.state_dict(), twin.state_dict())


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_is_saved_and_loaded_as_weights_alone(kind, batch, assert_same):
    trainer = make(kind)
    turn(trainer, batch, 0)
    restored = make(kind)
    restored.predict(batch(9).inputs)  # modules for predictions that know the old parameters
    restored.load_state_dict(saved(trainer))
    assert_same(trainer.state_dict(), restored.state_dict())
    assert torch.equal(restored.predict(batch(9).inputs), trainer.predict(batch(9).inputs))
    assert torch.equal(turn(trainer, batch, 3), turn(restored, batch, 3))
    assert_same(trainer.state_dict(), restored.state_dict())
