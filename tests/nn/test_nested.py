"""One row an id, of which every size is a prefix: whole, and as much as ids were granted."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import functional_call
from torch.nn import functional

from autoemb import Bag
from autoemb.bilevel.working_set import Functional
from autoemb.nn.draws import id_keys
from autoemb.nn.granted_nested import GrantedNestedEmbedding
from autoemb.nn.granted_sizes import GrantedEmbedding
from autoemb.nn.nested import NestedEmbedding
from autoemb.nn.places import InPlay
from autoemb.nn.rows import in_play
from autoemb.optim import OPTIMIZERS, RowAdagrad, RowAdam
from autoemb.schema import Bag as BagFeature
from tests.nn.small import draw_ids, draw_weights

DIMS = (1, 2, 5)
IDS = [7, 9]


def make(**options):
    return NestedEmbedding(IDS, DIMS, dtype=torch.float64, **options)


def mixed(row, weights):
    """Return the weighted sum of a row's prefixes, each with zeros beyond."""
    wide = [functional.pad(row[:width], (0, DIMS[-1] - width)) for width in DIMS]
    return (weights.unsqueeze(1) * torch.stack(wide)).sum(0)


def event_weights(batch, seed=0):
    return draw_weights(batch, sizes=3, dtype=torch.float64, seed=seed)


def row_weights(ids=IDS, tables=("0", "1")):
    pairs = zip(tables, ids, strict=True)
    return {table: draw_weights(n, 3, 1, torch.float64)[:, 0] for table, n in pairs}


# The equation


def test_a_mix_of_each_event_is_the_sum_of_its_prefixes(assert_near_with_gradients):
    module, ids, weights = make(), draw_ids(11, IDS), event_weights(11)
    expected = [
        torch.stack(
            [mixed(module.table(f"table_{f}")[i], w) for i, w in zip(ids[:, f], own, strict=True)]
        )
        for f, own in enumerate(weights.unbind(1))
    ]
    assert_near_with_gradients(module, module(ids, weights), torch.stack(expected, 1))


def test_a_mix_of_each_row_is_the_sum_of_its_prefixes(assert_near_with_gradients):
    module, ids, weights = make(), draw_ids(11, IDS), row_weights()
    expected = [
        torch.stack([mixed(module.table(f"table_{f}")[i], weights[str(f)][i]) for i in ids[:, f]])
        for f in range(2)
    ]
    assert_near_with_gradients(module, module(ids, weights), torch.stack(expected, 1))


def test_without_a_mix_it_is_the_whole_row():
    module, ids = make(), draw_ids(11, IDS)
    widest = torch.tensor([0.0, 0, 1], dtype=torch.float64).expand(11, 2, 3)
    expected = [functional.embedding(ids[:, f], module.table(f"table_{f}")) for f in range(2)]
    assert torch.equal(module(ids), torch.stack(expected, 1))
    assert torch.equal(module(ids, widest), module(ids))


def test_a_narrow_size_is_zero_beyond_its_width():
    module, ids = make(), draw_ids(4, IDS)
    for n, width in enumerate(DIMS):
        only = torch.eye(3, dtype=torch.float64)[n].expand(4, 2, 3)
        output = module(ids, only)
        assert torch.equal(output[..., :width], module(ids)[..., :width])
        assert not output[..., width:].any()


def in_play_output(module, ids, rows, weights):
    tables = {n: module.rows_of_table(n, rows[table]) for n, table in module.row_tables.items()}
    weights = {table: weights[table][own] for table, own in rows.items()}
    with in_play([module], InPlay(rows)):
        return functional_call(module, tables, (ids, weights))


def test_rows_in_play_give_what_whole_tables_give(assert_near_with_gradients):
    module, ids, weights = make(), draw_ids(11, IDS), row_weights()
    rows = {"0": ids[:, 0].unique(), "1": torch.arange(9)}
    output = in_play_output(module, ids, rows, weights)
    assert_near_with_gradients(module, output, module(ids, weights))


FEATURES = ["user", BagFeature(column="tags", pooling="sum"),
            BagFeature(column="seen", table="tags", weights="shares")]  # fmt: skip
