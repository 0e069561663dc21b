"""From a schema, a task and a recipe to a learner: the same one as the command line's."""

from dataclasses import replace
from functools import partial

import numpy as np
import polars as pl
import pytest
import torch
from torch import nn

from autoemb import (
    MLP,
    Batch,
    FixedEmbedding,
    Label,
    Recipe,
    RowModule,
    Schema,
    SoftEmbedding,
    Sparse,
    Stream,
    UserError,
    build_learner,
    task_for,
)
from autoemb.data import synthetic
from autoemb.data.dataset import Dataset
from autoemb.lab import RunConfig, run
from autoemb.learners import METHODS
from autoemb.nn.models import DCN, Told
from autoemb.nn.models.trivial import OCTAVES
from autoemb.recipe import PRESETS
from autoemb.schema import Bag, Dense

SMALL = {"dims": (1, 2), "hidden": (8,), "controller_hidden": (8,), "reservoir": 100}

SCHEMA = Schema(
    label=Label(column="click", kind="click"),
    sparse=(Sparse(column="user_id"), Sparse(column="item_id")),
    bag=(Bag(column="basket", table="item_id", counts=False),),
    dense=(Dense(column="price"),),
    weight="weight",
)


def shop(events=300):
    """Return clicks with a bag, a number that may be missing and a weight."""
    random = np.random.default_rng(0)
    lengths = random.integers(0, 4, events)
    items = [f"item {i}" for i in random.integers(0, 40, events)]
    frame = pl.DataFrame(
        {
            "user_id": random.integers(0, 30, events),
            "item_id": items,
            "basket": [list(random.choice(items, n)) for n in lengths],
            "price": np.where(random.random(events) < 0.2, np.nan, random.normal(9, 2, events)),
            "click": random.integers(0, 2, events).astype(np.float32),
            "timestamp": np.arange(events),
            "weight": random.random(events),
        },
        schema_overrides={
            "basket": pl.List(pl.String),
            "price": pl.Float32,
            "click": pl.Float32,
            "weight": pl.Float32,
        },
    ).select(SCHEMA.columns)
    return Dataset(name="shop", format="by hand", schema=SCHEMA, frame=frame)


@pytest.fixture(params=["ratings", "shop"])
def dataset(request):
    return synthetic(300) if request.param == "ratings" else shop()


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("method", METHODS)
def test_library_and_command_line_learn_to_the_same_bits(dataset, tmp_path, preset, method):
    options = {"batch_size": 40, "seed": 3, "device": "cpu"}
    config = RunConfig(preset=preset, method=method, **SMALL, **options)
    path = tmp_path / "predictions.parquet"
    summary = run(config, dataset, predictions=path)

    task = task_for(None, dataset.schema.label)
    recipe = Recipe.of(preset, method=method, **SMALL)
    learner = build_learner(dataset.schema, task, recipe, seed=3, batch_size=40)
    steps = [learner.learn(batch) for batch in Stream(dataset.events(), 40, least=2)]
    predicted = torch.cat([task.predict(step.outcome.logits) for step in steps])
    assert torch.equal(predicted, pl.read_parquet(path)["prediction"].to_torch())
    losses = torch.cat([step.losses for step in steps]).double()[210:]
    weights = [step.weight for step in steps]
    if weights[0] is not None:
        weight = torch.cat(weights).double()[210:]
        mean = (losses * weight).sum() / weight.sum()
    else:
        mean = losses.mean()
    # Summed batch by batch there, the products of losses and weights in float32.
    assert summary["online"]["loss"] == pytest.approx(float(mean), rel=1e-6)


def test_the_same_arguments_give_the_same_learner(dataset):
    task = task_for(None, dataset.schema.label)
    batches = [*Stream(dataset.events(), 50)]
    ends = []
    for seed in (5, 5, 6):
        torch.manual_seed(len(ends))  # must not matter
        learner = build_learner(dataset.schema, task, Recipe(**SMALL), seed=seed)
        ends.append(torch.cat([learner.learn(batch).outcome.logits for batch in batches]))
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


