"""Grants within a budget while a stream runs."""

import copy
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoemb import Batch
from autoemb.lab.ranks import rank_correlation
from autoemb.nn.arena import Arena
from autoemb.nn.draws import id_keys
from autoemb.nn.granted_nested import GrantedNestedEmbedding
from autoemb.nn.granted_sizes import GrantedEmbedding
from autoemb.ops import distinct, distinct_columns
from autoemb.optim import OPTIMIZERS, RowAdagrad, RowSGD
from autoemb.streaming import grants
from autoemb.streaming.grants import Grants
from autoemb.streaming.owned import owned
from tests.streaming.conftest import NESTED

DIMS, TABLES = (1, 2, 4), ("user", "item")
KINDS = {"sizes": GrantedEmbedding, "nested": GrantedNestedEmbedding}
every_kind = pytest.mark.parametrize("kind", KINDS)


def embedding_of(kind, ids=(40, 40), dims=DIMS, features=TABLES):
    torch.manual_seed(0)
    options = {"norm": "running"} if kind == "sizes" else {}
    return KINDS[kind](ids, dims, features=features, **options)


def bytes_of_all(kind, ids=80, kept=0):
    """Return the bytes of all sizes of so many ids; of nested ones the widest holds the others."""
    floats = sum(DIMS) if kind == "sizes" else DIMS[-1]
    return ids * floats * (4 + kept)


def make(share, kind="sizes", optimizer=None, **options):
    """Return grants of a share of the bytes that all rows of 80 ids would take."""
    embedding = embedding_of(kind)
    if optimizer is not None:
        optimizer = optimizer([*embedding.stored("table_0"), *embedding.stored("table_1")])
    return Grants(embedding, share * bytes_of_all(kind), optimizer=optimizer, **options)


def feed(grants, column_pairs, beside=0, keys_of=None):
    ids = torch.tensor(column_pairs)
    seen = [max(n, int(ids[:, f].max()) + 1) for f, n in enumerate(grants.num_ids)]
    plans = dict(zip(TABLES, distinct_columns(ids), strict=True))
    num_ids = dict(zip(TABLES, seen, strict=True))
    grants.update(plans, num_ids, len(ids), beside, keys_of)


def keys_by_row(table, rows):
    return id_keys(rows.numpy(), 0, table)


batches = st.lists(
    st.lists(st.tuples(st.integers(0, 39), st.integers(0, 39)), min_size=2, max_size=12),
    min_size=1, max_size=12,
)  # fmt: skip


def counted(grants):
    """Return the bytes of rows that ids own, and of what is kept of them, one by one."""
    rows = kept = 0
    for f in range(len(TABLES)):
        for n, width in enumerate(DIMS):
            arena = grants.embedding.arena(f, n)
            owners = int((grants.embedding.places(f, n) > 0).sum())
            rows += owners * 4 * width
            if grants.optimizer is not None:
                state = grants.optimizer.kept(arena.rows, torch.arange(owners))
                kept += sum(value.nbytes for value in state.values())
    return rows, kept


mixes = torch.rand(2, 40, 3, generator=torch.Generator().manual_seed(0)).softmax(2)


def mix_of(rows):
    return {table: mixes[TABLES.index(table)][own] for table, own in rows.items()}


@every_kind
@settings(max_examples=60, deadline=None)
@given(
    stream=batches,
    share=st.floats(0.01, 1),
    worth=st.sampled_from(["traffic", "controller", "both"]),
    optimizer=st.sampled_from([None, *(kind.rows for kind in OPTIMIZERS.values())]),
    data=st.data(),
)
def test_rows_never_exceed_the_limit(kind, stream, share, worth, optimizer, data):
    one = make(share, kind, optimizer, worth=worth, mix_of=mix_of)
    for batch in stream:
        beside = data.draw(st.integers(0, 1500))  # what rows must give way to
        feed(one, batch, beside)
        assert one.limit == max(0, int(one.budget) - beside)
        assert one.bytes() == counted(one)
        assert sum(one.bytes()) <= one.limit
        # Nobody beyond the ids seen owns anything.
        for field, ids in enumerate(one.num_ids):
            assert not one.embedding.slots(field)[ids:].any()


