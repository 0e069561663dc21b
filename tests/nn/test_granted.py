"""SoftEmbedding whose ids own rows of the sizes that they were granted alone."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autoemb import SoftEmbedding
from autoemb.bilevel.working_set import Functional
from autoemb.nn.granted_sizes import GrantedEmbedding
from autoemb.ops.sizes import size_slices
from tests.nn.small import PAPER, let_own

DIMS = (1, 2, 4)
IDS = 12


def make(**options):
    torch.manual_seed(0)
    return GrantedEmbedding([IDS, IDS + 3], DIMS, **PAPER | {"norm": "running"} | options)


@pytest.fixture
def embedding():
    """Return one in which ids own what their number says in binary: id 5 sizes 0 and 2."""
    module = make()
    for number in range(2):
        for size in range(3):
            ids = torch.arange(8)
            rows = let_own(module, number, ids[(ids >> size & 1) == 1], size)
            with torch.no_grad():
                module.arena(number, size).rows[rows] = torch.randn(len(rows), DIMS[size])
    return module


def dense(embedding):
    """Return a SoftEmbedding with the same rows, zeros where an id owns none."""
    module = SoftEmbedding([IDS, IDS + 3], DIMS, **PAPER | {"norm": "running"})
    state = {k: v for k, v in embedding.state_dict().items() if k.startswith(("proj", "norms"))}
    for number in range(2):
        ids = torch.arange(embedding.num_rows(str(number)))
        table = embedding.rows_of_table(f"table_{number}", ids)
        for size, columns in enumerate(size_slices(DIMS)):
            state[f"tables.{number}.{size}"] = table[:, columns].detach()
    module.load_state_dict(state)
    return module


def batch(events=40):
    random = torch.Generator().manual_seed(1)
    ids = torch.stack([torch.randint(0, n, (events,), generator=random) for n in (IDS, IDS + 3)], 1)
    return ids, torch.rand(events, 2, 3, generator=random).softmax(2)


def owned(ids):
    """Return which sizes ids own, by their number in binary; those from 8 on own none."""
    bits = torch.stack([ids >> size & 1 for size in range(3)], -1).bool()
    return bits & (ids < 8).unsqueeze(-1)


@pytest.mark.parametrize("training", [True, False])
def test_the_output_is_that_of_rows_owned_and_zeros_with_weights_shared_out(embedding, training):
    reference = dense(embedding).train(training)
    embedding.train(training)
    ids, weights = batch()
    for _ in range(3):  # statistics follow alike
        kept = weights * owned(ids)
        total = kept.sum(-1, keepdim=True)
        shared_out = torch.where(total > 0, kept / total, weights)
        torch.testing.assert_close(embedding(ids, weights), reference(ids, shared_out))


def test_an_id_with_everything_is_mixed_as_ever_and_one_with_nothing_is_the_bias(embedding):
    embedding.eval()
    _, weights = batch(1)
    whole = embedding(torch.tensor([[7, 7]]), weights)
    torch.testing.assert_close(whole, dense(embedding).eval()(torch.tensor([[7, 7]]), weights))
    nothing = embedding(torch.tensor([[8, 9]]), weights)
    inner = torch.tanh(
        (embedding.bias - embedding.running_mean) / (embedding.running_var + 1e-5).sqrt()
    )
    torch.testing.assert_close(nothing[0], (weights[0].unsqueeze(-1) * inner).sum(1) / 3)


def test_gradients_reach_the_rows_that_are_owned(embedding):
    ids, weights = batch()
    embedding(ids, weights).square().sum().backward()
    for size in range(3):
        moved = embedding.arena(0, size).rows.grad.abs().sum(1) > 0
        seen = ids[owned(ids[:, :1])[:, 0, size], 0].unique()
        assert set(embedding.slots(0)[seen, size].tolist()) <= {
            *moved.nonzero().flatten().tolist(), 0
        }  # fmt: skip


def test_an_update_changes_the_rows_of_its_ids_alone_and_never_the_shared_one(embedding):
    before = {name: p.detach().clone() for name, p in embedding.named_parameters()}
    rows = torch.tensor([1, 6, 9])  # of sizes {0}, {1, 2} and none

    def add(parameter, rows, grad):
        with torch.no_grad():
            parameter[rows] += grad

    grad = torch.arange(1.0, 1 + 3 * 7).view(3, 7)
    embedding.update_rows("table_0", rows, grad, add)
    changed = {0: (1, grad[0, :1]), 1: (6, grad[1, 1:3]), 2: (6, grad[1, 3:])}
    for size, (id, by) in changed.items():
        name = f"arenas.{size}.rows"
        difference = embedding.get_parameter(name).detach() - before[name]
        row = int(embedding.slots(0)[id, size])
        assert row > 0
        torch.testing.assert_close(difference[row], by)
        difference[row] = 0
        assert not difference.any()
    assert all(
        torch.equal(before[f"arenas.{3 + n}.rows"], embedding.arena(1, n).rows) for n in range(3)
    )


def test_a_trainer_sees_arenas_as_tables(embedding):
    function = Functional(torch.nn.Sequential(embedding))
    tables = {name: row.table for name, row in function.rows.items()}
    assert tables == {"0.table_0": "0", "0.table_1": "1"}
    assert sorted(function.dense) == ["0.bias", "0.projection"]
    assert len(function.stored) == 6
    gathered = function.gather({"0": torch.tensor([3, 9]), "1": torch.tensor([0])})
    assert gathered["0.table_0"].shape == (2, 7)
    assert not gathered["0.table_0"].requires_grad
    assert gathered["0.table_0"][1].tolist() == [0] * 7


def test_rows_granted_start_as_zeros_in_the_lowest_free_place():
    module = make()
    assert let_own(module, 0, torch.tensor([5, 2, 7]), 1).tolist() == [1, 2, 3]
    with torch.no_grad():
        module.arena(0, 1).rows[1:4] = 3
    let_own(module, 0, torch.tensor([7, 5]), 1, whether=False)
    assert module.slots(0)[:, 1].tolist() == [0, 0, 2, *[0] * 9]
    assert let_own(module, 0, torch.tensor([0, 1, 3]), 1).tolist() == [1, 3, 4]
    assert module.arena(0, 1).rows[[1, 3, 4]].tolist() == [[0, 0]] * 3
    assert module.arena(0, 1).rows[2].tolist() == [3, 3]


def test_growing_makes_room_for_ids_that_own_nothing(embedding):
    slots, floats = embedding.slots(0).clone(), embedding.floats
    embedding.grow({"0": 20, "1": 5})
    assert (embedding.num_rows("0"), embedding.num_rows("1"), embedding.floats) == (20, 15, floats)
    assert torch.equal(embedding.slots(0)[:IDS], slots)
    assert not embedding.slots(0)[IDS:].any()


some_ids = st.sets(st.integers(0, IDS - 1))
actions = st.lists(
    st.tuples(st.booleans(), st.integers(0, 1), st.integers(0, 2), some_ids), max_size=30
)


@given(actions)
def test_no_row_is_owned_twice_lost_or_counted_wrong(actions):
    module = make()
    for grant, number, size, ids in actions:
        has = module.slots(number)[:, size] > 0
        chosen = torch.tensor([i for i in sorted(ids) if bool(has[i]) != grant], dtype=torch.int64)
        let_own(module, number, chosen, size, whether=grant)
        for f in range(2):
            for n in range(3):
                own = module.slots(f)[:, n]
                own = own[own > 0].tolist()
                assert len({*own}) == len(own) == module.arena(f, n).num_owned
                free = module.arena(f, n)._free
                assert {*own} | {*free} | {0} == {*range(len(module.arena(f, n).rows))}
                assert len(own) + len(free) + 1 == len(module.arena(f, n).rows)
    assert module.floats == sum(
        int((module.slots(f) > 0).sum(0) @ torch.tensor(DIMS)) for f in (0, 1)
    )


def test_arenas_grow_when_they_are_full():
    module = GrantedEmbedding([1000], DIMS, norm="running")
    ids = torch.arange(1000)
    for start in range(0, 1000, 130):
        rows = let_own(module, 0, ids[start : start + 130], 2)
        with torch.no_grad():
            module.arena(0, 2).rows[rows] = ids[start : start + 130].float().unsqueeze(1)
    assert torch.equal(module.rows_of_table("table_0", ids)[:, 3], ids.float())
    assert module.arena(0, 2).num_owned == 1000
    assert module.capacity < 1.6 * 1000 * 4 + 64 * 7


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (10**6, "table '1', size 2: slots exceed 64 rows"),
        (-1, "table '1', size 2: slots exceed 64 rows"),
        (1, "table '1', size 2: two ids own one row"),
    ],
)
def test_slots_that_cannot_be_are_refused(embedding, row, message):
    state = {name: value.clone() for name, value in embedding.state_dict().items()}
    state["slots.1"][:, 2] = row
    with pytest.raises(ValueError, match=message):
        make().load_state_dict(state)


def test_an_arena_without_its_shared_row_is_refused(embedding):
    state = embedding.state_dict()
    state["arenas.0.1"] = state["arenas.0.1"][:0]
    with pytest.raises(ValueError, match="table '0', size 1: slots exceed 0 rows"):
        make().load_state_dict(state)


def test_the_state_is_restored_into_a_new_module(embedding):
    let_own(embedding, 0, torch.tensor([3, 5]), 0, whether=False)
    state = embedding.state_dict()
    assert not [key for key in state if "table" in key]
    other = make()
    let_own(other, 1, torch.arange(10), 1)
    other.load_state_dict(state)
    assert [a._free for a in other.arenas] == [sorted(a._free) for a in embedding.arenas]
    ids, weights = batch()
    assert torch.equal(other.eval()(ids, weights), embedding.eval()(ids, weights))
    new = [let_own(module, 0, torch.tensor([8, 9]), 0) for module in (embedding, other)]
    assert torch.equal(*new)


def test_an_id_out_of_range_is_named(embedding):
    with pytest.raises(IndexError, match=r"table '1': id 15 is not in \[0, 14\]"):
        embedding(torch.tensor([[0, 15]]), torch.ones(1, 2, 3))
