"""What a step frees stays with the process."""

import os
import platform
import subprocess
import sys

import pytest

#: Page faults of a round that allocates 60 MB and frees them, in a process of its own.
ROUNDS = """
import resource, sys
import torch
from autoemb.streaming.memory import keep_freed_memory
def round():
    return [torch.ones(2**20) for _ in range(15)]
if sys.argv[1] == "kept":
    keep_freed_memory()
round(), round()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    round()
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 10)
"""


def faults(kept: str) -> float:
    # One thread: glibc gives others heaps of their own, which have limits of their own.
    own = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_", "LD_"))}
    command = [sys.executable, "-c", ROUNDS, kept]
    said = subprocess.run(command, check=True, capture_output=True, env=own, text=True).stdout
    return float(said)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the limit is one of glibc's malloc")
def test_memory_that_is_freed_is_not_paged_in_again() -> None:
    # 60 MB are 15,000 pages of 4 KiB; what lies around them may still move the end of the heap.
    if (given_back := faults("given back")) < 5000:
        pytest.skip("importing torch has freed as large a block by itself")
    assert faults("kept") < given_back / 5
