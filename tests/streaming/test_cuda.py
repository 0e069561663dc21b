"""The stream on a CUDA device: one graph, no waiting host, the numbers of the graph-free path."""

import pytest
import torch
from torch import nn

from autoemb import Batch
from autoemb.bilevel import Example
from autoemb.lab.recorder import Recorder
from autoemb.learners import METHODS
from autoemb.nn import Inputs
from autoemb.schema import STARS
from autoemb.streaming import checkpoint
from autoemb.streaming.graph import WARM_UP
from autoemb.streaming.history import encode_popularity, popularity_bucket
from autoemb.streaming.packed import Layout
from autoemb.streaming.transfer import Download, Upload
from autoemb.tasks import task_for

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture
def build(make_learner):
    """Return a function that builds a learner on the device and lists its graphs."""

    def make(method, graph=True, **options):
        learner, graphs = make_learner(method, device="cuda", **options), []
        if graph:
            inner = learner._graph._capture

            def capture(function, device):
                graphs.append(inner(function, device))
                return graphs[-1]

            learner._graph._capture = capture
        else:
            learner._graph = None
        return learner, graphs

    return make


def test_replays_give_the_bits_of_steps_run_one_by_one(build, case, stream, changes):
    (method, options), results = case, []
    if "history" in options or options.get("budget"):
        pytest.skip("what a model is told of ids, and who owns rows, is kept on the CPU")
    for graph in (True, False, True):
        learner, graphs = build(method, graph, **options)
        steps = [learner.learn(batch) for batch in stream]
        results.append({"steps": steps, "learner": learner.state_dict()})
        assert len(graphs) >= 2 * graph  # tables grew between two of them
    assert changes(results[0], results[1]) == []
    assert changes(results[0], results[2]) == []


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
@pytest.mark.parametrize("method", METHODS)
def test_the_host_never_waits(build, stream, method):
    learner, _ = build(method)
    features = {"user": "user", "item": "item"}
    sizes = 2 * (method != "fse")
    recorder = Recorder(task_for("regression", STARS), features, sizes, offline=0, window=6)
    learner.learn(stream[0])  # loads libraries
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in stream[1:]:
            recorder.add(learner.learn(batch))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    recorder.close_window()
    assert recorder.events == sum(map(len, stream[1:]))
    assert learner._graph.captured


