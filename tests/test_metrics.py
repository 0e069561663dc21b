"""Prequential metrics: what they say, and that parts make the whole."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss, mean_absolute_error, roc_auc_score

from autoemb.metrics import BUCKETS, Metrics, bucket
from autoemb.schema import STARS, Label
from autoemb.tasks import task_for

CLICK = task_for(None, Label(column="click", kind="click"))
VALUE = task_for(None, Label(column="minutes", kind="value"))
REGRESSION, CLASSES = (task_for(name, STARS) for name in ("regression", "classification"))
TASKS = [REGRESSION, CLASSES, CLICK, VALUE]


def draw(task, events, seed=0, scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(events, task.outputs, generator=generator)
    if task is CLASSES:
        return logits, torch.randint(5, (events,), generator=generator)
    if task is VALUE:
        return logits, torch.randn(events, generator=generator)
    chance = torch.sigmoid(logits[:, 0] / 2)
    return logits, (torch.rand(events, generator=generator) < chance).float()


def computed(task, *batches):
    metrics = Metrics(task)
    for batch in batches:
        metrics.add(*batch)
    return metrics.compute()


def approx(values):
    """Compare as float32: torch's sigmoid rounds differently in the tail of a batch."""
    return {name: v if v is None else pytest.approx(v, rel=1e-6) for name, v in values.items()}


@pytest.mark.parametrize("weighted", [False, True])
def test_clicks_against_scikit_learn(weighted):
    logits, target = draw(CLICK, 20_000)
    weight = torch.rand(20_000) if weighted else None
    found = computed(CLICK, (logits, target, weight))
    chance = torch.sigmoid(logits[:, 0].double()).numpy()
    given = None if weight is None else weight.double().numpy()
    loss = log_loss(target, chance, sample_weight=given)
    base = np.average(target, weights=given)
    entropy = -(base * np.log(base) + (1 - base) * np.log(1 - base))
    # float32 losses and predictions, each rounded to 6e-8.
    assert found["loss"] == pytest.approx(loss, rel=1e-6)
    assert found["normalised_entropy"] == pytest.approx(loss / entropy, rel=1e-6)
    assert found["calibration"] == pytest.approx(np.average(chance, weights=given) / base, rel=1e-6)
    right = (chance > 0.5) == (target.numpy() > 0.5)
    assert found["accuracy"] == pytest.approx(np.average(right, weights=given))
    # Pairs within a bucket count half; 0.8 % of the logits' size orders about 1 pair in 400
    # otherwise, half of them either way: 2e-6 seen.
    auc = roc_auc_score(target, logits[:, 0], sample_weight=given)
    assert found["auc"] == pytest.approx(auc, abs=1e-4)


def test_the_auc_is_exact_where_no_two_logits_share_a_bucket():
    logits = torch.tensor([-3.0, -1.0, -1.0, 0.0, -0.0, 1e-30, 2.0, 1e30])[:, None]
    target = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 1.0])
    expected = roc_auc_score(target, logits[:, 0])
    assert computed(CLICK, (logits, target))["auc"] == pytest.approx(expected, rel=1e-12)


def test_the_other_tasks():
    logits, target = draw(REGRESSION, 1_000)
    found = computed(REGRESSION, (logits, target))
    assert found.keys() == {"loss", "accuracy", "auc"}
    assert found["loss"] == pytest.approx(REGRESSION.loss(logits, target).double().mean().item())
    logits, target = draw(CLASSES, 1_000)
    found = computed(CLASSES, (logits, target))
    assert found == {
        "loss": pytest.approx(CLASSES.loss(logits, target).double().mean().item()),
        "accuracy": pytest.approx((logits.argmax(1) == target).double().mean().item()),
    }
    logits, target = draw(VALUE, 1_000)
    mae = mean_absolute_error(target.double(), logits[:, 0].double())
    assert computed(VALUE, (logits, target))["mae"] == pytest.approx(mae, rel=1e-6)


@pytest.mark.parametrize("positive", [0.0, 1.0])
def test_one_class_has_no_auc(positive):
    found = computed(CLICK, (torch.randn(9, 1), torch.full((9,), positive)))
    assert (found["auc"], found["normalised_entropy"]) == (None, None)
    assert (found["calibration"] is None) == (positive == 0)
    assert found["loss"] > 0


def test_nothing_and_what_is_not_finite_is_none():
    for task in TASKS:
        assert set(computed(task).values()) == {None}
        assert set(computed(task, draw(task, 0)).values()) == {None}
    found = computed(CLICK, (torch.tensor([[float("nan")], [1.0]]), torch.tensor([0.0, 1.0])))
    assert (found["loss"], found["auc"], found["calibration"]) == (None, None, None)


sizes = st.lists(st.integers(0, 60), min_size=1, max_size=6)
quick = settings(max_examples=30, deadline=None, derandomize=True)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_parts_make_the_whole_in_any_order(task):
    @quick
    @given(sizes, st.integers(0, 99), st.randoms(use_true_random=False))
    def check(lengths, seed, random):
        logits, target = draw(task, sum(lengths), seed)
        whole = computed(task, (logits, target))
        parts = list(zip(logits.split(lengths), target.split(lengths), strict=True))
        assert computed(task, *parts) == approx(whole)
        random.shuffle(parts)
        merged = Metrics(task)
        for part in parts:
            one = Metrics(task)
            one.add(*part)
            merged.merge(one)
        assert merged.compute() == approx(whole)

    check()


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_a_saved_state_goes_on(task):
    first, second = draw(task, 50), draw(task, 70, seed=1)
    metrics = Metrics(task)
    metrics.add(*first)
    restored = Metrics(task)
    restored.load_state_dict(metrics.state_dict())
    for one in (metrics, restored):
        one.add(*second)
    assert restored.compute() == metrics.compute() == computed(task, first, second)
    metrics.reset()
    assert metrics.compute() == computed(task)


def test_a_state_of_another_task_is_refused():
    with pytest.raises(ValueError, match=r"ranks has shape \(131072,\); expected \(0,\)"):
        Metrics(VALUE).load_state_dict(Metrics(CLICK).state_dict())


def test_buckets_keep_the_order():
    sizes = torch.logspace(-44, 38, 100_000)
    logits = torch.cat([-sizes.flip(0), torch.zeros(2), sizes, torch.tensor([float("inf")])])
    found = bucket(logits)
    assert found.dtype == torch.int64
    assert (found.diff() >= 0).all()
    assert found.min() >= 0
    assert found.max() < BUCKETS
    same = found[1:] == found[:-1]
    wide = (logits[1:] - logits[:-1]).abs() / logits[1:].abs()
    normal = logits[1:].abs() > 1e-37
    assert wide[same & normal].max() < 2**-7


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_adding_needs_no_values_on_the_host(task):
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():  # which raises where a value is asked for
        metrics = Metrics(task)
        logits = torch.zeros(8, task.outputs)
        target = torch.zeros(8, dtype=torch.int64 if task is CLASSES else torch.float32)
        metrics.add(logits, target)
        with pytest.raises(Exception, match="local_scalar_dense"):
            metrics.compute()
