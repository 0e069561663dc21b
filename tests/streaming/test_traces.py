"""What a model is told of ids, against plain Python; and what is refused with it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from autoemb import Batch, Label, Recipe, Schema, Sparse, build_learner
from autoemb.errors import UserError
from autoemb.nn.models import Told
from autoemb.nn.models.trivial import OCTAVES
from autoemb.serving import Exporter
from autoemb.streaming.traces import DECAY, FACTOR_PENALTY, FACTOR_RATE, FACTORS, LARGEST

STARS = Label(column="rating", kind="rating", scale=(0, 5))
PAIR = Schema(label=STARS, sparse=[Sparse(column="user"), Sparse(column="item")])


@pytest.fixture
def learner(make_learner):
    return make_learner("autoemb", history="full")


def test_sums_forget_and_factors_learn_event_by_event(learner, make_batches):
    traces, task = learner.sums.traces, learner.sums.task
    for batch in make_batches(8):
        keys = {t: learner.encoder.id_tables[t] for t in ("user", "item")}
        before = {name: value.clone() for name, value in traces.recent.items()}
        squares, events = traces.squares.clone(), float(learner.sums.events)
        noted = {}

        def note(example, left, seen, learn=traces.learn, noted=noted):
            noted.update(
                left=left.clone(), factors={n: v.clone() for n, v in traces.factors.items()}
            )
            learn(example, left, seen)

        traces.learn = note
        learner.learn(batch)
        del traces.learn
        rows = {t: keys[t].rows(batch.sparse[t], insert=False) for t in ("user", "item")}
        if events == 1:  # nothing is known: both means are a half
            told = torch.stack([task.target(batch.label), task.grade(batch.label)], 1)
            torch.testing.assert_close(noted["left"], told - 0.5)
        torch.testing.assert_close(
            traces.squares, squares + noted["left"].double().square().sum(0), rtol=0, atol=0
        )
        unit = float((squares[-1] / events).sqrt())
        factors = {name: value.double() for name, value in noted["factors"].items()}
        for event in range(len(batch)):
            p, q = (factors[t][rows[t][event]].clone() for t in ("user", "item"))
            left = max(-LARGEST, min(LARGEST, float(noted["left"][event, -1]) / unit))
            error = left - float(p @ q)
            step = FACTOR_RATE / (1 + FACTOR_RATE * float(p @ p + q @ q))
            factors["user"][rows["user"][event]] += step * (error * q - FACTOR_PENALTY * p)
            factors["item"][rows["item"][event]] += step * (error * p - FACTOR_PENALTY * q)
        for table in ("user", "item"):
            # Rounded to float32 at each of six steps.
            torch.testing.assert_close(
                traces.factors[table].double(), factors[table], rtol=1e-5, atol=1e-6
            )
            counts = np.bincount(rows[table], minlength=len(traces.recent[table]))
            was = torch.zeros(len(counts), dtype=torch.float64)
            was[: len(before[table])] = before[table][:, 0].double()
            kept = DECAY ** torch.from_numpy(counts)
            torch.testing.assert_close(
                traces.recent[table][:, 0].double(), was * kept + (1 - kept) / (1 - DECAY),
                rtol=1e-5, atol=1e-6,
            )  # fmt: skip


def test_a_prediction_is_told_what_learning_is_told(learner, make_batches):
    for batch in make_batches(8):  # with new ids in each
        predicted = learner.predict(batch)
        torch.testing.assert_close(predicted, learner.learn(batch).outcome.logits)


def test_at_first_it_says_what_bias_says(make_learner, make_batches):
    batch = make_batches(1)[0]
    logits = [
        make_learner(method, **options).learn(batch).outcome.logits
        for method, options in (("bias", {}), ("autoemb", {"history": "full"}))
    ]
    torch.testing.assert_close(*logits)


def test_inputs_have_the_width_that_they_are_said_to_have(learner, make_batches):
    learner.learn(make_batches(1)[0])
    traces, model = learner.sums.traces, learner.modules[0]
    assert isinstance(model, Told)
    assert traces.width == 2 * 5 + 1  # label and grade, five sums of each, a match
    assert model.model.num_dense == 2 * (OCTAVES + traces.width)
    assert {v.shape[1] for v in traces.factors.values()} == {FACTORS}


def test_bags_and_shared_tables_are_told_of(make_learner, make_batches):
    learner = make_learner("fse", kind="shapes", history="full")
    for batch in make_batches(6, kind="shapes"):
        assert torch.isfinite(learner.learn(batch).losses).all()
    assert {*learner.sums.traces.factors} == {"user", "item"}  # bags of words have none


def test_a_heavy_event_does_not_let_factors_diverge(learner, make_batches):
    for batch in make_batches(10):
        learner.learn(replace(batch, weight=torch.full((len(batch),), 100.0)))
    for factors in learner.sums.traces.factors.values():
        assert factors.abs().max() < 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "bias"}, "history is full; expected none with method bias"),
        ({"validation": "reservoir"}, "history is full; expected none with validation reservoir"),
        ({"hypergradient": "exact"}, "new-events and hypergradient exact: of past events"),
    ],
)
def test_what_would_tell_labels_too_early_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        Recipe.of(history="full", **options)


def test_it_is_refused_where_it_does_not_run(learner, make_batches):
    with pytest.raises(ValueError, match="history is full; expected none with a module"):
        build_learner(PAIR, recipe=Recipe(history="full"), model=learner.modules[0].model)
    with pytest.raises(UserError, match="history is full on meta; expected none there"):
        build_learner(PAIR, recipe=Recipe(history="full"), device="meta")
    learner.learn(make_batches(1)[0])
    with pytest.raises(UserError, match="the model is Told; an export is of: mlp"):
        Exporter(learner, PAIR)


def test_a_state_of_other_traces_is_refused(make_learner, make_batches):
    learner, other = (make_learner("fse", history="full") for _ in range(2))
    learner.learn(make_batches(1)[0])
    state = learner.state_dict()
    state["sums"]["traces"]["factors"]["item"] = torch.zeros(3, FACTORS)
    with pytest.raises(UserError, match=r"traces of table 'item' are torch.float32 \[3, 8\]"):
        other.load_state_dict(state)


def test_factors_of_many_features_and_rare_clicks_do_not_diverge():
    names = [f"feature_{number}" for number in range(20)]
    schema = Schema(
        label=Label(column="click", kind="click"), sparse=[Sparse(column=name) for name in names]
    )
    learner = build_learner(schema, recipe=Recipe.of(method="fse", dims=(2,), history="full"))
    random = np.random.default_rng(0)
    for _ in range(20):
        ids = {name: random.integers(0, 3, 200) for name in names}
        click = torch.from_numpy(random.random(200) < 0.03).float()
        learner.learn(Batch(ids, label=click))
    for factors in learner.sums.traces.factors.values():
        assert factors.abs().max() < 1  # they started with a standard deviation of 0.1
