"""What does not fit together is refused when a trainer is made, by name."""

import numpy as np
import pytest
import torch
from torch import nn

from autoemb import (
    MLP,
    Batch,
    BilevelTrainer,
    Controller,
    FixedEmbedding,
    PerIdLogits,
    Recipe,
    SoftEmbedding,
    build_learner,
)
from autoemb.nn.granted_sizes import GrantedEmbedding
from autoemb.schema import Label, Schema, Sparse
from tests.bilevel.small import TABLES, example_of

EXAMPLE = example_of(torch.tensor([[1, 2], [0, 2]]), torch.ones(2))


def loss(logits, label):
    return (logits.squeeze(1) - label).square()


def trainer(model, controller=None, **options):
    return BilevelTrainer(model, controller, loss=loss, **options)


def model(features=TABLES, dims=(1, 2), kind=SoftEmbedding):
    return MLP(kind([4, 5], dims, features=features), hidden=(3,))


@pytest.mark.parametrize(
    "embedding",
    [SoftEmbedding([4, 5], (1, 2)), FixedEmbedding([4, 5], 2), GrantedEmbedding([4, 5], (1, 2))],
    ids=lambda module: type(module).__name__,
)
def test_rows_that_nobody_named_are_refused(embedding):
    message = rf"{type(embedding).__name__} \(embedding\) does not say which features it reads"
    with pytest.raises(ValueError, match=message):
        trainer(MLP(embedding, hidden=(3,)))
    with pytest.raises(ValueError, match=r"\(the module itself\) does not say which features"):
        trainer(embedding)


def test_one_feature_of_two_tables_is_refused():
    towers = nn.ModuleList(
        [
            SoftEmbedding([4], features=["user_id"]),
            SoftEmbedding([4], features=[Sparse(column="user_id", table="person")]),
        ]
    )
    with pytest.raises(ValueError, match="feature 'user_id' is read from table 'user_id' and from"):
        trainer(towers)


@pytest.mark.parametrize(
    ("controller", "message"),
    [
        (
            Controller(["user_id"], sizes=2, num_features=5),
            "gives no mix to table 'item_id' of embedding; its tables are user_id",
        ),
        (
            PerIdLogits(["item_id"], [5], sizes=2),
            "gives no mix to table 'user_id' of embedding; its tables are item_id",
        ),
        (
            Controller(TABLES, sizes=3, num_features=5),
            r"the controller mixes 3 sizes; embedding has 2: \(1, 2\)",
        ),
        (
            PerIdLogits(TABLES, [4, 5], sizes=1),
            r"the controller mixes 1 sizes; embedding has 2: \(1, 2\)",
        ),
        (
            Controller([*TABLES, "city"], sizes=2, num_features=5),
            "the controller mixes table 'city', which the model does not read; it reads item_id, u",
        ),
        (
            PerIdLogits([*TABLES, "city"], [4, 5, 6], sizes=2),
            r"the controller owns rows of table 'city' \(logits_2\), which the model does not read",
        ),
    ],
)
@pytest.mark.parametrize("kind", [SoftEmbedding, GrantedEmbedding])
def test_a_controller_of_other_tables_or_sizes_is_refused(controller, message, kind):
    with pytest.raises(ValueError, match=message) as caught:
        trainer(model(kind=kind), controller)
    assert "\n" not in str(caught.value)


def test_a_controller_that_says_nothing_of_itself_is_told_at_its_first_mix():
    class Silent(nn.Module):
        def __init__(self, mix):
            super().__init__()
            self.mix = mix

        def forward(self, rows, features):
            return self.mix(rows)

    def half(rows):
        return {table: torch.full((len(own), 2), 0.5) for table, own in rows.items()}

    assert trainer(model(), Silent(half)).step(EXAMPLE).logits.shape == (2, 1)
    for wrong, message in (
        (lambda rows: {"user_id": half(rows)["user_id"]}, "table 'item_id' has no mix"),
        (lambda rows: {t: m[:, :1] for t, m in half(rows).items()}, "to have 2 columns"),
        (
            lambda rows: {t: torch.cat([m, m]) for t, m in half(rows).items()},
            r"the controller's mix of table 'user_id' has shape \[4, 2\]; expected 2 rows",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            trainer(model(), Silent(wrong)).step(EXAMPLE)


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("where", ["model", "controller"])
def test_modules_that_are_distributed_already_are_refused(where, inside):
    parts = {"model": model(), "controller": PerIdLogits(TABLES, [4, 5], sizes=2)}
    whole = nn.DataParallel(parts[where])
    parts[where] = nn.Sequential(whole) if inside else whole
    place = "0" if inside else "the module itself"
    with pytest.raises(ValueError, match=rf"DataParallel \({place}\) exchanges gradients in hooks"):
        trainer(**parts)


def test_distributed_data_parallel_is_refused(tmp_path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'rendezvous'}", rank=0, world_size=1
    )
    try:
        whole = nn.parallel.DistributedDataParallel(model())
        with pytest.raises(ValueError, match=r"DistributedDataParallel .*give the module it wraps"):
            trainer(whole)
        assert trainer(whole.module).step(EXAMPLE).logits.shape == (2, 1)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("kind", [SoftEmbedding, GrantedEmbedding])
def test_a_frozen_table_is_refused(kind):
    whole = model(kind=kind)
    embedding = whole.embedding
    stored = embedding.stored("table_1")[-1]
    stored.requires_grad_(False)
    with pytest.raises(ValueError, match=r"table embedding\.table_1 is frozen"):
        trainer(whole)


def test_a_table_frozen_in_the_controller_is_refused():
    controller = PerIdLogits(TABLES, [4, 5], sizes=2)
    controller.logits_0.requires_grad_(False)
    with pytest.raises(ValueError, match=r"table logits_0 is frozen"):
        trainer(model(), controller)


# Models of one's own in a learner

SCHEMA = Schema(
    label=Label(column="click", kind="click"),
    sparse=[Sparse(column=name) for name in ("user_id", "city", "item_id")],
)


@pytest.mark.parametrize("method", ["autoemb", "darts", "fse"])
def test_a_model_may_read_a_subset_of_the_schema(method):
    kind = FixedEmbedding if method == "fse" else SoftEmbedding
    own = MLP(kind([4, 4], 2 if method == "fse" else (1, 2), features=["item_id", "city"]))
    learner = build_learner(SCHEMA, model=own, recipe=Recipe(method=method, dims=(1, 2)))
    ids = {name: np.arange(4) for name in ("user_id", "city", "item_id")}
    before = [p.detach().clone() for p in own.embedding.parameters()]
    for _ in range(2):
        learner.learn(Batch(ids, label=torch.tensor([1.0, 0.0, 1.0, 1.0])))
    assert learner.num_ids() == {"item_id": 4, "city": 4}
    assert [*learner.history.tables] == ["city", "item_id"]
    pairs = zip(own.embedding.parameters(), before, strict=True)
    assert not any(torch.equal(p[:4], b[:4]) for p, b in pairs)


@pytest.mark.parametrize(
    ("feature", "message"),
    [
        ("age", "the model reads feature 'age' of table 'age'; the schema has user_id, city, item"),
        (
            Sparse(column="city", table="place"),
            "reads feature 'city' of table 'place'; the schema has it in table 'city'",
        ),
    ],
)
def test_a_model_of_other_features_than_the_schema_is_refused(feature, message):
    with pytest.raises(ValueError, match=message):
        build_learner(SCHEMA, model=MLP(SoftEmbedding([4], features=[feature])))
