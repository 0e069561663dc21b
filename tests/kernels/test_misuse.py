"""Wrong arguments given to what is around the kernels: refused before any address is taken.

Emulated alone: what is checked is the Python around them.
"""

from contextlib import suppress

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autoemb.ops import cuda
from tests.samples import REFUSED, Case, draw, draw_update, spoilt, update_op

often = settings(
    max_examples=80,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
changes = st.sampled_from([*spoilt(torch.zeros(2, 2))])


def call(kernels, function, arguments):
    """Call it; a bad row is told later, by the next look."""
    with suppress(*REFUSED):
        function(kernels, *arguments)
    with suppress(IndexError):
        cuda.check_ids(torch.device("cpu"))


def spoil(data, arguments, trusted=0):
    """Change one of the tensors; of the first ``trusted`` not the numbers."""
    arguments = list(arguments)
    tensors = [i for i, x in enumerate(arguments) if isinstance(x, torch.Tensor)]
    i, change = data.draw(st.sampled_from(tensors)), data.draw(changes)
    if i >= trusted or change not in ("negative", "large"):
        arguments[i] = spoilt(arguments[i].detach())[change]()
    return arguments


@pytest.mark.parametrize("name", ["sgd", "adagrad", "rowwise-adagrad", "adam"])
@often
@given(data=st.data())
def test_an_update_is_right_or_refused(emulated, name, data):
    arguments = spoil(data, draw_update(name, strided=data.draw(st.booleans())))
    call(emulated, getattr(cuda, update_op(name)), arguments)


@often
@given(data=st.data(), training=st.booleans())
def test_a_pass_is_right_or_refused(emulated, data, training):
    sample = draw(Case((4, 8), 2, 9), training, torch.float32).detached()
    problem = sample.problem(torch.zeros(2, 2, 8), torch.ones(2, 2, 8))
    options, *tensors = problem.flat()
    grad, *tensors = spoil(data, [sample.grad, *tensors])
    problem = type(problem)(*tensors[:6], tensors[6:], *options)
    call(emulated, cuda.backward, (grad, True, *problem))
    call(emulated, cuda.forward, (True, *problem))


@often
@given(data=st.data())
def test_a_plan_and_its_record_are_right_or_refused(emulated, data):
    ids = torch.tensor([[1, 0], [4, 2], [1, 1]])
    (spoilt_ids,) = spoil(data, [ids])
    call(emulated, cuda.distinct, (spoilt_ids, [5, 5]))
    call(emulated, cuda.rows_of, (spoilt_ids, [5, 5], 0))
    plan = cuda.distinct(emulated, ids, [5, 5])
    parts = plan.rows[0], plan.counts[0], plan.order[0], plan.starts[0]
    counters = torch.zeros(5, dtype=torch.int64), torch.zeros(5), torch.zeros(5)
    # What a plan holds, only plans make.
    tensors = spoil(data, [*parts, torch.rand(3), *counters], trusted=4)
    call(emulated, cuda.record, (*tensors[:5], 0.9, *tensors[5:]))


def test_memory_elsewhere_is_refused(emulated):
    table, rows, grad, rate = draw_update("sgd")
    with pytest.raises(RuntimeError, match="expected tensors on cpu but got them on meta"):
        cuda.update_sgd(emulated, *(x.to("meta") for x in (table, rows, grad)), rate)
