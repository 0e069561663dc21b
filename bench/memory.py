"""Peak memory of a call on the CPU, whoever takes it: torch, or a kernel by itself.

Linux's high-water mark of resident memory, in a process of its own whose malloc gives back at once
what is freed, so that a block freed earlier is not used again unseen.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from bench.passes import draw, make_pass
from bench.rivals import PlainSoftEmbedding
from bench.workloads import DIMS, on_backend, paper_embedding

#: glibc maps blocks from this size on, each for itself.
SMALL_BLOCK = 2**16
GIVES_BACK = {
    "MALLOC_MMAP_THRESHOLD_": str(SMALL_BLOCK),
    "MALLOC_MMAP_MAX_": str(2**20),
    "MALLOC_TRIM_THRESHOLD_": "0",
    "MALLOC_TOP_PAD_": "0",
}
ROWS = (10_000, 10_000)
CASES: dict[str, tuple[str, Callable[[], torch.nn.Module]]] = {
    "autoemb": ("native", lambda: paper_embedding(ROWS, sparse=True)),
    "autoemb, reference": ("reference", lambda: paper_embedding(ROWS, sparse=True)),
    "torch.nn, sparse": ("auto", lambda: PlainSoftEmbedding(ROWS, DIMS, sparse=True)),
}


def peak_bytes(call: Callable[[], object]) -> int:
    """Return the most that the process held during the call beyond what it held before.

    Right to some 100 KB, and only in a process started with ``GIVES_BACK``.
    """
    Path("/proc/self/clear_refs").write_text("5")  # the mark falls to what is held now
    before = _status("VmRSS")
    call()
    return _status("VmHWM") - before


def _status(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024


def measure(name: str, batch: int) -> int:
    """Return the peak of one forward and backward pass of a case, from a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.memory", name, str(batch)],
        env=os.environ | GIVES_BACK,
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(done.stdout)


def main() -> None:
    name, batch = sys.argv[1], int(sys.argv[2])
    backend, make = CASES[name]
    (inputs,) = draw(ROWS, "uniform", batch, 1)
    (few,) = draw(ROWS, "uniform", 8, 1)
    call = on_backend(backend, make_pass("forward+backward", make()))
    call(few)  # code of libraries is not the pass's; work memory kept between calls is
    sys.stdout.write(json.dumps(peak_bytes(lambda: call(inputs))))


if __name__ == "__main__":
    main()
