import time
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
import torch

from bench import every_kernel
from bench.device import alternate, limit, num_sets, prepare
from bench.workloads import on_backend


def test_a_turn_calls_every_input_and_counts_for_one_call(monkeypatch):
    now, seen = [0.0], []
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def call(seconds):
        seen.append(seconds)
        now[0] += seconds

    turn = prepare(call, [2.0, 4.0], "cpu")
    seconds = alternate({"case": turn}, calls=2, device="cpu", budget=0)
    assert seconds["case"] == [3.0, 3.0]
    assert len(seen) == 2 * (2 + 2)  # prepare, the first turn, the rounds


def test_what_takes_too_long_is_ended():
    with pytest.raises(TimeoutError, match="not done in 1 s"), limit(1):
        time.sleep(10)
    with limit(1):
        pass
    time.sleep(1.1)  # no alarm is left


def test_the_script_for_sanitizers_runs():
    on_backend("auto", every_kernel.run)("cpu")


class FakeGraph:
    """Keeps what is called during a capture and counts replays."""

    def __init__(self):
        self.replays = 0

    def replay(self):
        self.replays += 1


@pytest.fixture
def fake_cuda(monkeypatch):
    """Let the code for GPUs run; return a list of modes that make the host's waiting an error."""
    modes, stream = [], SimpleNamespace(wait_stream=lambda other: None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "graph", lambda graph: nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", FakeGraph)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    return modes


def test_a_call_is_warmed_up_captured_and_replayed(fake_cuda):
    seen = []
    turn = prepare(seen.append, [1, 2, 3, 4], "cuda")
    assert seen == [1, 2, 3, 1, 1, 2, 3, 4]  # warm-up, looked at for waiting, captured
    assert turn.why_no_graph is None
    turn.run()
    assert len(seen) == 8
    assert turn.run.__self__.replays == 2


def test_a_call_that_waits_is_not_captured(fake_cuda):
    seen = []

    def call(x):
        if fake_cuda and fake_cuda[-1] == "error":
            raise RuntimeError("called a synchronizing CUDA operation\nand so on")
        seen.append(x)

    turn = prepare(call, [1, 2], "cuda")
    assert turn.why_no_graph.endswith("called a synchronizing CUDA operation")
    assert fake_cuda == ["error", "default"]
    turn.run()
    assert seen[-4:] == [1, 2, 1, 2]


def test_a_capture_that_fails_says_why(fake_cuda, monkeypatch):
    @contextmanager
    def refuse(graph):
        yield
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(torch.cuda, "graph", refuse)
    turn = prepare(lambda x: x, [1, 2], "cuda")
    assert turn.why_no_graph.startswith("capture failed: RuntimeError: operation not permitted")


def test_rows_of_the_input_sets_exceed_the_cache(monkeypatch):
    properties = SimpleNamespace(L2_cache_size=60_000_000)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    assert num_sets(1_000_000, "cuda") == 66
    assert num_sets(100_000_000, "cuda") == 8
    assert num_sets(1000, "cuda") == 128
