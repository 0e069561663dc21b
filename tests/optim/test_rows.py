"""Row optimisers: each row as if it were alone, and no other row touched."""

import copy
import io
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from autoemb.optim import OPTIMIZERS, RowAdagrad, RowAdam, RowFtrl, RowSGD, RowwiseAdagrad

ROWS, WIDTH = 6, 3
few = settings(max_examples=25, deadline=None, derandomize=True)
# The rows that each step uses.
schedules = st.lists(st.sets(st.integers(0, ROWS - 1)), min_size=1, max_size=12)
every = pytest.mark.parametrize(
    "kind", [pytest.param(k.rows, id=k.name) for k in OPTIMIZERS.values()]
)
# The dense rule of torch that each row follows where there is one, and options of both.
torchs_rules = pytest.mark.parametrize(
    ("ours", "torchs", "options"),
    [
        (RowAdam, torch.optim.Adam, {"lr": 0.1}),
        (RowAdam, torch.optim.Adam, {"lr": 0.01, "betas": (0.5, 0.7), "eps": 0.1}),
        (RowAdagrad, torch.optim.Adagrad, {"lr": 0.1}),
        (RowAdagrad, torch.optim.Adagrad, {"lr": 0.01, "eps": 0.1}),
        (RowSGD, torch.optim.SGD, {"lr": 0.1}),
        (RowFtrl, torch.optim.Adagrad, {"lr": 0.1}),  # without l1 and l2; beta is eps
    ],
)
every_dtype = pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str
)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def new_table(rows=ROWS, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return nn.Parameter(
        torch.randn(rows, WIDTH, generator=generator, dtype=torch.float64).to(dtype)
    )


def draw_steps(schedule, dtype=torch.float64, seed=0):
    """Yield distinct rows, in no order, and a gradient of any scale for each."""
    generator = torch.Generator().manual_seed(seed)
    for step in schedule:
        rows = torch.tensor(list(step), dtype=torch.int64)
        rows = rows[torch.randperm(len(rows), generator=generator)]
        scale = 10.0 ** torch.randint(-3, 3, (len(rows), 1), generator=generator)
        grad = torch.randn(len(rows), WIDTH, generator=generator, dtype=torch.float64) * scale
        yield rows, grad.to(dtype)


def copies(optimizer, table):
    return {"values": table.detach(), **optimizer.state[table]}


def assert_equal_states(ours, theirs):
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        assert value.dtype == theirs[key].dtype
        assert torch.equal(value, theirs[key])


def run_alone(optimizer, values, gradients, **options):
    """Return where torch's dense optimiser takes one row that sees only its own gradients."""
    row = nn.Parameter(values.clone())
    dense = optimizer([row], **options)
    for gradient in gradients:
        row.grad = gradient
        dense.step()
    return row.detach()


@few
@given(schedule=schedules, seed=st.integers(0, 2**32 - 1))
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
@torchs_rules
def test_every_row_moves_as_if_it_were_alone(
    ours, torchs, options, weight_decay, assert_near, schedule, seed
):
    table = new_table()
    start = table.detach().clone()
    options = options | {"weight_decay": weight_decay}
    optimizer = ours([table], **options, **({"beta": 1e-10} if ours is RowFtrl else {}))
    seen = [[] for _ in range(ROWS)]
    for rows, grad in draw_steps(schedule, seed=seed):
        optimizer.update(table, rows, grad)
        for row, gradient in zip(rows.tolist(), grad, strict=True):
            seen[row].append(gradient)
    for row, gradients in enumerate(seen):
        assert_near(table[row], run_alone(torchs, start[row], gradients, **options))


def test_a_row_used_at_every_step_follows_torchs_adam_for_long(assert_near):
    table = new_table()
    start = table.detach().clone()
    optimizer = RowAdam([table], lr=0.01)
    gradients = torch.randn(300, WIDTH, dtype=torch.float64)
    for gradient in gradients:
        optimizer.update(table, torch.tensor([2]), gradient.unsqueeze(0))
    assert_near(table[2], run_alone(torch.optim.Adam, start[2], gradients, lr=0.01))


def test_low_precision_adam_takes_the_steps_of_the_exact_one(assert_near):
    # One step from zero moments: further ones round the moments too.
    exact = new_table(dtype=torch.bfloat16)
    for dtype in (torch.bfloat16, torch.float32):
        table = nn.Parameter(exact.detach().clone().to(dtype))
        grad = torch.randn(ROWS, WIDTH).to(torch.bfloat16)
        RowAdam([table], lr=0.1).update(table, torch.arange(ROWS), grad.to(dtype))
        expected = [
            run_alone(torch.optim.Adam, row, [g], lr=0.1)
            for row, g in zip(exact.detach().double(), grad.double(), strict=True)
        ]
        assert_near(table, torch.stack(expected))


@few
@given(schedule=schedules, seed=st.integers(0, 2**32 - 1))
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_row_wise_adagrad_accumulates_the_mean_square_of_a_row(
    weight_decay, assert_near, schedule, seed
):
    table = new_table()
    expected, total = table.detach().clone(), torch.zeros(ROWS, dtype=torch.float64)
    optimizer = RowwiseAdagrad([table], lr=0.1, eps=1e-3, weight_decay=weight_decay)
    for rows, grad in draw_steps(schedule, seed=seed):
        optimizer.update(table, rows, grad)
        for row, gradient in zip(rows.tolist(), grad, strict=True):
            gradient = gradient + weight_decay * expected[row]
            total[row] += sum(g**2 for g in gradient) / WIDTH
            expected[row] -= 0.1 * gradient / (total[row].sqrt() + 1e-3)
    assert_near(table, expected)
    assert_near(optimizer.state[table]["sum"].squeeze(1), total)


def test_row_wise_adagrad_of_width_one_is_torchs(assert_near):
    table = nn.Parameter(torch.randn(1, 1, dtype=torch.float64))
    start = table.detach().clone()
    optimizer = RowwiseAdagrad([table], lr=0.1)
    gradients = torch.randn(20, 1, 1, dtype=torch.float64)
    for gradient in gradients:
        optimizer.update(table, torch.tensor([0]), gradient)
    assert_near(table, run_alone(torch.optim.Adagrad, start, gradients, lr=0.1))


@every
@every_dtype
def test_rows_out_of_play_and_their_state_keep_every_bit(kind, dtype):
    table = new_table(dtype=dtype)
    optimizer = kind([table], lr=0.1)
    optimizer.update(table, torch.arange(ROWS), torch.ones(ROWS, WIDTH, dtype=dtype))
    before = {key: value.clone() for key, value in copies(optimizer, table).items()}
    optimizer.update(table, torch.tensor([4, 1]), torch.ones(2, WIDTH, dtype=dtype))
    others = torch.tensor([0, 2, 3, 5])
    for key, value in copies(optimizer, table).items():
        assert torch.equal(value[others], before[key][others])
        assert not torch.equal(value[1], before[key][1])
        assert not torch.equal(value[4], before[key][4])


@every
def test_update_leaves_its_arguments_alone(kind):
    table = new_table()
    rows, grad = torch.tensor([4, 1]), torch.ones(2, WIDTH, dtype=torch.float64)
    kind([table]).update(table, rows, grad)
    assert rows.tolist() == [4, 1]
    assert (grad == 1).all()


@every
def test_update_of_no_rows_changes_nothing(kind):
    table = new_table()
    optimizer = kind([table])
    for rows, grad in draw_steps([{1, 2}]):
        optimizer.update(table, rows, grad)
    before = {key: value.clone() for key, value in copies(optimizer, table).items()}
    for rows, grad in draw_steps([set()]):
        optimizer.update(table, rows, grad)
    assert_equal_states(copies(optimizer, table), before)


@every
def test_step_with_repeated_ids_equals_update_with_their_sums(kind):
    table = new_table()
    twin = nn.Parameter(table.detach().clone())
    stepped, updated = kind([table]), kind([twin])
    for seed in range(3):
        ids = torch.randint(4, (9,), generator=torch.Generator().manual_seed(seed))
        grad = torch.randn(9, WIDTH, dtype=torch.float64)
        table.grad = torch.sparse_coo_tensor(
            ids.unsqueeze(0), grad, table.shape, check_invariants=True
        )
        stepped.step()
        rows, inverse = ids.unique(return_inverse=True)
        summed = torch.zeros(len(rows), WIDTH, dtype=torch.float64).index_add_(0, inverse, grad)
        updated.update(twin, rows, summed)
    assert_equal_states(copies(stepped, table), copies(updated, twin))


@every
def test_step_takes_the_gradients_of_a_sparse_embedding(kind):
    embedding = nn.Embedding(ROWS, WIDTH, sparse=True)
    before = embedding.weight.detach().clone()
    optimizer = kind(embedding.parameters(), lr=0.1)
    ids = torch.tensor([3, 1, 3])

    def closure():
        optimizer.zero_grad()
        loss = embedding(ids).square().sum()
        loss.backward()
        return loss.item()

    loss = optimizer.step(closure)
    assert loss == before[ids].square().sum().item()
    moved = (embedding.weight != before).any(1)
    assert moved.tolist() == [False, True, False, True, False, False]
    assert embedding(ids).square().sum() < loss


@every
def test_step_passes_over_parameters_without_a_gradient(kind):
    table, idle = new_table(), new_table()
    optimizer = kind([idle, table])
    table.grad = torch.sparse_coo_tensor(
        torch.tensor([[1]]), torch.ones(1, WIDTH).double(), table.shape, check_invariants=True
    )
    optimizer.step()
    assert torch.equal(idle, new_table())
    assert not torch.equal(table, new_table())


@every
def test_a_dense_gradient_is_refused(kind):
    table = new_table()
    table.grad = torch.ones_like(table)
    message = rf"{kind.__name__} takes sparse gradients.*\[6, 3\].*dense"
    with pytest.raises(RuntimeError, match=message):
        kind([table]).step()
    assert torch.equal(table, new_table())


@every
def test_groups_have_their_own_rate(kind):
    slow, fast = new_table(), new_table()
    optimizer = kind([{"params": [slow]}, {"params": [fast], "lr": 0.1}], lr=0.0)
    for table in (slow, fast):
        optimizer.update(table, torch.tensor([2]), torch.ones(1, WIDTH, dtype=torch.float64))
    assert torch.equal(slow, new_table())
    assert (fast[2] < new_table()[2]).all()


@every
def test_state_follows_a_growing_table(kind, assert_near):
    """A table that grows moves like one that was long from the start."""
    long = new_table(2 * ROWS)
    growing = nn.Parameter(long.detach()[:ROWS].clone())
    optimizers = [kind([table], lr=0.1) for table in (long, growing)]

    def step(rows):
        rows = torch.tensor(rows)
        grad = torch.randn(len(rows), WIDTH, dtype=torch.float64)
        for optimizer, table in zip(optimizers, (long, growing), strict=True):
            optimizer.update(table, rows, grad)

    step([5, 2])
    step([2])
    growing.data = torch.cat([growing.data, long.detach()[ROWS:]])
    step([2, 11])
    step([11, 5])
    assert_equal_states(*(copies(o, t) for o, t in zip(optimizers, (long, growing), strict=True)))


@every
@every_dtype
def test_a_loaded_state_continues_bit_by_bit(kind, dtype):
    steps = list(draw_steps([{1}] * 260 + [{0, 1, 5}, {1, 2}] * 5, dtype))
    table = new_table(dtype=dtype)
    optimizer = kind([table], lr=0.01)
    for rows, grad in steps[:-6]:  # row 1 is past 256 steps, which bfloat16 cannot count
        optimizer.update(table, rows, grad)

    twin = nn.Parameter(table.detach().clone())
    other = kind([twin])
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file))
    assert other.param_groups[0]["lr"] == 0.01
    assert_equal_states(copies(other, twin), copies(optimizer, table))

    for rows, grad in steps[-6:]:
        optimizer.update(table, rows, grad)
        other.update(twin, rows, grad)
    assert_equal_states(copies(other, twin), copies(optimizer, table))


