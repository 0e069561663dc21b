"""Which of kernels and reference computes a call."""

import inspect

import pytest
import torch

from autoemb import SoftEmbedding
from autoemb.ops import cpu, soft_embedding


@pytest.fixture
def used(make_sample, monkeypatch):
    """Run the public op; return whether the native kernels did the forward pass."""

    def run(backend="auto", dtype=torch.float32):
        calls = []
        compiled = cpu._cpu

        class Spy:
            def __getattr__(self, name):
                if name == "forward":
                    calls.append(name)
                return getattr(compiled, name)

        with monkeypatch.context() as patch:
            patch.setattr(cpu, "_cpu", Spy())
            positional, named = make_sample((4, 8), 2, 33).to(dtype).arguments()
            output = soft_embedding(*positional, **named, backend=backend).output
        assert output.dtype == dtype
        return bool(calls)

    return run


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch):
    monkeypatch.delenv("AUTOEMB_BACKEND", raising=False)


def test_an_argument_chooses(used):
    assert used("auto")
    assert used("native")
    assert not used("reference")


def test_the_environment_overrides_the_argument(used, monkeypatch):
    monkeypatch.setenv("AUTOEMB_BACKEND", "reference")
    assert not used("native")
    for value in ("native", "auto"):
        monkeypatch.setenv("AUTOEMB_BACKEND", value)
        assert used("reference")


@pytest.mark.parametrize("value", ["cuda", "", "NATIVE"])
def test_a_wrong_value_is_refused_with_those_there_are(used, value, monkeypatch):
    choices = 'must be one of "auto", "reference", "native"; got '
    with pytest.raises(ValueError, match=f"backend {choices}{value!r}"):
        used(value)
    monkeypatch.setenv("AUTOEMB_BACKEND", value)
    with pytest.raises(ValueError, match=f"AUTOEMB_BACKEND {choices}{value!r}"):
        used("auto")


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_other_dtypes_take_the_reference_or_are_named(used, dtype):
    assert not used("auto", dtype)
    with pytest.raises(RuntimeError, match=f'backend="native": .*{dtype}'):
        used("native", dtype)


@pytest.mark.parametrize("wants_gradient", [True, False])
def test_few_frames_lie_between_module_and_kernel(monkeypatch, wants_gradient):
    module, frames = SoftEmbedding([5, 6], (1, 2)), []
    compiled = cpu._cpu

    class Spy:
        def __getattr__(self, name):
            if name == "forward":
                frames.extend(frame.function for frame in inspect.stack()[1:])
            return getattr(compiled, name)

    monkeypatch.setattr(cpu, "_cpu", Spy())
    with torch.set_grad_enabled(wants_gradient):
        module(torch.zeros(3, 2, dtype=torch.int64), torch.ones(3, 2, 2))
    hops = frames[: frames.index("_call_impl")]  # torch.nn.Module's, which calls our forward
    assert len(hops) <= 7, hops
