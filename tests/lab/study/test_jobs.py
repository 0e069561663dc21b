"""Processes of a study that are killed."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.lab.study.conftest import SMALL
from tests.lab.study.test_run import begin, children_of, times, wait_for

pytestmark = pytest.mark.skipif(
    not children_of(os.getpid()).exists(), reason="this kernel does not list child processes"
)

#: Batches of two events: runs of 500 steps, long enough to be caught in.
SLOW = SMALL.replace("batch_size = 50", "batch_size = 2")


def workers(process):
    """Return the processes of a study that make its runs; another one keeps track of resources."""
    found = children_of(process.pid).read_text().split()
    return [int(p) for p in found if b"spawn_main" in Path(f"/proc/{p}/cmdline").read_bytes()]


def writes(process, file):
    """Return whether a process holds the lock of the folder that a file is in."""
    return any(
        Path(f"/proc/{process}/fd/{fd}").resolve() == file.parent
        for fd in os.listdir(f"/proc/{process}/fd")  # noqa: PTH208
    )


def written(out):
    return [path for path in out.glob("runs/*/metrics.jsonl") if path.stat().st_size]


def alive(process):
    try:
        return "Z" not in Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def test_a_killed_worker_is_one_line_that_names_its_run_and_the_study_goes_on(write, folder):
    file, out = write(SLOW), folder / "out"
    command, process = begin(file, out, 2)
    wait_for(lambda: times(out) and len(written(out)) > len(times(out)), process)
    begun = [path for path in written(out) if not (path.parent / "summary.json").exists()]
    victim = next(w for w in workers(process) if writes(w, begun[0]))
    os.kill(victim, signal.SIGKILL)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "Traceback" not in error
    assert error.splitlines()[-1] == (
        f"autoemb: error: {begun[0].parent}: the process of this run was killed, perhaps for want "
        "of memory; the same command continues the study"
    )
    finished = times(out)
    assert finished
    subprocess.run(command, check=True, capture_output=True)
    assert (out / "study.json").exists()
    assert finished.items() <= times(out).items()


def test_workers_end_with_a_study_that_was_killed_and_keep_where_they_are(write, folder):
    file, out = write(SLOW), folder / "out"
    _, process = begin(file, out, 2)
    wait_for(lambda: len(written(out)) >= 2, process)
    left = workers(process)
    assert len(left) == 2
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 60
    while any(map(alive, left)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for path in written(out):
        kept = {file.name for file in path.parent.iterdir()}
        assert kept & {"checkpoint.safetensors", "summary.json"}