@every_dtype
def test_adam_counts_the_steps_of_each_row_exactly(dtype):
    table = new_table(dtype=dtype)
    optimizer = RowAdam([table])
    for rows, grad in draw_steps([{1}] * 300 + [{0, 1}], dtype):
        optimizer.update(table, rows, grad)
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert optimizer.state[table]["step"].flatten().tolist() == [1, 301, 0, 0, 0, 0]


def test_the_first_update_of_a_newcomer_is_one_learning_rate(assert_near):
    table = new_table()
    optimizer = RowAdam([table], lr=0.1)
    for rows, grad in draw_steps([{1}] * 50):
        optimizer.update(table, rows, grad)
    optimizer.update(table, torch.tensor([3]), torch.full((1, WIDTH), 7.0, dtype=torch.float64))
    moved = (table[3] - new_table()[3]) * (7 + 1e-8) / 7  # eps against the gradient
    assert_near(moved, torch.full((WIDTH,), -0.1, dtype=torch.float64))


@pytest.mark.parametrize("shape", [(ROWS,), (ROWS, 2, 3)], ids=str)
@every
def test_rows_of_any_shape_are_updated(kind, shape):
    table = nn.Parameter(torch.zeros(shape))
    kind([table], lr=0.1).update(table, torch.tensor([4, 1]), torch.ones(2, *shape[1:]))
    moved = (table != 0).reshape(ROWS, -1)
    assert moved.all(1).tolist() == [False, True, False, False, True, False]
    assert moved.any(1).tolist() == moved.all(1).tolist()


