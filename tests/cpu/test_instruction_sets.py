"""Which instruction set the kernels use: the best, or the one that the environment names."""

import os
import subprocess
import sys

import pytest

from autoemb.ops import cpu


def in_use(name):
    command = "from autoemb.build import build_info; print(build_info()['cpu_kernels'])"
    return subprocess.run(
        [sys.executable, "-c", command],
        env=os.environ | {"AUTOEMB_CPU_KERNELS": name},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_environment_names_one(kernels):
    done = in_use(kernels)
    assert done.stdout.strip() == kernels, done.stderr


def test_one_that_the_cpu_lacks_is_refused():
    done = in_use("sse9")
    assert done.returncode != 0
    known = ", ".join(cpu._cpu.kernels)
    assert f"AUTOEMB_CPU_KERNELS is 'sse9'; this CPU has {known}" in done.stderr


def test_without_a_name_it_is_the_best(monkeypatch):
    if "AUTOEMB_CPU_KERNELS" in os.environ:
        pytest.skip("AUTOEMB_CPU_KERNELS names one for the whole run")
    assert cpu._cpu.kernels[0] == cpu.KERNELS
