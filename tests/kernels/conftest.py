"""The kernels under test: on a GPU where there is one, and always in emulation on the CPU."""

import hashlib
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from filelock import FileLock

from autoemb.ops import cpu, cuda

ROOT = Path(__file__).parents[2]


def run(*command):
    done = subprocess.run(command, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def build_emulation():
    """Compile the kernels for the CPU; a folder below build/ keeps what has not changed."""
    pybind11 = pytest.importorskip("pybind11", reason="the emulation is bound by pybind11")
    cmake = shutil.which("cmake")
    if cmake is None:
        pytest.skip("no cmake to build the emulated kernels with")
    arguments = [
        f"-DPython_EXECUTABLE={sys.executable}",
        f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
        "-DAUTOEMB_EMULATED=ON",
        *shlex.split(os.environ.get("CMAKE_ARGS", "")),
    ]
    name = hashlib.sha256(" ".join([str(ROOT), *arguments]).encode()).hexdigest()[:12]
    folder = ROOT / "build" / f"emulated-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):  # another worker process may want it, too
        run(cmake, "-S", str(ROOT), "-B", str(folder), "-G", "Ninja", *arguments)
        run(cmake, "--build", str(folder), "--target", "_emulated")
    (path,) = folder.glob("_emulated*.so")
    spec = importlib.util.spec_from_file_location("_emulated", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def emulated():
    if shutil.which(os.environ.get("CXX", "c++")) is None:
        pytest.skip("no C++ compiler to build the emulated kernels with")
    return build_emulation()


@pytest.fixture(scope="session", params=["emulated", "cuda"])
def target(request):
    """The module of kernels and the device they run on."""
    if request.param == "emulated":
        return SimpleNamespace(
            kernels=request.getfixturevalue("emulated"), device=torch.device("cpu")
        )
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    module = pytest.importorskip("autoemb._cuda", reason="autoemb._cuda is not built")
    return SimpleNamespace(kernels=module, device=torch.device("cuda", 0))


@pytest.fixture(autouse=True)
def nothing_reported(request):
    """Every test starts and ends with no id out of range waiting to be raised."""
    yield
    if "target" in request.fixturenames:
        cuda.check_ids(request.getfixturevalue("target").device)


@pytest.fixture
def on_kernels(monkeypatch, emulated):
    """Let CPU tensors go the way of CUDA tensors; return the names of the kernels called."""
    calls = set()

    class Counting:
        def __getattr__(self, name):
            calls.add(name)
            return getattr(emulated, name)

    def use():
        monkeypatch.setattr(cuda, "kernels", Counting())
        monkeypatch.setattr(cuda, "COMPILED", True)
        monkeypatch.setattr(cuda, "DEVICE", "cpu")
        monkeypatch.setattr(cpu, "DEVICE", "none")
        for name in ("plan", "record"):
            monkeypatch.setattr(
                sys.modules[f"autoemb.ops.{name}"], "is_padded", lambda device: True
            )
        return calls

    return use


PRECISIONS = {"ieee": "highest", "tf32": "high", "bf16": "medium"}


@pytest.fixture(params=PRECISIONS)
def mode(request):
    """How the kernels multiply: torch's own switch decides."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(PRECISIONS[request.param])
    yield request.param
    torch.set_float32_matmul_precision(before)


@pytest.fixture(scope="session")
def move(target):
    """Copy a tensor to the device of the kernels, with its strides."""

    def move(x):
        x = x.detach()
        memory = x.new_empty(0).set_(x.untyped_storage()).to(target.device)
        return memory.as_strided(x.size(), x.stride(), x.storage_offset())

    return move


@pytest.fixture(scope="session")
def run_forward(target, move):
    """Run the forward pass with the batch's own statistics beside given ones."""

    def run_forward(sample):
        found = cuda.forward(
            target.kernels,
            [move(x) for x in sample.tables],
            *map(move, (sample.ids, sample.weights, sample.projection, sample.bias)),
            *(x.to(target.device, torch.float32) for x in sample.running),
            sample.dims,
            sample.eps,
            sample.average,
            statistics=True,
        )
        names = "output", "mean", "variance"
        return SimpleNamespace(**{n: x.cpu() for n, x in zip(names, found, strict=True)})

    return run_forward


@pytest.fixture(scope="session")
def run_op(target, move):
    """Run both passes of the kernels on a sample; the results are on the CPU."""

    def run_op(sample, embeddings=True, row_numbers=None, seed=0):
        if target.device.type == "cpu":
            target.kernels.set_seed(seed)
        tables = [move(x) for x in sample.tables]
        ids, weights, projection, bias, grad = (
            move(x)
            for x in (sample.ids, sample.weights, sample.projection, sample.bias, sample.grad)
        )
        running = [x.to(target.device, torch.float32) for x in sample.running or ()]
        if row_numbers is not None:
            row_numbers = row_numbers.to(target.device)
        options = sample.dims, sample.eps, sample.average
        output, mean, variance = cuda.forward(
            target.kernels,
            tables,
            ids,
            weights,
            projection,
            bias,
            *(running or (None, None)),
            *options,
            row_numbers,
        )
        names = "embeddings_grad", "weights_grad", "projection_grad", "bias_grad", "rows"
        results = cuda.backward(
            target.kernels,
            grad,
            tables,
            ids,
            weights,
            projection,
            bias,
            mean,
            variance,
            *options,
            sample.running is None,
            embeddings,
            row_numbers,
        )
        results = dict(zip(names, results, strict=True), output=output, mean=mean)
        return SimpleNamespace(
            **{name: x.cpu() for name, x in results.items()}, variance=variance.cpu()
        )

    return run_op