@every
def test_rows_that_were_reset_learn_as_if_they_were_new(kind):
    torch.manual_seed(0)
    table, fresh = (torch.nn.Parameter(torch.zeros(5, 3)) for _ in range(2))
    used, new = kind([table], lr=0.1), kind([fresh], lr=0.1)
    for _ in range(4):
        used.update(table, torch.tensor([1, 3, 4]), torch.randn(3, 3))
    kept = {name: value.clone() for name, value in used.state[table].items()}
    used.reset(table, torch.tensor([4, 1]))
    with torch.no_grad():
        table.zero_()
    for name, value in used.state[table].items():
        assert torch.equal(value[3], kept[name][3])
    for _ in range(3):
        grad = torch.randn(2, 3)
        used.update(table, torch.tensor([1, 4]), grad)
        new.update(fresh, torch.tensor([1, 4]), grad)
    assert torch.equal(table, fresh)


# Padding, and rows that there are not


@every
@every_dtype
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_padding_is_passed_over_with_its_gradients(kind, dtype, weight_decay):
    (plain, table), (padded, twin) = (
        (kind([t], lr=0.1, weight_decay=weight_decay), t)
        for t in (new_table(dtype=dtype), new_table(dtype=dtype))
    )
    for _ in range(2):
        grad = torch.randn(2, WIDTH).to(dtype)
        plain.update(table, torch.tensor([1, 4]), grad)
        more = torch.cat([grad, torch.full((3, WIDTH), torch.nan, dtype=dtype)])
        padded.update(twin, torch.tensor([1, 4, 4, 4, 4]), more)
    assert_equal_states(copies(padded, twin), copies(plain, table))


