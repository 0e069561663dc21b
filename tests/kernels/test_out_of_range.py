"""Ids out of range wherever CUDA tensors take them: told later, and nothing is learnt of them.

CPU tensors go the way of CUDA tensors here. Torch's own indexing raises at once on a CPU where it
would stop a GPU for good, so a test that gets to its end has shown that none was given a bad row.
"""

import copy

import pytest
import torch

from autoemb import (
    Batch,
    FixedEmbedding,
    History,
    Label,
    PerIdLogits,
    Recipe,
    Schema,
    Sparse,
    build_learner,
)
from autoemb.bilevel import Example
from autoemb.learners import METHODS
from autoemb.nn import Inputs
from autoemb.ops import cuda, distinct, rows_of, soft_embedding
from autoemb.ops.lookup import NO_ROW
from autoemb.optim import OPTIMIZERS, RowFtrl
from autoemb.recipe import OPPONENTS
from tests.samples import OF_SIZES, WITH_OP

#: Methods whose trainer needs no sums of labels.
TRAINED = [name for name in METHODS if name not in OPPONENTS]

CPU = torch.device("cpu")
ROWS = (20, 30)
TABLES = ("user_id", "item_id")
SCHEMA = Schema(
    label=Label(column="click", kind="click"), sparse=[Sparse(column=table) for table in TABLES]
)
every_bad = pytest.mark.parametrize("bad", [-1, 30, 2**40, 2**63 - 1, -(2**63)])


@pytest.fixture
def noted(monkeypatch, on_kernels):
    """Let the host look when told, as after a replay; return what was noted, and forget it."""
    monkeypatch.setattr("autoemb.ops.cuda.call.capturing", lambda device: True)
    on_kernels()

    def noted():
        with pytest.raises(IndexError) as raised:
            cuda.check_ids(CPU)
        cuda.check_ids(CPU)  # raised once
        return str(raised.value)

    yield noted
    cuda.check_ids(CPU)


def message(bad, field=1):
    return f"index out of range in field {field}: id {bad} is not in [0, {ROWS[field] - 1}]"


def draw_batch(seed=0, events=40):
    random = torch.Generator().manual_seed(seed)
    columns = [torch.randint(rows, (events,), generator=random) for rows in ROWS]
    label = torch.rand(events, generator=random).round()
    return Example(Inputs(dict(zip(TABLES, columns, strict=True))), label)


def spoil(example, bad, event=7):
    example.inputs.ids["item_id"][event] = bad


@every_bad
@pytest.mark.parametrize("batch", [8, 5000])  # one block's, and more than one block sorts
def test_an_id_out_of_range_becomes_no_row(noted, bad, batch):
    ids = torch.randint(20, (batch, 4))[:, ::2]  # strided
    ids[3, 1] = bad
    expected = ids.clone()
    expected[3, 1] = NO_ROW
    rows = rows_of(ids, ROWS)
    assert torch.equal(rows, expected)
    assert rows.is_contiguous()
    assert noted() == message(bad)
    rows_of(ids[:, 1:], [30], field=7)
    assert noted() == f"index out of range in field 7: id {bad} is not in [0, 29]"


def test_no_ids_have_no_rows(noted):
    assert rows_of(torch.zeros(0, 2, dtype=torch.int64), ROWS).shape == (0, 2)


@every_bad
def test_a_lookup_of_a_bad_id_is_zero_and_teaches_no_row(noted, bad):
    module = FixedEmbedding(ROWS, 6)
    ids = torch.stack([*draw_batch().inputs.ids.values()], 1)
    expected = module(ids).detach()
    ids[7, 1] = bad
    output = module(ids)
    assert noted() == message(bad)
    expected[7, 1] = 0
    assert torch.equal(output, expected)
    output[7, 1].sum().backward()
    assert not module.table_1.grad.any()


@every_bad
def test_logits_of_a_bad_id_are_those_of_a_new_one(noted, bad):
    controller = PerIdLogits(TABLES, ROWS, 2)
    torch.nn.init.normal_(controller.logits_1)
    rows = {"user_id": torch.tensor([3]), "item_id": torch.tensor([bad])}
    assert controller(rows, {})["item_id"].tolist() == [[0.5, 0.5]]
    assert noted() == message(bad)


def derivatives(sample, keep, **changes):
    """Return output and derivatives of both orders of some events; of tables as they are."""
    sample = copy.deepcopy(sample)
    for name in ("ids", "weights", "grad"):
        value = getattr(sample, name)[keep].detach()
        setattr(sample, name, value.requires_grad_(name == "weights"))
    positional, named = sample.arguments()
    output = soft_embedding(*positional, **named | changes).output
    first = torch.autograd.grad(output, sample.leaves, sample.grad, create_graph=True)
    total = sum(x.square().sum() for x in first)
    second = torch.autograd.grad(total, sample.leaves, materialize_grads=True)
    return {"output": output, "first": first, "second": second, "weights": len(sample.tables)}


