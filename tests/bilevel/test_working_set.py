"""The rows in play: which they are, how they are numbered, and modules as functions of them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoemb import RatingModel, SoftEmbedding
from autoemb.bilevel import Batch
from autoemb.bilevel.working_set import Functional, views_of

FIELDS = 3
event = st.lists(st.integers(0, 9) | st.integers(0, 2**62), min_size=FIELDS, max_size=FIELDS)
batches = st.lists(
    st.lists(event, min_size=1, max_size=8).map(
        lambda ids: Batch(torch.tensor(ids), torch.arange(len(ids)))
    ),
    min_size=1,
    max_size=3,
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(batches)
def test_views_hold_the_distinct_ids_of_each_batch_and_of_all(batches):
    asked = []

    def features(field, rows):
        asked.append((field, rows))
        return rows.unsqueeze(1)

    views = views_of(batches, features)
    assert len(views) == len(batches)
    for batch, view in zip(batches, views, strict=True):
        assert torch.equal(view.ids, batch.ids)
        assert torch.equal(view.target, batch.target)
        for field in range(FIELDS):
            everything = torch.cat([batch.ids[:, field] for batch in batches])
            assert view.rows[field].tolist() == sorted({*everything.tolist()})
            ids, plan = batch.ids[:, field], view.plans[field]
            assert plan.rows.tolist() == sorted({*ids.tolist()})
            assert torch.equal(plan.rows[plan.inverse], ids)
            assert torch.equal(plan.counts, torch.bincount(plan.inverse))
            # Asked for by row number of the table, once for each distinct id of the batch.
            assert torch.equal(view.features[field].squeeze(1), plan.rows)
    assert len(asked) == FIELDS * len(batches)


def test_without_features_their_place_is_empty():
    batch = Batch(torch.tensor([[7, 1], [7, 2]]), torch.zeros(2))
    assert [len(f) for f in views_of([batch], None)[0].features] == [0, 0]


@pytest.mark.parametrize("field", range(FIELDS))
@pytest.mark.parametrize("bad", [-1, "V", 2**40])
def test_an_id_beyond_the_tables_is_refused_by_the_name_of_its_field(field, bad):
    rows = [20, 10, 30]
    good = Batch(torch.tensor([[7, 1, 9], [19, 2, 29]]), torch.zeros(2))
    wrong = good._replace(ids=good.ids.clone())
    wrong.ids[1, field] = bad = rows[field] if bad == "V" else bad
    assert len(views_of([good, good], None, rows)) == 2
    with pytest.raises(IndexError, match=rf"field {field}: id {bad} is not in \[0, "):
        views_of([good, wrong], None, rows)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return RatingModel(SoftEmbedding([20, 10], (1, 2)), hidden=(4,))


ROWS = [torch.tensor([3, 5, 19]), torch.tensor([0, 9])]


def test_tables_are_told_from_dense_parameters(model):
    function = Functional(model)
    assert function.fields == {"embedding.table_0": 0, "embedding.table_1": 1}
    assert {*function.dense} | {*function.fields} == {n for n, _ in model.named_parameters()}
    assert not {*function.dense} & {*function.fields}


def test_gathered_rows_are_copies_without_history(model):
    function = Functional(model)
    rows = function.gather(ROWS)
    assert torch.equal(rows["embedding.table_0"], model.embedding.tables[0][ROWS[0]])
    assert torch.equal(rows["embedding.table_1"], model.embedding.tables[1][ROWS[1]])
    before = model.embedding.tables[0].detach().clone()
    rows["embedding.table_0"].zero_()
    assert torch.equal(model.embedding.tables[0], before)
    parameters = function.parameters(ROWS)
    assert {*parameters} == {name for name, _ in model.named_parameters()}
    assert not any(value.requires_grad for value in parameters.values())


def test_the_function_of_rows_is_the_module_on_whole_tables(model):
    function = Functional(model)
    ids, weights = torch.tensor([[3, 9], [19, 9], [5, 0], [3, 0]]), torch.rand(4, 2, 2)
    parameters = {n: p.requires_grad_() for n, p in function.parameters(ROWS).items()}
    logits = function(parameters, ROWS, ids, weights, frozen=True)
    assert torch.equal(logits, model(ids, weights))  # the same rows in the same order
    grads = torch.autograd.grad(logits.sum(), [*parameters.values()])
    model(ids, weights).sum().backward()
    for name, grad in zip(parameters, grads, strict=True):
        full, field = model.get_parameter(name).grad, function.fields.get(name)
        assert torch.equal(grad, full if field is None else full[ROWS[field]])


@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_calls_leave_running_statistics(model, frozen):
    function = Functional(model)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    ids, weights = torch.tensor([[3, 9], [19, 9]]), torch.rand(2, 2, 2)
    function(function.parameters(ROWS), ROWS, ids, weights, frozen=frozen)
    assert before
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, before[name]) is frozen


def test_after_a_failing_call_the_module_reads_whole_tables(model):
    function = Functional(model)
    ids, weights = torch.tensor([[7, 1], [8, 2]]), torch.rand(2, 2, 2)
    expected = model(ids, weights)
    with pytest.raises(ValueError, match="shape"):
        function(function.parameters(ROWS), ROWS, ids, weights[:, :1], frozen=True)
    assert torch.equal(model(ids, weights), expected)