@every
@every_dtype
@pytest.mark.parametrize("bad", [-1, ROWS, 2**40, -(2**63), 2**63 - 1])
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_a_row_that_the_table_has_not_is_named_and_nothing_changes(kind, dtype, bad, weight_decay):
    table = new_table(dtype=dtype)
    optimizer = kind([table], weight_decay=weight_decay)
    optimizer.update(table, torch.tensor([1, 5]), torch.ones(2, WIDTH, dtype=dtype))
    before = {key: value.clone() for key, value in copies(optimizer, table).items()}
    with pytest.raises(IndexError, match=rf"row {bad} is not in \[0, 5\]"):
        optimizer.update(table, torch.tensor([1, bad]), torch.ones(2, WIDTH, dtype=dtype))
    assert_equal_states(copies(optimizer, table), before)


@every
@pytest.mark.parametrize(
    ("rows", "shape", "message"),
    [
        (torch.tensor([1, 2]), (1, WIDTH), r"expected grad of shape \[2, 3\] but got \[1, 3\]"),
        (torch.tensor([1, 2]), (2, 1), r"expected grad of shape"),
        (torch.tensor([[1, 2]]), (1, WIDTH), r"expected rows of shape \[1\] but got \[1, 2\]"),
        (torch.tensor([1.0]), (1, WIDTH), r"expected rows of dtype torch.int64"),
        (torch.tensor([False]), (1, WIDTH), r"expected rows of dtype torch.int64"),
    ],
    ids=["too few rows", "a column", "a matrix of rows", "float rows", "a mask"],
)
def test_an_update_of_another_shape_is_refused(kind, rows, shape, message):
    table = new_table()
    optimizer = kind([table], weight_decay=0.3)
    with pytest.raises((RuntimeError, ValueError), match=message):
        optimizer.update(table, rows, torch.ones(shape, dtype=torch.float64))
    assert torch.equal(table, new_table())


# Hyperparameters and states that are not this optimiser's


