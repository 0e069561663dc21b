"""What labels say of ids, against a naive loop; and the opponents that say no more than that."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from autoemb import Batch, Label, Recipe, Schema, Sparse, build_learner
from autoemb.batch import Bag
from autoemb.errors import UserError
from autoemb.nn.models import Told
from autoemb.nn.models.trivial import OCTAVES
from autoemb.schema import Bag as BagFeature
from autoemb.streaming.statistics import FACTORS, STRENGTHS, inputs_width

SIZE = 20
VALUE = Schema(
    label=Label(column="y", kind="value"), sparse=[Sparse(column="user"), Sparse(column="item")]
)


def learner_of(method, schema=VALUE, task=None, **options):
    return build_learner(schema, task, Recipe.of(method=method, **options))


def mean_of(learner):
    totals = learner.statistics.totals
    return float(totals["total"][0] / totals["events"][0])


@pytest.fixture
def told(make_learner):
    return make_learner("autoemb", history="full")


def events(batches, seed=0, users=9, items=5):
    """Return batches of values: an offset of the user and one of the item, and noise."""
    rng = np.random.default_rng(seed)
    user, item = rng.normal(size=users), rng.normal(size=items)
    found = []
    for _ in range(batches):
        ids = {"user": rng.integers(0, users, SIZE), "item": rng.integers(0, items, SIZE)}
        noise = rng.normal(scale=0.5, size=SIZE)
        label = 3 + user[ids["user"]] + item[ids["item"]] + noise
        found.append(Batch(ids, label=torch.from_numpy(label).float()))
    return found


class Naive:
    """Bias in the plainest Python: dictionaries, one event at a time."""

    def __init__(self):
        self.count, self.sums = {}, {}
        self.total, self.events = 0.0, 1
        self.losses = {name: [0.0] * len(STRENGTHS) for name in ("user", "item")}

    def strength(self, name):
        return STRENGTHS[int(np.argmin(self.losses[name]))]

    def told(self, keys):
        return {key: (self.sums.get(key, 0.0), self.count.get(key, 0)) for key in keys}

    def learn(self, batch, fresh=False):
        """Return predictions that know no label of the batch or, if ``fresh``, those before."""
        keys = [[(n, int(batch.sparse[n][b])) for n in ("user", "item")] for b in range(SIZE)]
        labels = batch.label.tolist()
        strength = {n: self.strength(n) for n in self.losses}

        def say(told):
            return {key: own / (count + strength[key[0]]) for key, (own, count) in told.items()}

        stale = [(self.total / self.events, self.told(own)) for own in keys]
        predicted = []
        for event, (own, label) in enumerate(zip(keys, labels, strict=True)):
            mean, told = stale[event]
            if fresh:
                mean, told = self.total / self.events, self.told(own)
            predicted.append(mean + sum(say(told).values()))
            for key in own:
                others = mean + sum(v for k, v in say(told).items() if k != key)
                for number, tried in enumerate(STRENGTHS):
                    said = others + told[key][0] / (told[key][1] + tried)
                    self.losses[key[0]][number] += (said - label) ** 2
            mean = self.total / self.events
            for key in own:
                others = sum(v for k, v in say(self.told(own)).items() if k != key)
                self.sums[key] = self.sums.get(key, 0.0) + label - mean - others
                self.count[key] = self.count.get(key, 0) + 1
            self.total += label
            self.events += 1
        return predicted


@pytest.mark.parametrize("freshness", ["batch", "event"])
def test_bias_is_what_a_naive_loop_predicts(freshness):
    learner, naive = learner_of("bias", freshness=freshness), Naive()
    for batch in events(12):
        expected = naive.learn(batch, fresh=freshness == "event")
        found = learner.learn(batch).outcome.logits.squeeze(1).tolist()
        assert found == pytest.approx(expected, abs=1e-4)  # float32 against float64


def test_mean_is_that_of_all_labels_before():
    learner, seen = learner_of("mean"), []
    for batch in events(5):
        step = learner.learn(batch)
        # One event more, of the value that a task starts with: 0.
        expected = sum(seen) / (len(seen) + 1)
        assert step.outcome.logits.tolist() == [[pytest.approx(expected, abs=1e-5)]] * SIZE
        seen += batch.label.tolist()


def loss(learner, batches):
    """Return the mean loss of the second half."""
    losses = [learner.learn(batch).losses for batch in batches]
    return float(torch.cat(losses[len(losses) // 2 :]).mean())


@pytest.mark.parametrize("method", ["bias", "logistic", "fm"])
def test_offsets_that_are_there_are_found(method):
    batches = events(100)
    # The noise's variance is 0.25, that of the offsets drawn here 1.05.
    assert loss(learner_of(method), batches) < 0.4 < 1.2 < loss(learner_of("mean"), batches)


def clicks(batches, columns, kinds=8, seed=0, told=True):
    """Return clicks, rare, that follow one id, which many columns repeat; or nothing."""
    rng = np.random.default_rng(seed)
    chance = rng.uniform(0.02, 0.3, kinds)
    found = []
    for _ in range(batches):
        ids = rng.integers(0, kinds, SIZE)
        label = rng.random(SIZE) < (chance[ids] if told else 0.15)
        sparse = {f"c{n}": ids.copy() for n in range(columns)}
        found.append(Batch(sparse, label=torch.from_numpy(label).float()))
    return found


def of_clicks(method, columns):
    sparse = [Sparse(column=f"c{n}") for n in range(columns)]
    return learner_of(method, Schema(label=Label(column="click", kind="click"), sparse=sparse))


def test_many_columns_of_one_word_do_not_say_it_many_times():
    # Each taking all that a label leaves, they would swing ever wider: a loss of several.
    once, often = (loss(of_clicks("bias", n), clicks(200, n)) for n in (1, 12))
    assert often < 1.03 * once
    assert once < loss(of_clicks("mean", 1), clicks(200, 1))


def test_ids_that_tell_nothing_are_hardly_listened_to():
    mean, bias = (loss(of_clicks(m, 3), clicks(200, 3, told=False)) for m in ("mean", "bias"))
    assert bias < 1.01 * mean


@pytest.mark.parametrize("method", ["mean", "bias", "fm"])
def test_a_stranger_is_predicted_for_by_the_mean(method):
    learner = learner_of(method)
    for batch in events(5):
        learner.learn(batch)
    known, strange = events(1)[0], {"user": [10**9] * SIZE, "item": [-5] * SIZE}
    logits = learner.predict(replace(known, sparse=strange))
    mean = mean_of(learner)
    near = 0.1 if method == "fm" else 1e-5  # whose rows are drawn
    assert logits.squeeze(1).tolist() == pytest.approx([mean] * SIZE, abs=near)
    assert learner.num_ids()["user"] == 9


def test_a_bag_says_what_all_its_ids_say():
    tags = BagFeature(column="tags", table="tags")
    schema = Schema(label=Label(column="y", kind="value"), bag=[tags])
    learner = learner_of("bias", schema)
    bags = Bag(np.array([1, 2, 2]), np.array([0, 2, 3, 3]))  # {1, 2}, {2}, {}
    batch = Batch(bags={"tags": bags}, label=torch.tensor([1.0, 3.0, 5.0]))
    learner.learn(batch)
    known = learner.statistics.known(
        learner.encoder.example(batch, learner.encoder.numbers(batch, insert=False))
    )
    assert known.events.squeeze(1).tolist() == [3, 2, 0]
    # The mean is 0 at first: both ids get 1. It is then 1 / 2, which leaves 2.5 of 3.
    assert known.sums.squeeze().tolist() == [4.5, 3.5, 0]


def test_features_that_do_not_count_take_nothing_of_a_label():
    prev = BagFeature(column="prev", table="item", counts=False)
    schema = VALUE.model_copy(update={"bag": (prev,)})
    with_bag, without = learner_of("bias", schema), learner_of("bias")
    for batch in events(4):
        without.learn(batch)
        none = Bag(np.array([], dtype=np.int64), np.zeros(SIZE + 1, dtype=np.int64))
        with_bag.learn(replace(batch, bags={"prev": none}))
    for table, own in without.statistics.tables.items():
        np.testing.assert_array_equal(with_bag.statistics.tables[table].packed, own.packed)


@pytest.mark.parametrize("task", ["regression", "classification"])
def test_whatever_is_known_predictions_are_chances(task):
    stars = Label(column="rating", kind="rating", scale=(0, 5))
    learner = learner_of("bias", VALUE.model_copy(update={"label": stars}), task)
    rng = np.random.default_rng(0)
    for _ in range(30):
        ids = {name: rng.integers(0, 3, SIZE) for name in ("user", "item")}
        labels = torch.from_numpy(rng.integers(0, 5, SIZE))
        labels = labels if task == "classification" else (labels > 2).float()
        step = learner.learn(Batch(ids, label=labels))
        chances = learner.encoder.task.predict(step.outcome.logits)
        assert bool(((chances > 0) & (chances < 1)).all())
        assert step.losses.isfinite().all()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s["tables"].update(user=s["tables"]["user"][:-1]), "statistics of table 'user'"),
        (lambda s: s["totals"].update(total=s["totals"]["total"].float()), "total of labels are"),
        (
            lambda s: s["totals"].update(losses=s["totals"]["losses"][:1]),
            "losses of labels are float64 [1, 7]",
        ),
    ],
)
def test_a_state_that_does_not_fit_is_refused(change, said):
    learner = learner_of("bias")
    learner.learn(events(1)[0])
    state = learner.state_dict()
    change(state["statistics"])
    with pytest.raises(UserError, match=said.replace("[", r"\[")):
        learner_of("bias").load_state_dict(state)


def test_infinitely_shrunk_is_nothing():
    assert math.isinf(STRENGTHS[-1])
    learner = learner_of("bias")
    learner.learn(events(1)[0])
    learner.statistics.totals["losses"][:, :-1] += 1e9
    mean = mean_of(learner)
    logits = learner.predict(events(1)[0])
    assert logits.squeeze(1).tolist() == pytest.approx([mean] * SIZE)


def test_a_prediction_is_told_what_learning_is_told(told, make_batches):
    for batch in make_batches(8):  # with new ids in each
        predicted = told.predict(batch)
        torch.testing.assert_close(predicted, told.learn(batch).outcome.logits)


def test_at_first_it_says_what_bias_says(make_learner, make_batches):
    batch = make_batches(1)[0]
    logits = [
        make_learner(method, **options).learn(batch).outcome.logits
        for method, options in (("bias", {}), ("autoemb", {"history": "full"}))
    ]
    torch.testing.assert_close(*logits)


def test_inputs_have_the_width_that_they_are_said_to_have(told, make_batches):
    batch = make_batches(1)[0]
    told.learn(batch)
    model, width = told.modules[0], inputs_width(told.encoder.task)
    assert isinstance(model, Told)
    assert width == 2 * 5 + 1  # label and grade, five sums of each, a match
    assert model.model.num_dense == 2 * (OCTAVES + width)
    example = told.encoder.example(batch, told.encoder.numbers(batch, insert=False))
    assert told.statistics.known(example).told.shape == (len(batch), 2, width)


def test_counts_alone_tell_no_label(make_learner, make_batches):
    """Of labels, a network told counts knows what rows and weights learnt: here nothing."""
    first, second = (make_learner("fse", history="counts", learning_rate=1e-12) for _ in range(2))
    assert first.modules[0].model.num_dense == 2 * OCTAVES
    *before, last = make_batches(3)
    for batch in before:
        first.learn(batch)
        second.learn(replace(batch, label=5 - batch.label))
    torch.testing.assert_close(first.predict(last), second.predict(last))
    strangers = replace(last, sparse={name: ids + 10**6 for name, ids in last.sparse.items()})
    assert (first.predict(last) - first.predict(strangers)).abs().max() > 1e-3


def test_bags_and_shared_tables_are_told_of(make_learner, make_batches):
    learner = make_learner("fse", kind="shapes", history="full")
    for batch in make_batches(6, kind="shapes"):
        assert torch.isfinite(learner.learn(batch).losses).all()
    widths = {table: own.width for table, own in learner.statistics.tables.items()}
    assert widths == {"user": 6 + FACTORS, "item": 6 + FACTORS, "words": 6}


def factors_of(learner):
    first = 2 + 2 * learner.statistics.channels
    return np.concatenate(
        [own.read(slice(None))[:, first:].ravel() for own in learner.statistics.tables.values()]
    )


def test_a_heavy_event_does_not_let_factors_diverge(told, make_batches):
    for batch in make_batches(10):
        told.learn(replace(batch, weight=torch.full((len(batch),), 100.0)))
    assert np.abs(factors_of(told)).max() < 5


def test_events_of_no_weight_say_nothing(make_batches, make_learner):
    first, second = (make_learner("fse", history="full") for _ in range(2))
    batch, other = make_batches(2)
    weight = torch.tensor([1.0, 0, 1, 0, 1, 0])
    label = torch.where(weight > 0, batch.label, 5 - batch.label)
    first.learn(replace(batch, weight=weight))
    second.learn(replace(batch, weight=weight, label=label))
    torch.testing.assert_close(first.predict(other), second.predict(other))


def test_freshness_without_anything_fresh_is_refused():
    with pytest.raises(UserError, match="freshness is event; expected batch with history none"):
        Recipe.of(freshness="event", history="none")
    Recipe.of(freshness="event", method="bias")


@pytest.mark.parametrize("kind", ["pair", "shapes"])
def test_past_events_are_told_what_was_known_when_they_came(
    make_learner, make_batches, monkeypatch, kind
):
    """Not what their own labels, and later ones, have told since."""
    learner = make_learner(kind=kind, validation="reservoir", reservoir=99, history="full")
    came, advance = [], learner.statistics.advance

    def noted(*args):
        came.append(advance(*args))
        return came[-1]

    monkeypatch.setattr(learner.statistics, "advance", noted)
    for batch in make_batches(5, kind=kind):
        learner.learn(batch)
    kept = learner.reservoir.all().known
    for name, value in kept._asdict().items():
        every = torch.cat([getattr(one.known, name) for one in came])
        torch.testing.assert_close(value, every, rtol=0, atol=0)


def test_factors_of_many_features_and_rare_clicks_do_not_diverge():
    names = [f"feature_{number}" for number in range(20)]
    schema = Schema(
        label=Label(column="click", kind="click"), sparse=[Sparse(column=name) for name in names]
    )
    learner = learner_of("fse", schema, dims=(2,), history="full")
    random = np.random.default_rng(0)
    for _ in range(20):
        ids = {name: random.integers(0, 3, 200) for name in names}
        click = torch.from_numpy(random.random(200) < 0.03).float()
        learner.learn(Batch(ids, label=click))
    assert np.abs(factors_of(learner)).max() < 1  # they started with a standard deviation of 0.1
