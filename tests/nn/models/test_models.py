"""What all models share: their names, dense inputs, and training."""

import copy
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch

from autoemb import Bag, Batch, BilevelTrainer, Label, Recipe, Schema, build_learner
from autoemb.bilevel import Example
from autoemb.nn import MODELS, Inputs
from autoemb.schema import Dense
from tests.nn.models.conftest import EMBEDDINGS, EVENTS, FEATURES

RATE = 0.5
SCHEMA = Schema(
    label=Label(column="click", kind="click"),
    sparse=FEATURES[:3],
    bag=FEATURES[3:],
    dense=[Dense(column="price")],
)


@pytest.fixture(params=MODELS)
def make(request):
    return MODELS[request.param]


def test_a_recipe_takes_every_model():
    assert get_args(get_type_hints(Recipe)["model"]) == tuple(MODELS)


@pytest.mark.parametrize("dense", [None, torch.zeros(EVENTS, 3)], ids=["none", "three"])
def test_other_dense_inputs_are_refused(make, inputs, dense):
    model = make(EMBEDDINGS["soft"](), hidden=(3,), num_dense=2)
    with pytest.raises(ValueError, match=r"reads dense inputs \[B, 2\]; the batch has"):
        model(inputs._replace(dense=dense))


def loss(logits, label):
    return (logits.squeeze(1) - label).square()


def test_a_trainers_step_is_that_of_sgd_on_whole_tables(make, inputs, nudge, assert_near):
    model = nudge(make(EMBEDDINGS["fixed"](), hidden=(5,), num_dense=2))
    plain = copy.deepcopy(model)
    label = torch.rand(EVENTS, dtype=torch.float64)
    loss(plain(inputs), label).mean().backward()
    trainer = BilevelTrainer(model, loss=loss, optimizer="sgd", learning_rate=RATE, row_rate=1.0)
    trainer.step(Example(inputs, label))
    for (name, ours), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert theirs.grad.any(), name
        assert_near(ours, theirs.detach() - RATE * theirs.grad)


def batch(seed, events=40):
    random = np.random.default_rng(seed)
    lengths = random.integers(0, 3, events)
    offsets = np.concatenate([[0], lengths.cumsum()])
    users = random.integers(0, 8, events)
    return Batch(
        {
            "user_id": [f"user {id}" for id in users],
            "item_id": random.integers(0, 9, events) * 10**12,
            "city": random.integers(0, 3, events),
        },
        {"prev_items": Bag(random.integers(0, 9, offsets[-1]) * 10**12, offsets)},
        torch.from_numpy(random.normal(size=(events, 1))).float(),
        label=torch.from_numpy((users < 4).astype(np.float32)),
    )


def recipe(make, **options):
    (name,) = (name for name, model in MODELS.items() if model is make)
    small = {"dims": (2, 4), "hidden": (8,), "controller_hidden": (6,), "learning_rate": 0.02}
    return Recipe(model=name, **small | options)


@pytest.mark.parametrize("options", [{}, {"method": "fse"}, {"budget": 0.5, "start": "equal"}])
def test_a_stream_is_learnt_and_predicted_by_any_embedding(make, options):
    learner = build_learner(SCHEMA, "click", recipe(make, **options))
    losses = [float(learner.learn(batch(seed)).losses.mean()) for seed in range(40)]
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])  # 0.19 of it seen with mlp
    again = batch(0)
    before = copy.deepcopy(learner.state_dict())
    assert torch.equal(learner.predict(again), learner.predict(again))
    after = learner.state_dict()
    assert torch.equal(before["random"], after["random"])
    for name, value in before["trainer"]["model"]["module"].items():
        assert torch.equal(value, after["trainer"]["model"]["module"][name]), name


def test_unknown_ids_are_predicted_by_what_they_start_with(make):
    learner = build_learner(SCHEMA, "click", recipe(make))
    for seed in range(3):
        learner.learn(batch(seed))
    strange = batch(5)
    strange.sparse["user_id"][:] = [f"stranger {n}" for n in range(len(strange))]
    known = learner.num_ids()
    predicted = learner.predict(strange)
    assert learner.num_ids() == known
    # Learning predicts first, by the rows that the strangers then own.
    torch.testing.assert_close(learner.learn(strange).outcome.logits, predicted)


def test_rows_of_ids_to_come_are_not_touched():
    learner = build_learner(SCHEMA, "click", recipe(MODELS["deepfm"]))
    for seed in range(3):
        learner.learn(batch(seed))
    first = learner.modules[0].model.first
    for name, table in first.row_tables.items():
        weights, known = first.get_parameter(name), learner.num_ids()[table]
        assert len(weights) > known
        assert weights[:known].any()
        assert not weights[known:].any()


def test_a_frozen_part_stays(make, inputs):
    model = make(EMBEDDINGS["soft"](), hidden=(5,), num_dense=2)
    rows = {*model.embedding.row_tables, *getattr(model, "first", model.embedding).row_tables}
    frozen = [n for n, _ in model.named_parameters() if n.rpartition(".")[2] not in rows][:2]
    for name in frozen:
        model.get_parameter(name).requires_grad_(False)
    before = {name: model.get_parameter(name).clone() for name in frozen}
    trainer = BilevelTrainer(model, loss=loss, learning_rate=RATE)
    trainer.step(Example(Inputs(inputs.ids, inputs.dense.float()), torch.rand(EVENTS)))
    for name, value in before.items():
        assert torch.equal(model.get_parameter(name), value)


def test_eval_mode_predicts_as_training_mode_does(make, inputs):
    model = make(EMBEDDINGS["soft"](), hidden=(5,), num_dense=2).double()
    assert torch.equal(model(inputs), model.eval()(inputs))