@every
@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf"), "0.1", None])
@pytest.mark.parametrize("name", ["lr", "weight_decay"])
def test_a_hyperparameter_that_is_no_number_is_refused(kind, name, value):
    message = re.escape(f"{name} is {value}; expected a number from 0")
    with pytest.raises(ValueError, match=message):
        kind([new_table()], **{name: value})
    with pytest.raises(ValueError, match=message):
        kind([{"params": [new_table()], name: value}])


def test_betas_of_one_are_refused():
    with pytest.raises(ValueError, match=r"betas is \(0.9, 1.0\); expected numbers in \[0, 1\)"):
        RowAdam([new_table()], betas=(0.9, 1.0))


def used(kind, dtype=torch.float64):
    table = new_table(dtype=dtype)
    optimizer = kind([table], lr=0.01)
    for rows, grad in draw_steps([{0, 1, 5}, {1, 2}], dtype):
        optimizer.update(table, rows, grad)
    return optimizer, table


@every
def test_a_state_is_loaded_into_a_table_that_has_grown(kind):
    optimizer, table = used(kind)
    longer = nn.Parameter(torch.cat([table.detach(), new_table(2 * ROWS).detach()[ROWS:]]))
    twin = nn.Parameter(longer.detach().clone())
    other, table.data = kind([twin]), longer.detach()
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for rows, grad in draw_steps([{1, 9}, {3, 9, 11}]):
        optimizer.update(table, rows, grad)
        other.update(twin, rows, grad)
    assert_equal_states(copies(other, twin), copies(optimizer, table))


def cut(state):
    return {name: value[:, :0] for name, value in state.items()}


def lengthened(state):
    return {name: torch.cat([value, value]) for name, value in state.items()}


def first_cut(state):
    return {n: value[:-1] if i == 0 else value for i, (n, value) in enumerate(state.items())}


BROKEN = {
    "columns": (lambda saved: saved["state"].update({0: cut(saved["state"][0])}), "is of shape"),
    "rows": (
        lambda saved: saved["state"].update({0: lengthened(saved["state"][0])}),
        "parameter 0 is of 12 rows; expected at most 6",
    ),
    "numbers": (
        lambda saved: saved["state"].update(
            {0: {name: torch.tensor(1.0) for name in saved["state"][0]}}
        ),
        "is of shape",
    ),
    "a name": (
        lambda saved: saved["state"][0].update(other=torch.zeros(6, 3)),
        "parameter 0 holds .*other.*; expected",
    ),
    "dtype": (
        lambda saved: saved["state"].update(
            {0: {n: v.to(torch.int64 if v.is_floating_point() else torch.float32)
                 for n, v in saved["state"][0].items()}}
        ),
        "is of torch.(int64|float32); expected torch.",
    ),
    "a parameter": (
        lambda saved: saved["state"].update({7: saved["state"][0]}),
        r"state is of parameter 7; expected one of \[0\]",
    ),
    "groups": (
        lambda saved: saved["param_groups"].append(saved["param_groups"][0]),
        r"state is of groups of \[1, 1\] parameters; expected \[1\]",
    ),
    "lr": (lambda saved: saved["param_groups"][0].update(lr=-1), "lr is -1; expected a number"),
    "no lr": (lambda saved: saved["param_groups"][0].pop("lr"), "state has no lr; expected Row"),
}  # fmt: skip


@every
@pytest.mark.parametrize("broken", BROKEN)
def test_a_state_of_something_else_is_refused_and_nothing_changes(kind, broken):
    optimizer, table = used(kind)
    saved = copy.deepcopy(optimizer.state_dict())
    if kind is RowSGD and broken in ("columns", "rows", "numbers", "dtype"):
        pytest.skip("keeps nothing that could have another shape")
    spoil, message = BROKEN[broken]
    if not saved["state"]:
        saved["state"][0] = {}
    spoil(saved)
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match=message) as caught:
        optimizer.load_state_dict(saved)
    assert "\n" not in str(caught.value)
    assert optimizer.state_dict()["param_groups"] == before["param_groups"]
    assert_equal_states(
        copies(optimizer, table), {"values": table.detach(), **before["state"].get(0, {})}
    )


def test_states_of_unequal_lengths_are_refused():
    optimizer, _ = used(RowAdam)
    saved = copy.deepcopy(optimizer.state_dict())
    saved["state"][0] = first_cut(saved["state"][0])
    with pytest.raises(ValueError, match="parameter 0"):
        optimizer.load_state_dict(saved)


