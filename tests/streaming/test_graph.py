"""The step as a graph: on an emulated one here, on a CUDA device in test_cuda.py."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from autoemb.bilevel import Example
from autoemb.bilevel.hypergradient import KINDS
from autoemb.learners import METHODS
from autoemb.nn import Inputs
from autoemb.streaming import checkpoint
from autoemb.streaming.graph import WARM_UP, StepGraph
from autoemb.streaming.packed import Layout, tensors_of, with_tensors
from autoemb.streaming.statistics import told


def test_replays_give_the_bits_of_steps_run_one_by_one(
    make_graphed, make_learner, case, stream, changes
):
    method, options = case
    if "history" in options or options.get("budget"):
        pytest.skip("what a model is told of ids, and who owns rows, is kept on the CPU")
    graphed, graphs = make_graphed(method, **options)
    steps = [graphed.learn(batch) for batch in stream]
    plain = make_learner(method, **options)
    expected = [plain.learn(batch) for batch in stream]
    assert changes(steps, expected) == []  # also of old steps: no replay writes into them
    assert changes(graphed.state_dict(), plain.state_dict()) == []
    assert len(graphs) >= 2  # tables grew between two of them
    assert sum(graph.replays for graph in graphs) >= 8


def test_padded_plans_change_no_result(make_learner, case, stream, flat, changes, pad_plans):
    method, options = case[0], case[1] | {"budget": 0}  # rows are granted on the CPU alone
    trimmed = make_learner(method, **options)
    expected = [trimmed.learn(batch) for batch in stream]
    pad_plans()
    padded = make_learner(method, **options)
    for batch, one in zip(stream, expected, strict=True):
        step = padded.learn(batch)
        # Sums in another order, fed back for 24 steps at large rates.
        torch.testing.assert_close(step.outcome.logits, one.outcome.logits, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(step.outcome.losses, one.outcome.losses, rtol=1e-5, atol=1e-6)
        assert changes(step.popularity, one.popularity) == []
    other = flat(trimmed.state_dict())
    for path, value in flat(padded.state_dict()).items():
        if isinstance(value, torch.Tensor) and "random" not in path:
            # Adam divides by gradients near zero: 1.3e-5 seen in one weight.
            torch.testing.assert_close(value, other[path], rtol=1e-4, atol=1e-5, msg=path)


def test_a_batch_of_another_size_leaves_the_graph(make_graphed, make_batches, part_of):
    learner, graphs = make_graphed("autoemb", validation="reservoir")
    full = make_batches(1)[0]
    short = part_of(full, 4)
    for batch in [full] * (WARM_UP + 2) + [short] * (WARM_UP - 1) + [full] * WARM_UP:
        learner.learn(batch)
    # The first batch has no past, and the batch after a short one learns from that.
    assert [graph.replays for graph in graphs] == [1 + WARM_UP - 1]


def test_a_size_that_stays_gets_the_graph(make_graphed, make_batches, part_of):
    learner, graphs = make_graphed("fse")
    full = make_batches(1)[0]
    short = part_of(full, 4)
    for batch in [full] * (WARM_UP + 1) + [short] * (WARM_UP + 2) + [full] * WARM_UP:
        learner.learn(batch)
    assert [graph.replays for graph in graphs] == [1, 2]
    assert learner._graph.captured


def test_a_step_keeps_all_state_where_it_is(make_graphed, make_batches, flat):
    learner, graphs = make_graphed("autoemb")
    for _ in range(WARM_UP + 2):
        learner.learn(make_batches(1)[0])

    def addresses():
        state = {"trainer": learner.trainer.state_dict(), "history": learner.history.state_dict()}
        leaves = []

        def collect(value):
            if isinstance(value, dict):
                [*map(collect, value.values())]
            elif isinstance(value, torch.Tensor):
                leaves.append(value.data_ptr())

        collect(state)
        return leaves

    before = addresses()
    learner.learn(make_batches(1)[0])
    assert len(graphs) == 1
    assert addresses() == before


@pytest.mark.parametrize("method", METHODS)
def test_a_learner_from_a_file_goes_on_with_or_without_a_graph(
    make_graphed, make_learner, stream, changes, tmp_path, method
):
    learner, _ = make_graphed(method)
    for batch in stream[:16]:
        learner.learn(batch)
    checkpoint.save(learner.state_dict(), tmp_path / "state")
    for batch in stream[16:]:
        learner.learn(batch)
    (graphed, graphs), plain = make_graphed(method, seed=1), make_learner(method, seed=1)
    for batch in stream[:9]:  # a graph of the state to be replaced
        graphed.learn(batch)
    for restored in (graphed, plain):
        restored.load_state_dict(checkpoint.load(tmp_path / "state"))
        for batch in stream[16:]:
            restored.learn(batch)
        assert changes(restored.state_dict(), learner.state_dict()) == []
    assert sum(graph.replays for graph in graphs) > 0


def test_a_model_that_draws_random_numbers_is_not_captured(
    make_graphed, make_learner, stream, changes
):
    (learner, graphs), plain = make_graphed("autoemb"), make_learner("autoemb")
    stream = stream[-3:] * 4  # no table grows after the third
    for each in (learner, plain):
        each.modules[0].hidden.insert(0, nn.Dropout(0.5))
        torch.manual_seed(0)
        for number, batch in enumerate(stream[-12:]):
            if each is learner and number == WARM_UP:  # the first batch has no past
                with pytest.warns(UserWarning, match="no CUDA graph.*draws random numbers"):
                    step = each.learn(batch)
            else:
                step = each.learn(batch)
        assert step.outcome.logits.isfinite().all()
    assert graphs == []
    assert changes(learner.state_dict(), plain.state_dict()) == []


@pytest.fixture
def sync_debug_modes(monkeypatch):
    """Stand in for a CUDA device; return the debug modes that were set."""
    modes = ["default"]
    numbers = ("default", "warn", "error")
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: numbers.index(modes[-1]))
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: torch.zeros(16))
    return modes


def waiting_graph(emulated_graph, modes, message="called a synchronizing CUDA operation"):
    """A graph of a step that makes the host wait, as PyTorch tells in debug mode."""

    def step(inputs):
        if modes[-1] == "warn":
            warnings.warn(message, stacklevel=1)
        return inputs[0] + 1

    return StepGraph(step, torch.device("cuda"), emulated_graph)


def repeat(graph, calls):
    layout = Layout([torch.zeros(2)])
    for i in range(calls):
        packed = layout.pack([torch.full((2,), float(i))])
        assert graph(layout, packed).tolist() == [i + 1.0] * 2


def test_a_step_that_makes_the_host_wait_is_not_captured(emulated_graph, sync_debug_modes):
    graph = waiting_graph(emulated_graph, sync_debug_modes)
    repeat(graph, WARM_UP - 1)
    with pytest.warns(UserWarning, match=r"no CUDA graph.*host wait.*test_graph\.py:\d+"):
        repeat(graph, 1)
    repeat(graph, 5)
    assert not graph.captured
    assert sync_debug_modes == ["default", "warn", "default"]


def test_other_warnings_of_a_step_are_passed_on(emulated_graph, sync_debug_modes):
    graph = waiting_graph(emulated_graph, sync_debug_modes, "something else")
    repeat(graph, WARM_UP - 1)
    with pytest.warns(UserWarning, match="something else"):
        repeat(graph, 1)
    repeat(graph, 1)
    assert graph.captured


def test_the_debug_mode_of_somebody_else_stays(emulated_graph, sync_debug_modes):
    sync_debug_modes.append("error")
    graph = waiting_graph(emulated_graph, sync_debug_modes)
    repeat(graph, WARM_UP + 1)
    assert graph.captured
    assert sync_debug_modes == ["default", "error"]


class OnMeta(TorchDispatchMode):
    """Refuse tensors on any other device than "meta", where values do not exist."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves((args, kwargs, result)):
            assert not isinstance(leaf, torch.Tensor) or leaf.is_meta, f"{func} uses {leaf.device}"
        return result


