"""A study's runs: each made once, options chosen by loss, what is recorded and drawn."""

import json
import signal
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from autoemb.cli import app
from autoemb.errors import UserError
from autoemb.study import read_study, run_study
from tests.study.conftest import SMALL


def times(out):
    return {path: path.stat().st_mtime_ns for path in out.glob("runs/*/summary.json")}


def test_a_study_makes_each_run_once(write, folder):
    out, told = folder / "out", []
    first = run_study(read_study(write()), out, processes=2, progress=lambda *a: told.append(a))
    assert told == [("running", done, 4) for done in (1, 2, 3, 4)]
    assert json.loads((out / "study.json").read_text()) == first
    before = times(out)
    more = SMALL.replace("seeds = [0, 1]", "seeds = [0, 1, 2]")
    second = run_study(read_study(write(more)), out)
    after = times(out)
    assert len(before) == 4
    assert len(after) == 6
    assert before.items() <= after.items()
    assert second["results"][:2] == first["results"][:2]


@pytest.mark.parametrize("processes", [1, 2])
def test_a_study_that_was_interrupted_continues_where_it_was(write, folder, processes):
    # The soft runs take 250 steps each: some are left when the first window of 50 events has been
    # written and the request to stop, which is looked for every 0.2 s, has been seen.
    file, out = write(SMALL + "batch_size = 4\n"), folder / "out"
    command = [sys.executable, "-c", "from autoemb.cli import main; main()", "study", file]
    command += ["--out", out, "--processes", str(processes)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size for path in out.glob("runs/*-autoemb-*/metrics.jsonl")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error.splitlines()[-1] == "autoemb: interrupted; the same command continues the study"
    assert "Traceback" not in error
    assert not (out / "study.json").exists()
    finished = times(out)
    assert 1 <= len(finished) <= 3
    begun = [*out.glob("runs/*/checkpoint*")]
    assert 1 <= len(begun) <= processes
    subprocess.run(command, check=True, capture_output=True)
    assert finished.items() <= times(out).items()
    whole = run_study(read_study(file), folder / "whole")
    continued = json.loads((out / "study.json").read_text())
    for one, other in zip(whole["results"], continued["results"], strict=True):
        assert one["online"] == other["online"]


def test_results_and_paired_differences(write, folder):
    content = run_study(read_study(write()), folder / "out")
    narrow, _, soft, _ = content["results"]
    assert (narrow["method"], narrow["seed"], soft["method"]) == ("narrow", 0, "soft")
    summary = json.loads((folder / "out" / narrow["run"] / "summary.json").read_text())
    assert narrow["online"] == summary["online"]
    rows = summary["data"]["users"] + summary["data"]["items"]
    assert (narrow["embedding_bytes"], soft["embedding_bytes"]) == (rows * 8, rows * 24)
    lines = (folder / "out" / narrow["run"] / "metrics.jsonl").read_text().splitlines()
    tenth = [json.loads(line)["loss"] for line in lines[:2]]  # windows of 50 events of 1,000
    assert narrow["first_tenth"] == pytest.approx(sum(tenth) / 2)
    online = [d for d in content["differences"] if d["stage"] == "online" and d["metric"] == "loss"]
    means = [
        sum(r["online"]["loss"] for r in content["results"] if r["method"] == name) / 2
        for name in ("soft", "narrow")
    ]
    assert [(d["method"], d["baseline"]) for d in online] == [("soft", "narrow")]
    assert online[0]["mean"] == pytest.approx(means[0] - means[1])


def test_the_candidate_of_the_lowest_loss_is_run(write, folder):
    # At a rate of 100 nothing is learnt; the offline stage is 700 events.
    text = SMALL.replace("seeds = [0, 1]", "seeds = [3]")
    text += "[tuning]\nlearning_rate = [100, 0.0002]\n"
    content = run_study(read_study(write(text)), folder / "out")
    assert [result["chosen"] for result in content["results"]] == [{"learning_rate": 0.0002}] * 2
    summaries = [json.loads(path.read_text()) for path in times(folder / "out")]
    assert sorted(s["data"]["interactions"] for s in summaries) == [700] * 4 + [1000] * 2
    assert {s["seed"] for s in summaries} == {3}


def test_the_command_draws_what_was_recorded(write, folder):
    file = write(SMALL.replace("methods.soft", "methods.AutoEmb"))
    arguments = ["study", str(file), "--out", str(folder / "out"), "--processes", "1"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    page = (folder / "out" / "study.md").read_text()
    assert "| narrow |" in page
    assert "| AutoEmb − narrow |" in page
    figures = [line.partition("(")[2][:-1] for line in page.splitlines() if line.startswith("![")]
    assert len(figures) == 5  # bytes; loss and weights by popularity, of users and items
    for figure in figures:
        assert (folder / "out" / figure).read_text().startswith("<?xml")
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 0
    assert (folder / "out" / "study.md").read_text() == page


def test_data_that_are_not_there_are_named(write, folder):
    study = read_study(write(SMALL.replace("ratings.csv", "none.csv")))
    with pytest.raises(UserError, match=r"none\.csv"):
        run_study(study, folder / "out")
    assert not (folder / "out" / "study.json").exists()
