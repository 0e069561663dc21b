import pytest

from bench import harness


def test_spread_and_ratio_are_medians():
    seconds = {"slow": [0.002, 0.004, 0.009], "fast": [0.001, 0.001, 0.009]}
    assert harness.spread(seconds["slow"]) == pytest.approx(
        {"p20_ms": 2.8, "p50_ms": 4.0, "p80_ms": 7.0}
    )
    assert harness.ratio(seconds, "slow", "fast") == 2.0  # of 2, 4, 1


def test_a_copy_without_git_records_the_commit_it_is_told(monkeypatch):
    monkeypatch.setattr(harness, "output_of", lambda command: None)
    monkeypatch.delenv("COMMIT", raising=False)
    assert harness.commit() is None
    monkeypatch.setenv("COMMIT", "abc")
    assert harness.commit() == "abc"


def test_what_is_not_installed_has_no_version():
    assert harness.versions("torch", "no-such-package")["no-such-package"] is None
    assert harness.output_of(["no-such-program"]) is None
    assert harness.output_of(["echo", " one "]) == "one"
