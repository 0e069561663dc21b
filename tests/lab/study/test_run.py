"""A study's runs: each made once, options chosen by loss, what is recorded and drawn."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from autoemb.cli import app
from autoemb.errors import UserError
from autoemb.files import json_text
from autoemb.lab.report import draw
from autoemb.lab.study import read_study, run_study
from autoemb.lab.study.draw import draw_study
from tests.lab.study.conftest import SMALL


def children_of(process):
    return Path(f"/proc/{process}/task/{process}/children")


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


def begin(file, out, processes):
    command = [sys.executable, "-m", "autoemb", "study", file]
    command += ["--out", out, "--processes", str(processes)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return command, subprocess.Popen(command, text=True, start_new_session=True, **pipes)


def assert_interrupted(process):
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error.splitlines()[-1] == "autoemb: interrupted; the same command continues the study"
    assert "Traceback" not in error


def wait_for(what, process):
    deadline = time.monotonic() + 60
    while not what():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_study_that_was_interrupted_continues_where_it_was(write, folder, processes):
    # Runs take 250 steps: of the soft one some are left when its first window of 50 events has been
    # written and the request to stop, which is looked for every 0.2 s, has been seen.
    text = SMALL.replace("batch_size = 50", "batch_size = 4").replace("[0, 1]", "[0]")
    file, out = write(text), folder / "out"
    command, process = begin(file, out, processes)
    metrics = "runs/*-autoemb-*/metrics.jsonl"
    wait_for(lambda: any(path.stat().st_size for path in out.glob(metrics)), process)
    process.send_signal(signal.SIGINT)
    assert_interrupted(process)
    assert not (out / "study.json").exists()
    finished = times(out)
    assert len(finished) <= 1
    begun = [*out.glob("runs/*/checkpoint*")]
    assert 1 <= len(begun) <= processes
    subprocess.run(command, check=True, capture_output=True)
    assert finished.items() <= times(out).items()
    whole = run_study(read_study(file), folder / "whole")
    continued = json.loads((out / "study.json").read_text())
    for one, other in zip(whole["results"], continued["results"], strict=True):
        assert one["online"] == other["online"]


@pytest.mark.skipif(
    not children_of(os.getpid()).exists(), reason="this kernel does not list child processes"
)
def test_processes_that_have_just_begun_are_interrupted_too(write, folder):
    _, process = begin(write(), folder / "out", 2)
    children = children_of(process.pid)
    # One that keeps track of resources, and two that now import what they need, for seconds.
    wait_for(lambda: len(children.read_text().split()) >= 3, process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    assert_interrupted(process)
    assert not times(folder / "out")


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


def test_options_are_chosen_on_the_offline_stage_alone(write, folder):
    text = SMALL.replace("window = 50", "window = 50\noffline_fraction = 0.4")
    text += "[tuning]\nlearning_rate = [100, 0.0002]\n"
    run_study(read_study(write(text)), folder / "out")
    summaries = [json.loads(path.read_text()) for path in times(folder / "out")]
    assert sorted(s["data"]["interactions"] for s in summaries) == [400] * 4 + [1000] * 4
    with pytest.raises(UserError, match=r"ratings.csv: .* offline stage, which has 0 of 1000"):
        run_study(read_study(write(text.replace("0.4", "0"))), folder / "out")


def test_a_method_that_diverged_is_recorded_the_same_again(write, folder):
    # Infinite in float32: whatever a CPU rounds to, the first step leaves no finite weight.
    options = '[methods.soft]\noptimizer = "sgd"\nlearning_rate = 1e300'
    text = SMALL.replace("[methods.soft]", options)
    first, again = (run_study(read_study(write(text)), folder / "out") for _ in range(2))
    assert math.isnan(first["results"][2]["by_popularity"]["user_id"][0]["width"])
    assert json_text(first["results"][2]["by_popularity"]) == json_text(
        again["results"][2]["by_popularity"]
    )


def test_versions_are_those_of_the_runs(write, folder):
    first = run_study(read_study(write()), folder / "out")
    path = folder / "out" / first["results"][0]["run"] / "summary.json"
    path.write_text(path.read_text().replace(f'"torch": "{torch.__version__}"', '"torch": "1.0"'))
    again = run_study(read_study(write()), folder / "out")
    assert again["versions"]["torch"] == f"1.0, {torch.__version__}"


def test_names_of_files_may_hold_anything(write, folder):
    (folder / "ratings.csv").rename(folder / "my ratings é.csv")
    out = folder / "out"
    run_study(read_study(write(SMALL.replace("ratings.csv", "my ratings é.csv"))), out)
    assert "my ratings é.csv, regression" in draw_study(out).read_text()


def test_the_command_draws_what_was_recorded(write, folder):
    file = write(SMALL.replace("methods.soft", "methods.AutoEmb"))
    arguments = ["study", str(file), "--out", str(folder / "out"), "--processes", "1"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    page = (folder / "out" / "study.md").read_text()
    assert "| narrow |" in page
    assert "| AutoEmb − narrow |" in page
    figures = [line.partition("(")[2][:-1] for line in page.splitlines() if line.startswith("![")]
    # Bytes and the loss over the stream; loss and weights by popularity, of users and items.
    assert len(figures) == 6
    for figure in figures:
        assert (folder / "out" / figure).read_text().startswith("<?xml")
    for again in (arguments, ["report", str(folder / "out")]):
        (folder / "out" / "study.md").unlink()
        done = CliRunner().invoke(app, again)
        assert (done.exit_code, done.output.splitlines()[-1]) == (
            0,
            f"study: {folder / 'out' / 'study.md'}",
        )
        assert (folder / "out" / "study.md").read_text() == page


def test_a_report_of_a_study_that_is_not_complete_says_how_to_go_on(write, folder):
    run_study(read_study(write()), folder / "out")
    (folder / "out" / "study.json").unlink()
    with pytest.raises(UserError, match="the study is not complete; the command that began it"):
        draw(folder / "out")


def test_data_that_are_not_there_are_named(write, folder):
    study = read_study(write(SMALL.replace("ratings.csv", "none.csv")))
    with pytest.raises(UserError, match=r"none\.csv"):
        run_study(study, folder / "out")
    assert not (folder / "out" / "study.json").exists()