@every_kind
@given(stream=batches, share=st.floats(0.01, 1))
def test_a_share_is_of_the_papers_rows_of_all_ids_that_were_seen(kind, stream, share):
    one = Grants(embedding_of(kind), share)
    for batch in stream:
        feed(one, batch, beside=77)
        seen = sum(one.num_ids)
        assert one.limit == pytest.approx(max(0, share * 8 * 146 * seen - 77), abs=1)
        if one.limit >= bytes_of_all(kind, seen) / grants.FILL:  # there is room for everything
            ids = sorted({pair[0] for pair in batch})
            assert one.embedding.owned(0, torch.tensor(ids)).all()


@every_kind
def test_a_share_of_wider_sizes_is_of_their_sum(kind):
    one = Grants(embedding_of(kind, dims=(100, 200)), 0.5)
    feed(one, [[3, 0], [1, 2]])
    assert one.limit == 0.5 * 8 * 300 * 7


@every_kind
@given(stream=batches)
def test_with_the_bytes_of_all_sizes_ids_of_the_batch_own_something(kind, stream):
    one = make(1.0, kind)
    for batch in stream:
        last = [max(n, 1 + max(p[f] for p in batch)) for f, n in enumerate(one.num_ids)]
        one.budget = bytes_of_all(kind, sum(last))
        feed(one, batch)
        for field in range(2):
            ids = sorted({pair[field] for pair in batch})
            owns = one.embedding.owned(field, torch.tensor(ids)).any(1)
            assert owns.float().mean() >= 0.5


def widths(grants, field=0):
    """Return the floats that every id owns."""
    own = grants.embedding.owned(field, slice(None)) * torch.tensor(DIMS)
    return own.amax(1) if grants.embedding.nested else own.sum(1)


@every_kind
def test_the_popular_own_more(kind):
    one = make(0.3, kind)
    random = np.random.default_rng(0)
    counts = torch.zeros(40)
    for _ in range(60):
        users = np.minimum(random.geometric(0.1, 20) - 1, 39)
        counts += torch.from_numpy(np.bincount(users, minlength=40))
        feed(one, np.stack([users, random.integers(0, 40, 20)], 1).tolist())
    assert rank_correlation(counts, widths(one)) > 0.7


@every_kind
def test_who_fades_loses_rows_to_who_comes(monkeypatch, kind):
    monkeypatch.setattr(grants, "HALF_LIFE", 50)
    one = make(0.1, kind)
    for _ in range(20):
        feed(one, [[i % 5, i % 5] for i in range(20)])
    early = widths(one)
    assert early[:5].sum() > 0
    for _ in range(40):
        feed(one, [[20 + i % 5, 20 + i % 5] for i in range(20)])
    late = widths(one)
    assert late[20:25].sum() > late[:5].sum()
    assert late[:5].sum() < early[:5].sum()


@every_kind
@pytest.mark.parametrize("worth", ["traffic", "controller", "both"])
def test_the_controllers_mix_counts_where_it_shall(kind, worth):
    mix, calls = torch.zeros(40, 3), []
    mix[:20] = torch.tensor([0.98, 0.01, 0.01])
    mix[20:] = torch.tensor([0.01, 0.01, 0.98])

    def given(rows):
        calls.append(rows)
        return {table: mix[own] for table, own in rows.items()}

    one = make(0.7, kind, worth=worth, mix_of=given)
    for _ in range(30):
        feed(one, [[i, i] for i in range(40)])
    widest = one.embedding.owned(0, slice(None))[:, 2]
    assert bool(calls) == (worth != "traffic")
    if worth != "traffic":
        assert widest[20:].sum() > widest[:20].sum()


