"""The examples run, and do what their texts say."""

import importlib
import re
from pathlib import Path

import pytest
import torch

EXAMPLE = Path(__file__).parents[1] / "examples/own_model"


@pytest.fixture
def own_model(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLE)
    return importlib.import_module("own_model")


def test_your_own_model_learns_is_saved_and_predicts(own_model, tmp_path, capsys):
    own_model.main(tmp_path)
    first, last, known, stranger = map(float, re.findall(r"\d\.\d{3}", capsys.readouterr().out))
    events = own_model.load(tmp_path / "events.csv", schema=own_model.SCHEMA)
    clicks = events.events().batch(0, len(events)).label
    share = clicks.mean()
    entropy = -(share * share.log() + (1 - share) * (1 - share).log())
    assert last < 0.95 * entropy  # of a model that knows the share of clicks alone
    assert first == pytest.approx(0.693, abs=0.05)  # of one that knows nothing
    assert 0 < known < 1
    assert 0 < stranger < 1
    assert own_model.SCHEMA.sparse[4:]
    assert own_model.SCHEMA.bag
    assert own_model.SCHEMA.dense


def test_a_saved_learner_goes_on_to_the_same_numbers(own_model, tmp_path):
    own_model.write_events(tmp_path / "events.csv", count=600)
    events = own_model.load(tmp_path / "events.csv", schema=own_model.SCHEMA).events()
    learner, copy, third = (own_model.build() for _ in range(3))
    for start in (0, 200):
        learner.learn(events.batch(start, start + 200))
    own_model.checkpoint.save(learner.state_dict(), tmp_path / "one.safetensors")
    torch.save(learner.state_dict(), tmp_path / "one.pt")
    copy.load_state_dict(own_model.checkpoint.load(tmp_path / "one.safetensors"))
    third.load_state_dict(torch.load(tmp_path / "one.pt", weights_only=True))
    before, predicted = learner.num_ids(), learner.predict(own_model.new_events())
    assert torch.equal(predicted, copy.predict(own_model.new_events()))
    assert learner.num_ids() == before
    losses = [one.learn(events.batch(400, 600)).losses for one in (learner, copy, third)]
    assert torch.equal(losses[0], losses[1])
    assert torch.equal(losses[0], losses[2])


def test_the_model_has_about_ten_lines():
    text = (EXAMPLE / "own_model.py").read_text()
    model = text.split("# model: begin")[1].split("# model: end")[0]
    assert sum(bool(line.strip()) for line in model.splitlines()) <= 14  # with class and docstring
