"""What is known of each id, against a loop over events."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoemb import UserError
from autoemb.ops import distinct_columns
from autoemb.streaming import History, checkpoint
from autoemb.streaming.history import (
    LOSS_DECAY,
    POPULARITY_WIDTH,
    encode_popularity,
    popularity_bucket,
)

ROWS, SIZES = {"user": 5, "item": 4}, 3

event = st.tuples(st.integers(0, 4), st.integers(0, 3), st.floats(0, 10, width=32))
stream = st.lists(st.lists(event, min_size=1, max_size=8), max_size=5)


def make_history(sizes=SIZES):
    history = History([*ROWS], sizes)
    history.grow(ROWS)
    return history


def record(history, events, weigh):
    """Record a batch, with the mix that ``weigh`` gives an id."""
    ids = torch.tensor([[user, item] for user, item, _ in events])
    losses = torch.tensor([loss for *_, loss in events])
    for f, (table, plan) in enumerate(zip(ROWS, distinct_columns(ids), strict=True)):
        history.record(table, plan, losses)
        history.give(table, plan, torch.stack([weigh(f, row) for row in plan.rows.tolist()]))


def features_of(history, table, rows):
    return history.features({table: rows})[table]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(stream)
def test_history_is_that_of_a_loop_over_events(batches):
    history = make_history()
    known = [
        [{"count": 0, "last": 0.0, "mean": 0.0, "mix": [1 / SIZES] * SIZES} for _ in range(n)]
        for n in ROWS.values()
    ]
    for number, events in enumerate(batches):

        def weigh(field, row, number=number):
            return torch.softmax(torch.tensor([field, row, number / 2], dtype=torch.float32), 0)

        record(history, events, weigh)
        for *ids, loss in events:
            for field, row in enumerate(ids):
                one = known[field][row]
                decay = LOSS_DECAY if one["count"] else 0.0
                one["mean"] = decay * one["mean"] + (1 - decay) * loss
                one["last"] = loss
                one["count"] += 1
                one["mix"] = weigh(field, row).tolist()
    found = history.features({table: torch.arange(rows) for table, rows in ROWS.items()})
    for field, (table, rows) in enumerate(ROWS.items()):
        every = torch.arange(rows)
        features = found[table]
        counts = [one["count"] for one in known[field]]
        assert features.shape == (rows, history.num_features)
        assert history.count(table, every).tolist() == counts
        last, logarithm, mean = features[:, -3:].T.tolist()
        assert last == [one["last"] for one in known[field]]
        # Single precision: rel covers log1p and the 40 roundings of a mean over 40 events, abs
        # means of losses so small that they have fewer digits.
        near = {"rel": 1e-5, "abs": 1e-30}
        assert logarithm == pytest.approx([math.log1p(count) for count in counts], **near)
        assert mean == pytest.approx([one["mean"] for one in known[field]], **near)
        given = features[:, POPULARITY_WIDTH:-3]
        expected = torch.tensor([one["mix"] for one in known[field]])
        torch.testing.assert_close(given, expected, rtol=1e-6, atol=0)  # Python's 1/3 rounded
        assert torch.equal(features[:, :POPULARITY_WIDTH], encode_popularity(torch.tensor(counts)))


@pytest.mark.parametrize("sizes", [1, 3, 7])
def test_features_are_32_and_the_sizes_and_3_wide(sizes):
    history = make_history(sizes)
    features = features_of(history, "user", torch.tensor([2, 0]))
    assert history.num_features == 32 + sizes + 3
    assert features.shape == (2, 32 + sizes + 3)
    assert features.dtype == torch.float32


def test_rows_come_in_the_order_asked_for():
    history = make_history()
    events = [(3, 1, 0.5), (1, 1, 0.25)]
    record(history, events, lambda field, row: torch.full((SIZES,), float(row)))
    both = features_of(history, "user", torch.tensor([3, 1]))
    assert torch.equal(both.flip(0), features_of(history, "user", torch.tensor([1, 3])))
    assert both[0, POPULARITY_WIDTH:-3].tolist() == [3.0] * SIZES
    assert both[:, -3].tolist() == [0.5, 0.25]


def test_padding_records_no_mix(pad_plans):
    pad_plans()
    history, ids = make_history(), torch.tensor([[4, 0], [2, 0], [2, 0]])
    user, item = distinct_columns(ids)
    mix = torch.tensor([[0.2] * SIZES, [0.4] * SIZES, [float("nan")] * SIZES])
    for table, plan in (("user", user), ("item", item)):
        history.record(table, plan, torch.tensor([0.5, 0.25, 1.0]))
    history.give("user", user, mix)
    history.give("item", item, mix.roll(1, 0).nan_to_num(0.5))  # one row, then padding
    users = features_of(history, "user", torch.tensor([2, 4]))
    assert users[:, 32].tolist() == pytest.approx([0.2, 0.4])
    assert features_of(history, "item", torch.tensor([0]))[0, 32].item() == 0.5
    assert history.count("user", torch.arange(5)).tolist() == [0, 0, 2, 0, 1]


def test_a_method_without_a_mix_records_the_rest():
    history = make_history()
    (plan,) = distinct_columns(torch.tensor([[4], [4]]))
    history.record("user", plan, torch.tensor([0.5, 0.25]))
    assert history.count("user", torch.arange(5)).tolist() == [0, 0, 0, 0, 2]
    features = features_of(history, "user", torch.tensor([4]))[0]
    assert features[POPULARITY_WIDTH:-3].tolist() == pytest.approx([1 / SIZES] * SIZES)
    assert features[-3].item() == 0.25


@pytest.mark.parametrize("bad", [-1, 4, 2**40])
def test_an_id_never_grown_to_is_refused_before_anything_is_recorded(bad):
    history = make_history()
    (plan,) = distinct_columns(torch.tensor([[3], [bad]]))
    with pytest.raises(IndexError, match=str(bad)):
        history.record("item", plan, torch.tensor([0.5, 0.25]))
    assert not any(table.count.any() for table in history.tables.values())


@settings(deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=20))
def test_the_prior_of_the_widest_size_rises_with_popularity_alone(counts):
    history = History(["user"], sizes=3)
    history.grow({"user": len(counts)})
    history.tables["user"].count[:] = torch.tensor(counts)
    history.tables["user"].last_loss.uniform_()
    features = features_of(history, "user", torch.arange(len(counts)))
    logits = features @ history.popularity_prior()
    assert torch.equal(logits[:, :2], torch.zeros(len(counts), 2))
    octaves = torch.log2(1 + history.tables["user"].count.double()).clamp_max(31)
    expected = (1 + 0.4 * octaves).clamp_max(3.4)  # reached at octave 6, where it has its corner
    torch.testing.assert_close(logits[:, 2].double(), expected, rtol=0, atol=1e-5)


def test_an_id_never_seen_has_an_equal_mix_and_no_loss():
    features = features_of(make_history(), "user", torch.tensor([2]))[0].tolist()
    assert features[0] == 1
    assert features[1:POPULARITY_WIDTH] == [0.0] * (POPULARITY_WIDTH - 1)
    assert features[POPULARITY_WIDTH:] == pytest.approx([1 / SIZES] * SIZES + [0, 0, 0])


def test_growth_keeps_what_is_known():
    history = make_history()
    record(history, [(3, 1, 0.5), (1, 1, 0.25)], lambda field, row: torch.full((SIZES,), 0.5))
    every = {table: torch.arange(rows) for table, rows in ROWS.items()}
    before = history.features(every)
    history.grow({"user": 11, "item": 2})
    after = history.features(every)
    assert all(torch.equal(after[table], before[table]) for table in ROWS)
    fresh = features_of(make_history(), "user", torch.tensor([0]))
    assert torch.equal(features_of(history, "user", torch.arange(5, 11)), fresh.expand(6, -1))


# Which events count


@pytest.mark.parametrize("method", ["fse", "autoemb"])
def test_every_time_an_event_holds_an_id_in_a_feature_that_counts(
    make_learner, make_batches, method
):
    learner, batches = make_learner(method, kind="shapes"), make_batches(7, kind="shapes")
    known = {"user": {}, "item": {}, "words": {}}
    for batch in batches:
        before = {table: {i: one["count"] for i, one in k.items()} for table, k in known.items()}
        step = learner.learn(batch)
        for event, loss in enumerate(step.losses.tolist()):
            held = [(name, ids[event]) for name, ids in batch.sparse.items()]
            values, offsets, _ = batch.bags["words"]
            held += [("words", i) for i in values[offsets[event] : offsets[event + 1]]]
            for name, i in held:
                table = "item" if name == "other_item" else name
                one = known[table].setdefault(int(i), {"count": 0, "mean": 0.0})
                decay = LOSS_DECAY if one["count"] else 0.0
                one["mean"] = decay * one["mean"] + (1 - decay) * loss
                one["last"] = loss
                one["count"] += 1
        for name, popularity in step.popularity.items():  # strictly before the batch
            counts = before["item" if name == "other_item" else name]
            ids = batch.sparse[name].tolist()
            assert popularity.tolist() == [counts.get(i, 0) for i in ids]
    basket = {int(i) for batch in batches for i in batch.bags["basket"].values}
    assert basket - known["item"].keys()  # which own rows, but were in no event
    for table, ids in learner.encoder.id_tables.items():
        own = [known[table].get(int(i), {"count": 0, "mean": 0, "last": 0}) for i in ids.ids()]
        found = learner.history.tables[table]
        assert found.count[: len(own)].tolist() == [one["count"] for one in own]
        assert found.last_loss[: len(own)].tolist() == [one["last"] for one in own]
        # One rounding to float32 an event.
        mean = [one["mean"] for one in own]
        assert found.mean_loss[: len(own)].tolist() == pytest.approx(mean, rel=1e-5)


def test_ids_that_count_nowhere_keep_the_mix_they_were_given(make_learner, make_batches):
    learner, batches = make_learner(kind="shapes"), make_batches(5, kind="shapes")
    for batch in batches:
        mix = learner.learn(batch).outcome.mix["item"]
    rows = learner.encoder.id_tables["item"].rows(batches[-1].bags["basket"].values, insert=False)
    plan = learner.encoder.numbers(batches[-1], insert=False)
    own = sorted({*rows, *plan["item"], *plan["other_item"]})
    assert torch.equal(learner.history.tables["item"].mix[own], mix)


# Popularity


def octave(count):
    return math.log2(1 + count)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(0, 2**31 - 2) | st.integers(0, 100))
def test_the_encoding_shares_one_between_two_octaves(count):
    code = encode_popularity(torch.tensor([count]))[0]
    assert code.shape == (32,)
    below = math.floor(octave(count))
    share = octave(count) - below
    expected = torch.zeros(32, dtype=torch.float64)
    expected[below] = 1 - share
    if share:
        expected[below + 1] = share
    # Two roundings to float32 of numbers up to 1.
    assert (code.double() - expected).abs().max() <= 2**-23
    assert abs(code.double().sum().item() - 1) <= 2**-23


def test_the_encoding_is_continuous():
    # Between neighbours the octave moves by at most 1 / (ln 2 (1 + count)), and so do two of the
    # 32 numbers; twice 2^-23 for rounding.
    for start in (0, 1, 7, 100, 1023, 10**6, 2**30 - 1):
        count = torch.arange(start, start + 3)
        step = encode_popularity(count).double().diff(dim=0).abs().max(1).values
        allowed = 1 / (math.log(2) * (1 + count[:-1].double())) + 2**-22
        assert (step <= allowed).all()
        assert (step > 0).all() or start > 2**23  # float32 cannot tell neighbours from there on


def test_the_encoding_stays_at_its_end():
    counts = torch.tensor([2**31 - 1, 2**31, 2**40, 2**62])
    expected = [0.0] * 31 + [1.0]
    assert encode_popularity(counts).tolist() == [expected] * 4
    assert popularity_bucket(counts).tolist() == [31] * 4


@pytest.mark.parametrize("bucket", [*range(31)])
def test_a_bucket_goes_from_one_power_of_two_to_the_next(bucket):
    low, high = 2**bucket - 1, 2 ** (bucket + 1) - 2
    assert popularity_bucket(torch.tensor([low, high])).tolist() == [bucket] * 2
    assert popularity_bucket(torch.tensor([high + 1])).tolist() == [bucket + 1]


# Popularity alone

MOST = 2**31 - 1


def counting(device="cpu"):
    history = History([*ROWS], SIZES, device, losses=False)
    history.grow(ROWS)
    return history


@given(stream)
def test_without_losses_popularity_is_all_that_is_known(batches):
    history, whole = counting(), make_history()
    for events in batches:
        ids = torch.tensor([[user, item] for user, item, _ in events])
        losses = torch.tensor([loss for *_, loss in events])
        for table, plan in zip(ROWS, distinct_columns(ids), strict=True):
            history.record(table, plan, losses)
            whole.record(table, plan, losses)
    every = {table: torch.arange(rows) for table, rows in ROWS.items()}
    found = history.features(every)
    assert history.num_features == POPULARITY_WIDTH
    for table, rows in every.items():
        counts = history.count(table, rows)
        assert torch.equal(counts, whole.count(table, rows))
        assert counts.dtype == torch.int64
        assert torch.equal(found[table], whole.features(every)[table][:, :POPULARITY_WIDTH])


def test_without_losses_an_id_takes_four_bytes():
    assert {own.row_bytes for own in counting().tables.values()} == {4}
    assert {own.row_bytes for own in make_history().tables.values()} == {8 + 4 + 4 + 4 * SIZES}


def test_without_losses_none_is_read():
    history, (plan,) = counting(), distinct_columns(torch.tensor([[2], [2]]))
    history.record("user", plan, torch.full((2,), float("nan")))
    history.record("user", plan, torch.zeros(0))
    features = features_of(history, "user", torch.tensor([2]))
    assert torch.equal(features, encode_popularity(torch.tensor([4])))


@pytest.mark.parametrize("before", [MOST, MOST - 1, MOST - 2, MOST - 3])
def test_counts_stay_at_the_most_that_they_can_be(before):
    history, (plan,) = counting(), distinct_columns(torch.tensor([[3], [3], [3], [1]]))
    history.tables["user"].count[3] = before
    for _ in range(2):
        history.record("user", plan, torch.zeros(4))
    assert history.count("user", torch.arange(5)).tolist() == [0, 2, 0, MOST, 0]
    assert features_of(history, "user", torch.tensor([3])).tolist() == [[0.0] * 31 + [1.0]]


@pytest.mark.parametrize("bad", [-1, 4, 2**40])
def test_without_losses_too_an_id_never_grown_to_is_refused(bad):
    history, (plan,) = counting(), distinct_columns(torch.tensor([[3], [bad]]))
    with pytest.raises(IndexError, match=rf"row {bad} is not in \[0, 3\]"):
        history.record("item", plan, torch.zeros(2))
    assert not any(table.count.any() for table in history.tables.values())


def test_without_losses_padding_counts_nothing(pad_plans):
    pad_plans()
    history = counting()
    for table, plan in zip(ROWS, distinct_columns(torch.tensor([[4, 0], [2, 0], [2, 0]])),
                           strict=True):  # fmt: skip
        history.record(table, plan, torch.zeros(3))
    assert history.count("user", torch.arange(5)).tolist() == [0, 0, 2, 0, 1]
    assert history.count("item", torch.arange(4)).tolist() == [3, 0, 0, 0]


def test_the_prior_without_losses_is_that_of_popularity():
    prior, whole = counting().popularity_prior(), make_history().popularity_prior()
    assert torch.equal(prior, whole[:POPULARITY_WIDTH])
    assert not whole[POPULARITY_WIDTH:].any()


def test_growth_and_a_file_keep_counts(tmp_path):
    history, (plan,) = counting(), distinct_columns(torch.tensor([[3], [1], [3]]))
    history.record("user", plan, torch.zeros(3))
    history.grow({"user": 9})
    assert history.count("user", torch.arange(9)).tolist() == [0, 1, 0, 2, *[0] * 5]
    checkpoint.save(history.state_dict(), tmp_path / "state")
    restored = counting()
    restored.load_state_dict(checkpoint.load(tmp_path / "state"))
    for each in (history, restored):
        each.record("user", plan, torch.zeros(3))
    assert torch.equal(restored.tables["user"].count, history.tables["user"].count)
    assert history.count("user", torch.tensor([3])).tolist() == [4]


def test_a_state_with_losses_does_not_fit_one_without():
    with pytest.raises(UserError, match=r"history of table 'user': count is torch\.int64"):
        counting().load_state_dict(make_history().state_dict())
    with pytest.raises(UserError, match=r"history of table 'user': count is torch\.int32"):
        make_history().load_state_dict(counting().state_dict())


@pytest.mark.parametrize("told", ["counts", "full"])
@pytest.mark.parametrize("method", ["sam", "autoemb"])
def test_a_controller_that_is_told_counts_knows_of_no_loss(
    make_learner, make_batches, method, told
):
    """Of learners that stand still, with other losses."""
    still = {"learning_rate": 1e-30, "controller_learning_rate": 1e-30}
    *batches, last = make_batches(5)
    mixes = []
    for change in (lambda label: label, lambda label: 5 - label):
        learner = make_learner(method, controller_history=told, **still)
        random = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in learner.modules[1].parameters():
                parameter.normal_(generator=random)
        for batch in batches:
            learner.learn(replace(batch, label=change(batch.label)))
        mixes.append(learner.learn(last).outcome.mix)
    same = all(torch.equal(mix, mixes[1][table]) for table, mix in mixes[0].items())
    assert same == (told == "counts")


# State


def fill(history):
    losses = [0.1, 0.7, 0.3]
    record(
        history,
        [(i, 1, loss) for i, loss in enumerate(losses)],
        lambda field, row: torch.softmax(torch.tensor([field, row, 1.0]), 0),
    )


def test_a_state_from_a_file_continues_to_the_last_bit(tmp_path):
    history = make_history()
    fill(history)
    checkpoint.save(history.state_dict(), tmp_path / "state")
    restored = History([*ROWS], SIZES)
    restored.load_state_dict(checkpoint.load(tmp_path / "state"))
    for each in (history, restored):
        fill(each)
    for table, rows in ROWS.items():
        every = torch.arange(rows)
        assert torch.equal(features_of(history, table, every), features_of(restored, table, every))


def test_a_restored_state_shares_no_memory_with_the_one_it_came_from():
    original, restored = make_history(), make_history()
    fill(original)
    before = copy.deepcopy(original.state_dict())
    restored.load_state_dict(original.state_dict())
    fill(restored)
    for table, values in original.state_dict().items():
        for name, value in values.items():
            assert torch.equal(value, before[table][name])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("mix", torch.zeros(5, 4), r"mix is torch.float32 \[5, 4\]; expected .* \[5, 3\]"),
        ("mix", torch.zeros(4, 3), r"mix is torch.float32 \[4, 3\]; expected .* \[5, 3\]"),
        ("last_loss", torch.zeros(5).double(), "last_loss is torch.float64 .* torch.float32"),
        ("count", torch.zeros(5), "count is torch.float32 .* torch.int64"),
        ("count", torch.zeros(9, dtype=torch.int64), r"last_loss is .* \[5\]; expected .* \[9\]"),
    ],
)
def test_a_state_of_other_values_is_refused_before_anything_changes(name, value, message):
    history = make_history()
    fill(history)
    before = copy.deepcopy(history.state_dict())
    state = {table: dict(values) for table, values in before.items()}
    state["user"][name] = value
    with pytest.raises(UserError, match=f"history of table 'user': {message}"):
        history.load_state_dict(state)
    for table, values in history.state_dict().items():
        assert all(torch.equal(values[n], before[table][n]) for n in values)
