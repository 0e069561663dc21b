"""Makes one record of what the parts of bench/gpu.sh left: ``gpu_record.py LOGS FOLDER``.

Standard library alone, and nothing of a part is trusted to be there: a record is written however
many of them failed.
"""

from __future__ import annotations

import json
import re
import sys
import xml.etree.ElementTree
from pathlib import Path
from typing import Any

#: What the exit code of a part means.
STATUS = {0: "passed", -1: "not run", 124: "out of time", 137: "out of time"}
SUMMARY = re.compile(r"(?:ERROR|RACECHECK) SUMMARY: .*")


def ends(logs: Path) -> dict[str, dict[str, Any]]:
    """Return how each part ended; the last lines of its log where it did not pass."""
    parts = {}
    for path in sorted(logs.glob("*.end"), key=lambda path: path.stat().st_mtime):
        code, seconds, what = path.read_text().strip().split(" ", 2)
        status = STATUS.get(int(code), "failed")
        parts[path.stem] = {"status": status, "seconds": int(seconds), "what": what}
        log = path.with_suffix(".log")
        text = log.read_text(errors="replace") if log.exists() else ""
        if found := SUMMARY.findall(text):
            parts[path.stem]["summary"] = found
        if status in ("failed", "out of time"):
            parts[path.stem]["log"] = text.splitlines()[-40:]
    return parts


def tests(path: Path) -> dict[str, Any] | None:
    """Return how many tests passed, were skipped and failed, and which of these why."""
    if not path.exists():
        return None
    cases = [*xml.etree.ElementTree.parse(path).getroot().iter("testcase")]
    bad = {
        f"{case.get('classname')}::{case.get('name')}": (problem.get("message") or "")[:300]
        for case in cases
        for problem in case
        if problem.tag in ("failure", "error")
    }
    skips = [skip.get("message") for case in cases for skip in case if skip.tag == "skipped"]
    return {
        "passed": len(cases) - len(bad) - len(skips),
        "skipped": {reason: skips.count(reason) for reason in sorted({str(s) for s in skips})},
        "failed": bad,
    }


def results(logs: Path) -> list[dict[str, Any]]:
    """Return what the benchmarks found; a line that a killed part left unfinished is dropped."""
    found = []
    for path in sorted(logs.glob("*.jsonl")):
        for line in path.read_text().splitlines():
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError:
                continue
    return found


def main() -> None:
    logs, folder, dry = Path(sys.argv[1]), Path(sys.argv[2]), "--dry-run" in sys.argv[3:]
    found = results(logs)
    where = next((entry for entry in found if "hardware" in entry), {})
    gpu = (where.get("hardware") or {}).get("gpu") or {}
    content = {
        "command": "bench/gpu.sh" + " --dry-run" * dry,
        "what": (
            "a dry run on the CPU with tiny inputs: its times mean nothing"
            if dry
            else "one call on a GPU, ML-20M's vocabulary, sizes 2, 16, 128: a CUDA graph of a call "
            "for every input set where the case can be captured, by events, cases in turns"
        ),
        "parts": ends(logs),
        "tests": tests(logs / "tests.xml"),
        "ceilings": next((e["ceilings"] for e in found if "ceilings" in e), None),
        "memory": [entry for entry in found if "peak_bytes" in entry],
        "results": [entry for entry in found if "cases" in entry],
        **where,
    }
    kind = "dry-run" if dry else re.sub(r"\W+", "-", gpu.get("name", "unknown")).lower()
    path = folder / f"gpu-{kind}.json"
    path.write_text(json.dumps(content, indent=1) + "\n")
    lines = [f"{p['status']:12} {p['seconds']:4} s  {n}" for n, p in content["parts"].items()]
    sys.stdout.write("\n".join([*lines, f"{path}\n"]))
    tested = content["tests"] is not None and content["tests"]["passed"] > 0
    statuses = {part["status"] for part in content["parts"].values()}
    sys.exit(bool(statuses & {"failed", "out of time"}) or not (tested or dry))


if __name__ == "__main__":
    main()
