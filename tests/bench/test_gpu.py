"""The GPU benchmark's own code, which a machine without a GPU runs dry."""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from bench.gpu import GROUPS, MODES, Settings, results
from bench.gpu_record import SUMMARY

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "bench/gpu.sh"


def check(result):
    """Every case was timed, none failed, and rivals are compared with ours."""
    assert result["failed"] == {}
    for case in result["cases"].values():
        assert 0 < case["p20_ms"] <= case["p50_ms"] <= case["p80_ms"]
        assert case["why_no_graph"] == "not on a GPU"
    assert set(result["times_autoemb"]) == set(result["cases"]) - {"autoemb"}
    assert {f"torch.compile, {mode}" for mode in result["compiled"]} <= set(result["cases"])
    assert len(result["cases"]) > 1


def test_the_script_parses():
    subprocess.run(["bash", "-n", SCRIPT], check=True)


def test_a_dry_run_records_what_a_gpu_will(dry_run):
    record = dry_run.record
    assert "mean nothing" in record["what"]
    assert record["hardware"]["gpu"] is None
    assert record["versions"]["torch"] == version("torch")
    assert record["commit"]
    assert record["tests"]["passed"] == 0
    assert set(record["tests"]["skipped"]) == {"no CUDA device"}
    assert [entry["failed"] for entry in record["memory"]] == [{}, {}]
    for part in ("forward", "step-compiled"):
        done = [result for result in record["results"] if result["part"] == part]
        assert [result["batch"] for result in done] == [group.batch for group in GROUPS[part]]
        assert {result["mode"] for result in done} <= set(MODES)
        for result in done:
            check(result)


def test_a_part_that_fails_costs_no_other(dry_run):
    parts = dry_run.record["parts"]
    assert dry_run.code == 1
    assert parts["nonsense"]["status"] == "failed"
    assert "invalid choice: 'nonsense'" in parts["nonsense"]["log"][-1]
    ran = ("environment", "tests", "memory", "forward", "step-compiled")
    assert {parts[name]["status"] for name in ran} == {"passed"}
    for name in ("build", "every-kernel", "memcheck", "racecheck"):
        assert parts[name]["status"] == "not run"
        assert "dry run" in parts[name]["what"]


def test_the_budget_ends_what_is_left(gpu_sh, tmp_path):
    done = gpu_sh(tmp_path, "forward", BUDGET="1")
    assert done.code == 1
    for name in ("environment", "tests", "forward"):
        assert done.record["parts"][name]["status"] == "out of time"
    assert done.record["results"] == []


@pytest.mark.parametrize("part", ["update", "fields"])
def test_a_part_runs(part):
    done = [*results(part, Settings("cpu", dry=True))]
    assert len(done) == len(GROUPS[part])
    for result in done:
        check(result)
        json.dumps(result)
    assert torch.get_float32_matmul_precision() == "highest"  # as it was


@pytest.fixture
def make_record(tmp_path):
    """Write the record of made-up logs; return the exit code and the record."""

    def make(*arguments, **files):
        for name, text in files.items():
            stem, ending = name.rsplit("_", 1)
            tmp_path.joinpath(f"{stem}.{ending}").write_text(text)
        command = [sys.executable, ROOT / "bench/gpu_record.py", tmp_path, tmp_path, *arguments]
        code = subprocess.run(command, capture_output=True).returncode
        (path,) = tmp_path.glob("*.json")
        return code, json.loads(path.read_text())

    return make


TESTED = """<testsuites><testsuite>
<testcase classname="a" name="good"/><testcase classname="a" name="new"><skipped message="why"/>
</testcase>{}</testsuite></testsuites>"""
HARDWARE = '{"hardware": {"gpu": {"name": "A card 80GB"}}}\n'


def test_a_record_of_what_passed(make_record, tmp_path):
    code, record = make_record(
        environment_jsonl=HARDWARE,
        tests_xml=TESTED.format(""),
        tests_end="0 12 pytest -q",
        memcheck_end="0 3 x",
        memcheck_log="...\n========= ERROR SUMMARY: 0 errors\n",
        step_jsonl='{"cases": {}, "batch": 1}\n{"cases": {}, "ba',
    )
    assert code == 0
    assert tmp_path.joinpath("gpu-a-card-80gb.json").exists()
    assert record["tests"] == {"passed": 1, "skipped": {"why": 1}, "failed": {}}
    assert record["parts"]["tests"] == {"status": "passed", "seconds": 12, "what": "pytest -q"}
    assert record["parts"]["memcheck"]["summary"] == ["ERROR SUMMARY: 0 errors"]
    assert record["results"] == [{"cases": {}, "batch": 1}]


@pytest.mark.parametrize(
    "files",
    [
        {"tests_xml": TESTED.format(""), "racecheck_end": "9 1 x"},
        {"tests_xml": TESTED.format(""), "step_end": "124 100 x"},
        {"tests_xml": TESTED.format(""), "step_end": "137 100 x"},
        {"tests_xml": '<testsuites><testcase name="new"><skipped/></testcase></testsuites>'},
        {"build_end": "0 1 x"},
    ],
    ids=["failed", "out of time", "killed", "no test ran", "no tests"],
)
def test_a_record_of_what_did_not(make_record, files):
    code, _ = make_record(**files)
    assert code == 1


def test_failed_tests_are_named(make_record):
    bad = '<testcase classname="a" name="bad"><failure message="1 is not 2"/></testcase>'
    _, record = make_record(tests_xml=TESTED.format(bad), tests_end="1 3 x", tests_log="a\nb")
    assert record["tests"]["failed"] == {"a::bad": "1 is not 2"}
    assert record["parts"]["tests"]["log"] == ["a", "b"]


def test_summaries_of_both_sanitizers_are_found():
    lines = "========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)"
    assert SUMMARY.findall(lines) == [lines[10:]]
