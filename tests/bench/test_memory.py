import os
import subprocess
import sys

import pytest

from bench.memory import GIVES_BACK, measure

# In a process of its own: torch's allocator sees nothing of what libc is asked for here.
TAKE = """
import ctypes
from bench.memory import peak_bytes
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
def take(mib):
    memory = libc.malloc(mib << 20)
    libc.memset(memory, 1, mib << 20)
    libc.free(memory)
def both():
    take(8)
    take(32)
take(32)  # a block that could be used again
print(*(peak_bytes(call) / 2**20 for call in (lambda: take(32), both, lambda: None)))
"""


def test_memory_that_is_freed_before_the_end_counts():
    done = subprocess.run(
        [sys.executable, "-c", TAKE],
        env=os.environ | GIVES_BACK,
        check=True,
        capture_output=True,
        text=True,
    )
    once, twice, nothing = map(float, done.stdout.split())
    assert once == pytest.approx(32, abs=0.5)
    assert twice == pytest.approx(32, abs=0.5)
    assert nothing < 0.5


def test_a_pass_takes_its_results_at_least():
    output, grads = (2000 * 2 * width * 4 for width in (128, 146))
    assert measure("autoemb, reference", 2000) > output + grads
