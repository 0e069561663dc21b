"""The registered ops, and a whole learner, on the CUDA kernels' path: here by their emulation.

Plans are padded as on a GPU. That the kernels were called at all is part of each test.
"""

import numpy as np
import pytest
import torch

from autoemb import Batch, Label, Recipe, Schema, Sparse, build_learner
from autoemb.bilevel import Example
from autoemb.nn import Inputs
from autoemb.ops import cuda, native, soft_embedding
from tests.samples import BACKWARD, FORWARD, OF_SIZES

SCHEMA = Schema(
    label=Label(column="click", kind="click"),
    sparse=[Sparse(column="user_id"), Sparse(column="item_id")],
)


def gradients(sample, **changes):
    positional, named = sample.arguments()
    output = soft_embedding(*positional, **named | changes).output
    return [output, *torch.autograd.grad(output, sample.leaves, sample.grad)]


@pytest.mark.parametrize("training", [True, False])
def test_the_op_and_its_gradients_equal_the_reference(
    make_sample, on_kernels, assert_near, training
):
    sample = make_sample((2, 16, 128), 2, 33, training=training)
    if sample.running:
        sample.running = tuple(x.to(torch.float32) for x in sample.running)
    expected = gradients(sample, backend="reference")
    calls = on_kernels()
    for actual, wanted in zip(gradients(sample, backend="native"), expected, strict=True):
        assert_near(actual, wanted, "ieee gradients")
    assert {"normalise", "gradients"} <= calls


@pytest.mark.parametrize("name", ["default", "sparse"])
def test_the_registered_ops_pass_opcheck(make_sample, on_kernels, name):
    calls = on_kernels()
    sample = make_sample((1, 3), 2, 6)
    forward = getattr(FORWARD, name)
    torch.library.opcheck(forward, (False, *sample.problem()))
    _, *statistics = forward(False, *sample.problem())
    arguments = sample.grad, True, *sample.problem(*statistics)
    torch.library.opcheck(BACKWARD.default, arguments)
    assert "gradients" in calls


def test_an_id_out_of_range_is_raised_by_the_next_call(make_sample, on_kernels):
    on_kernels()
    sample = make_sample((1, 3), 2, 6)
    good = sample.ids.clone()
    sample.ids[3, 1] = len(sample.tables[1])
    positional, named = sample.arguments()
    soft_embedding(*positional, **named)
    sample.ids.copy_(good)
    with pytest.raises(IndexError, match="out of range in field 1"):
        soft_embedding(*positional, **named)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("autoemb", {}),
        ("autoemb", {"hypergradient": "exact", "optimizer": "adam"}),
        ("darts", {"hypergradient": "finite-difference"}),
        ("sam", {"optimizer": "sgd"}),
        ("fse", {}),
    ],
)
def test_a_learner_gets_the_numbers_of_the_cpu(on_kernels, method, options):
    small = {"dims": (2, 8), "hidden": (16,)}
    recipe = Recipe.of(method=method, **OF_SIZES | small | options)
    random = np.random.default_rng(0)
    batches = [
        Batch(
            {"user_id": random.integers(0, 30, 40), "item_id": random.zipf(1.3, 40) % 50},
            label=torch.from_numpy(random.integers(0, 2, 40)).float(),
        )
        for _ in range(6)
    ]
    plain = build_learner(SCHEMA, recipe=recipe)
    expected = [plain.learn(batch) for batch in batches]
    calls = on_kernels()
    learner = build_learner(SCHEMA, recipe=recipe)
    for batch, one in zip(batches, expected, strict=True):
        step = learner.learn(batch)
        torch.testing.assert_close(step.outcome.losses, one.outcome.losses, rtol=1e-4, atol=1e-5)
    assert {"plan", "record", f"update_{recipe.optimizer}"} <= calls
    assert ("gradients" in calls) == (method != "fse")
    for table, mine in learner.history.tables.items():
        theirs = plain.history.tables[table]
        assert torch.equal(mine.count, theirs.count)
        torch.testing.assert_close(mine.mean_loss, theirs.mean_loss, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bad", [-1, 30, 2**40])
@pytest.mark.parametrize("hypergradient", ["first", "finite-difference", "exact"])
@pytest.mark.parametrize("method", ["autoemb", "darts", "fse"])
def test_a_trainer_tells_of_an_id_out_of_range_at_the_next_call(
    on_kernels, method, hypergradient, bad
):
    own = {"dims": (2, 8), "hypergradient": hypergradient}
    recipe = Recipe.of(method=method, **OF_SIZES | own)
    learner = build_learner(SCHEMA, recipe=recipe)
    trainer = learner.trainer
    sizes = trainer.num_rows()  # 1,024 and 1,024
    bad = sizes["item_id"] if bad == 30 else bad
    on_kernels()
    random = torch.Generator().manual_seed(0)

    def batch():
        ids = {name: torch.randint(n, (40,), generator=random) for name, n in sizes.items()}
        return Example(Inputs(ids), torch.rand(40, generator=random).round())

    good, wrong = batch(), batch()
    wrong.inputs.ids["item_id"][7] = bad
    calls = [lambda: trainer.step(wrong), lambda: trainer.predict(wrong.inputs)]
    if trainer.bilevel:
        calls.append(lambda: trainer.controller_step(wrong, good))
        if hypergradient != "first":  # which takes no training batch
            calls.append(lambda: trainer.controller_step(good, wrong))

    def until_told(call):
        call()
        trainer.step(good)

    for call in calls:
        with pytest.raises(IndexError, match=f"out of range in field 1: id {bad} "):
            until_told(call)
        trainer.step(good)
    for module in learner.modules:
        assert all(parameter.isfinite().all() for parameter in module.parameters())


def test_native_names_what_is_missing(monkeypatch):
    monkeypatch.setattr(cuda, "DEVICE", "meta")
    monkeypatch.setattr(cuda, "COMPILED", False)
    monkeypatch.setattr(cuda, "IMPORT_ERROR", "no module")
    values = torch.zeros(2, device="meta")
    with pytest.raises(RuntimeError, match=r"CUDA kernels are not built \(no module\)"):
        native.kernels_for("native", [], values)


@pytest.mark.parametrize(
    ("name", "changed", "message"),
    [
        ("ids", lambda x: x.int(), r"expected ids of dtype torch\.int64"),
        ("weights", lambda x: x[..., :1], "expected weights of shape"),
        ("projection", lambda x: x.double(), r"expected projection of dtype"),
        ("bias", lambda x: x[:, :, :-1], "expected bias of shape"),
        ("tables", lambda x: [x[0], x[1][:, :-1]], "expected table of field 1 of shape"),
        ("projection", lambda x: x.to("meta"), "expected projection on cpu but got it on meta"),
        ("tables", lambda x: [x[0], x[1].to("meta")], "expected table of field 1 on cpu"),
    ],
)
def test_tensors_that_kernels_would_misread_are_named(
    make_sample, on_kernels, name, changed, message
):
    sample = make_sample((4, 8), 2, 33)
    setattr(sample, name, changed(getattr(sample, name)))
    on_kernels()
    with pytest.raises((RuntimeError, ValueError), match=message):
        cuda.forward(cuda.kernels, False, *sample.problem())


def test_the_newer_precision_switch_is_read_too(make_sample, on_kernels):
    on_kernels()
    positional, named = make_sample((4, 8), 2, 33).arguments()
    exact = soft_embedding(*positional, **named).output
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    try:
        rounded = soft_embedding(*positional, **named).output
    finally:
        torch.backends.cuda.matmul.fp32_precision = before
    assert (rounded - exact).abs().max() < 2e-3