EVENTS = {
    "user": torch.tensor([3, 0, 3]),
    "tags": Bag(torch.tensor([1, 4, 1, 8]), torch.tensor([0, 3, 3, 4])),
    "seen": Bag(torch.tensor([2, 4]), torch.tensor([0, 0, 2, 2]),
                torch.tensor([1.0, 3.0], dtype=torch.float64)),
}  # fmt: skip


def test_ids_of_bags_are_mixed_and_then_pooled(assert_near_with_gradients):
    module, weights = make(features=FEATURES), row_weights(tables=("user", "tags"))
    user, tag = (
        [mixed(row, w) for row, w in zip(module.table(f"table_{f}"), weights[table], strict=True)]
        for f, table in enumerate(("user", "tags"))
    )
    none = torch.zeros(DIMS[-1], dtype=torch.float64)
    expected = [
        torch.stack([user[3], user[0], user[3]]),
        torch.stack([2 * tag[1] + tag[4], none, tag[8]]),
        torch.stack([none, (tag[2] + 3 * tag[4]) / 4, none]),
    ]
    assert_near_with_gradients(module, module(EVENTS, weights), torch.stack(expected, 1))
    rows = {"user": torch.tensor([0, 3]), "tags": torch.tensor([1, 2, 4, 5, 8])}
    output = in_play_output(module, EVENTS, rows, weights)
    assert_near_with_gradients(module, output, module(EVENTS, weights))


def test_a_mix_of_each_event_goes_for_all_ids_of_its_bag(assert_near_with_gradients):
    module = make(features=FEATURES)
    weights = draw_weights(3, sizes=3, fields=3, dtype=torch.float64)
    whole = module(EVENTS)
    expected = [[mixed(whole[b, f], weights[b, f]) for f in range(3)] for b in range(3)]
    expected = torch.stack([torch.stack(own) for own in expected])
    assert_near_with_gradients(module, module(EVENTS, weights), expected)


@pytest.mark.parametrize("play", [False, True])
@pytest.mark.parametrize("features", [None, FEATURES], ids=["columns", "bags"])
def test_gradients_are_those_of_differences(features, play):
    module = make(features=features)
    ids = draw_ids(5, IDS) if features is None else EVENTS
    names = [*dict.fromkeys(module.reading.tables)]
    weights = row_weights(tables=names)
    rows = {table: torch.arange(n) for table, n in zip(names, IDS, strict=True)}

    def output(first, second, *mix):
        tables, by_table = {"table_0": first, "table_1": second}, dict(zip(names, mix, strict=True))
        if not play:
            return functional_call(module, tables, (ids, by_table))
        with in_play([module], InPlay(rows)):
            return functional_call(module, tables, (ids, by_table))

    leaves = [*module.parameters(), *weights.values()]
    leaves = [leaf.detach().clone().requires_grad_() for leaf in leaves]
    torch.autograd.gradcheck(output, leaves)


def test_gradients_of_a_mix_of_events_are_those_of_differences():
    module, ids = make(), draw_ids(4, IDS)
    weights = event_weights(4).requires_grad_()
    torch.autograd.gradcheck(lambda own: module(ids, own), [weights])


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (torch.ones(4, 2, 2, dtype=torch.float64), r"\[4, 2, 3\]"),
        (torch.ones(4, 2, 3), "float64"),
        ({"0": torch.ones(7, 2).double(), "1": torch.ones(9, 2).double()}, "3"),
    ],
)
def test_a_mix_of_another_shape_or_dtype_is_refused(weights, message):
    with pytest.raises((RuntimeError, ValueError), match=message):
        make()(draw_ids(4, IDS), weights)


@pytest.mark.parametrize("dims", [(), (2, 1), (0, 2)])
def test_sizes_that_do_not_ascend_are_refused(dims):
    with pytest.raises(ValueError, match="embedding_dims"):
        NestedEmbedding(IDS, dims)


# As much of it as was granted


def granted(optimizer=RowAdam, rows=12):
    """Return an embedding of which ids own nothing yet, and an optimiser of its rows."""
    torch.manual_seed(0)
    module = GrantedNestedEmbedding([rows, rows + 3], DIMS)
    return module, optimizer([*module.stored("table_0"), *module.stored("table_1")], lr=0.1)


