"""Updates of rows as registered ops: what torch asks of those that change their inputs."""

import pytest
import torch

from autoemb.ops import cpu
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
