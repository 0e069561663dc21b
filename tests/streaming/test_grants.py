"""Grants within a budget while a stream runs."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autoemb import Batch
from autoemb.lab.ranks import rank_correlation
from autoemb.nn.granted import GrantedEmbedding
from autoemb.ops import distinct, distinct_columns
from autoemb.optim import RowAdagrad
from autoemb.streaming import History, grants
from autoemb.streaming.grants import Grants

DIMS, TABLES = (1, 2, 4), ("user", "item")


def make(budget, ids=(40, 40), optimizer=None):
    torch.manual_seed(0)
    embedding = GrantedEmbedding(ids, DIMS, norm="running", features=TABLES)
    history = History(TABLES, len(DIMS))
    history.grow(dict(zip(TABLES, ids, strict=True)))
    if optimizer is not None:
        optimizer = optimizer([*embedding.stored("table_0"), *embedding.stored("table_1")])
    return Grants(embedding, history, budget, optimizer)


def feed(grants, column_pairs):
    ids = torch.tensor(column_pairs)
    seen = [max(n, int(ids[:, f].max()) + 1) for f, n in enumerate(grants.num_ids)]
    plans = dict(zip(TABLES, distinct_columns(ids), strict=True))
    return grants.update(plans, dict(zip(TABLES, seen, strict=True)), len(ids))


batches = st.lists(
    st.lists(st.tuples(st.integers(0, 39), st.integers(0, 39)), min_size=2, max_size=12),
    min_size=1, max_size=12,
)  # fmt: skip


@given(batches, st.floats(0.01, 1))
def test_rows_never_exceed_the_budget(stream, budget):
    one = make(budget)
    for batch in stream:
        feed(one, batch)
        assert one.embedding.floats <= one.limit
        assert one.limit <= budget * sum(one.num_ids) * 7
        # Nobody beyond the ids seen owns anything.
        for field, ids in enumerate(one.num_ids):
            assert not one.embedding.slots(field)[ids:].any()


@given(batches)
def test_with_the_whole_budget_ids_of_the_batch_own_something(stream):
    one = make(1.0)
    for batch in stream:
        feed(one, batch)
        for field in range(2):
            ids = sorted({pair[field] for pair in batch})
            assert (one.embedding.slots(field)[ids] > 0).any(1).float().mean() >= 0.5


def widths(grants, field=0):
    return ((grants.embedding.slots(field) > 0) * torch.tensor(DIMS)).sum(1)


def test_the_popular_own_more():
    one = make(0.3)
    random = np.random.default_rng(0)
    counts = torch.zeros(40)
    for _ in range(60):
        users = np.minimum(random.geometric(0.1, 20) - 1, 39)
        counts += torch.from_numpy(np.bincount(users, minlength=40))
        feed(one, np.stack([users, random.integers(0, 40, 20)], 1).tolist())
    assert rank_correlation(counts, widths(one)) > 0.7


def test_who_fades_loses_rows_to_who_comes(monkeypatch):
    monkeypatch.setattr(grants, "HALF_LIFE", 50)
    one = make(0.2)
    for _ in range(20):
        feed(one, [[i % 5, i % 5] for i in range(20)])
    early = widths(one)
    assert early[:5].sum() > 0
    for _ in range(40):
        feed(one, [[20 + i % 5, 20 + i % 5] for i in range(20)])
    late = widths(one)
    assert late[20:25].sum() > late[:5].sum()
    assert late[:5].sum() < early[:5].sum()


def test_the_controllers_mix_counts():
    one = make(0.4)
    history = one.history.tables["user"]
    history.mix[:20] = torch.tensor([0.98, 0.01, 0.01])
    history.mix[20:] = torch.tensor([0.01, 0.01, 0.98])
    for _ in range(30):
        feed(one, [[i, i] for i in range(40)])
    widest = one.embedding.slots(0)[:, 2] > 0
    assert widest[20:].sum() > widest[:20].sum()


def alone(budget, ids=4):
    """Return grants of one table whose only size is one float wide."""
    embedding = GrantedEmbedding([ids], (1,), norm="running", features=["user"])
    history = History(["user"], 1)
    history.grow({"user": ids})
    return Grants(embedding, history, budget)


def owners(grants):
    return (grants.embedding.slots(0)[:, 0] > 0).nonzero().flatten().tolist()


def show(grants, *ids):
    grants.update({"user": distinct(torch.tensor(ids))}, {"user": 4}, len(ids))


def test_a_row_changes_hands_only_for_a_good_reason(monkeypatch):
    monkeypatch.setattr(grants, "FILL", 1.0)
    one = alone(0.25)  # of four ids: one row
    show(one, *[0] * 20, 1, 2, 3)
    assert owners(one) == [0]
    show(one, *[1] * 22)  # 23 events against 20: more, but not by a quarter
    assert owners(one) == [0]
    show(one, *[1] * 3)
    assert owners(one) == [1]


def test_in_between_nothing_goes_to_who_is_worth_less_than_those_left_out(monkeypatch):
    monkeypatch.setattr(grants, "EVENTS_PER_ID", 100)
    one = alone(0.5)
    one.ranked_at = -400  # so that the first batch is ranked
    show(one, *[0] * 9, *[1] * 7, *[2] * 5, 3)
    assert owners(one) == [0]  # FILL leaves the second row for newcomers
    assert one.price == pytest.approx(7)
    show(one, 3)
    assert owners(one) == [0]
    show(one, 2, 2, 2)
    assert owners(one) == [0, 2]


def test_all_ids_are_ranked_in_proportion_to_their_number(monkeypatch):
    one = make(0.3)
    ranked = []
    rank = one._rank_all
    monkeypatch.setattr(one, "_rank_all", lambda: (ranked.append(one.now), rank()))
    for _ in range(20):
        feed(one, [[39, 39], [0, 0]])
    assert ranked == [2 * k for k in range(1, 21) if 2 * k % 20 == 0]  # 0.25 x 80 events


def test_ids_without_events_own_nothing():
    one = make(1.0)
    plans = dict(zip(TABLES, distinct_columns(torch.tensor([[3, 4], [3, 5]])), strict=True))
    one.update(plans, {"user": 40, "item": 40}, 2)
    assert widths(one).nonzero().flatten().tolist() == [3]
    assert widths(one, 1).nonzero().flatten().tolist() == [4, 5]


def test_every_row_that_is_granted_is_reset(monkeypatch):
    one = make(0.2, optimizer=RowAdagrad)
    given, reset = [], []
    grant = one.embedding.grant

    def watched(field, ids, size):
        rows = grant(field, ids, size)
        given.append((field, size, rows.tolist()))
        return rows

    monkeypatch.setattr(one.embedding, "grant", watched)
    names = {id(one.embedding.arena(f, n)): (f, n) for f in range(2) for n in range(3)}
    inner = one.optimizer.reset

    def watched_reset(parameter, rows):
        reset.append((*names[id(parameter)], rows.tolist()))
        inner(parameter, rows)

    monkeypatch.setattr(one.optimizer, "reset", watched_reset)
    for start in range(0, 40, 4):
        feed(one, [[start + i % 4, start + i % 4] for i in range(12)])
    assert given == reset
    assert len(given) > 10


def test_what_is_owned_is_worth_more_than_its_like():
    one = make(0.3)
    feed(one, [[i, i] for i in range(40)])
    before = one.embedding.slots(0).clone()
    for _ in range(10):  # all alike again and again
        feed(one, [[i, i] for i in range(40)])
    after = one.embedding.slots(0)
    kept = ((before > 0) & (after > 0)).sum() / (before > 0).sum()
    assert kept > 0.9


@pytest.mark.parametrize("budget", [0, -0.5, 1.5, float("nan")])
def test_a_budget_out_of_range_is_refused(budget):
    with pytest.raises(ValueError, match="budget must be a share"):
        make(budget)


# Taken back


def all_of(grants):
    """Return what grants and slots are, the rows that ids own and what is kept of these."""
    embedding, state = grants.embedding, grants.state_dict()
    for name in ("traffic", "last"):  # as long as the slots, which nobody else needs to know
        state[name] = [torch.cat([x, x.new_zeros(40 - len(x))]) for x in state[name]]
    found = {"state": state, "kept": []}

    def note(arena, rows, _values):
        kept = grants.optimizer.state[arena]
        found["kept"].append({name: value[rows] for name, value in kept.items()})

    for field in range(len(TABLES)):
        every = torch.arange(40)
        found[f"slots {field}"] = embedding.slots(field)
        found[f"rows {field}"] = embedding.rows_of_table(f"table_{field}", every).detach()
        embedding.update_rows(f"table_{field}", every, found[f"rows {field}"], note)
        for size in range(len(DIMS)):
            found[f"free {field} {size}"] = sorted(embedding._free[field][size])
    return copy.deepcopy(found)


@pytest.mark.parametrize("budget", [0.1, 0.3, 1.0])
def test_an_update_can_be_taken_back_to_the_last_bit(changes, monkeypatch, budget):
    monkeypatch.setattr(grants, "HALF_LIFE", 30)
    one, taken = make(budget, optimizer=RowAdagrad), []
    revoke = one.embedding.revoke

    def watched(field, ids, size):
        taken.append(len(ids))
        revoke(field, ids, size)

    random = np.random.default_rng(0)
    for number in range(40):  # whose ids fade, and others come
        batch = (random.integers(0, 8, (12, 2)) + number % 32).tolist()
        before = all_of(one)
        take_back = feed(one, batch)
        updated = all_of(one)
        assert changes(updated, before)
        take_back()
        assert changes(all_of(one), before) == []
        monkeypatch.setattr(one.embedding, "revoke", watched)
        feed(one, batch)
        monkeypatch.setattr(one.embedding, "revoke", revoke)
        assert changes(all_of(one), updated) == []
        for field, name in enumerate(("table_0", "table_1")):  # learn something to be lost
            rows = torch.arange(one.num_ids[field])
            grad = torch.from_numpy(random.normal(size=(len(rows), sum(DIMS)))).float()
            one.embedding.update_rows(name, rows, grad, one.optimizer.update)
    assert budget == 1 or sum(taken) > 50  # rows went to others


# In a learner


@pytest.fixture
def learner(make_learner):
    """Return a function that builds a learner that keeps within a budget."""

    def make(budget=0.3, **options):
        return make_learner("autoemb", dims=DIMS, budget=budget, norm="running", **options)

    return make


def stream(batches, size=20):
    random = np.random.default_rng(0)
    for number in range(batches):
        users, items = (random.integers(0, 5 + 4 * number, size) for _ in range(2))
        label = torch.from_numpy(random.integers(0, 2, size)).float()
        yield Batch({"user": users, "item": items}, label=label)


def test_a_learner_stays_within_the_budget_and_learns(learner):
    one = learner()
    for batch in stream(20):
        one.learn(batch)
        assert one.grants.embedding.floats <= one.grants.limit
    ids = sum(one.num_ids().values())
    assert one.grants.embedding.floats > 0.15 * ids * 7
    assert (one.grants.embedding.arena(0, 0).detach()[1:] != 0).any()
    assert all(not one.grants.embedding.arena(f, n)[0].any() for f in range(2) for n in range(3))


def test_features_that_share_a_table_and_bags_share_its_budget(learner, make_batches):
    one = learner(kind="shapes")
    for batch in make_batches(12, kind="shapes"):
        step = one.learn(batch)
        assert one.grants.embedding.floats <= one.grants.limit
    assert step.losses.isfinite().all()
    assert [*one.num_ids()] == ["user", "item", "words"]
    assert all((one.grants.embedding.slots(field) > 0).any() for field in range(3))


def test_predictions_do_not_depend_on_the_batchs_labels(learner):
    logits = []
    for flip in (False, True):
        one = learner()
        batches = [*stream(6)]
        if flip:
            batches[-1] = replace(batches[-1], label=1 - batches[-1].label)
        logits.append([one.learn(batch).outcome.logits for batch in batches])
    assert all(torch.equal(a, b) for a, b in zip(*logits, strict=True))


def test_rows_that_change_hands_are_forgotten_by_the_optimiser(learner):
    one = learner(optimizer="adam")
    for batch in stream(20):
        one.learn(batch)
    embedding, optimizer = one.grants.embedding, one.grants.optimizer
    assert optimizer is one.trainer.model.row_optimizer
    # Every row in use was updated at most as often as its id has been seen.
    for field, table in enumerate(TABLES):
        for size in range(3):
            steps = optimizer.state[embedding.arena(field, size)]["step"].flatten()
            slots = embedding.slots(field)[:, size].long()
            (ids,) = (slots > 0).nonzero(as_tuple=True)
            assert (steps[slots[ids]] <= one.history.count(table, ids)).all()


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