def test_defaults_are_the_recipe_and_the_task_that_suits_the_label():
    learner = build_learner(SCHEMA)
    recipe = Recipe()
    assert learner.trainer.loss.__self__ == task_for("click", SCHEMA.label)
    told, controller = learner.modules
    assert type(told) is Told
    model = told.model
    assert type(model) is DCN
    widths = [layer.out_features for layer in model.hidden if hasattr(layer, "out_features")]
    assert widths == [*recipe.hidden, 1]
    assert model.embedding.embedding_dims == recipe.dims
    assert controller.shared == (recipe.controller == "shared")
    assert learner.trainer.model.dense_optimizer.param_groups[0]["lr"] == recipe.learning_rate
    assert learner.num_ids() == {"user_id": 0, "item_id": 0}
    assert learner.encoder.reads.keys() == {"user_id", "item_id", "basket"}


def test_a_task_that_does_not_suit_the_label_is_refused():
    with pytest.raises(UserError, match="task regression does not fit the label 'click'"):
        build_learner(SCHEMA, "regression")


# A model of one's own


class Dot(nn.Module):
    """Users times items, and what their embeddings give alone."""

    def __init__(self, embedding):
        super().__init__()
        self.embedding, self.out = embedding, nn.Linear(embedding.output_dim, 1)

    def forward(self, inputs, mix=None):
        embedded = self.embedding(inputs, mix)
        return self.out(embedded[:, 0] * embedded[:, 1])


@pytest.mark.parametrize("history", ["none", "full"])
def test_a_callable_makes_a_model_of_the_recipes_embedding(history):
    told = len(SCHEMA.features) * (OCTAVES + 6)
    made = []

    def make(embedding, *, outputs, hidden, num_dense):
        made.append((embedding, outputs, hidden, num_dense))
        return Dot(embedding)

    recipe = Recipe(method="fse", history=history, **SMALL)
    learner = build_learner(SCHEMA, recipe=recipe, model=make)
    model = learner.modules[0] if history == "none" else learner.modules[0].model
    # A dense feature and its indicator; and, where it is told, an octave and six numbers a feature.
    assert made == [(model.embedding, 1, (8,), 2 if history == "none" else 2 + told)]
    assert type(made[0][0]) is FixedEmbedding
    data = shop()
    for batch in Stream(data.events(), 40):
        step = learner.learn(batch)
    assert step.losses.isfinite().all()


class Bias(RowModule):
    """A number for each user."""

    def __init__(self):
        super().__init__(["user_id"])
        self.register_rows("bias", "user_id", torch.empty(3, 1))

    def new_rows(self, name, keys):
        return torch.zeros(len(keys), 1)

    def forward(self, inputs, mix=None):
        return self.lookup("bias", inputs.ids["user_id"])


def test_a_module_reads_the_features_that_it_names_and_no_others():
    learner = build_learner(SCHEMA, recipe=Recipe(method="fse"), model=Bias())
    ids = {"user_id": ["ann", "bob", "ann"], "shoe_size": [40, 41, 40]}
    batch = Batch(ids, dense=torch.zeros(3, 1), label=torch.tensor([1.0, 0.0, 1.0]))
    for _ in range(20):
        learner.learn(batch)
    ann, bob = learner.predict(replace(batch, label=None))[:2].flatten().tolist()
    assert ann > 0.1 > -0.1 > bob
    assert learner.num_ids() == {"user_id": 2}