def up_to(*sizes):
    """Return what ids want that own so many sizes each."""
    return torch.arange(len(DIMS)) < torch.tensor(sizes).unsqueeze(1)


def learn(module, optimizer, number=0, seed=0):
    """Let everybody who owns something learn."""
    rows = torch.arange(module.num_rows(str(number)))
    random = torch.Generator().manual_seed(seed)
    grad = torch.randn(len(rows), DIMS[-1], generator=random)
    module.update_rows(f"table_{number}", rows, grad, optimizer.update)


def kept_of(module, optimizer, number=0):
    """Return for each id what an optimiser keeps of its row, by name."""
    found = {}
    for size in range(len(DIMS)):
        places = module.places(number, size)
        (ids,) = places.nonzero(as_tuple=True)
        kept = optimizer.kept(module.arena(number, size).rows, places[ids].long())
        for row, i in enumerate(ids.tolist()):
            found[i] = {name: value[row].tolist() for name, value in kept.items()}
    return found


def everything(module, optimizer):
    """Return slots, values and what is kept of all rows that ids own, and which rows are free."""
    found = {}
    for f in range(2):
        rows = torch.arange(module.num_rows(str(f)))
        found["slots", f] = module.slots(f).tolist()
        found["rows", f] = module.rows_of_table(f"table_{f}", rows).tolist()
        found["kept", f] = kept_of(module, optimizer, f)
        found["free", f] = [sorted(module.arena(f, n)._free) for n in range(len(DIMS))]
    return found


def test_what_is_owned_is_a_prefix_and_zero_beyond():
    module, optimizer = granted()
    ids = torch.tensor([3, 0, 7, 9])
    module.assign(0, ids, up_to(3, 1, 0, 2), optimizer, id_keys(ids.numpy(), 0, "0"))
    rows = module.rows_of_table("table_0", torch.arange(12))
    assert (rows != 0).sum(1).tolist() == [1, 0, 0, 5, 0, 0, 0, 0, 0, 2, 0, 0]
    drawn = module.drawn(0, id_keys(ids.numpy(), 0, "0"))
    assert torch.equal(rows[3], drawn[0])
    assert torch.equal(rows[9, :2], drawn[3, :2])
    assert torch.equal(module.owned(0, ids), up_to(3, 1, 0, 2))
    assert (module.floats, module.slot_bytes) == (5 + 1 + 2, 4)


def test_a_size_is_not_owned_without_those_below_it():
    module, _ = granted()
    wanted = torch.tensor([[True, False, True], [False, True, True]])
    module.assign(0, torch.tensor([1, 2]), wanted)
    assert torch.equal(module.owned(0, torch.tensor([1, 2])), up_to(1, 0))


def test_the_output_is_that_of_whole_rows_with_weights_shared_out():
    module, optimizer = granted()
    sizes = [0, 1, 2, 3] * 3
    for f in range(2):
        ids = torch.arange(12)
        module.assign(f, ids, up_to(*sizes), optimizer, id_keys(ids.numpy(), 0, str(f)))
    plain = NestedEmbedding([12, 15], DIMS)
    with torch.no_grad():
        for f, n in ((0, 12), (1, 15)):
            plain.table(f"table_{f}")[:] = module.rows_of_table(f"table_{f}", torch.arange(n))
    ids = draw_ids(60, [12, 15])
    weights = draw_weights(60, sizes=3)
    owned = torch.stack([module.owned(f, ids[:, f]) for f in range(2)], 1)
    kept = weights * owned
    total = kept.sum(2, keepdim=True)
    shared_out = torch.where(total > 0, kept / total, weights)
    torch.testing.assert_close(module(ids, weights), plain(ids, shared_out))
    by_row = {str(f): draw_weights(n, 3, 1)[:, 0] for f, n in ((0, 12), (1, 15))}
    events = torch.stack([by_row[str(f)][ids[:, f]] for f in range(2)], 1)
    torch.testing.assert_close(module(ids, by_row), module(ids, events))


