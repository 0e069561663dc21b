"""The command line: what it prints, what it leaves behind, and how it ends."""

import io
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from rich.console import Console

from autoemb import cli
from autoemb.lab import RunConfig
from autoemb.lab.config import OPTIONS
from autoemb.lab.progress import ProgressDisplay

SMALL = ["--limit", "1500", "--batch-size", "250", "--dims", "2,4"]
SMALL += ["--hidden", "8", "--controller-hidden", "8"]


@pytest.fixture
def autoemb(monkeypatch, capsys):
    """Run the command line in this process; return exit code, output and error output."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["autoemb", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return stopped.value.code or 0, *capsys.readouterr()

    return call


def command(*arguments):
    """Return the command line as a process of its own."""
    return [sys.executable, "-m", "autoemb", *map(str, arguments)]


def numbers(summary):
    return {key: summary[key] for key in ("offline", "online", "by_popularity")}


def test_run_shows_a_table_and_records(autoemb, tmp_path):
    out = tmp_path / "run"
    code, said, _ = autoemb("run", "--method", "darts", *SMALL, "--out", out)
    assert code == 0
    assert "DARTS" in said
    assert "synthetic data" in said
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["method"], summary["data"]["interactions"]) == ("darts", 1500)
    assert summary["config"]["dims"] == [2, 4]
    # The fields that programs read are fixed.
    assert {"method", "task", "data", "seed", "offline", "online", "seconds", "config",
            "interactions_per_second", "versions"} <= set(summary)  # fmt: skip
    assert set(summary["online"]) == {"loss", "accuracy", "auc", "interactions"}
    assert {"name", "interactions", "users", "items"} <= set(summary["data"])
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["interactions"] for line in lines] == [1000, 1050, 1500]
    assert {"stage", "loss", "accuracy", "weights"} <= set(lines[0])
    assert len(lines[0]["weights"]["user_id"]) == 2
    names = ["metrics.jsonl", "summary.json", "trained.safetensors"]
    assert sorted(file.name for file in out.iterdir()) == names


def test_a_run_is_exported_and_evaluated(autoemb, tmp_path):
    run, model = tmp_path / "run", tmp_path / "made" / "here" / "model.safetensors"
    scores = tmp_path / "scores" / "of-it.json"
    assert autoemb("run", *SMALL, "--checkpoint-at", "0.7", "--out", run)[0] == 0
    code, said, _ = autoemb("export", run, "--budget", "0.2", "--widths", "1,3", "--out", model)
    assert code == 0
    assert said.startswith("user_id: ")
    assert f"model: {model} ({model.stat().st_size:,} bytes)" in said
    code, said, _ = autoemb("evaluate", model, "--all", "--out", scores)
    assert code == 0
    assert "over 100,000 events" in said.replace("\n", " ")
    recorded = json.loads(scores.read_text())
    assert f"loss {recorded['loss']:.4f}, accuracy {recorded['accuracy']:.4f}" in said
    assert recorded["about"]["widths"] == [1, 3]
    code, said, _ = autoemb("evaluate", model)  # the same synthetic stream, up to the limit
    assert (code, "over 250 events" in said) == (0, True)


def test_a_folder_that_cannot_be_made_is_told_before_the_work(autoemb, tmp_path, monkeypatch):
    run, file = tmp_path / "run", tmp_path / "file"
    file.touch()
    assert autoemb("run", *SMALL, "--checkpoint-at", "0.7", "--out", run)[0] == 0
    monkeypatch.setattr("autoemb.serving.export.Exporter", None)  # not reached
    code, said, error = autoemb("export", run, "--out", file / "model")
    assert (code, said, error.count("\n")) == (2, "", 1)
    assert f"{file} cannot be made" in error


def test_a_run_tells_the_bytes_of_its_embeddings(autoemb, tmp_path):
    code, said, _ = autoemb("run", *SMALL, "--budget", "0.3", "--out", tmp_path / "run")
    assert code == 0
    found = json.loads((tmp_path / "run" / "summary.json").read_text())["embeddings"]
    widths = found["mean_width"]
    assert (
        f"embeddings: {found['bytes']:,} bytes; mean width: user {widths['user_id']:.1f}, "
        f"item {widths['item_id']:.1f}"
    ) in said.replace("\n", " ")
    assert "what ids own in all: rows " in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("export", "nowhere", "--out", "m"), "nowhere does not exist"),
        (("evaluate", "nowhere"), "nowhere does not exist"),
        (("run", "--checkpoint-at", "0.5"), "--checkpoint-at keeps a state in the run's folder"),
    ],
)
def test_mistakes_about_models_are_one_line(autoemb, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, said, error = autoemb(*arguments)
    assert (code, said, error.count("\n")) == (2, "", 1)
    assert message in error


def test_run_needs_no_folder(autoemb, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, said, _ = autoemb("run", "--method", "fse", *SMALL)
    assert (code, "FSE" in said, list(tmp_path.iterdir())) == (0, True, [])


def test_compare_pairs_the_methods_and_draws_a_report_that_can_be_drawn_again(autoemb, tmp_path):
    out = tmp_path / "both"
    options = ["--methods", "fse,autoemb", "--seeds", "0,3", *SMALL]
    code, said, error = autoemb("compare", *options, "--out", out)
    assert code == 0
    assert "AutoEmb − FSE" in said
    assert "[4/4] AutoEmb, seed 3" in error
    compared = json.loads((out / "compare.json").read_text())
    assert [(r["method"], r["seed"]) for r in compared["results"]] == [
        ("fse", 0), ("fse", 3), ("autoemb", 0), ("autoemb", 3)
    ]  # fmt: skip
    figures = {file.name for file in (out / "figures").iterdir()}
    assert "stream-loss.svg" in figures
    page = (out / "report.html").read_bytes()
    (out / "report.html").unlink()
    code, said, _ = autoemb("report", out)
    assert (code, said.strip()) == (0, f"report: {out / 'report.html'}")
    assert (out / "report.html").read_bytes() == page

    code, _, error = autoemb("compare", *options, "--out", out)
    assert (code, "already holds a comparison" in error) == (2, True)
    before = (out / "compare.json").read_text()
    assert autoemb("compare", *options, "--out", out, "--resume")[0] == 0
    assert (out / "compare.json").read_text() == before


def test_same_options_give_the_same_numbers(autoemb, tmp_path):
    summaries = []
    for name in ("a", "b"):
        assert autoemb("run", *SMALL, "--out", tmp_path / name)[0] == 0
        summaries.append(json.loads((tmp_path / name / "summary.json").read_text()))
    assert numbers(summaries[0]) == numbers(summaries[1])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--data", "nowhere"], "nowhere: there is no such file or folder"),
        (["--dims", "16,2"], "--dims is 16,2; expected positive sizes in ascending order"),
        (["--dims", "a"], "--dims is 'a'; expected whole numbers"),
        (["--dims", ""], "--dims is ''; expected whole numbers"),
        (["--method", "best"], "--method is 'best'; expected one of autoemb, sam, darts, fse"),
        (["--task", "ranking"], "--task is 'ranking'; expected one of regression, classification"),
        (["--order", "random"], "--order is 'random'; expected one of chronological, shuffled"),
        (
            ["--hypergradient", "second"],
            "--hypergradient is 'second'; expected one of first, fin",
        ),
        (["--preset", "mine"], "--preset is 'mine'; expected one of default, paper"),
        (["--dims", "2,0"], "--dims, value 2, is 0; expected at least 1"),
        (["--hidden", "0"], "--hidden, value 1, is 0; expected at least 1"),
        (["--batch-size", "0"], "--batch-size is 0; expected at least 1"),
        (
            ["--batch-size", "1", "--norm", "batch"],
            "--batch-size is 1; expected at least 2 with norm batch",
        ),
        (["--budget", "0.5", "--method", "fse"], "--budget is 0.5; expected 0 with method fse"),
        (["--reservoir", "1"], "--reservoir is 1; expected at least 2"),
        (["--limit", "1"], "--limit is 1; expected at least 2"),
        (["--seed", "-1"], "--seed is -1; expected at least 0"),
        (["--offline-fraction", "1.5"], "--offline-fraction is 1.5; expected at most 1"),
        (["--learning-rate", "nan"], "--learning-rate is nan; expected a finite number"),
        (["--columns", "user_id=u"], "--data"),
        (["--skip-bad-rows"], "--data"),
        (["--resume"], "--out"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(autoemb, tmp_path, monkeypatch, arguments, expected):
    monkeypatch.chdir(tmp_path)
    code, said, error = autoemb("run", *arguments)
    assert code == 2
    assert said == ""
    assert error.startswith("autoemb: error: ")
    assert error.count("\n") == 1
    assert expected in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [["--bogus"], ["--seed", "x"], ["extra"]])
def test_a_wrong_option_is_exit_code_2_with_usage(autoemb, arguments):
    code, _, error = autoemb("run", *arguments)
    assert (code, "Usage: " in error, "Traceback" in error) == (2, True, False)


def test_a_broken_row_is_named_and_nothing_is_written(autoemb, tmp_path):
    ratings = tmp_path / "ratings.csv"
    rows = "".join(f"{u},{u % 7},4,{100 + u}\n" for u in range(50))
    ratings.write_text(f"user_id,item_id,rating,timestamp\n{rows}1,2,four,3\n")
    out = tmp_path / "out"
    code, _, error = autoemb("run", "--data", ratings, "--out", out)
    assert code == 2
    assert f"{ratings}: row 52" in error
    assert "rating 'four' is not a number" in error
    assert not out.exists()
    code, _, error = autoemb("run", "--data", ratings, "--skip-bad-rows", "--dims", "2")
    assert code == 0
    assert "left out 1 broken rows" in error


def test_flags_say_what_the_columns_are(autoemb, tmp_path):
    ratings = tmp_path / "ratings.csv"
    rows = "".join(f"u{u},{u % 7},{u % 5 + 1},{100 + u}\n" for u in range(50))
    ratings.write_text(f"user_id,item_id,stars,when\n{rows}")
    names = ["--sparse", "user_id,item_id", "--label", "stars", "--timestamp", "when"]
    code, _, error = autoemb("run", "--data", ratings, *names, "--scale", "-5,5", "--dims", "2")
    assert (code, error.count("not used")) == (0, 0)
    plain = tmp_path / "plain.csv"
    plain.write_text(rows)
    order = "user_id,item_id,stars,when"
    again = autoemb("run", "--data", plain, "--columns", order, *names, "--scale", "-5,5",
                    "--dims", "2")  # fmt: skip
    assert again[0] == 0
    code, _, error = autoemb("run", "--data", ratings, "--columns", "user_id=who")
    assert (code, "--columns is 'user_id=who'" in error) == (2, True)


def test_interrupted_and_resumed_gives_what_an_uninterrupted_run_gives(tmp_path):
    options = ["run", "--method", "autoemb", "--limit", "20000", "--dims", "2,8", "--batch-size"]
    options += ["100"]
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    subprocess.run(command(*options, "--out", whole), check=True, capture_output=True)
    process = subprocess.Popen(
        command(*options, "--out", halves),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    metrics = halves / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "continue with --resume" in error
    assert "Traceback" not in error
    assert not (halves / "summary.json").exists()
    resumed = command(*options, "--out", halves, "--resume")
    subprocess.run(resumed, check=True, capture_output=True)
    both = [json.loads((folder / "summary.json").read_text()) for folder in (whole, halves)]
    assert numbers(both[0]) == numbers(both[1])
    assert (whole / "metrics.jsonl").read_bytes() == metrics.read_bytes()


def test_info_tells_versions_and_what_is_built(autoemb):
    code, said, _ = autoemb("info")
    assert code == 0
    for word in ("autoemb", "torch", "fused kernels", "streaming runtime", "cpu", "cuda"):
        assert f"\n{word} " in f"\n{said}"


def test_help_names_every_option_of_a_run(autoemb):
    for name, left_out in (("run", set()), ("compare", {"method", "seed"})):
        code, said, _ = autoemb(name, "--help")
        assert code == 0
        for option in OPTIONS:
            flag = f"--{option.replace('_', '-')} "
            assert (f"  {flag}" in said) is (option not in left_out), flag


def test_help_tells_kinds_choices_and_defaults_as_they_are_declared(autoemb):
    said = " ".join(autoemb("run", "--help")[1].split())
    for line in (
        "--task NAME What is predicted; by default what suits the label. One of: regression, ",
        "--order NAME Order of the stream. One of: chronological, shuffled. [default: chron",
        "--seed <int> Of all random numbers. [default: 0]",
        "--limit <int> Use only the first events of the ordered stream. --",
        "--dims N,N,... Embedding sizes; fse takes one as wide as their sum. [default: 2,16,128]",
        "[default: 7.5; adam: 300; ",
        "--budget SHARE|BYTES Most",
    ):
        assert line in said
    parts = {"Options": "--out", "Data": "--schema", "Protocol": "--seed", "Recipe": "--method"}
    order = [said.index(f"{word} ") for part in parts.items() for word in (f"{part[0]}:", part[1])]
    assert order == sorted(order)


def test_help_loads_nothing_heavy():
    code = (
        "import sys\n"
        "from autoemb import cli\n"
        "sys.argv = ['autoemb', 'run', '--help']\n"
        "try:\n    cli.main()\n"
        "except SystemExit:\n    pass\n"
        "print({'polars', 'rich', 'matplotlib', 'jinja2'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


def test_what_flags_give_is_what_code_gives(autoemb, tmp_path):
    out = tmp_path / "run"
    assert autoemb("run", *SMALL, "--optimizer", "sgd", "--row-rate", "2", "--out", out)[0] == 0
    config = RunConfig(
        limit=1500, batch_size=250, dims=(2, 4), hidden=(8,), controller_hidden=(8,),
        optimizer="sgd", row_rate=2,
    )  # fmt: skip
    recorded = json.loads((out / "summary.json").read_text())["config"]
    wanted = config.as_dict() | {"task": "regression"}  # which suits the label
    assert {name: recorded[name] for name in wanted} == wanted


def test_seeds_of_a_comparison_are_checked_before_anything_runs(autoemb, tmp_path):
    out = tmp_path / "out"
    for seeds in ("0,-1", f"0,{2**63}", "0,0"):
        code, _, error = autoemb("compare", "--seeds", seeds, "--out", out)
        assert (code, error.count("\n")) == (2, 1)
        assert f"--seeds is '{seeds}'; expected" in error
    assert not out.exists()


def test_a_broken_study_is_one_line_that_names_file_and_key(autoemb, tmp_path):
    file = tmp_path / "study.toml"
    file.write_text("data = ['a.csv']\n[methods.narrow]\nbatch_size = 3\n")
    code, said, error = autoemb("study", file, "--out", tmp_path / "out")
    assert (code, said, error.count("\n")) == (2, "", 1)
    assert f"{file}: methods.narrow.batch_size is 3; expected it in [options]" in error
    file.write_text("data = [" + "[" * 10**5)
    code, _, error = autoemb("study", file, "--out", tmp_path / "out")
    assert (code, error.count("\n"), f"{file} is not TOML" in error) == (2, 1, True)


@pytest.mark.parametrize("name", ["summary.json", "metrics.jsonl", "compare.json", "study.json"])
def test_a_broken_record_is_one_line(autoemb, tmp_path, name):
    (tmp_path / "summary.json").write_text("{}")
    (tmp_path / name).write_text("[" * 10**5)
    code, said, error = autoemb("report", tmp_path)
    assert (code, said, error.count("\n")) == (2, "", 1)
    assert str(tmp_path) in error


def test_a_report_without_its_libraries_says_what_to_install(autoemb, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    out = tmp_path / "one"
    code, _, error = autoemb(
        "compare", "--methods", "fse", "--seeds", "0", *SMALL, "--out", out
    )  # the numbers are there all the same
    assert code == 0
    assert "pip install 'autoemb[report]'" in error
    assert (out / "compare.json").exists()
    assert not (out / "report.html").exists()


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_names_run_events_and_rate(terminal):
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=100)
    with ProgressDisplay(console) as display:
        for run in ("first", "second"):
            report = display.task(run, 2)
            for done in (0, 500, 1000):
                report(done, 1000)
    said = text.getvalue()
    assert "[2/2] second" in said
    assert ("1,000/1,000" if terminal else "1,000 of 1,000 events") in said
    if not terminal:
        assert said.count("\n") == 2  # one line a run: it took less than ten seconds


def test_importing_the_package_starts_nothing():
    code = "import autoemb, torch; assert not torch.cuda.is_initialized()"
    environment = os.environ | {"PYTHONWARNINGS": "error"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_wrong_backend_in_the_environment_is_one_line(autoemb, monkeypatch):
    monkeypatch.setenv("AUTOEMB_BACKEND", "fast")
    code, _, said = autoemb("run", *SMALL)
    assert code == 2
    assert said.count("\n") == 1
    assert 'AUTOEMB_BACKEND must be one of "auto", "reference", "native"' in said


def test_the_summary_tells_who_computed(autoemb, monkeypatch, tmp_path):
    monkeypatch.setenv("AUTOEMB_BACKEND", "reference")
    autoemb("run", "--method", "darts", *SMALL, "--device", "cpu", "--out", tmp_path / "run")
    versions = json.loads((tmp_path / "run/summary.json").read_text())["versions"]
    assert versions["kernels"] == "reference"