@pytest.mark.parametrize("method", METHODS)
def test_a_long_stream_gives_the_losses_of_the_cpu(make_learner, make_batches, method):
    losses, batches = {}, make_batches(200, size=64)
    for device in ("cpu", "cuda"):
        options = {"dims": (2, 4), "row_rate": 1.0, "learning_rate": 0.003, "device": device}
        learner = make_learner(method, batch_size=64, initial_rows=1024, **options)
        losses[device] = torch.stack([learner.learn(batch).losses.cpu() for batch in batches])
    assert learner._graph.captured
    torch.testing.assert_close(losses["cuda"], losses["cpu"], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_features_of_all_kinds_give_the_losses_of_the_cpu(make_learner, make_batches, method):
    losses, predictions, batches = {}, {}, make_batches(30, kind="shapes")
    for device in ("cpu", "cuda"):
        learner = make_learner(method, kind="shapes", device=device, row_rate=1.0)
        losses[device] = torch.cat([learner.learn(batch).losses.cpu() for batch in batches])
        predictions[device] = learner.predict(batches[-1]).cpu()
    torch.testing.assert_close(losses["cuda"], losses["cpu"], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(predictions["cuda"], predictions["cpu"], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("source", ["cpu", "cuda"])
@pytest.mark.parametrize("method", METHODS)
def test_a_learner_from_a_file_goes_on(
    make_learner, build, stream, changes, tmp_path, method, source
):
    learner = make_learner(method, device=source)
    for batch in stream[:14]:
        learner.learn(batch)
    checkpoint.save(learner.state_dict(), tmp_path / "state")
    finals = [[[learner.learn(batch) for batch in stream[14:]], learner.state_dict()]]
    for graph in (True, False):
        restored, _ = build(method, graph, seed=1)
        for batch in stream[:9]:  # a graph of what is to be replaced
            restored.learn(batch)
        restored.load_state_dict(checkpoint.load(tmp_path / "state"))
        finals.append([[restored.learn(batch) for batch in stream[14:]], restored.state_dict()])
    assert changes(finals[1], finals[2]) == []
    if source == "cuda":
        assert changes(finals[0], finals[1]) == []


def test_a_model_that_draws_random_numbers_is_not_captured(build, make_batches):
    learner, graphs = build("autoemb")
    learner.modules[0].hidden.insert(0, nn.Dropout(0.5))
    batch = make_batches(1)[0]
    for number in range(WARM_UP + 3):
        if number == WARM_UP:  # the first batch has no past
            with pytest.warns(UserWarning, match="draws random numbers"):
                learner.learn(batch)
        else:
            learner.learn(batch)
    assert graphs == []


def test_a_model_that_makes_the_host_wait_is_not_captured(build, make_batches):
    class Waiting(nn.Module):
        def forward(self, x):
            return x * (1 if x.sum().item() else 2)

    learner, graphs = build("fse")
    learner.modules[0].hidden.insert(0, Waiting())
    batch = make_batches(1)[0]
    for number in range(WARM_UP + 3):
        if number == WARM_UP - 1:
            with pytest.warns(UserWarning, match="makes the host wait"):
                learner.learn(batch)
        else:
            learner.learn(batch)
    assert graphs == []


def test_tensors_travel_there_and_back():
    device = torch.device("cuda", torch.cuda.current_device())
    tensors = [torch.arange(12).reshape(6, 2), torch.rand(6), torch.rand(3, 5)]
    layout, upload, download = Layout(tensors), Upload(device), Download()
    sent = []
    for i in range(100):  # more than may be under way, through the same buffers
        sent.append([tensors[0] + i, *tensors[1:]])
        download.add(layout.unpack(upload(layout, sent[-1])))
    for one, other in zip(download.arrived(wait=True), sent, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_popularity_is_encoded_as_on_the_cpu():
    count = torch.tensor([0, *(2**k + j for k in range(1, 40) for j in (-2, -1, 0))])
    assert torch.equal(popularity_bucket(count.cuda()).cpu(), popularity_bucket(count))
    torch.testing.assert_close(encode_popularity(count.cuda()).cpu(), encode_popularity(count))


@pytest.mark.parametrize("bad", [-1, 30, 2**40])
@pytest.mark.parametrize("method", ["autoemb", "darts"])
def test_a_trainer_tells_of_an_id_out_of_range_later(make_learner, method, bad):
    learner = make_learner(method, dims=(2, 8), hypergradient="exact", device="cuda")
    learner._resize({"user": 20, "item": 30})
    trainer, random = learner.trainer, torch.Generator().manual_seed(0)

    def example():
        rows = {
            name: torch.randint(n, (40,), generator=random).cuda()
            for name, n in (("user", 20), ("item", 30))
        }
        return Example(Inputs(rows), torch.rand(40, generator=random).cuda())

    good, wrong = example(), example()
    wrong.inputs.ids["item"][7] = bad

    def until_told(call):
        call()
        torch.cuda.synchronize()
        trainer.step(good)

    for call in (lambda: trainer.step(wrong), lambda: trainer.controller_step(wrong, good)):
        with pytest.raises(IndexError, match=f"id {bad} "):
            until_told(call)
        assert trainer.step(good).losses.isfinite().all()


@pytest.mark.parametrize("bad", [-1, 2**40])
@pytest.mark.parametrize("method", METHODS)
def test_a_replayed_step_tells_of_a_bad_row_at_the_next(
    build, make_batches, monkeypatch, method, bad
):
    learner, graphs = build(method)
    inner, wrong = learner.encoder.example, []

    def example(batch, numbers):
        numbers["item"][wrong] = bad
        return inner(batch, numbers)

    monkeypatch.setattr(learner.encoder, "example", example)
    batch = make_batches(1)[0]
    for number in range(WARM_UP + 3):
        wrong[:] = [2] if number == WARM_UP + 2 else []
        learner.learn(batch)
    assert len(graphs) == 1
    torch.cuda.synchronize()
    wrong.clear()
    before = sum(int(table.count.sum()) for table in learner.history.tables.values())
    with pytest.raises(IndexError, match=f"id {bad} is not in"):
        learner.learn(batch)
    # The event counts in the other table alone, and the step that raised did nothing.
    assert before == 2 * (WARM_UP + 3) * len(batch) - 1
    assert before == sum(int(table.count.sum()) for table in learner.history.tables.values())
    for module in learner.modules:
        assert all(parameter.isfinite().all() for parameter in module.parameters())


def test_predictions_beside_training_on_a_device(build, make_batches):
    learner, _ = build("autoemb")
    batches = make_batches(12)
    for batch in batches:
        strangers = Batch({name: ids + 10**9 for name, ids in batch.sparse.items()})
        known = learner.num_ids()
        assert learner.predict(strangers).isfinite().all()
        assert learner.num_ids() == known
        learner.learn(batch)
