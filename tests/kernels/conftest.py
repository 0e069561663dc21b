"""The kernels under test: on a GPU where there is one, and always in emulation on the CPU."""

import hashlib
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import warnings
from functools import partial
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


PASSES = {
    "soft_embedding": cuda.forward,
    "soft_embedding.sparse": cuda.forward,
    "soft_embedding_backward": cuda.backward,
}


@pytest.fixture
def on_kernels(monkeypatch, emulated):
    """Let CPU tensors go the way of CUDA tensors; return the names of the kernels called."""
    calls = set()
    library = torch.library.Library("autoemb", "IMPL")

    class Counting:
        def __getattr__(self, name):
            calls.add(name)
            return getattr(emulated, name)

    def use():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch tells that the op had a kernel for the CPU
            for op, function in PASSES.items():
                library.impl(op, partial(function, Counting()), "CPU", allow_override=True)
        monkeypatch.setattr(cuda, "kernels", Counting())
        monkeypatch.setattr(cuda, "COMPILED", True)
        monkeypatch.setattr(cuda, "DEVICE", "cpu")
        monkeypatch.setattr(cpu, "DEVICE", "none")
        for name in ("plan", "pool", "record"):
            monkeypatch.setattr(
                sys.modules[f"autoemb.ops.{name}"], "is_padded", lambda device: True
            )
        return calls

    yield use
    library._destroy()


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
def move_problem(move):
    """Copy the tensors of a problem there; statistics in float32."""

    def move_problem(problem):
        statistics = problem.mean, problem.variance
        mean, variance = (None if x is None else move(x).to(torch.float32) for x in statistics)
        names = "ids", "weights", "projection", "bias"
        moved = {name: move(getattr(problem, name)) for name in names}
        tables = [move(table) for table in problem.tables]
        return problem._replace(mean=mean, variance=variance, tables=tables, **moved)

    return move_problem


@pytest.fixture(scope="session")
def run_forward(target, move_problem):
    """Run the forward pass with the batch's own statistics beside given ones."""

    def run_forward(sample):
        found = cuda.forward(target.kernels, True, *move_problem(sample.problem()))
        names = "output", "mean", "variance"
        return SimpleNamespace(**{n: x.cpu() for n, x in zip(names, found, strict=True)})

    return run_forward


@pytest.fixture(scope="session")
def run_op(target, move, move_problem):
    """Run both passes of the kernels on a sample; the results are on the CPU."""

    def run_op(sample, embeddings=True, seed=0):
        if target.device.type == "cpu":
            target.kernels.set_seed(seed)
        problem = move_problem(sample.problem())
        output, mean, variance = cuda.forward(target.kernels, False, *problem)
        problem = problem._replace(mean=mean, variance=variance)
        results = cuda.backward(target.kernels, move(sample.grad), embeddings, *problem)
        names = "embeddings_grad", "weights_grad", "projection_grad", "bias_grad", "rows"
        results = dict(zip(names, results, strict=True), output=output, mean=mean)
        return SimpleNamespace(
            **{name: x.cpu() for name, x in results.items()}, variance=variance.cpu()
        )

    return run_op
