"""What ids own keeps within the budget, on real ratings and with everything counted."""

import os
from pathlib import Path

import pytest

from autoemb.data import load
from autoemb.lab import RunConfig, run
from autoemb.lab.summary import over_budget

EVENTS = 20_000


@pytest.fixture(scope="module")
def ratings():
    folder = Path(os.environ.get("AUTOEMB_DATA", "")) / "ml-100k"
    if not os.environ.get("AUTOEMB_DATA") or not folder.exists():
        pytest.skip("no ml-100k in the folder that AUTOEMB_DATA names")
    return load(folder).head(EVENTS)


@pytest.mark.parametrize("task", ["regression", "classification"])
@pytest.mark.parametrize(
    ("options", "bytes_of_id"),
    [
        ({}, 73),
        ({"rows": "sizes", "budget": 0.1}, 0.1 * 1168),
        ({"worth": "controller", "budget": 0.1}, 0.1 * 1168),
        ({"method": "darts", "budget": 0.1}, 0.1 * 1168),
        ({"optimizer": "adam", "budget": 0.1}, 0.1 * 1168),
    ],
    ids=str,
)
def test_all_that_ids_own_is_within_a_share(ratings, task, options, bytes_of_id):
    summary = run(RunConfig(task=task, device="cpu", **options), ratings)
    ids = sum(summary["ids"].values())
    assert 0.8 * bytes_of_id * ids < sum(summary["owned"].values()) <= bytes_of_id * ids


@pytest.mark.parametrize("budget", ["150kB", 200_000])
def test_all_that_ids_own_is_within_so_many_bytes(ratings, budget):
    summary = run(RunConfig(task="regression", device="cpu", budget=budget), ratings)
    owned, most = sum(summary["owned"].values()), summary["config"]["budget"]
    assert most == (150_000 if isinstance(budget, str) else budget)
    assert 0.8 * most < owned <= most


def test_what_is_beside_rows_may_leave_them_nothing(ratings):
    summary = run(RunConfig(task="regression", device="cpu", budget=0.01), ratings)
    ids = sum(summary["ids"].values())
    assert summary["embeddings"]["mean_width"] == {"user_id": 0, "item_id": 0}
    assert summary["owned"]["rows"] == 4 * ids  # that they own none
    assert summary["owned"]["optimizer"] == 0
    assert over_budget(summary).startswith("note: ids own ")
    assert over_budget(run(RunConfig(task="regression", device="cpu"), ratings)) is None