@every_kind
@pytest.mark.parametrize("worth", ["controller", "both"])
def test_without_a_controller_traffic_decides(kind, worth):
    one, other = make(0.3, kind, worth=worth, mix_of=lambda rows: None), make(0.3, kind)
    for number in range(10):
        batch = [[(3 * i) % (4 + 3 * number), i % 7] for i in range(12)]
        feed(one, batch)
        feed(other, batch)
        for field in range(2):
            slots = [own.embedding.slots(field) for own in (one, other)]
            assert torch.equal(*slots)


def alone(budget, kind, ids=4):
    """Return grants of one table whose only size is one float wide: of four bytes."""
    return Grants(embedding_of(kind, [ids], (1,), ["user"]), budget)


def owners(grants):
    return grants.embedding.owned(0, slice(None))[:, 0].nonzero().flatten().tolist()


def show(grants, *ids):
    grants.update({"user": distinct(torch.tensor(ids))}, {"user": 4}, len(ids))


@every_kind
def test_a_row_changes_hands_only_for_a_good_reason(monkeypatch, kind):
    monkeypatch.setattr(grants, "FILL", 1.0)
    one = alone(4, kind)  # one row
    show(one, *[0] * 20, 1, 2, 3)
    assert owners(one) == [0]
    show(one, *[1] * 22)  # 23 events against 20: more, but not by a quarter
    assert owners(one) == [0]
    show(one, *[1] * 3)
    assert owners(one) == [0]  # it is not time yet
    show(one, 1, 2)
    assert owners(one) == [1]


@every_kind
def test_in_between_nothing_goes_to_who_is_worth_less_than_those_left_out(monkeypatch, kind):
    monkeypatch.setattr(grants, "EVENTS_PER_ID", 100)
    one = alone(8, kind)
    one.ranked_at = -400  # so that the first batch is ranked
    show(one, *[0] * 9, *[1] * 7, *[2] * 5, 3)
    assert owners(one) == [0]  # FILL leaves the second row for newcomers
    assert one.price == pytest.approx(7 / 4)  # a byte
    show(one, 3)
    assert owners(one) == [0]
    show(one, 2, 2, 2)
    assert owners(one) == [0, 2]


@every_kind
def test_all_ids_are_ranked_in_proportion_to_their_number(monkeypatch, kind):
    one = make(0.3, kind)
    ranked = []
    rank = one._rank_all
    monkeypatch.setattr(one, "_rank_all", lambda: (ranked.append(one.now), rank()))
    for _ in range(200):
        feed(one, [[39, 39], [0, 0]])
    assert ranked == [80, 160, 240, 320, 400]  # an event for each of 80 ids


@every_kind
def test_who_owned_too_much_is_ranked_at_once(kind):
    one = make(0.5, kind)
    for _ in range(5):
        feed(one, [[i, i] for i in range(40)])
    before = sum(one.bytes())
    beside = int(one.budget - before / 2)
    feed(one, [[0, 0]], beside)
    assert 0 < sum(one.bytes()) <= before / 2
    feed(one, [[0, 0]], beside=10**6)
    assert (one.limit, one.bytes()) == (0, (0, 0))


@every_kind
def test_ids_without_events_own_nothing(kind):
    one = make(1.0, kind)
    plans = dict(zip(TABLES, distinct_columns(torch.tensor([[3, 4], [3, 5]])), strict=True))
    one.update(plans, {"user": 40, "item": 40}, 2)
    assert widths(one).nonzero().flatten().tolist() == [3]
    assert widths(one, 1).nonzero().flatten().tolist() == [4, 5]


@every_kind
def test_every_row_that_is_granted_is_reset(monkeypatch, kind):
    one = make(0.2, kind, RowAdagrad)
    given, reset = [], []
    take, inner = Arena.take, one.optimizer.reset

    def watched(arena, count):
        rows = take(arena, count)
        given.append((id(arena.rows), rows.tolist()))
        return rows

    def watched_reset(parameter, rows):
        reset.append((id(parameter), rows.tolist()))
        inner(parameter, rows)

    monkeypatch.setattr(Arena, "take", watched)
    monkeypatch.setattr(one.optimizer, "reset", watched_reset)
    for start in range(0, 80, 4):
        feed(one, [[(start + i % 4) % 40, (start + i % 4) % 40] for i in range(12)])
    assert given == reset
    assert len(given) > 10