@every_bad
@pytest.mark.parametrize("training", [True, False])
def test_derivatives_of_both_orders_are_those_without_the_event(
    make_sample, noted, assert_near, training, bad
):
    sample = make_sample((1, 3), 2, 30, ids="distinct", training=training)
    assert [len(table) for table in sample.tables] == [30, 31]
    if sample.running:
        sample.running = tuple(x.to(torch.float32) for x in sample.running)
    good = torch.arange(30) != 7
    expected = derivatives(sample, good)
    sample.ids[7] = torch.tensor([bad, 31 if bad == 30 else bad])
    actual = derivatives(sample, slice(None), backend="native")
    assert noted() == f"index out of range in field 0: id {bad} is not in [0, 29]"
    assert not actual["output"][7].any()
    assert_near(actual["output"][good], expected["output"], "ieee values")
    for order in ("first", "second"):
        for i, (one, other) in enumerate(zip(actual[order], expected[order], strict=True)):
            if i == actual["weights"]:
                assert not one[7].any()
                one = one[good]
            assert_near(one, other, "ieee gradients")


@pytest.mark.parametrize("training", [True, False])
def test_derivatives_where_no_id_has_a_row(make_sample, noted, training):
    sample = make_sample((1, 3), 2, 6, training=training)
    if sample.running:
        sample.running = tuple(x.to(torch.float32) for x in sample.running)
    sample.ids[:, 1] = 2**40
    actual = derivatives(sample, slice(None), backend="native")
    assert "field 1: id 1099511627776 " in noted()
    assert not actual["output"][:, 1].any()
    for order in ("first", "second"):
        assert all(x.isfinite().all() for x in actual[order])
        assert not actual[order][1].any()  # the table


def make_trainer(method, **options):
    own = {"dims": (2, 8), "hidden": (16,), "row_rate": 1.0}
    recipe = Recipe.of(method=method, **OF_SIZES | own | options)
    one = build_learner(SCHEMA, recipe=recipe, initial_rows=1)
    one._resize(dict(zip(TABLES, ROWS, strict=True)))
    return one.trainer, one.modules


def rows_of_field_1(modules):
    named = [item for module in modules for item in module.named_parameters()]
    return [p.detach() for name, p in named if name.endswith(("table_1", "logits_1"))]


@every_bad
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("method", TRAINED)
def test_no_row_learns_from_an_event_whose_id_is_bad(noted, method, optimizer, bad):
    results = []
    for label in (0.0, 1.0):
        trainer, modules = make_trainer(method, optimizer=optimizer)
        before = copy.deepcopy(rows_of_field_1(modules))
        batch = draw_batch()
        good = batch.inputs.ids["item_id"][torch.arange(40) != 7].unique()
        spoil(batch, bad)
        batch.label[7] = label
        outcome = trainer.step(batch)
        assert noted() == message(bad)
        assert outcome.logits.isfinite().all()
        results.append(rows_of_field_1(modules))
        for old, new in zip(before, results[-1], strict=True):
            changed = (new != old).any(1).nonzero().flatten()
            assert set(changed.tolist()) <= set(good.tolist())
    assert results[0]
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@every_bad
def test_no_logits_learn_from_an_event_whose_id_is_bad(noted, bad):
    results = []
    for label in (0.0, 1.0):
        trainer, modules = make_trainer("darts")
        batch = draw_batch()
        spoil(batch, bad)
        batch.label[7] = label
        trainer.controller_step(batch)
        assert noted() == message(bad)
        results.append(rows_of_field_1(modules[1:]))
    assert results[0][0].any()
    assert torch.equal(results[0][0], results[1][0])


@pytest.mark.parametrize("hypergradient", ["first", "finite-difference", "exact"])
@pytest.mark.parametrize("method", ["autoemb", "darts"])
@pytest.mark.parametrize("whole", [False, True], ids=["one id", "all ids"])
def test_a_controller_step_reads_inside_its_tables(noted, method, hypergradient, whole):
    trainer, modules = make_trainer(method, hypergradient=hypergradient)
    for wrong in range(2):
        batches = [draw_batch(seed) for seed in range(2)]
        spoil(batches[wrong], 2**40, slice(None) if whole else 7)
        trainer.controller_step(*batches)
        if wrong == 0 or hypergradient != "first":  # which takes no training batch
            assert noted() == message(2**40)
    for module in modules:
        assert all(parameter.isfinite().all() for parameter in module.parameters())


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("method", TRAINED)
def test_a_prediction_of_others_is_as_without_the_event(noted, method, hard):
    trainer, _ = make_trainer(method)
    batch = draw_batch()
    good = torch.arange(40) != 7
    expected = trainer.predict(batch.inputs, hard=hard)
    spoil(batch, 2**40)
    actual = trainer.predict(batch.inputs, hard=hard)
    assert noted() == message(2**40)
    torch.testing.assert_close(actual[good], expected[good])


