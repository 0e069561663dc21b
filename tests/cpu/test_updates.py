"""Updates of distinct rows by the native kernels against the reference and PyTorch's optimisers."""

from types import SimpleNamespace

import pytest
import torch

from autoemb.ops import cpu
from autoemb.optim import OPTIMIZERS
from tests.samples import WITH_OP, update_op

every = pytest.mark.parametrize("name", WITH_OP)
OPTIONS = {
    "sgd": {"lr": 0.1},
    "adagrad": {"lr": 0.1, "eps": 1e-3},
    "rowwise-adagrad": {"lr": 0.1, "eps": 1e-3},
    "adam": {"lr": 0.1, "betas": (0.8, 0.95), "eps": 1e-3},
}
STATE = {
    "sgd": [],
    "adagrad": ["sum"],
    "rowwise-adagrad": ["sum"],
    "adam": ["exp_avg", "exp_avg_sq", "step"],
}


@pytest.fixture
def native(monkeypatch):
    """Count the updates that native kernels do."""
    seen = SimpleNamespace(calls=0)

    def counted(function):
        def call(*arguments):
            seen.calls += 1
            return function(*arguments)

        return call

    module = SimpleNamespace(**vars(cpu._cpu))
    for name in set(map(update_op, WITH_OP)):
        setattr(module, name, counted(getattr(module, name)))
    monkeypatch.setattr(cpu, "_cpu", module)
    return seen