@every_kind
def test_what_is_granted_is_drawn_from_the_id(kind):
    one = make(1.0, kind)
    feed(one, [[i, i] for i in range(0, 40, 3)], keys_of=keys_by_row)
    ids = torch.arange(0, 40, 3)
    for field, table in enumerate(TABLES):
        drawn = one.embedding.drawn(field, keys_by_row(table, ids))
        values = one.embedding.rows_of_table(f"table_{field}", ids)
        has = values != 0
        assert has.any(1).float().mean() >= 0.5
        assert torch.equal(values[has], drawn[has])


@every_kind
def test_what_is_owned_is_worth_more_than_its_like(kind):
    one = make(0.3, kind)
    for _ in range(4):  # after the second and the fourth all are ranked
        feed(one, [[i, i] for i in range(40)])
    before = one.embedding.owned(0, slice(None)).clone()
    assert before.any()
    for _ in range(10):  # all alike again and again
        feed(one, [[i, i] for i in range(40)])
    after = one.embedding.owned(0, slice(None))
    assert (before & after).sum() / before.sum() > 0.9


@every_kind
@pytest.mark.parametrize("budget", [0, -0.5, -1000, float("nan")])
def test_a_budget_out_of_range_is_refused(kind, budget):
    with pytest.raises(ValueError, match="budget must be a share"):
        Grants(embedding_of(kind), budget)


@every_kind
def test_what_an_optimiser_keeps_leaves_less_for_rows(kind):
    found = {}
    for optimizer in (RowSGD, RowAdagrad):
        one = make(0.4, kind, optimizer)
        for _ in range(10):
            feed(one, [[i, i] for i in range(40)])
        found[optimizer] = one.embedding.floats
        rows, kept = one.bytes()
        assert (rows, kept) == (4 * one.embedding.floats, rows if optimizer is RowAdagrad else 0)
    assert found[RowAdagrad] < 0.6 * found[RowSGD]


# All or nothing


def all_of(grants):
    """Return what grants and slots are, the rows that ids own and what is kept of these."""
    embedding, state = grants.embedding, grants.state_dict()
    # As long as the slots, which nobody else needs to know.
    state["traffic"] = [torch.cat([x, x.new_full((40 - len(x),), -torch.inf)])
                        for x in state["traffic"]]  # fmt: skip
    found = {"state": state, "kept": []}

    def note(arena, rows, _values):
        found["kept"].append(grants.optimizer.kept(arena, rows))

    for field in range(len(TABLES)):
        every = torch.arange(40)
        found[f"slots {field}"] = embedding.slots(field)
        found[f"rows {field}"] = embedding.rows_of_table(f"table_{field}", every).detach()
        embedding.update_rows(f"table_{field}", every, found[f"rows {field}"], note)
        for size in range(len(DIMS)):
            found[f"free {field} {size}"] = sorted(embedding.arena(field, size)._free)
    return copy.deepcopy(found)


def failing(one, patch, at):
    """Let the call number ``at`` of what changes who owns what fail; return the calls."""
    assign, calls = one.embedding.assign, []

    def watched(*args):
        calls.append(args)
        if len(calls) == at:
            raise RuntimeError("no memory")
        return assign(*args)

    patch.setattr(one.embedding, "assign", watched)
    return calls


def fail(*_):
    raise RuntimeError("no memory")


