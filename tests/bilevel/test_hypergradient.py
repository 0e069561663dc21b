"""Hypergradients against one unrolled weight step, differentiated on whole tables in float64."""

from itertools import pairwise

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from autoemb.bilevel import hypergradient
from autoemb.bilevel.hypergradient import FINITE_DIFFERENCE_DISTANCE, KINDS

XI = 2.0
EXACT = 1e-10  # the same sums in another order: 1e-14 seen
FINITE_DIFFERENCE = 1e-2  # the error at R = 0.01 is of the order R^2: 4e-5 seen


def brute_force(problem, xi=XI):
    """Differentiate L_val(W - xi dL_train/dW, A) with respect to A, through everything."""
    weights, alpha = (
        {name: value.requires_grad_() for name, value in group.items()}
        for group in problem.parameters()
    )
    loss = problem.loss(problem.training)(weights, alpha)
    slope = torch.autograd.grad(
        loss, list(weights.values()), create_graph=True, materialize_grads=True
    )
    moved = {n: w - xi * g for (n, w), g in zip(weights.items(), slope, strict=True)}
    outer = problem.loss(problem.validation)(moved, alpha)
    return dict(zip(alpha, torch.autograd.grad(outer, list(alpha.values())), strict=True))


def learned(problem, kind, xi=XI):
    """Return the gradient by which the trainer moved the controller."""
    trainer = problem.trainer(hypergradient=kind, xi=xi, controller_learning_rate=1.0)
    _, before = problem.parameters()
    trainer.controller_step(problem.validation, problem.training)
    _, after = problem.parameters()
    return {name: before[name] - after[name] for name in before}


def dense(problem, kind, **options):
    return hypergradient(
        kind,
        problem.loss(problem.training),
        problem.loss(problem.validation),
        *problem.parameters(),
        **{"xi": XI} | options,
    )


def norm(grads):
    return torch.cat([value.flatten() for value in grads.values()]).norm().item()


def difference(first, second):
    return {name: first[name] - second[name] for name in first}


def check_near(actual, expected, tolerance):
    assert actual.keys() == expected.keys()
    assert norm(expected) > 0
    error = norm(difference(actual, expected)) / norm(expected)
    assert error <= tolerance, f"error {error:.2g}"


def eq_9(problem, scale):
    """Eq. 9 with its mixed term from two gradients, ``scale(eps)`` times their difference."""
    weights, alpha = problem.parameters()
    training, validation = problem.loss(problem.training), problem.loss(problem.validation)

    def gradient(loss, weights, of):
        values = {
            "weights": {n: w.clone().requires_grad_() for n, w in weights.items()},
            "alpha": {n: a.clone().requires_grad_() for n, a in alpha.items()},
        }
        loss = loss(values["weights"], values["alpha"])
        leaves = values[of]
        grads = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
        return dict(zip(leaves, grads, strict=True))

    slope = gradient(training, weights, "weights")
    moved = {n: w - XI * slope[n] for n, w in weights.items()}
    v = gradient(validation, moved, "weights")
    eps = FINITE_DIFFERENCE_DISTANCE / norm(v)
    ends = [
        gradient(training, {n: w + sign * eps * v[n] for n, w in weights.items()}, "alpha")
        for sign in (1, -1)
    ]
    direct = gradient(validation, moved, "alpha")
    change = difference(*ends)
    return {n: direct[n] - XI * scale(eps) * change[n] for n in direct}


def test_brute_force_is_the_derivative_of_the_validation_loss_after_the_step(problem):
    torch.manual_seed(1)
    weights, alpha = problem.parameters()
    way = {name: torch.randn_like(value) for name, value in alpha.items()}

    def outer(shift):
        at = {name: value + shift * way[name] for name, value in alpha.items()}
        start = {name: value.clone().requires_grad_() for name, value in weights.items()}
        slope = torch.autograd.grad(problem.loss(problem.training)(start, at), [*start.values()])
        moved = {n: w - XI * g for (n, w), g in zip(start.items(), slope, strict=True)}
        return problem.loss(problem.validation)(moved, at).item()

    step = 1e-5  # its error is of the order step^2, that of rounding 1e-16 / step
    found = (outer(step) - outer(-step)) / (2 * step)
    expected = sum((value * way[n]).sum().item() for n, value in brute_force(problem).items())
    assert found == pytest.approx(expected, rel=1e-6)


def test_exact_is_brute_force(problem):
    check_near(dense(problem, "exact"), brute_force(problem), EXACT)


def test_exact_is_brute_force_through_the_trainer(problem):
    expected, first = brute_force(problem), brute_force(problem, xi=0)
    found = learned(problem, "exact")
    check_near(found, expected, EXACT)
    # The second-order term alone, and it is no small part: without it the above would fail.
    second_order = difference(expected, first)
    check_near(difference(found, first), second_order, EXACT)
    assert norm(second_order) > 0.1 * norm(expected)


def test_every_parameter_of_the_controller_takes_part(make_problem):
    assert all(value.abs().max() > 1e-6 for value in learned(make_problem(), "exact").values())