def make(name, rows=300, width=146, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(rows, width, generator=generator).to(dtype)
    table = torch.nn.Parameter(table)
    return OPTIMIZERS[name].rows([table], **OPTIONS[name]), table


def steps(rows, width, count=6, least=150):
    """Rows come back in some of the steps; gradients are of any scale."""
    generator = torch.Generator().manual_seed(1)
    for step in range(count):
        chosen = torch.randperm(rows, generator=generator)[: least + step].sort()[0]
        scale = 10.0 ** torch.randint(-3, 3, (len(chosen), 1), generator=generator)
        yield chosen, torch.randn(len(chosen), width, generator=generator) * scale


def result(optimizer, table):
    return [table.detach(), *optimizer.state[table].values()]


@every
@pytest.mark.parametrize("width", [1, 3, 16, 146])
def test_equals_the_reference(kernels, native, name, width, assert_near, monkeypatch):
    ours, table = make(name, width=width)
    for rows, grad in steps(300, width):
        ours.update(table, rows, grad)
    assert native.calls == 6
    monkeypatch.setenv("AUTOEMB_BACKEND", "reference")
    theirs, exact = make(name, width=width, dtype=torch.float64)
    for rows, grad in steps(300, width):
        theirs.update(exact, rows, grad.double())
    assert native.calls == 6
    names = ["values", *ours.state[table]]
    pairs = zip(names, result(ours, table), result(theirs, exact), strict=True)
    for key, actual, expected in pairs:
        if key == "step":
            assert torch.equal(actual, expected)
        else:
            assert_near(actual, expected, "updates")


@pytest.mark.parametrize(
    ("name", "torchs"),
    [("sgd", torch.optim.SGD), ("adagrad", torch.optim.Adagrad), ("adam", torch.optim.Adam)],
)
def test_every_row_moves_as_if_it_were_alone(kernels, native, name, torchs, assert_near):
    optimizer, table = make(name, rows=5, width=7)
    start, seen = table.detach().double(), [[] for _ in range(5)]
    for rows, grad in steps(5, 7, count=20, least=1):
        optimizer.update(table, rows[:3], grad[:3])
        for row, gradient in zip(rows[:3].tolist(), grad, strict=False):
            seen[row].append(gradient.double())
    assert native.calls == 20
    for row, gradients in enumerate(seen):
        alone = torch.nn.Parameter(start[row].clone())
        dense = torchs([alone], **OPTIONS[name])
        for gradient in gradients:
            alone.grad = gradient
            dense.step()
        assert_near(table[row], alone, "updates")
    assert len({len(gradients) for gradients in seen}) > 1


@every
def test_padding_is_passed_over_and_other_rows_keep_every_bit(kernels, native, name, set_threads):
    plain, table = make(name)
    padded, twin = make(name)
    rows = torch.arange(2, 300, 3)
    grad = torch.randn(len(rows), 146)
    # Longer than the rows that a thread takes at once, so that padding starts in another part.
    padding = 70
    more = torch.cat([rows, rows[-1:].expand(padding)])
    grads = torch.cat([grad, torch.full((padding, 146), torch.nan)])
    before = table.detach().clone()
    for _ in range(2):
        plain.update(table, rows, grad)
        set_threads(3)
        padded.update(twin, more, grads)
        set_threads(1)
    assert native.calls == 4
    for one, other in zip(result(plain, table), result(padded, twin), strict=True):
        assert torch.equal(one, other)
    others = torch.ones(300, dtype=torch.bool).index_fill(0, rows, False)
    assert torch.equal(table[others], before[others])
    assert (table[rows] != before[rows]).any(1).all()
    for value in plain.state[table].values():
        assert not value[others].any()
        assert value[rows].flatten(1).any(1).all()


@every
def test_any_number_of_threads_gives_the_same_bits(kernels, name, set_threads):
    results = []
    for threads in (1, 2, 5):
        set_threads(threads)
        optimizer, table = make(name)
        for rows, grad in steps(300, 146):
            optimizer.update(table, rows, grad)
        results.append(result(optimizer, table))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@every
def test_rows_and_gradients_of_any_strides(kernels, native, name):
    plain, table = make(name, width=9)
    strided, part = make(name, width=9)
    wide = torch.full((300, 20), torch.nan)
    part.data = wide[:, 3:12].copy_(part.detach())
    for rows, grad in steps(300, 9):
        plain.update(table, rows, grad)
        apart = torch.stack([rows, rows], 1)[:, 1]
        strided.update(part, apart, grad.t().contiguous().t())
    assert native.calls == 12
    for one, other in zip(result(plain, table), result(strided, part), strict=True):
        assert torch.equal(one, other)
    assert wide[:, :3].isnan().all()
    assert wide[:, 12:].isnan().all()


def test_an_expanded_gradient(kernels, native):
    optimizer, table = make("sgd", rows=5, width=7)
    before = table.detach().clone()
    optimizer.update(table, torch.tensor([1, 3]), torch.ones(()).expand(2, 7))
    assert native.calls == 1
    assert torch.equal(table[[1, 3]], before[[1, 3]] - torch.tensor(0.1))


@every
@pytest.mark.parametrize("case", ["1-D", "3-D", "float64", "columns apart"])
def test_other_tables_take_the_reference(native, name, case):
    optimizer, table = make(name, rows=6, width=4)
    if case == "1-D":
        table.data = table.data[:, 0].clone()
    elif case == "3-D":
        table.data = table.data.view(6, 2, 2)
    elif case == "float64":
        table.data = table.data.double()
    else:
        table.data = table.data.t().contiguous().t()
    before = table.detach().clone()
    optimizer.update(table, torch.tensor([4, 1]), torch.ones_like(table[:2]))
    assert native.calls == 0
    moved = (table != before).reshape(6, -1)
    assert (
        moved.all(1).tolist() == moved.any(1).tolist() == [False, True, False, False, True, False]
    )


@every
@pytest.mark.parametrize("bad", [-1, 6, 2**40, -(2**63)])
def test_a_row_out_of_range_is_named_before_anything_changes(kernels, name, bad):
    optimizer, table = make(name, rows=6, width=4)
    before = table.detach().clone()
    with pytest.raises(IndexError, match=rf"row {bad} is not in \[0, 5\]"):
        optimizer.update(table, torch.tensor([1, bad]), torch.ones(2, 4))
    assert torch.equal(table, before)


@every
@pytest.mark.parametrize(
    ("rows", "grad"),
    [
        (torch.tensor([1, 2]), torch.ones(1, 4)),
        (torch.tensor([1, 2]), torch.ones(2, 3)),
        (torch.tensor([1, 2], dtype=torch.int32), torch.ones(2, 4)),
    ],
    ids=["too few rows", "too few columns", "int32 rows"],
)
def test_what_kernels_would_misread_is_refused(name, rows, grad):
    optimizer, table = make(name, rows=6, width=4)
    before = table.detach().clone()
    with pytest.raises((RuntimeError, ValueError), match=r"expected (rows|grad) of"):
        optimizer.update(table, rows, grad)
    assert torch.equal(table, before)


@pytest.mark.parametrize("name", ["adagrad", "rowwise-adagrad", "adam"])
@pytest.mark.parametrize(
    "changed",
    [
        lambda x: x[:-1],
        lambda x: x.to(torch.float64),
        lambda x: torch.cat([x, x], 1)[:, : x.shape[1]],
    ],
    ids=["shape", "dtype", "layout"],
)
def test_a_state_that_kernels_would_misread_is_refused(name, changed):
    for key in STATE[name]:
        optimizer, table = make(name, rows=6, width=4)
        optimizer.update(table, torch.tensor([1]), torch.ones(1, 4))
        before = table.detach().clone()
        state = optimizer.state[table]
        state[key] = changed(state[key])
        arguments = [state[key] for key in STATE[name]]
        group = optimizer.param_groups[0]
        rest = [*group.get("betas", ()), group["eps"]]
        with pytest.raises(
            (RuntimeError, ValueError), match=r"expected (total|average|square|steps)"
        ):
            getattr(torch.ops.autoemb, update_op(name))(
                table.detach(), torch.tensor([1]), torch.ones(1, 4), *arguments, group["lr"], *rest
            )
        assert torch.equal(table, before)


def test_a_table_of_another_dtype_than_its_gradient_takes_the_reference(native):
    optimizer, table = make("sgd", rows=6, width=4, dtype=torch.bfloat16)
    expected = table.detach().clone()
    expected[1:3] -= 0.1
    optimizer.update(table, torch.tensor([1, 2]), torch.ones(2, 4))
    assert native.calls == 0
    assert torch.equal(table, expected)
