"""What labels say of ids, against a naive loop; and the opponents that say no more than that."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from autoemb import Batch, Label, Recipe, Schema, Sparse, build_learner
from autoemb.batch import Bag
from autoemb.errors import UserError
from autoemb.schema import Bag as BagFeature
from autoemb.streaming.sums import STRENGTHS

SIZE = 20
VALUE = Schema(
    label=Label(column="y", kind="value"), sparse=[Sparse(column="user"), Sparse(column="item")]
)


def learner_of(method, schema=VALUE, task=None):
    return build_learner(schema, task, Recipe.of(method=method))


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

    def offset(self, key, strength):
        return self.sums.get(key, 0.0) / (self.count.get(key, 0) + strength)

    def learn(self, batch):
        keys = [[(n, int(batch.sparse[n][b])) for n in ("user", "item")] for b in range(SIZE)]
        mean, labels = self.total / self.events, batch.label.tolist()
        strength = {n: self.strength(n) for n in self.losses}
        old = [{n: self.offset((n, i), strength[n]) for n, i in own} for own in keys]
        predicted = [mean + sum(own.values()) for own in old]
        for place, name in enumerate(self.losses):
            for number, tried in enumerate(STRENGTHS):
                for event, label in enumerate(labels):
                    others = mean + sum(v for n, v in old[event].items() if n != name)
                    told = others + self.offset(keys[event][place], tried)
                    self.losses[name][number] += (told - label) ** 2
        left = {}
        for event, label in enumerate(labels):
            left[event] = label - mean - old[event]["item"]
        for event in range(SIZE):
            key = keys[event][0]
            self.sums[key] = self.sums.get(key, 0.0) + left[event]
        for own in keys:
            for key in own:
                self.count[key] = self.count.get(key, 0) + 1
        for event, label in enumerate(labels):
            left[event] = label - mean - self.offset(keys[event][0], strength["user"])
        for event in range(SIZE):
            key = keys[event][1]
            self.sums[key] = self.sums.get(key, 0.0) + left[event]
        self.total += sum(labels)
        self.events += SIZE
        return predicted


def test_bias_is_what_a_naive_loop_predicts():
    learner, naive = learner_of("bias"), Naive()
    for batch in events(12):
        expected = naive.learn(batch)
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
    mean = float(learner.sums.total / learner.sums.events)
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
    known = learner.sums.known(
        learner.encoder.example(batch, learner.encoder.numbers(batch, insert=False)),
        learner.history,
    ).inputs.known
    assert known.events.squeeze(1).tolist() == [3, 2, 0]
    # Every id of an event gets all of its label, which the mean of before left: 1 and 1 + 3.
    assert known.sums.squeeze().tolist() == [5, 4, 0]


def test_features_that_do_not_count_take_nothing_of_a_label():
    prev = BagFeature(column="prev", table="item", counts=False)
    schema = VALUE.model_copy(update={"bag": (prev,)})
    with_bag, without = learner_of("bias", schema), learner_of("bias")
    for batch in events(4):
        without.learn(batch)
        none = Bag(np.array([], dtype=np.int64), np.zeros(SIZE + 1, dtype=np.int64))
        with_bag.learn(replace(batch, bags={"prev": none}))
    for table, sums in without.sums.tables.items():
        torch.testing.assert_close(with_bag.sums.tables[table], sums)


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
        (lambda s: s["tables"].update(user=s["tables"]["user"][:-1]), "sums of table 'user' are"),
        (lambda s: s.update(total=s["total"].float()), "total of labels is torch.float32"),
        (lambda s: s.update(losses=s["losses"][:1]), "losses of labels is torch.float64 [1, 7]"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(change, said):
    learner = learner_of("bias")
    learner.learn(events(1)[0])
    state = learner.state_dict()
    change(state["sums"])
    with pytest.raises(UserError, match=said.replace("[", r"\[")):
        learner_of("bias").load_state_dict(state)


def test_infinitely_shrunk_is_nothing():
    assert math.isinf(STRENGTHS[-1])
    learner = learner_of("bias")
    learner.learn(events(1)[0])
    learner.sums.losses[:, :-1] += 1e9
    mean = float(learner.sums.total / learner.sums.events)
    logits = learner.predict(events(1)[0])
    assert logits.squeeze(1).tolist() == pytest.approx([mean] * SIZE)
