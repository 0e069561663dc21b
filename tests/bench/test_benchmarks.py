import copy
import json
import re

import pytest

from bench.harness import RESULTS
from bench.pages.benchmarks import op, page

CORNER = re.compile(r"^\| (.*?) \|.*\n\| ---", re.MULTILINE)


@pytest.fixture
def on_gpu(dry_run, tmp_path):
    """A folder with the record of a dry run that claims a GPU."""
    record = copy.deepcopy(dry_run.record)
    record["hardware"]["gpu"] = {"name": "A card", "driver": "1.2"}
    record["ceilings"] = {"copy_tb_per_s": 3.0}
    record["memory"][0]["peak_bytes"] = {"autoemb": 3 * 2**20}
    record["results"][0]["failed"] = {"rival": "TimeoutError: not done in 60 s"}
    tmp_path.joinpath("gpu-a-card.json").write_text(json.dumps(record))
    return tmp_path, record


def test_every_table_says_where(on_gpu):
    folder, record = on_gpu
    text = page(folder)
    assert "Not yet run" not in text
    corners = CORNER.findall(text)
    assert len(corners) == 2 + 2 + 1  # parts, ceilings; forward, step-compiled; memory
    assert all(corner.startswith("GPU: ") for corner in corners)
    assert "A card (driver 1.2)" in text
    assert "Failed: rival: TimeoutError" in text
    median = record["results"][0]["cases"]["autoemb"]["p50_ms"] * 1e3
    assert f"| {median:.2f}* |" in text


def test_no_record_of_a_gpu_says_so(dry_run, tmp_path):
    assert "Not yet run on a GPU" in page(tmp_path)
    tmp_path.joinpath("gpu-dry-run.json").write_text(json.dumps(dry_run.record))
    assert "Not yet run on a GPU" in page(tmp_path)
    assert all(corner.startswith("CPU: ") for corner in CORNER.findall(page(RESULTS)))


def test_the_op_has_its_cases_where_they_were_timed():
    def group(passes, *names):
        times = {"p20_ms": 1.0, "p50_ms": 1.25, "p80_ms": 2.0}
        return {"fields": 26, "order": "shuffled", "batch": 500, "pass": passes} | {
            "cases": dict.fromkeys(names, times),
            "times_autoemb": dict.fromkeys(names, 1.5),
        }

    results = [group("forward", "ours"), group("forward+backward", "ours", "dense")]
    text = "\n".join(op({"results": results, "peak_bytes": {"ours": 3 * 2**19}}))
    assert "| CPU: case | ours | dense |" in text
    assert "| F = 26, shuffled, B = 500, forward | 1.25 (1.50x) |  |" in text
    assert "| F = 26, shuffled, B = 500, forward+backward | 1.25 (1.50x) | 1.25 (1.50x) |" in text
    assert "| B = 4096 | 1.5 |" in text