@pytest.mark.parametrize("selection", ["soft", "hard"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", METHODS)
def test_a_step_needs_no_value_and_no_tensor_of_the_host(
    make_learner, monkeypatch, method, kind, selection
):
    meta = torch.device("meta")
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: False)  # unknown to PyTorch
    # The fused optimisers refuse this device; Adagrad on a device is ours.
    options = {"hypergradient": kind, "selection": selection, "optimizer": "adagrad"}
    options["history"] = "none" if METHODS[method].opponent else "full"
    learner = make_learner(method, device=meta, **options)
    learner._grow({"user": 20, "item": 30})
    ids = {name: torch.zeros(6, dtype=torch.int64, device=meta) for name in ("user", "item")}
    example = Example(Inputs(ids), torch.zeros(6, device=meta))
    if learner.statistics is not None:  # which are told by the host
        rows = {name: torch.zeros(6, dtype=torch.int64) for name in ids}
        known = learner.statistics.known(Example(Inputs(rows), torch.zeros(6)))
        known = with_tensors(known, iter([own.to(meta) for own in known]))
        example = told(example, known)
    learner._layout = [example] * (3 if learner.trainer.bilevel else 1)
    tensors = tensors_of(learner._layout)
    learner._compute(tensors)  # optimisers make their state
    with OnMeta():
        step = learner._compute(tensors)
    assert step.outcome.logits.shape == (6, 1)


# The emulation itself: what a graph would get wrong, it gets wrong


def replayed(emulated_graph, function, calls=4):
    graph = StepGraph(function, torch.device("cpu"), emulated_graph)
    layout = Layout([torch.zeros(2)])
    values = [torch.tensor([float(i), 1.0]) for i in range(WARM_UP + calls)]
    return [graph(layout, layout.pack([value])).clone() for value in values], values


def test_inputs_and_state_in_place_are_followed(emulated_graph):
    total = torch.zeros(2)
    results, values = replayed(emulated_graph, lambda x: total.add_(x[0]) * 2)
    assert torch.equal(results[-1], 2 * sum(values))


def test_state_that_is_replaced_shows(emulated_graph):
    state = {"total": torch.zeros(2)}

    def step(x):
        state["total"] = state["total"] + x[0]
        return state["total"]

    results, values = replayed(emulated_graph, step)
    assert not torch.equal(results[-1], sum(values))


@pytest.mark.parametrize(
    "step",
    [
        lambda x: x[0] * x[0].sum().item(),
        lambda x: x[0] if x[0].sum() > 0 else x[0] * 2,
        lambda x: x[0].nonzero(),
        lambda x: x[0][x[0] > 0],
        lambda x: x[0].unique(),
        lambda x: x[0] * torch.tensor(2.0),
    ],
)
def test_what_makes_the_host_wait_is_refused(emulated_graph, step):
    with pytest.raises(AssertionError, match="makes the host wait"):
        replayed(emulated_graph, step)


# Packing


def test_layouts_of_other_shapes_or_dtypes_differ():
    tensors = [
        torch.zeros(2, 3),
        torch.zeros(0, 4, dtype=torch.int64),
        torch.ones(5, dtype=torch.bool),
    ]
    layout = Layout(tensors)
    assert layout == Layout([torch.ones_like(tensor) for tensor in tensors])
    assert hash(layout) == hash(Layout(tensors))
    assert layout != Layout([tensors[0].T, *tensors[1:]])
    assert layout != Layout([tensors[0].int(), *tensors[1:]])
    assert layout != Layout(tensors[:2])


def test_tensors_of_any_width_come_back(flat):
    random = np.random.default_rng(0)
    dtypes = [torch.bool, torch.float64, torch.int32, torch.bfloat16, torch.int64, torch.uint8]
    tensors = [torch.from_numpy(random.integers(0, 2, (3, 5))).to(dtype) for dtype in dtypes]
    tensors += [torch.arange(6).reshape(2, 3).T, torch.zeros(0, 2), torch.tensor(7)]
    layout = Layout(tensors)
    for tensor, other in zip(tensors, layout.unpack(layout.pack(tensors)), strict=True):
        assert tensor.dtype == other.dtype
        assert torch.equal(tensor, other)
