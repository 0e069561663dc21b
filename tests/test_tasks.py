"""Targets, losses and correctness of the tasks; which labels they fit."""

import pickle
import re

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss, mean_squared_error

from autoemb import task_for
from autoemb.errors import UserError
from autoemb.schema import STARS, Label
from autoemb.tasks import TASK_NAMES

GRADES = [0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


LABELS = {
    "regression": STARS,
    "classification": STARS,
    "click": Label(column="click", kind="click"),
    "value": Label(column="minutes", kind="value"),
}
CLASSES = Label(column="colour", kind="classes", classes=("red", "green", "blue"))


def task(name):
    return task_for(name, LABELS[name])


def test_the_tasks_by_name():
    assert tuple(LABELS) == TASK_NAMES
    outputs = {name: task(name).outputs for name in TASK_NAMES}
    assert outputs == {"regression": 1, "classification": 5, "click": 1, "value": 1}
    assert all(task(name).name == name for name in TASK_NAMES)
    assert task_for("classification", CLASSES).outputs == 3


def test_the_kind_of_a_label_decides_its_task():
    names = [task_for(None, label).name for label in (STARS, CLASSES, *LABELS.values())]
    assert names[:2] == ["regression", "classification"]
    assert names[4:] == ["click", "value"]


@pytest.mark.parametrize(
    ("name", "label", "said"),
    [
        ("click", STARS, "task click does not fit the label 'rating' of kind rating; expected a "),
        ("regression", CLASSES, "task regression does not fit the label 'colour'"),
        ("value", LABELS["click"], "expected a label of kind value"),
        ("classification", LABELS["value"], "expected a label of kind rating or classes"),
        ("ranking", STARS, "task is 'ranking'; expected one of regression, classification, click"),
        (None, Label(column="r", kind="rating"), "the rating 'r' has no scale"),
    ],
)
def test_a_task_that_does_not_fit_is_refused(name, label, said):
    with pytest.raises(UserError, match=re.escape(said)):
        task_for(name, label)


@pytest.mark.parametrize("name", TASK_NAMES)
def test_tasks_travel(name):
    assert pickle.loads(pickle.dumps(task(name))) == task(name)


@pytest.mark.parametrize("high", [1.0, 5.0, 10.0, 100.0])
def test_targets_are_those_of_stars_in_numpy(high):
    # What the recorded runs were made with: float32(rating * (5 / top of the scale)).
    ratings = np.linspace(0, high, 2001, dtype=np.float32)
    ratings = np.concatenate([ratings, np.round(ratings * 10) / 10]).astype(np.float32)
    stars = torch.from_numpy(ratings * (5 / high)).float()
    label = STARS.model_copy(update={"scale": (0.0, high)})
    for name, expected in (
        ("regression", (stars > 3.5).float()),
        ("classification", (stars.ceil().long() - 1).clamp(0, 4)),
    ):
        assert torch.equal(task_for(name, label).target(torch.from_numpy(ratings)), expected)


def test_scales_and_thresholds_of_ratings():
    ratings = torch.tensor([-10.0, 0.0, 3.7, 4.0, 10.0])
    label = Label(column="r", kind="rating", scale=(-10, 10))  # 0.7 of the way up is 4
    assert task_for(None, label).target(ratings).tolist() == [0, 0, 0, 0, 1]
    label = label.model_copy(update={"positive_above": 3.7})  # 3.7 itself is not above it
    assert task_for(None, label).target(ratings).tolist() == [0, 0, 0, 1, 1]
    assert task_for("classification", label).target(ratings).tolist() == [0, 2, 3, 3, 4]


def test_positive_is_more_than_three_and_a_half_stars():
    target = task("regression").target(torch.tensor(GRADES))
    assert target.dtype == torch.float32
    assert target.tolist() == [0, 0, 0, 0, 0, 0, 0, 1, 1, 1]


def test_classes_are_stars_rounded_up():
    target = task("classification").target(torch.tensor([0.0, *GRADES]))
    assert target.dtype == torch.int64
    assert target.tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", TASK_NAMES)
def test_targets_do_not_depend_on_the_dtype_of_stars(name, dtype):
    target = task(name).target
    assert torch.equal(target(torch.tensor(GRADES, dtype=dtype)), target(torch.tensor(GRADES)))


def test_regression_scores_the_sigmoid(assert_near):
    one = task("regression")
    logits = torch.randn(100, 1, dtype=torch.float64)
    target = (torch.rand(100) > 0.5).double()
    loss, chance = one.loss(logits, target), torch.sigmoid(logits[:, 0])
    assert loss.shape == (100,)
    assert_near(loss, (chance - target) ** 2)
    assert_near(loss.mean(), torch.tensor(mean_squared_error(target, chance), dtype=torch.float64))
    correct = one.correct(logits, target)
    assert correct.dtype == torch.bool
    assert correct.double().mean() == accuracy_score(target, chance > 0.5)


def test_classification_scores_the_softmax(assert_near):
    one = task("classification")
    logits = torch.randn(100, 5, dtype=torch.float64)
    target = torch.randint(5, (100,))
    loss = one.loss(logits, target)
    assert loss.shape == (100,)
    assert_near(loss, -logits.log_softmax(1)[torch.arange(100), target])
    mean = log_loss(target, logits.softmax(1), labels=range(5))
    assert_near(loss.mean(), torch.tensor(mean, dtype=torch.float64))
    correct = one.correct(logits, target)
    assert correct.dtype == torch.bool
    assert correct.double().mean() == accuracy_score(target, logits.argmax(1))


@pytest.mark.parametrize("name", TASK_NAMES)
def test_loss_of_an_event_depends_on_that_event_alone(name):
    one = task(name)
    logits = torch.randn(10, one.outputs, dtype=torch.float64).requires_grad_()
    target = one.target(torch.tensor(GRADES))
    assert torch.autograd.gradcheck(lambda x: one.loss(x, target), logits)
    (gradient,) = torch.autograd.grad(one.loss(logits, target)[3], logits)
    assert gradient.any(1).tolist() == [i == 3 for i in range(10)]


@pytest.mark.parametrize("name", TASK_NAMES)
def test_no_events(name):
    one = task(name)
    logits, target = torch.zeros(0, one.outputs), one.target(torch.zeros(0))
    assert one.loss(logits, target).shape == (0,)
    assert len(one.predict(logits)) == 0


def test_clicks_score_the_log_loss(assert_near):
    one = task("click")
    logits = torch.randn(100, 1, dtype=torch.float64)
    target = one.target(torch.rand(100) > 0.5)
    expected = log_loss(target, torch.sigmoid(logits[:, 0]))
    assert_near(one.loss(logits, target).mean(), torch.tensor(expected, dtype=torch.float64))
    assert torch.equal(one.predict(logits), torch.sigmoid(logits[:, 0]))
    extreme = one.loss(torch.tensor([[1e30], [-1e30]]), torch.tensor([1.0, 1.0]))
    assert extreme.tolist() == [0, pytest.approx(1e30)]


def test_values_score_the_squared_error():
    one = task("value")
    logits, target = torch.tensor([[2.0], [-1.0]]), one.target(torch.tensor([5, -1]))
    assert one.loss(logits, target).tolist() == [9, 0]
    assert one.predict(logits).tolist() == [2, -1]
    with pytest.raises(ValueError, match="has no accuracy"):
        one.correct(logits, target)


def test_probabilities_of_classes_sum_to_one():
    chances = task("classification").predict(torch.randn(10, 5))
    torch.testing.assert_close(chances.sum(1), torch.ones(10))