def test_gradients_reach_what_is_owned_alone():
    module, optimizer = granted()
    module.assign(0, torch.tensor([1, 2, 3]), up_to(1, 2, 3), optimizer)
    ids = torch.tensor([[1, 0], [3, 0], [5, 0]])
    module(ids, torch.full((3, 2, 3), 1 / 3)).sum().backward()
    moved = [module.arena(0, n).rows.grad for n in range(3)]
    assert moved[0].abs().sum(1).nonzero().flatten().tolist() == [module.places(0, 0)[1]]
    assert moved[1] is None or not moved[1].any()
    assert moved[2].abs().sum(1).nonzero().flatten().tolist() == [module.places(0, 2)[3]]


def test_an_update_steps_on_prefixes_and_never_on_the_shared_row():
    module, optimizer = granted(RowAdagrad)
    module.assign(0, torch.tensor([1, 2, 3]), up_to(1, 2, 3), optimizer)
    learn(module, optimizer)
    rows = module.rows_of_table("table_0", torch.arange(12))
    assert (rows != 0).sum(1).tolist() == [0, 1, 2, 5, *[0] * 8]
    assert not any(arena.rows[0].any() for arena in module.arenas)


@pytest.mark.parametrize("kind", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_who_gets_more_keeps_what_it_has_and_who_gets_less_its_prefix(kind):
    module, optimizer = granted(kind.rows)
    ids = torch.tensor([4, 5, 6])
    module.assign(0, ids, up_to(2, 2, 2), optimizer, id_keys(ids.numpy(), 0, "0"))
    for seed in range(3):
        learn(module, optimizer, seed=seed)
    before, kept = module.rows_of_table("table_0", ids).clone(), kept_of(module, optimizer)
    keys = id_keys(ids.numpy(), 0, "0")
    module.assign(0, ids, up_to(3, 1, 2), optimizer, keys)
    after, now = module.rows_of_table("table_0", ids), kept_of(module, optimizer)
    assert torch.equal(after[0, :2], before[0, :2])
    assert torch.equal(after[0, 2:], module.drawn(0, keys)[0, 2:])  # what it would have begun with
    assert after[1].tolist() == [before[1, 0].item(), 0, 0, 0, 0]
    assert torch.equal(after[2], before[2])
    assert now[6] == kept[6]
    for name, own in kept[4].items():
        assert now[4][name][: len(own)] == own
        assert not any(now[4][name][len(own) :])
        assert now[5][name] == kept[5][name][: len(now[5][name])]


changes = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.dictionaries(st.integers(0, 11), st.integers(0, 3), max_size=8),
    ),
    min_size=1,
    max_size=6,
)


def apply(module, optimizer, change):
    number, sizes = change
    ids = torch.tensor([*sizes], dtype=torch.int64)
    keys = id_keys(ids.numpy(), 0, str(number))
    return module.assign(number, ids, up_to(*sizes.values()), optimizer, keys)


@pytest.mark.parametrize("kind", OPTIMIZERS.values(), ids=OPTIMIZERS)
@settings(max_examples=25)
@given(begun=changes, changed=changes)
def test_undone_in_reverse_nothing_has_happened(kind, begun, changed):
    module, optimizer = granted(kind.rows)
    for seed, change in enumerate(begun):
        apply(module, optimizer, change)
        learn(module, optimizer, 0, seed)
        learn(module, optimizer, 1, seed)
    before = everything(module, optimizer)
    undo = [apply(module, optimizer, change) for change in changed]
    after = everything(module, optimizer)
    for one in reversed(undo):
        one()
    assert everything(module, optimizer) == before
    for change in changed:  # and may happen again
        apply(module, optimizer, change)
    assert everything(module, optimizer) == after


@given(changes)
def test_no_row_is_owned_twice_lost_or_counted_wrong(changed):
    module, optimizer = granted()
    wanted = {(f, i): 0 for f in range(2) for i in range(12)}
    for number, sizes in changed:
        apply(module, optimizer, (number, sizes))
        wanted |= {(number, i): size for i, size in sizes.items()}
        for f in range(2):
            own = [wanted[f, i] for i in range(12)]
            assert torch.equal(module.owned(f, torch.arange(12)), up_to(*own))
            for n in range(len(DIMS)):
                arena, places = module.arena(f, n), module.places(f, n)
                taken = places[places > 0].tolist()
                assert len(taken) == len({*taken}) == arena.num_owned == own.count(n + 1)
                assert {*taken, *arena._free, 0} == {*range(len(arena.rows))}
    assert module.floats == sum((0, *DIMS)[size] for size in wanted.values())


