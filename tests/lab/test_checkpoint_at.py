"""The state that a run keeps on its way, for export."""

import os
import signal

import pytest
import torch

from autoemb.errors import UserError
from autoemb.lab import Interrupted, run
from autoemb.streaming import checkpoint


def stop_after(position):
    def progress(done, total):
        if done == position:
            os.kill(os.getpid(), signal.SIGINT)

    return progress


def assert_same(one, other):
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    else:
        assert (one == other) is True or bool((one == other).all())


@pytest.mark.parametrize(
    ("share", "position"), [(0, 20), (0.5, 160), (0.4, 120), (0.402, 140), (1, 300)]
)
def test_the_state_kept_is_that_of_the_batch_that_reaches_the_share(
    make_config, stream, numbers, tmp_path, share, position
):
    kept, stopped = tmp_path / "kept", tmp_path / "stopped"
    summary = run(make_config(), stream, kept, checkpoint_at=share)
    assert numbers(summary) == numbers(run(make_config(), stream))
    state = checkpoint.load(kept / "trained.safetensors")
    assert state["stream"] == {"position": position}
    assert sorted(f.name for f in kept.iterdir()) == [
        "metrics.jsonl", "summary.json", "trained.safetensors"
    ]  # fmt: skip
    if position < 300:
        with pytest.raises(Interrupted):
            run(make_config(), stream, stopped, progress=stop_after(position))
        other = checkpoint.load(stopped / "checkpoint.safetensors")
        assert_same(
            {key: value for key, value in state.items() if key != "seconds"},
            {key: value for key, value in other.items() if key != "seconds"},
        )


def test_a_resumed_run_keeps_it_too(make_config, stream, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(Interrupted):
        run(make_config(), stream, out, checkpoint_at=0.5, progress=stop_after(100))
    run(make_config(), stream, out, resume=True, checkpoint_at=0.5)
    kept = (out / "trained.safetensors").read_bytes()
    assert checkpoint.load(out / "trained.safetensors")["stream"]["position"] == 160
    run(make_config(), stream, out, resume=True, checkpoint_at=0.5)  # complete: nothing to do
    assert (out / "trained.safetensors").read_bytes() == kept


def test_what_has_been_passed_cannot_be_kept(make_config, stream, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(Interrupted):
        run(make_config(), stream, out, progress=stop_after(200))
    with pytest.raises(UserError, match=r"event 150, which the run in .* has passed"):
        run(make_config(), stream, out, resume=True, checkpoint_at=0.5)
    run(make_config(), stream, out, resume=True)
    with pytest.raises(UserError, match="has passed"):
        run(make_config(), stream, out, resume=True, checkpoint_at=0.5)


def test_a_state_that_was_kept_elsewhere_is_not_taken_for_it(make_config, stream, tmp_path):
    out = tmp_path / "run"
    run(make_config(), stream, out, checkpoint_at=0.5)
    kept = (out / "trained.safetensors").read_bytes()
    for share, event in ((0.2, 60), (0.9, 270)):
        told = rf"event {event}, which .* has passed; it has kept its state at event 160"
        with pytest.raises(UserError, match=told):
            run(make_config(), stream, out, resume=True, checkpoint_at=share)
    assert (out / "trained.safetensors").read_bytes() == kept


def test_a_run_that_starts_again_has_nothing_left_of_the_one_before(make_config, stream, tmp_path):
    out = tmp_path / "run"
    run(make_config(), stream, out, checkpoint_at=0.1)
    (out / "summary.json").unlink()  # as if it had been killed
    run(make_config(), stream, out, resume=True, keep=False)
    assert not (out / "trained.safetensors").exists()


def test_a_state_kept_on_the_way_is_not_replaced_by_that_of_the_end(make_config, stream, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(Interrupted):
        run(make_config(), stream, out, checkpoint_at=0.5, progress=stop_after(200))
    run(make_config(), stream, out, resume=True)
    assert checkpoint.load(out / "trained.safetensors")["stream"] == {"position": 160}


def test_a_state_on_the_way_and_none_are_not_both_kept(make_config, stream, tmp_path):
    with pytest.raises(UserError, match="--checkpoint-at keeps a state and --no-keep none"):
        run(make_config(), stream, tmp_path / "run", checkpoint_at=0.5, keep=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_out_of_range_is_refused_and_leaves_nothing(make_config, stream, tmp_path, share):
    with pytest.raises(UserError, match=r"--checkpoint-at is .*; expected 0 to 1"):
        run(make_config(), stream, tmp_path / "run", checkpoint_at=share)
    assert not (tmp_path / "run").exists()


def test_a_state_needs_a_folder(make_config, stream):
    with pytest.raises(UserError, match="--checkpoint-at keeps a state"):
        run(make_config(), stream, checkpoint_at=0.5)
