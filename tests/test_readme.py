"""What README shows works as it stands there."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

README = Path(__file__).parents[1] / "README.md"


@pytest.fixture(scope="module")
def text():
    return README.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def examples(text):
    """The Python examples, of which the later ones go on where the earlier ones stop."""
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


@pytest.fixture
def ratings(tmp_path):
    """A file of 2,300 ratings, so that a learner meets many batches and one that is not full."""
    random = np.random.default_rng(0)
    events = 2300
    table = {
        "user_id": random.integers(10**12, 10**12 + 80, events),
        "item_id": [f"item {i}" for i in random.zipf(1.5, events) % 300],
        "rating": random.integers(1, 6, events),
        "timestamp": np.sort(random.integers(0, 10**9, events)),
    }
    path = tmp_path / "ratings.csv"
    pl.DataFrame(table).write_csv(path)
    return path


def run(*command):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *command], check=True, capture_output=True, env=environment)


def test_the_library_gives_the_numbers_of_the_command_line(examples, ratings, tmp_path):
    (example,) = [code for code in examples if "build_learner" in code]
    assert len([line for line in example.splitlines() if line]) <= 10
    assert '"ml-20m/"' in example
    code = example.replace('"ml-20m/"', repr(str(ratings)))
    line = next(line for line in code.splitlines() if ".learn(batch)" in line)
    code = code.replace(line, f"{line}\n    every.append(losses)")
    code = f"every = []\n{code}\ntorch.save(torch.cat(every), {str(tmp_path / 'losses')!r})"
    run("-c", code)

    losses = torch.load(tmp_path / "losses", weights_only=True)
    out, written = tmp_path / "run", tmp_path / "predictions.parquet"
    command = ["run", "--data", ratings, "--task", "regression", "--device", "cpu"]
    run("-m", "autoemb", *map(str, [*command, "--predictions", written, "--out", out]))
    table = pl.read_parquet(written)
    prediction, label = (table[name].to_torch() for name in ("prediction", "label"))
    assert torch.equal((prediction - label).square(), losses)
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    online = losses[summary["offline"]["interactions"] :].double()
    assert len(online) == summary["online"]["interactions"] == 690
    # Summed batch by batch there.
    assert summary["online"]["loss"] == pytest.approx(online.mean().item(), rel=1e-14)


def test_python_examples_run_in_order(examples, ratings):
    code = "\n".join(examples).replace('"ml-20m/"', repr(str(ratings)))
    assert "SoftEmbedding(" in code
    assert "build_learner(" in code
    run("-c", code)


def test_links_to_files_lead_somewhere():
    for page in (README, README.with_name("CONTRIBUTING.md")):
        for link in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
            assert link.startswith("https://") or (README.parent / link).exists(), link