def test_exact_moves_the_logits_of_ids_in_either_batch(make_problem):
    problem = make_problem("logits")
    for table, grad in zip(problem.inputs, learned(problem, "exact").values(), strict=True):
        used = {*problem.training.inputs.ids[table].tolist()}
        past = {*problem.validation.inputs.ids[table].tolist()}
        moved = {*grad.abs().sum(1).nonzero().flatten().tolist()}
        assert used - past
        assert past - used
        assert moved == used | past


def test_first_is_brute_force_without_a_step(problem):
    expected = brute_force(problem, xi=0)
    check_near(dense(problem, "first"), expected, EXACT)
    check_near(learned(problem, "first"), expected, EXACT)


@pytest.mark.parametrize("kind", KINDS)
def test_all_kinds_agree_without_a_step(problem, kind):
    check_near(dense(problem, kind, xi=0), brute_force(problem, xi=0), EXACT)


def test_finite_difference_is_near_exact_through_the_trainer(make_problem, problem):
    exact, first = learned(make_problem(problem.kind), "exact"), brute_force(problem, xi=0)
    found = learned(problem, "finite-difference")
    check_near(found, exact, FINITE_DIFFERENCE)
    check_near(difference(found, first), difference(exact, first), FINITE_DIFFERENCE)


def test_finite_difference_is_eq_9(problem):
    check_near(dense(problem, "finite-difference"), eq_9(problem, lambda eps: 0.5 / eps), EXACT)


@pytest.mark.parametrize(
    "wrong",
    [lambda eps: eps, lambda eps: 1 / eps, lambda eps: 2 * eps, lambda eps: 0.0],
    ids=["times eps", "by eps alone", "times 2 eps", "left out"],
)
def test_a_wrong_factor_would_be_noticed(problem, wrong):
    exact = brute_force(problem)
    check_near(eq_9(problem, lambda eps: 0.5 / eps), exact, FINITE_DIFFERENCE)
    with pytest.raises(AssertionError, match="error"):
        check_near(eq_9(problem, wrong), exact, FINITE_DIFFERENCE)


def test_the_error_of_finite_difference_falls_with_the_square_of_the_distance(problem):
    exact = brute_force(problem)
    errors = [
        norm(difference(dense(problem, "finite-difference", distance=distance), exact))
        for distance in (0.08, 0.04, 0.02, 0.01)
    ]
    # Halving R divides an error of second order by 4; terms of fourth order bend that a little.
    ratios = [big / small for big, small in pairwise(errors)]
    assert all(3.5 < ratio < 4.5 for ratio in ratios), ratios


def test_first_takes_no_gradient_of_weights_and_no_training_loss(problem):
    def validation(weights, alpha):
        assert not any(value.requires_grad for value in weights.values())
        assert all(value.requires_grad for value in alpha.values())
        return problem.loss(problem.validation)(weights, alpha)

    def training(weights, alpha):
        pytest.fail("the training loss was evaluated")

    hypergradient("first", training, validation, *problem.parameters(), xi=XI)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("first", {False}), ("finite-difference", {True, False}), ("exact", {True})],
)
def test_which_passes_compute_weight_gradients(make_problem, kind, expected):
    seen = set()

    class Spy(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func.overloadpacket is torch.ops.autoemb.soft_embedding_backward:
                seen.add(args[1])  # whether gradients of embeddings and projections are wanted
            return func(*args, **(kwargs or {}))

    with Spy():
        learned(make_problem(), kind)
    assert seen == expected


@pytest.mark.parametrize("kind", KINDS)
def test_a_dispatch_mode_changes_nothing(make_problem, kind):
    expected = learned(make_problem(), kind)
    with FlopCounterMode(display=False) as counter:
        found = learned(make_problem(), kind)
    assert counter.get_total_flops() > 0
    check_near(found, expected, EXACT)


@pytest.mark.parametrize("kind", KINDS)
def test_arguments_stay_as_they_were(problem, kind):
    groups = problem.parameters()
    copies = [{name: value.clone() for name, value in group.items()} for group in groups]
    hypergradient(
        kind, problem.loss(problem.training), problem.loss(problem.validation), *groups, xi=XI
    )
    for group, copy in zip(groups, copies, strict=True):
        assert all(torch.equal(value, copy[name]) for name, value in group.items())
        assert not any(value.requires_grad for value in group.values())


@pytest.mark.parametrize("kind", KINDS)
def test_a_validation_loss_without_weights_leaves_the_direct_term(kind):
    w, a = {"w": torch.tensor([3.0, 1.0])}, {"a": torch.tensor(2.0), "unused": torch.tensor(1.0)}
    found = hypergradient(
        kind, lambda w, a: (a["a"] * w["w"]).square().sum(), lambda w, a: a["a"] ** 2, w, a, xi=0.1
    )
    assert {name: value.item() for name, value in found.items()} == {"a": 4.0, "unused": 0.0}


def test_an_unknown_kind_is_named():
    with pytest.raises(ValueError, match="first, finite-difference, exact; got 'second'"):
        hypergradient("second", None, None, {}, {}, xi=0.1)
