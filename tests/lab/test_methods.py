"""The four methods of section 3.4: which modules, which widths, which updates."""

import inspect
import math
from typing import get_args

import numpy as np
import pytest
import torch

from autoemb import (
    MLP,
    Batch,
    Controller,
    FixedEmbedding,
    NestedEmbedding,
    PerIdLogits,
    SoftEmbedding,
    Sparse,
)
from autoemb.lab.report.wording import display
from autoemb.lab.trained import learner_of
from autoemb.learners import METHODS
from autoemb.nn.granted_nested import GrantedNestedEmbedding
from autoemb.nn.granted_sizes import GrantedEmbedding
from autoemb.nn.models import Told
from autoemb.recipe import OPPONENTS, Recipe
from autoemb.schema import RATINGS, STARS
from autoemb.streaming import Stream
from autoemb.streaming.learner import INITIAL_ROWS

#: Methods that draw no random numbers.
UNSEEDED = ("mean", "bias", "logistic")


SCHEMA = RATINGS.model_copy(update={"label": STARS})


def build_learner(config):
    return learner_of(config, SCHEMA)


def events_of(stream, batch_size=20):
    return Stream(stream.events(), batch_size)


def test_the_methods_are_those_of_table_2():
    paper = [name for name in METHODS if name not in OPPONENTS]
    assert [display(name) for name in paper] == ["FSE", "SAM", "DARTS", "AutoEmb"]
    assert [*METHODS] == ["mean", "bias", "logistic", "fm", "fse", "sam", "darts", "autoemb"]
    choices = Recipe.model_fields["method"].annotation
    assert {*get_args(choices)} == {*METHODS}


@pytest.mark.parametrize(
    ("method", "embedding", "controller", "bilevel"),
    [
        ("fse", FixedEmbedding, None, False),
        ("sam", GrantedNestedEmbedding, Controller, False),
        ("darts", GrantedNestedEmbedding, PerIdLogits, True),
        ("autoemb", GrantedNestedEmbedding, Controller, True),
    ],
)
def test_a_method_is_its_embedding_its_controller_and_who_trains_it(
    make_config, method, embedding, controller, bilevel
):
    learner = build_learner(make_config(method=method))
    model, *rest = learner.modules
    assert type(model) is Told
    assert type(model.model.embedding) is embedding
    assert [type(module) for module in rest] == ([] if controller is None else [controller])
    assert learner.trainer.bilevel is bilevel
    assert learner.trainer.joint is (method == "sam")


@pytest.mark.parametrize(
    ("options", "embedding"),
    [
        ({"budget": 0}, NestedEmbedding),
        ({"rows": "sizes"}, GrantedEmbedding),
        ({"rows": "sizes", "budget": 0}, SoftEmbedding),
        ({"preset": "paper"}, SoftEmbedding),
    ],
)
def test_rows_and_a_budget_decide_the_embedding(make_config, options, embedding):
    learner = build_learner(make_config(**options))
    (found,) = (m for m in learner.modules[0].modules() if hasattr(m, "embedding_dims"))
    assert type(found) is embedding
    assert (learner.grants is None) == (embedding in (NestedEmbedding, SoftEmbedding))


@pytest.mark.parametrize("dims", [(2, 16, 128), (16,), (3, 3)])
def test_the_fixed_width_is_the_sum_of_the_sizes(make_config, dims):
    model = build_learner(make_config(method="fse", dims=dims)).modules[0].model
    assert model.embedding.output_dim == sum(dims)
    tables = [*model.embedding.parameters()]
    assert [tuple(table.shape) for table in tables] == [(INITIAL_ROWS, sum(dims))] * 2


@pytest.mark.parametrize("method", ["sam", "darts", "autoemb"])
@pytest.mark.parametrize(("history", "inputs"), [("counts", 32), ("full", 32 + 3 + 3)])
def test_the_embedding_has_the_sizes(make_config, method, history, inputs):
    config = make_config(method=method, dims=(2, 16, 128), controller_history=history)
    learner = build_learner(config)
    model, controller = learner.modules
    assert model.model.embedding.embedding_dims == (2, 16, 128)
    if method == "darts":
        assert controller.logits_0.shape == (INITIAL_ROWS, 3)
    else:
        assert controller.networks[0][0].in_features == inputs + 2  # and the two tables
        assert controller.networks[0][-1].out_features == 3