def test_two_towers_learn_what_two_embeddings_of_pytorch_do():
    """Each tower its own rows, against nn.Embedding on the same rows."""

    class Towers(nn.Module):
        def __init__(self, users, items):
            super().__init__()
            self.users, self.items = users, items

        def forward(self, inputs, mix=None):
            user, item = self.users(inputs, mix), self.items(inputs, mix)
            return (user[:, 0] * item[:, 0]).sum(1, keepdim=True)

    towers = Towers(*(FixedEmbedding([4], 3, features=[n]) for n in ("user_id", "item_id")))
    recipe = Recipe(method="fse", optimizer="sgd", learning_rate=0.1, row_rate=1.0)
    schema = Schema(label=SCHEMA.label, sparse=SCHEMA.sparse)
    learner = build_learner(schema, recipe=recipe, model=towers)
    random = np.random.default_rng(0)
    users, items = (random.integers(0, n, (6, 8)) for n in (9, 5))
    labels = torch.from_numpy(random.integers(0, 2, (6, 8))).float()
    plain = None
    for user, item, label in zip(users, items, labels, strict=True):
        batch = Batch({"user_id": user, "item_id": item}, label=label)
        if plain is None:  # with the rows that all ids start with
            everybody = Batch({"user_id": np.arange(9), "item_id": np.arange(9) % 5})
            learner._inserted(learner.encoder.checked(everybody, labelled=False))
            plain = [
                nn.Embedding.from_pretrained(t[: 9 - 4 * i].detach().clone(), freeze=False)
                for i, t in enumerate((towers.users.table_0, towers.items.table_0))
            ]
            optimizer = torch.optim.SGD([t.weight for t in plain], lr=0.1)
        logits = (plain[0](torch.from_numpy(user)) * plain[1](torch.from_numpy(item))).sum(1)
        step = learner.learn(batch)
        # The same sums; gradients are added in another order.
        torch.testing.assert_close(step.outcome.logits.flatten(), logits, rtol=1e-5, atol=1e-6)
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(logits, label).backward()
        optimizer.step()
    for own, other in zip((towers.users, towers.items), plain, strict=True):
        torch.testing.assert_close(own.table_0[: len(other.weight)], other.weight)


def test_what_does_not_fit_is_named():
    embedding = SoftEmbedding([9], (1, 2), features=["user_id"])
    build = partial(build_learner, Schema(label=SCHEMA.label, sparse=SCHEMA.sparse[:1]))
    with pytest.raises(ValueError, match=r"the controller mixes 3 sizes; .* has 2"):
        build(model=MLP(embedding, hidden=(4,)))
    with pytest.raises(ValueError, match=r"a budget is kept by one embedding .* has 0"):
        build(recipe=Recipe(budget=0.5, dims=(1, 2)), model=MLP(embedding, hidden=(4,)))


# Optimisers of one's own


def test_dense_parameters_take_an_optimizer_a_schedule_and_a_bound_of_ones_own():
    def halving(optimizer):
        return torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)

    def make(parameters):
        return torch.optim.SGD(parameters, lr=1.0)

    options = {"dense_optimizer": make, "schedule": halving, "max_grad_norm": 0.01}
    learner = build_learner(SCHEMA, recipe=Recipe(**SMALL), **options)
    data, moved = shop(), []
    dense = learner.trainer.model.function.dense
    for batch in [*Stream(data.events(), 60)][:4]:
        before = [p.detach().clone() for p in dense.values()]
        learner.learn(batch)
        steps = [(p - b).flatten() for p, b in zip(dense.values(), before, strict=True)]
        moved.append(float(torch.cat(steps).detach().norm()))
    # The gradients are longer than the bound, and the rate halves.
    assert moved == pytest.approx([0.01, 0.005, 0.0025, 0.00125], rel=1e-3)


@pytest.mark.parametrize(
    ("label", "labels", "said"),
    [
        (Label(column="y", kind="click"), torch.tensor([1.0, 7.0]), "event 1: label is 7"),
        (Label(column="y", kind="click"), torch.tensor([-0.5, 0.5]), "event 0: label is -0.5"),
        (
            Label(column="y", kind="classes", classes=("a", "b", "c")),
            torch.tensor([2, 3]),
            "event 1: label is 3; expected a class from 0 to 2",
        ),
        (
            Label(column="y", kind="classes", classes=("a", "b", "c")),
            torch.tensor([2.0, 1.0]),
            "labels are torch.float32; expected numbers of classes",
        ),
    ],
)
def test_a_label_that_the_task_does_not_take_is_named_and_nothing_is_learnt(label, labels, said):
    schema = Schema(label=label, sparse=(Sparse(column="user_id"),))
    learner = build_learner(schema, recipe=Recipe(**SMALL))
    with pytest.raises(UserError, match=said):
        learner.learn(Batch({"user_id": ["ann", "bob"]}, label=labels))
    assert learner.num_ids() == {"user_id": 0}