@every_kind
@pytest.mark.parametrize("optimizer", [RowAdagrad, OPTIMIZERS["rowwise-adagrad"].rows])
@pytest.mark.parametrize("budget", [0.1, 0.3, 1.0])
def test_an_update_that_fails_changes_nothing(changes, monkeypatch, budget, kind, optimizer):
    monkeypatch.setattr(grants, "HALF_LIFE", 30)
    monkeypatch.setattr(grants, "EVENTS_PER_ID", 0.3)
    one, failed, lost = make(budget, kind, optimizer), 0, 0
    random = np.random.default_rng(0)
    for number in range(30):  # whose ids fade, and others come
        batch = (random.integers(0, 8, (12, 2)) + number % 32).tolist()
        before = all_of(one)
        with monkeypatch.context() as patch:
            patch.setattr(one, "_grant_some", fail)
            with pytest.raises(RuntimeError, match="no memory"):
                feed(one, batch, keys_of=keys_by_row)
        assert changes(all_of(one), before) == []
        for at in itertools.count(1):
            with monkeypatch.context() as patch:
                calls = failing(one, patch, at)
                try:
                    feed(one, batch, keys_of=keys_by_row)
                except RuntimeError:
                    assert changes(all_of(one), before) == []
                    failed += len(calls) > 1
                    continue
            break
        assert changes(all_of(one), before)
        for field in range(2):
            had = torch.as_tensor(before[f"slots {field}"]) != 0
            lost += int((had & (one.embedding.slots(field) == 0)).sum())
            rows = torch.arange(one.num_ids[field])  # learn something to be lost
            grad = torch.from_numpy(random.normal(size=(len(rows), one.embedding.row_width)))
            name = f"table_{field}"
            one.embedding.update_rows(name, rows, grad.float(), one.optimizer.update)
    assert failed > 10
    assert budget == 1 or lost > 20  # rows went to others


@every_kind
def test_grants_go_on_from_a_saved_state(kind):
    one, other = make(0.3, kind), make(0.3, kind)
    random = np.random.default_rng(0)
    stream = [random.integers(0, 4 + 3 * number, (10, 2)).tolist() for number in range(12)]
    for batch in stream[:6]:
        feed(one, batch)
    other.embedding.load_state_dict(copy.deepcopy(one.embedding.state_dict()))
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    for batch in stream[6:]:
        feed(one, batch)
        feed(other, batch)
        assert (one.limit, one.price, one.bytes()) == (other.limit, other.price, other.bytes())
        for field in range(2):
            slots = [own.embedding.slots(field) for own in (one, other)]
            assert torch.equal(*slots)


# In a learner

#: Options of a learner in which not everybody owns everything: of either kind of rows.
SCARCE = {
    "sizes": {"budget": 0.06, "norm": "running", "optimizer": "adagrad"},
    "nested": NESTED | {"budget": 0.054},
}


@pytest.fixture(params=SCARCE)
def learner(request, make_learner):
    """Return a function that builds a learner that keeps within a budget."""

    def make(**options):
        return make_learner("autoemb", **SCARCE[request.param] | {"dims": DIMS} | options)

    return make


def stream(batches, size=20):
    random = np.random.default_rng(0)
    for number in range(batches):
        users, items = (random.integers(0, 5 + 4 * number, size) for _ in range(2))
        label = torch.from_numpy(random.integers(0, 2, size)).float()
        yield Batch({"user": users, "item": items}, label=label)


def is_within(learner):
    """Whether all that ids own is within the budget, and rows within what it leaves them."""
    most = learner.grants.budget * 8 * 146 * sum(learner.num_ids().values())
    rows = sum(learner.grants.bytes())
    return rows <= learner.grants.limit and (rows == 0 or sum(owned(learner).values()) <= most)


def share_owned(learner):
    """Return the share of all sizes of all ids that is owned."""
    embedding = learner.grants.embedding
    counts = [n for table, n in learner.num_ids().items() if table in embedding.reading.tables]
    own = [embedding.owned(f, slice(n)).float().mean() for f, n in enumerate(counts)]
    return float(torch.stack(own).mean())


def test_a_learner_stays_within_the_budget_and_learns(learner):
    one = learner()
    for batch in stream(30):
        one.learn(batch)
        assert is_within(one)
    assert 0.15 < share_owned(one) < 0.95
    embedding = one.grants.embedding
    assert all(
        (embedding.rows_of_table(n, torch.arange(9)) != 0).any() for n in embedding.row_tables
    )
    assert not any(arena.rows[0].any() for arena in embedding.arenas)