def test_the_papers_hidden_layers_are_two_of_512():
    recipe = Recipe.of("paper")
    assert (recipe.hidden, recipe.controller_hidden) == ((512, 512), (512, 512))
    assert (recipe.controller, recipe.model) == ("separate", "mlp")
    assert inspect.signature(MLP).parameters["hidden"].default == recipe.hidden


@pytest.mark.parametrize(("task", "outputs"), [("regression", 1), ("classification", 5)])
@pytest.mark.parametrize("method", METHODS)
def test_the_output_is_as_wide_as_the_task(make_config, method, task, outputs):
    learner = build_learner(make_config(method=method, task=task))
    ids = {"user_id": np.array([1, 2]), "item_id": np.array([3, 3])}
    assert learner.predict(Batch(ids)).shape == (2, outputs)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"method": "darts"}, [1 / 3, 1 / 3, 1 / 3]),
        *[
            ({"method": method, **options}, weights)
            for method in ("sam", "autoemb")
            for options, weights in (
                ({"start": "equal"}, [1 / 3, 1 / 3, 1 / 3]),
                ({"preset": "paper"}, [1 / 3, 1 / 3, 1 / 3]),
                ({"rows": "sizes"}, [1 / 3, 1 / 3, 1 / 3]),
                # A logit of 1 for the widest size of ids never seen.
                ({}, [1 / (2 + math.e), 1 / (2 + math.e), math.e / (2 + math.e)]),
            )
        ],
    ],
)
def test_every_new_id_starts_with_the_same_weights(make_config, stream, options, expected):
    learner = build_learner(make_config(dims=(1, 2, 3), **options))
    mix = learner.learn(next(iter(events_of(stream)))).outcome.mix
    for each in mix.values():
        torch.testing.assert_close(each, torch.tensor(expected).expand_as(each))


@pytest.mark.parametrize(
    ("method", "batches", "changed"),
    [
        # After one batch there was no past to learn the controller from.
        ("sam", 1, False),  # nor does a last layer of zeros let anything through
        ("darts", 1, False),
        ("autoemb", 1, False),
        ("sam", 3, True),
        ("darts", 3, True),
        ("autoemb", 3, True),
    ],
)
def test_when_the_controller_changes(make_config, stream, method, batches, changed):
    learner = build_learner(make_config(method=method, validation="reservoir"))
    before = {n: p.detach().clone() for n, p in learner.modules[1].named_parameters()}
    for events, _ in zip(events_of(stream), range(batches), strict=False):
        learner.learn(events)
    after = dict(learner.modules[1].named_parameters())
    assert any(not torch.equal(value, after[name]) for name, value in before.items()) is changed


def test_options_reach_the_learner(make_config):
    config = make_config(
        method="autoemb", learning_rate=0.3, controller_learning_rate=0.2, norm_eps=0.4, mix="mean",
        optimizer="adagrad", row_rate=2,
        hypergradient="exact", validation="last-batch", reservoir=7, batch_size=11, seed=5,
        selection="hard",
    )  # fmt: skip
    learner = build_learner(config)
    assert (learner.validation, learner.batch_size, learner.reservoir.capacity) == (
        "last-batch",
        11,
        7,
    )
    trainer = learner.trainer
    assert (trainer.hypergradient, trainer.hard, trainer.xi) == ("exact", True, 0.3)
    state = trainer.state_dict()
    for part, rate in (("model", 0.3), ("controller", 0.2)):
        assert state[part]["dense"]["param_groups"][0]["lr"] == rate
    assert state["model"]["rows"]["param_groups"][0]["lr"] == 0.6
    embedding = learner.modules[0].model.embedding
    assert (embedding.eps, embedding.average) == (0.4, True)
    assert "lr_decay" in state["model"]["dense"]["param_groups"][0]  # Adagrad's own


@pytest.mark.parametrize("method", METHODS)
def test_the_seed_alone_decides_the_start(make_config, method):
    def parameters(seed, noise):
        torch.manual_seed(noise)
        learner = build_learner(make_config(method=method, seed=seed))
        return [p.detach() for module in learner.modules for p in module.parameters()]

    first, second, other = parameters(3, 0), parameters(3, 1), parameters(4, 0)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    if method not in UNSEEDED:
        assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("method", METHODS)
def test_any_number_of_features(make_config, method):
    schema = SCHEMA.model_copy(update={"sparse": (*SCHEMA.sparse, Sparse(column="city"))})
    learner = learner_of(make_config(method=method), schema)
    ids = {"user_id": np.array([1, 2]), "item_id": np.array([3, 3]), "city": ["a", "b"]}
    assert learner.predict(Batch(ids)).shape == (2, 1)
