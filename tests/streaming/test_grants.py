"""Grants within a budget while a stream runs."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autoemb import BilevelTrainer, Controller, RatingModel, task_for
from autoemb.lab.ranks import rank_correlation
from autoemb.nn.granted import GrantedEmbedding
from autoemb.ops import distinct_columns
from autoemb.schema import STARS
from autoemb.streaming import Events, InteractionState, Reservoir, StreamLearner, grants
from autoemb.streaming.grants import Grants

DIMS = (1, 2, 4)


def make(budget, ids=(40, 40)):
    torch.manual_seed(0)
    embedding = GrantedEmbedding(ids, DIMS, norm="running")
    state = InteractionState(len(ids), len(DIMS))
    state.grow(list(ids))
    return Grants(embedding, state, budget, reset=lambda parameter, rows: None)


def feed(grants, column_pairs):
    ids = torch.tensor(column_pairs)
    seen = [max(n, int(ids[:, f].max()) + 1) for f, n in enumerate(grants.num_ids)]
    grants.update(distinct_columns(ids), seen)


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


def test_the_controllers_weights_count():
    one = make(0.4)
    state = one.state.fields[0]
    state.weights[:20] = torch.tensor([0.98, 0.01, 0.01])
    state.weights[20:] = torch.tensor([0.01, 0.01, 0.98])
    for _ in range(30):
        feed(one, [[i, i] for i in range(40)])
    widest = one.embedding.slots(0)[:, 2] > 0
    assert widest[20:].sum() > widest[:20].sum()


def alone(budget, ids=4):
    """Return grants of one field whose only size is one float wide."""
    embedding = GrantedEmbedding([ids], (1,), norm="running")
    state = InteractionState(1, 1)
    state.grow([ids])
    return Grants(embedding, state, budget, reset=lambda parameter, rows: None)


def owners(grants):
    return (grants.embedding.slots(0)[:, 0] > 0).nonzero().flatten().tolist()


def show(grants, *ids):
    grants.update(distinct_columns(torch.tensor([[i] for i in ids])), [4])


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
    one.update(distinct_columns(torch.tensor([[3, 4], [3, 5]])), [40, 40])
    assert widths(one).nonzero().flatten().tolist() == [3]
    assert widths(one, 1).nonzero().flatten().tolist() == [4, 5]


def test_every_row_that_is_granted_is_reset(monkeypatch):
    one = make(0.2)
    given, reset = [], []
    grant = one.embedding.grant

    def watched(field, ids, size):
        rows = grant(field, ids, size)
        given.append((field, size, rows.tolist()))
        return rows

    monkeypatch.setattr(one.embedding, "grant", watched)
    names = {id(one.embedding.arena(f, n)): (f, n) for f in range(2) for n in range(3)}
    one.reset = lambda parameter, rows: reset.append((*names[id(parameter)], rows.tolist()))
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


def learner(budget=0.3):
    torch.manual_seed(0)
    state = InteractionState(2, 3)
    embedding = GrantedEmbedding([4, 4], DIMS, norm="running")
    model = RatingModel(embedding, hidden=(6,))
    controller = Controller(2, 3, state.num_features, hidden=(6,))
    trainer = BilevelTrainer(
        model, controller, loss=task_for("regression", STARS).loss, features=state.features,
        learning_rate=0.01,
    )  # fmt: skip
    given = Grants(embedding, state, budget, trainer.reset_rows)
    return StreamLearner(trainer, [model, controller], state, Reservoir(100), grants=given)


def stream(batches, size=20):
    random = np.random.default_rng(0)
    for number in range(batches):
        users, items = (random.integers(0, 5 + 4 * number, size) for _ in range(2))
        label = torch.from_numpy(random.integers(0, 2, size)).float()
        yield Events([users, items], label, np.arange(size))


def test_a_learner_stays_within_the_budget_and_learns():
    one = learner()
    for events in stream(20):
        one.learn(events)
        assert one.grants.embedding.floats <= one.grants.limit
    ids = sum(map(len, one.id_tables))
    assert one.grants.embedding.floats > 0.15 * ids * 7
    assert (one.grants.embedding.arena(0, 0).detach()[1:] != 0).any()
    assert all(not one.grants.embedding.arena(f, n)[0].any() for f in range(2) for n in range(3))


def test_predictions_do_not_depend_on_the_batchs_labels():
    logits = []
    for flip in (False, True):
        one = learner()
        batches = [*stream(6)]
        if flip:
            batches[-1] = batches[-1]._replace(label=1 - batches[-1].label)
        logits.append([one.learn(events).outcome.logits for events in batches])
    assert all(torch.equal(a, b) for a, b in zip(*logits, strict=True))


def test_rows_that_change_hands_are_forgotten_by_the_optimiser():
    one = learner()
    for events in stream(20):
        one.learn(events)
    embedding, optimizer = one.grants.embedding, one.trainer._model.row_optimizer
    # Every row in use was updated at most as often as its id has been seen.
    for field in range(2):
        for size in range(3):
            steps = optimizer.state[embedding.arena(field, size)]["step"].flatten()
            slots = embedding.slots(field)[:, size].long()
            (ids,) = (slots > 0).nonzero(as_tuple=True)
            assert (steps[slots[ids]] <= one.state.count(field, ids)).all()


def test_a_learner_is_restored_to_the_last_bit():
    batches = [*stream(12)]
    whole, first = learner(), learner()
    torch.manual_seed(1)
    expected = [whole.learn(events).outcome.logits for events in batches]
    torch.manual_seed(1)
    for events in batches[:7]:
        first.learn(events)
    saved = first.state_dict()
    resumed = learner()
    resumed.load_state_dict(saved)
    for events, wanted in zip(batches[7:], expected[7:], strict=True):
        assert torch.equal(resumed.learn(events).outcome.logits, wanted)
    for field in range(2):
        assert torch.equal(
            resumed.grants.embedding.slots(field), whole.grants.embedding.slots(field)
        )
