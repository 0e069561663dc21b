"""Updates of rows as registered ops: what torch asks of those that change their inputs."""

import pytest
import torch

from autoemb.ops import cpu, updates
from tests.samples import WITH_OP, draw_update, update_op

every = pytest.mark.parametrize("name", WITH_OP)
layouts = pytest.mark.parametrize("strided", [False, True], ids=["contiguous", "strided"])


@pytest.fixture(params=["reference", "native"], autouse=True)
def backend(request, monkeypatch):
    """Who computes; the ops themselves take no backend."""
    if request.param == "native" and not cpu.COMPILED:
        pytest.skip(f"the native CPU kernels are not built: {cpu.IMPORT_ERROR}")
    monkeypatch.setenv("AUTOEMB_BACKEND", request.param)


def op(name):
    return getattr(torch.ops.autoemb, update_op(name)).default


@every
@layouts
def test_opcheck(name, strided):
    torch.library.opcheck(op(name), draw_update(name, strided=strided))


@every
@layouts
def test_a_compiled_update_changes_the_same_bits(name, strided, recording_backend):
    # opcheck compares what an op returns, and these return nothing
    backend, graphs = recording_backend

    def step(table, rows, grad, *rest):
        op(name)(table, rows, 2 * grad, *rest)
        return table.sum()  # reads what was written

    before, eager, compiled = (draw_update(name, strided=strided) for _ in range(3))
    compiled_step = torch.compile(step, fullgraph=True, backend=backend)
    assert torch.equal(compiled_step(*compiled), step(*eager))
    assert len(graphs) == 1
    assert not torch.equal(eager[0], before[0])
    for one, other in zip(compiled, eager, strict=True):
        if isinstance(one, torch.Tensor):  # with what lies around a strided table
            assert torch.equal(*(x if x._base is None else x._base for x in (one, other)))


@pytest.mark.parametrize("rows", [[3, 1], [2, 2, 2], []], ids=str)
def test_opcheck_of_the_rows_that_a_rule_in_pytorch_takes(rows):
    rows = torch.tensor(rows, dtype=torch.int64)
    torch.library.opcheck(torch.ops.autoemb.checked_rows.default, (rows, 4))


@pytest.mark.parametrize(
    ("rows", "first"),
    [
        ([], []),
        ([4], [0]),
        ([4, 1, 1], [0, 1, 1]),
        ([1, 1, 4, 4], [0, 0, 2, 2]),
        ([2] * 3, [0] * 3),
    ],
)
def test_padding_takes_what_it_repeats(rows, first):
    rows = torch.tensor(rows, dtype=torch.int64)
    inside, places, known = updates.in_table(torch.zeros(5, 2), rows)
    assert torch.equal(inside, rows)
    assert places.tolist() == first
    assert bool(known) == bool(first)


def test_weight_decay_reads_the_rows_in_play_alone():
    table = torch.full((5, 2), torch.nan)
    table[[1, 3]] = torch.tensor([[1.0, 2.0], [-4.0, 0.0]])
    grad = torch.tensor([[0.5, 0.5], [1.0, 1.0]])
    assert updates.decayed(table, torch.tensor([1, 3]), grad, 0.5).tolist() == [[1, 1.5], [-1, 1]]
    assert grad.tolist() == [[0.5, 0.5], [1.0, 1.0]]