@pytest.mark.parametrize("worth", ["controller", "both"])
def test_a_learner_whose_controller_says_who_gets_bytes_stays_within_them(learner, worth):
    one, other = learner(worth=worth), learner()
    for batch in stream(20):
        one.learn(batch)
        other.learn(batch)
        assert is_within(one)
    assert share_owned(one) > 0.1
    slots = [[own.grants.embedding.slots(f).tolist() for f in range(2)] for own in (one, other)]
    assert slots[0] != slots[1]


def test_a_learner_stays_within_so_many_bytes(learner):
    one, shares = learner(budget=12_000.0), []
    for batch in stream(40):
        one.learn(batch)
        rows = sum(one.grants.bytes())
        assert rows == 0 or sum(owned(one).values()) <= 12_000
        shares.append(share_owned(one))
    assert max(shares[:10]) > 0.5
    assert shares[-1] == 0  # all are needed to know who there is
    assert any(0.05 < share < 0.95 for share in shares[10:])


@pytest.mark.parametrize("late", [{"learn_chunk": 7}, {"label_delay": 30.0, "learn_chunk": 9}])
def test_a_learner_whose_network_learns_later_stays_within_the_budget(learner, late):
    one = learner(**late)
    for number, batch in enumerate(stream(20)):
        one.learn(replace(batch, timestamp=np.arange(20) + 20 * number))
        assert is_within(one)
    assert share_owned(one) > 0.15


def test_features_that_share_a_table_and_bags_share_its_budget(learner, make_batches):
    one = learner(kind="shapes")
    for batch in make_batches(12, kind="shapes"):
        step = one.learn(batch)
        assert is_within(one)
    assert step.losses.isfinite().all()
    assert [*one.num_ids()] == ["user", "item", "words"]
    assert all(one.grants.embedding.owned(field, slice(None)).any() for field in range(3))


def test_predictions_do_not_depend_on_the_batchs_labels(learner):
    logits = []
    for flip in (False, True):
        one = learner()
        batches = [*stream(6)]
        if flip:
            batches[-1] = replace(batches[-1], label=1 - batches[-1].label)
        logits.append([one.learn(batch).outcome.logits for batch in batches])
    assert all(torch.equal(a, b) for a, b in zip(*logits, strict=True))


def test_rows_that_change_hands_are_forgotten_by_the_optimiser(learner, monkeypatch):
    monkeypatch.setattr(grants, "HALF_LIFE", 60)
    one = learner(optimizer="adam", budget=0.08)
    changed = 0
    for batch in stream(20):
        before = [one.grants.embedding.slots(field).clone() for field in range(2)]
        one.learn(batch)
        after = one.grants.embedding
        changed += sum(
            int((own != 0).ne(after.slots(field)[: len(own)] != 0).sum())
            for field, own in enumerate(before)
        )
    embedding, optimizer = one.grants.embedding, one.grants.optimizer
    assert changed > 10
    assert optimizer is one.trainer.model.row_optimizer
    # Every row in use was updated at most as often as its id has been seen.
    for field, table in enumerate(TABLES):
        for size in range(3):
            places = embedding.places(field, size)
            (ids,) = (places > 0).nonzero(as_tuple=True)
            arena = embedding.arena(field, size)
            steps = optimizer.kept(arena.rows, places[ids].long())["step"].flatten()
            assert (steps <= one.history.count(table, ids)).all()


@pytest.mark.parametrize("initial_rows", [4, 64])
def test_a_learner_is_restored_to_the_last_bit(learner, initial_rows):
    batches = [*stream(12)]
    whole, first = learner(), learner()
    expected = [whole.learn(batch).outcome.logits for batch in batches]
    for batch in batches[:7]:
        first.learn(batch)
    resumed = learner(initial_rows=initial_rows)
    for batch in batches[3:5]:  # something to be replaced
        resumed.learn(batch)
    resumed.load_state_dict(first.state_dict())
    for batch, wanted in zip(batches[7:], expected[7:], strict=True):
        assert torch.equal(resumed.learn(batch).outcome.logits, wanted)
    for field in range(2):
        slots = resumed.grants.embedding.slots(field), whole.grants.embedding.slots(field)
        assert torch.equal(*slots)