def test_the_state_of_another_optimiser_is_refused():
    for one in OPTIMIZERS.values():
        for other in OPTIMIZERS.values():
            if one is other:
                continue
            optimizer, _ = used(one.rows)
            with pytest.raises(ValueError, match="state"):
                used(other.rows)[0].load_state_dict(copy.deepcopy(optimizer.state_dict()))


# Rows that become wider or narrower


def tables_of(*widths):
    return [nn.Parameter(torch.zeros(ROWS, width, dtype=torch.float64)) for width in widths]


@every
@few
@given(schedule=schedules, seed=st.integers(0, 2**32 - 1))
def test_what_is_kept_is_a_copy_of_the_rows_state(kind, schedule, seed):
    table = new_table()
    optimizer = kind([table], lr=0.1)
    for rows, grad in draw_steps(schedule, seed=seed):
        optimizer.update(table, rows, grad)
    rows = torch.tensor([4, 0, 5])
    kept = optimizer.kept(table, rows)
    state = {name: value.clone() for name, value in optimizer.state[table].items()}
    assert kept.keys() == optimizer.init_state(table, 1).keys()
    assert all(torch.equal(value, state[name][rows]) for name, value in kept.items())
    for value in kept.values():
        value.fill_(7)
    assert all(torch.equal(value, state[name]) for name, value in optimizer.state[table].items())


@every
def test_of_rows_never_updated_nothing_is_kept(kind):
    table = new_table()
    optimizer = kind([table])
    kept = optimizer.kept(table, torch.tensor([1, 2]))
    assert_equal_states(kept, optimizer.init_state(table, 2))


@every
@pytest.mark.parametrize(("before", "after"), [(2, 5), (5, 2), (3, 3), (1, 4)])
def test_what_is_carried_is_as_wide_as_both_and_the_rest_as_it_was(kind, before, after):
    old, new = tables_of(before, after)
    optimizer = kind([old, new], lr=0.1)
    generator = torch.Generator().manual_seed(0)
    for table in (old, new):
        for _ in range(3):
            grad = torch.randn(ROWS, table.shape[1], generator=generator, dtype=torch.float64)
            optimizer.update(table, torch.arange(ROWS), grad)
    was = {name: value.clone() for name, value in optimizer.state[new].items()}
    source = {name: value.clone() for name, value in optimizer.state[old].items()}
    to = torch.tensor([3, 1])
    optimizer.reset(new, to)
    optimizer.carry(new, to, optimizer.kept(old, torch.tensor([0, 5])))
    for name, value in optimizer.state[new].items():
        others = torch.tensor([0, 2, 4, 5])
        assert torch.equal(value[others], was[name][others])
        width = min(value.shape[1], source[name].shape[1])
        assert torch.equal(value[to, :width], source[name][[0, 5], :width])
        assert not value[to, width:].any()
        assert torch.equal(optimizer.state[old][name], source[name])


@every
@few
@given(seed=st.integers(0, 2**32 - 1))
def test_a_row_that_is_carried_goes_on_as_if_it_had_stayed(kind, seed):
    generator = torch.Generator().manual_seed(seed)
    stays, old, new = tables_of(WIDTH, WIDTH, WIDTH)
    optimizer = kind([stays, old, new], lr=0.1)
    grads = torch.randn(8, 1, WIDTH, generator=generator, dtype=torch.float64)
    for grad in grads[:4]:
        optimizer.update(stays, torch.tensor([2]), grad)
        optimizer.update(old, torch.tensor([2]), grad)
    with torch.no_grad():
        new[5] = old[2]
    optimizer.carry(new, torch.tensor([5]), optimizer.kept(old, torch.tensor([2])))
    for grad in grads[4:]:
        optimizer.update(stays, torch.tensor([2]), grad)
        optimizer.update(new, torch.tensor([5]), grad)
    assert torch.equal(new[5], stays[2])
    assert_equal_states(
        optimizer.kept(new, torch.tensor([5])), optimizer.kept(stays, torch.tensor([2]))
    )


@every
def test_what_is_kept_of_no_rows_can_be_carried(kind):
    old, new = tables_of(2, 4)
    optimizer = kind([old, new])
    none = torch.zeros(0, dtype=torch.int64)
    optimizer.carry(new, none, optimizer.kept(old, none))
    assert not any(value.any() for value in optimizer.state[new].values())
