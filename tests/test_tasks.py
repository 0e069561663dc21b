"""Targets, losses and correctness of the two tasks."""

import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss, mean_squared_error

from autoemb import TASKS

STARS = [0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_the_tasks_by_name():
    assert list(TASKS) == ["regression", "classification"]
    assert {name: task.outputs for name, task in TASKS.items()} == {
        "regression": 1,
        "classification": 5,
    }
    assert all(task.name == name for name, task in TASKS.items())


def test_positive_is_more_than_three_and_a_half_stars():
    target = TASKS["regression"].target(torch.tensor(STARS))
    assert target.dtype == torch.float32
    assert target.tolist() == [0, 0, 0, 0, 0, 0, 0, 1, 1, 1]


def test_classes_are_stars_rounded_up():
    target = TASKS["classification"].target(torch.tensor([0.0, *STARS]))
    assert target.dtype == torch.int64
    assert target.tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", list(TASKS))
def test_targets_do_not_depend_on_the_dtype_of_stars(name, dtype):
    target = TASKS[name].target
    assert torch.equal(target(torch.tensor(STARS, dtype=dtype)), target(torch.tensor(STARS)))


def test_regression_scores_the_sigmoid(assert_near):
    task = TASKS["regression"]
    logits = torch.randn(100, 1, dtype=torch.float64)
    target = (torch.rand(100) > 0.5).double()
    loss, chance = task.loss(logits, target), torch.sigmoid(logits[:, 0])
    assert loss.shape == (100,)
    assert_near(loss, (chance - target) ** 2)
    assert_near(loss.mean(), torch.tensor(mean_squared_error(target, chance), dtype=torch.float64))
    correct = task.correct(logits, target)
    assert correct.dtype == torch.bool
    assert correct.double().mean() == accuracy_score(target, chance > 0.5)


def test_classification_scores_the_softmax(assert_near):
    task = TASKS["classification"]
    logits = torch.randn(100, 5, dtype=torch.float64)
    target = torch.randint(5, (100,))
    loss = task.loss(logits, target)
    assert loss.shape == (100,)
    assert_near(loss, -logits.log_softmax(1)[torch.arange(100), target])
    mean = log_loss(target, logits.softmax(1), labels=range(5))
    assert_near(loss.mean(), torch.tensor(mean, dtype=torch.float64))
    correct = task.correct(logits, target)
    assert correct.dtype == torch.bool
    assert correct.double().mean() == accuracy_score(target, logits.argmax(1))


@pytest.mark.parametrize("name", list(TASKS))
def test_loss_of_an_event_depends_on_that_event_alone(name):
    task = TASKS[name]
    logits = torch.randn(10, task.outputs, dtype=torch.float64).requires_grad_()
    target = task.target(torch.tensor(STARS))
    assert torch.autograd.gradcheck(lambda x: task.loss(x, target), logits)
    (gradient,) = torch.autograd.grad(task.loss(logits, target)[3], logits)
    assert gradient.any(1).tolist() == [i == 3 for i in range(10)]


@pytest.mark.parametrize("name", list(TASKS))
def test_no_events(name):
    task = TASKS[name]
    logits, target = torch.zeros(0, task.outputs), task.target(torch.zeros(0))
    assert task.loss(logits, target).shape == task.correct(logits, target).shape == (0,)
