import time

import pytest

from bench import every_kernel
from bench.device import alternate, limit, prepare
from bench.workloads import on_backend


def test_a_turn_calls_every_input_and_counts_for_one_call():
    seen = []

    def call(seconds):
        seen.append(seconds)
        time.sleep(seconds)

    turn = prepare(call, [0.02, 0.04], "cpu")
    seconds = alternate({"case": turn}, calls=2, device="cpu", budget=0)
    assert len(seen) == 2 * (2 + len(seconds["case"]))  # prepare, the first turn, the rounds
    assert min(seconds["case"]) >= 0.03


def test_what_takes_too_long_is_ended():
    with pytest.raises(TimeoutError, match="not done in 1 s"), limit(1):
        time.sleep(10)
    with limit(1):
        pass
    time.sleep(1.1)  # no alarm is left


def test_the_script_for_sanitizers_runs():
    on_backend("auto", every_kernel.run)("cpu")
