import os

import pytest
import torch

from bench.passes import PASSES, draw, make_pass
from bench.rivals import PlainEmbedding, PlainSoftEmbedding, TableBatchedEmbedding
from bench.test_op import GROUPS, MODULES, names
from bench.workloads import batches, on_backend, paper_embedding

ROWS, DIMS = (7, 5), (1, 3)


def tables(module):
    made = module.tables
    return [*made.parameters()] if isinstance(made, torch.nn.Module) else made


def soft(sparse=True):
    return paper_embedding(ROWS, DIMS, sparse=sparse)


@pytest.mark.parametrize("passes", PASSES)
@pytest.mark.parametrize(
    ("make", "width"),
    [
        (soft, 3),
        (lambda: PlainSoftEmbedding(ROWS, DIMS, sparse=True), 3),
        (lambda: PlainSoftEmbedding(ROWS, DIMS), 3),
        (lambda: PlainEmbedding(ROWS, 4), 4),
        (lambda: TableBatchedEmbedding(ROWS, 4), 4),
    ],
    ids=["autoemb", "sparse", "dense", "fixed", "table-batched"],
)
def test_only_updates_change_tables(make, width, passes):
    module = make()
    before = [table.detach().clone() for table in tables(module)]
    call = make_pass(passes, module)
    for inputs in draw(ROWS, "uniform", 6, 2, sizes=2, width=width):
        call(inputs)
    changed = [not torch.equal(a, b) for a, b in zip(before, tables(module), strict=True)]
    assert changed == [passes.count("+") == 2] * len(changed)


@pytest.mark.parametrize("make", [soft, lambda: TableBatchedEmbedding(ROWS, 3)])
def test_an_update_is_that_of_the_whole_gradient(make):
    torch.manual_seed(0)
    module = make()
    (inputs,) = draw(ROWS, "uniform", 6, 1, sizes=2, width=3)
    with torch.no_grad():
        output = module(inputs.ids, inputs.weights)  # moves running statistics alone
    assert output.shape == inputs.grad.shape
    grads = torch.autograd.grad(module(inputs.ids, inputs.weights), tables(module), inputs.grad)
    expected = [
        table.detach() - 0.001 * grad.to_dense()
        for table, grad in zip(tables(module), grads, strict=True)
    ]
    make_pass("forward+backward+sgd", module)(inputs)
    for table, wanted in zip(tables(module), expected, strict=True):
        torch.testing.assert_close(table.detach(), wanted)


def test_the_plain_module_computes_what_ours_does():
    ours, plain = soft(sparse=False), PlainSoftEmbedding(ROWS, DIMS)
    state = ours.state_dict()
    with torch.no_grad():
        for index, (field, size) in enumerate((f, n) for f in range(2) for n in range(2)):
            plain.tables[index].weight.copy_(state[f"tables.{field}.{size}"])
            for name, parameter in plain.projections[index].named_parameters():
                parameter.copy_(state[f"projections.{field}.{size}.{name}"])
    (inputs,) = draw(ROWS, "uniform", 6, 1, sizes=2, width=3)
    expected, actual = (module(inputs.ids, inputs.weights) for module in (ours, plain))
    torch.testing.assert_close(actual, expected)


def test_table_batched_is_a_lookup():
    plain, batched = PlainEmbedding(ROWS, 3), TableBatchedEmbedding(ROWS, 3)
    batched.load_state_dict(plain.state_dict())
    (inputs,) = draw(ROWS, "uniform", 6, 1, sizes=2, width=3)
    outputs, grads = [], []
    for module in (plain, batched):
        outputs.append(module(inputs.ids, inputs.weights))
        found = torch.autograd.grad(outputs[-1], tables(module), inputs.grad)
        grads.append([grad.to_dense() for grad in found])
    assert torch.equal(*outputs)
    torch.testing.assert_close(*grads)


def test_every_group_has_its_cases():
    assert all(set(names(group)) <= set(MODULES) for group in GROUPS)
    assert {len(group.rows) for group in GROUPS} == {2, 26}


def test_batches_of_any_number_of_fields():
    batch = next(batches((10, 20, 30), "chronological", 40))
    assert batch.ids.shape == (40, 3)
    assert len(batch.ids[:, 0].unique()) <= 10
    assert (batch.ids >= 0).all()
    assert (batch.ids < torch.tensor([10, 20, 30])).all()


@pytest.mark.parametrize("before", [None, "native"])
def test_a_backend_is_set_for_a_call_alone(monkeypatch, before):
    monkeypatch.delenv("AUTOEMB_BACKEND", raising=False)
    if before is not None:
        monkeypatch.setenv("AUTOEMB_BACKEND", before)
    assert on_backend("reference", lambda: os.environ["AUTOEMB_BACKEND"])() == "reference"
    assert os.environ.get("AUTOEMB_BACKEND") == before
