"""One dry run of bench/gpu.sh, for all that look at its record."""

import json
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from autoemb.ops import cpu

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def gpu_sh():
    """Run bench/gpu.sh --dry-run and return its exit code and its record."""

    def run(folder, *parts, **environment):
        done = subprocess.run(
            [ROOT / "bench/gpu.sh", "--dry-run", *parts],
            env=os.environ | {"OUT": str(folder)} | environment,
            capture_output=True,
            text=True,
        )
        (path,) = Path(folder).glob("*.json")
        return SimpleNamespace(code=done.returncode, record=json.loads(path.read_text()))

    return run


@pytest.fixture(scope="session")
def dry_run(gpu_sh, tmp_path_factory):
    """A dry run without polars, with a part that fails among others."""
    if not cpu.COMPILED:
        pytest.skip(f"the native CPU kernels are not built ({cpu.IMPORT_ERROR})")
    absent = tmp_path_factory.mktemp("absent")
    absent.joinpath("polars.py").write_text("raise ImportError('polars is not here')\n")
    parts = "memory", "forward", "nonsense", "step-compiled"
    return gpu_sh(tmp_path_factory.mktemp("out"), *parts, PYTHONPATH=str(absent))
