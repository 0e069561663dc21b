"""What setup.py builds, what it says when it cannot, and what build_info() tells of it."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import warnings
from pathlib import Path

import pytest

import autoemb
from autoemb import build, runtime
from autoemb.build import build_info
from autoemb.ops import cpu, cuda

ROOT = Path(__file__).parents[1]
PARTS = ("_runtime", "_cpu", "_cuda")
NO_TOOLKIT = "no CUDA toolkit: nvcc not in PATH or CUDA_HOME"


def test_these_tests_run_on_an_installed_package():
    assert Path(build.__file__).with_name("_build.json").exists(), (
        f"{Path(build.__file__).parent} was never built, so its Python stand-ins would be tested; "
        "install with: python -m pip install -e '.[test]'"
    )


def test_build_info():
    info = build_info()
    assert info["version"] == autoemb.__version__
    assert info["native"] == (info["cpu_kernels"] in ("avx512", "avx2", "baseline"))
    assert info["cuda"] == bool(info["cuda_archs"])
    assert info["runtime"] == ("compiled" if runtime.COMPILED else "python")
    assert (info["compiler"] is not None) == runtime.COMPILED
    assert (info["reason"] is None) == (info["native"] and info["cuda"] and runtime.COMPILED)
    if os.environ.get("AUTOEMB_NATIVE") == "1":
        assert info["runtime"] == "compiled", info["reason"]
        assert info["native"], info["reason"]


def test_a_build_with_everything_needs_no_reason(monkeypatch):
    for module in (runtime, cpu, cuda):
        monkeypatch.setattr(module, "COMPILED", True)
    assert build_info()["reason"] is None


@pytest.mark.parametrize(
    ("recorded", "expected"),
    [
        ({"_runtime": "no compiler", "_cpu": "cpu", "_cuda": "cuda"}, "Python: no compiler; .*"),
        ({"_runtime": None, "_cpu": "cpu", "_cuda": "cuda"}, "Python: does not load; .*"),
        (None, "Python: this folder was never built; .*"),
    ],
)
def test_build_info_says_why_parts_are_missing(monkeypatch, tmp_path, recorded, expected):
    monkeypatch.setattr(build, "_RECORD", tmp_path / "_build.json")
    for module in (runtime, cpu, cuda):
        monkeypatch.setattr(module, "COMPILED", False)
    monkeypatch.setattr(runtime, "IMPORT_ERROR", "does not load")
    if recorded:
        (tmp_path / "_build.json").write_text(json.dumps(recorded))
        expected += "no native CPU kernels: cpu; no CUDA kernels: cuda"
    info = build_info()
    assert info["runtime"] == "python"
    assert re.search(expected, info["reason"])


def test_a_source_folder_that_was_never_built_warns(tmp_path):
    ignored = shutil.ignore_patterns("*.so", "_build.json", "__pycache__")
    shutil.copytree(ROOT / "autoemb", tmp_path / "autoemb", ignore=ignored)
    script = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import autoemb"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0
    assert "never built, and computes without compiled kernels" in done.stderr
    assert "<string>:1: RuntimeWarning" in done.stderr  # the line that imports it
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build.warn_if_never_built()


def build_in(folder, path="", **environment):
    """Run setup.py with nothing but ``path`` to find tools in; return how it ended."""
    kept = {name: os.environ[name] for name in ("HOME", "LD_LIBRARY_PATH") if name in os.environ}
    command = [sys.executable, "setup.py", "-q", "build_ext"]
    folders = ["--build-lib", str(folder / "lib"), "--build-temp", str(folder / "temp")]
    return subprocess.run(
        [*command, *folders],
        cwd=ROOT,
        env={**kept, "PATH": str(path), **environment},
        text=True,
        capture_output=True,
        check=False,
    )


def missing(folder):
    return json.loads((folder / "lib/autoemb/_build.json").read_text())


@pytest.mark.parametrize("name", ["AUTOEMB_CUDA", "AUTOEMB_NATIVE"])
def test_a_switch_with_another_value_is_an_error(tmp_path, name):
    done = build_in(tmp_path, **{name: "yes"})
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"{name} is 'yes'; expected 0, 1 or auto"


def test_without_tools_the_build_falls_back_and_says_why(tmp_path):
    compiled_before = tmp_path / "lib/autoemb" / f"_runtime{sysconfig.get_config_var('EXT_SUFFIX')}"
    compiled_before.parent.mkdir(parents=True)
    compiled_before.touch()
    done = build_in(tmp_path, CUDA_HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert missing(tmp_path) == dict.fromkeys(PARTS, "cmake not found") | {"_cuda": NO_TOOLKIT}
    assert "the streaming runtime not compiled: cmake not found" in done.stderr
    assert not compiled_before.exists()


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (
            "-- looking\nCMake Error at C.txt:3 (project):\n  No\n\n  compiler.\n\n\n-- bye",
            "No compiler.",
        ),
        ("CMake Error: no Ninja\nbye", "no Ninja"),
        (
            "c++ -Werror a.cpp\na.cpp:1:2: error: what?\n  1 | x\nbye",
            "a.cpp:1:2: error: what? 1 | x",
        ),
        ("it just\nended", "ended"),
        ("", "no output"),
    ],
)
def test_the_first_error_of_a_tool_is_the_reason(tmp_path, output, reason):
    pytest.importorskip("pybind11", reason="the build stops earlier without pybind11")
    (tmp_path / "output").write_text(output)
    cmake = tmp_path / "cmake"
    cmake.write_text(f"#!/bin/sh\n/bin/cat {tmp_path}/output\nexit 1\n")
    cmake.chmod(0o755)
    done = build_in(tmp_path, tmp_path)
    assert done.returncode == 0, done.stderr
    assert missing(tmp_path)["_runtime"] == f"cmake failed: {reason}"
    assert missing(tmp_path)["_cpu"] == f"cmake failed: {reason}"


def test_native_0_switches_the_compiler_off(tmp_path):
    assert build_in(tmp_path, os.environ["PATH"], AUTOEMB_NATIVE="0").returncode == 0
    assert missing(tmp_path) == dict.fromkeys(PARTS, "switched off by AUTOEMB_NATIVE=0")


def test_native_1_makes_a_failure_an_error(tmp_path):
    done = build_in(tmp_path, AUTOEMB_NATIVE="1")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "AUTOEMB_NATIVE=1, but the streaming runtime: cmake not found"
    )


@pytest.fixture
def nvcc(tmp_path):
    tool = tmp_path / "toolkit/bin/nvcc"
    tool.parent.mkdir(parents=True)
    tool.touch(mode=0o755)
    return tool


def test_cuda_1_makes_a_missing_toolkit_an_error(tmp_path):
    nowhere = {"CUDA_HOME": str(tmp_path)}
    done = build_in(tmp_path, AUTOEMB_CUDA="1", **nowhere)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"AUTOEMB_CUDA=1, but the CUDA kernels: {NO_TOOLKIT}"
    assert build_in(tmp_path, **nowhere).returncode == 0
    assert missing(tmp_path)["_cuda"] == NO_TOOLKIT


@pytest.mark.parametrize("found_by", ["PATH", "CUDA_HOME", "CUDACXX"])
def test_a_toolkit_is_found(tmp_path, nvcc, found_by):
    path = nvcc.parent if found_by == "PATH" else ""
    variables = {"CUDA_HOME": str(nvcc.parents[1]), "CUDACXX": str(nvcc)}
    given = {found_by: variables[found_by]} if found_by in variables else {}
    done = build_in(tmp_path, path, **given)
    assert done.returncode == 0, done.stderr
    assert missing(tmp_path)["_cuda"] == "cmake not found"


def test_cuda_0_is_said(tmp_path):
    assert build_in(tmp_path, AUTOEMB_CUDA="0").returncode == 0
    assert missing(tmp_path)["_cuda"] == "switched off by AUTOEMB_CUDA=0"


def test_cuda_1_and_native_0_contradict_each_other(tmp_path):
    done = build_in(tmp_path, AUTOEMB_CUDA="1", AUTOEMB_NATIVE="0")
    assert done.returncode == 1
    assert "switched off by AUTOEMB_NATIVE=0" in done.stderr.splitlines()[-1]