@every_bad
@pytest.mark.parametrize("with_mix", [False, True])
def test_the_history_of_no_id_takes_in_an_event_whose_id_is_bad(noted, bad, with_mix):
    history = History(TABLES, 2)
    history.grow(dict(zip(TABLES, ROWS, strict=True)))
    batch = draw_batch()
    ids = batch.inputs.ids["item_id"]
    expected = ids[torch.arange(40) != 7].bincount(minlength=30)
    spoil(batch, bad)
    plan = distinct(rows_of(ids.unsqueeze(1), [30], 1)[:, 0])
    history.record("item_id", plan, batch.label)
    if with_mix:
        history.give("item_id", plan, torch.full((40, 2), 0.25))
    assert noted() == message(bad)
    assert torch.equal(history.count("item_id", torch.arange(30)), expected)
    given = history.tables["item_id"].mix[:, 0] == 0.25
    assert torch.equal(given, (expected > 0) & with_mix)


@every_bad
@pytest.mark.parametrize("method", TRAINED)
def test_a_learner_learns_nothing_of_a_bad_row(noted, monkeypatch, method, bad):
    own = {"dims": (2, 8), "hidden": (16,), "validation": "last-batch", "history": "none"}
    recipe = Recipe.of(method=method, **own)
    one = build_learner(SCHEMA, recipe=recipe, initial_rows=31)
    one._resize(dict.fromkeys(TABLES, 31))
    inner, wrong = one.encoder.example, []

    def example(batch, numbers):
        made = inner(batch, numbers)
        made.inputs.ids["item_id"][wrong] = bad if bad != 30 else 31
        return made

    monkeypatch.setattr(one.encoder, "example", example)
    for number in range(5):
        wrong[:] = [7] if number == 3 else []
        drawn = draw_batch(number)
        ids = {name: column.numpy() for name, column in drawn.inputs.ids.items()}
        step = one.learn(Batch(ids, label=drawn.label))
        assert step.losses.isfinite().all()
        if number == 3:
            known = f"id {bad if bad != 30 else 31} is not in [0, 30]"
            assert noted() == f"index out of range in field 1: {known}"
    counts = [int(history.count.sum()) for history in one.history.tables.values()]
    assert counts == [200, 199]
    for module in one.modules:
        assert all(parameter.isfinite().all() for parameter in module.parameters())


@pytest.mark.parametrize("name", WITH_OP)
@pytest.mark.parametrize("bad", [-1, 6, 2**40])
def test_the_reference_refuses_a_bad_row_at_once(on_kernels, name, bad):
    on_kernels()
    table = torch.nn.Parameter(torch.ones(6, 5, dtype=torch.float64))  # no kernel takes it
    rows = torch.tensor([2, bad]).sort()[0]
    with pytest.raises(IndexError, match=rf"out of range: row {bad} is not in \[0, 5\]"):
        OPTIMIZERS[name].rows([table]).update(table, rows, torch.ones(2, 5, dtype=torch.float64))
    assert (table == 1).all()


@every_bad
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_a_rule_without_kernels_passes_over_a_bad_row(noted, bad, weight_decay):
    table, twin = (torch.nn.Parameter(torch.ones(30, 5)) for _ in range(2))
    one, other = (RowFtrl([t], lr=0.1, weight_decay=weight_decay) for t in (table, twin))
    for _ in range(2):
        rows, order = torch.tensor([0, 29, bad]).sort()
        grad = torch.tensor([1.0, 2.0, torch.nan])[order, None].expand(3, 5)
        one.update(table, rows, grad)
        assert noted() == f"index out of range in field 0: id {bad} is not in [0, 29]"
        other.update(twin, torch.tensor([0, 29]), torch.tensor([[1.0], [2.0]]).expand(2, 5))
    assert torch.equal(table, twin)
    assert ((table != 1).any(1).nonzero().flatten() == torch.tensor([0, 29])).all()
    for name, value in other.state[twin].items():
        assert torch.equal(one.state[table][name], value)
    before = table.detach().clone()
    one.update(table, torch.tensor([bad]), torch.full((1, 5), torch.nan))
    assert f"id {bad} is not" in noted()
    assert torch.equal(table, before)


def test_the_reference_op_names_what_the_kernels_met_before(noted):
    trainer, modules = make_trainer("darts")  # whose controller reads no history
    for module in modules:
        module.double()  # which no kernel computes, though they make the plans
    trainer.features = None
    batch = draw_batch()
    spoil(batch, 2**40)
    with pytest.raises(IndexError) as raised:  # at once: the reference looks
        trainer.step(batch._replace(label=batch.label.double()))
    assert str(raised.value) == message(2**40)
    with pytest.raises(IndexError, match=f"id {NO_ROW} "):  # which the reference op met after that
        cuda.check_ids(CPU)