def test_arenas_grow_and_keep_what_learns():
    module, optimizer = granted(rows=1000)
    ids = torch.arange(1000)
    module.assign(0, ids[:400], up_to(*[1] * 400), optimizer, id_keys(np.arange(400), 0, "0"))
    learn(module, optimizer)
    before, kept = module.rows_of_table("table_0", ids).clone(), kept_of(module, optimizer)
    module.assign(0, ids, up_to(*[3] * 1000), optimizer)
    assert torch.equal(module.rows_of_table("table_0", ids[:400])[:, 0], before[:400, 0])
    now = kept_of(module, optimizer)
    assert all(now[i]["exp_avg"][0] == kept[i]["exp_avg"][0] for i in range(400))
    assert module.arena(0, 0).num_owned == 0
    assert module.floats == 1000 * 5


def test_a_trainer_sees_one_row_an_id():
    module, optimizer = granted()
    module.assign(0, torch.tensor([3]), up_to(2), optimizer)
    function = Functional(torch.nn.Sequential(module))
    assert {name: row.table for name, row in function.rows.items()} == {
        "0.table_0": "0", "0.table_1": "1"
    }  # fmt: skip
    assert (len(function.stored), [*function.dense]) == (6, [])
    gathered = function.gather({"0": torch.tensor([3, 9]), "1": torch.tensor([0])})
    assert gathered["0.table_0"].shape == (2, 5)


# State


@given(changes)
@settings(max_examples=25)
def test_a_state_gives_the_same_module_whatever_it_was(changed):
    module, optimizer = granted()
    for change in changed:
        apply(module, optimizer, change)
        learn(module, optimizer)
    state = copy.deepcopy(module.state_dict())
    assert {key.split(".")[0] for key in state} == {"slots", "arenas"}
    other, own = granted()
    apply(other, own, (1, {3: 2, 8: 1}))
    other.load_state_dict(state)
    assert all(torch.equal(value, state[key]) for key, value in other.state_dict().items())
    ids, weights = draw_ids(20, [12, 12]), draw_weights(20, sizes=3)
    assert torch.equal(other(ids, weights), module(ids, weights))
    for each in (module, other):  # the same places are free
        each.assign(0, torch.arange(12), up_to(*[3] * 12))
    assert torch.equal(module.slots(0), other.slots(0))


@pytest.mark.parametrize(
    ("slot", "message"),
    [
        (64 * 3, r"table '1', size 0: slots exceed 64 rows"),
        (64 * 3 + 2, r"table '1', size 2: slots exceed 64 rows"),
        (10**6 * 3 + 1, r"table '1', size 1: slots exceed 64 rows"),
        (-1, r"table '1', size 2: slots exceed 64 rows"),
        (-3, r"table '1', size 0: slots exceed 64 rows"),
        (-4, r"table '1', size 2: slots exceed 64 rows"),
        (5 * 3 + 1, r"table '1', size 1: two ids own one row"),
    ],
)
def test_slots_that_cannot_be_are_refused(slot, message):
    module, _ = granted()
    state = copy.deepcopy(module.state_dict())
    state["slots.1"][:2] = slot
    with pytest.raises(ValueError, match=message):
        granted()[0].load_state_dict(state)


def test_an_arena_without_its_shared_row_or_of_another_width_is_refused():
    module, _ = granted()
    state = copy.deepcopy(module.state_dict())
    with pytest.raises(ValueError, match="table '0', size 1: slots exceed 0 rows"):
        granted()[0].load_state_dict(state | {"arenas.0.1": torch.zeros(0, 2)})
    with pytest.raises(RuntimeError, match=r"size mismatch for arenas\.0\.1"):
        granted()[0].load_state_dict(state | {"arenas.0.1": torch.zeros(64, 3)})


def test_a_state_of_rows_by_size_is_refused():
    with pytest.raises((RuntimeError, ValueError), match="slots"):
        granted()[0].load_state_dict(GrantedEmbedding([12, 15], DIMS).state_dict())
