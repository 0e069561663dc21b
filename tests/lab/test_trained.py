"""The states of runs, exported and scored: finished, interrupted, and gone on from."""

import dataclasses
import os
import signal
from pathlib import Path

import pytest
import torch

from autoemb import cli
from autoemb.data import synthetic
from autoemb.errors import UserError
from autoemb.lab import Interrupted, run
from autoemb.lab.evaluate import evaluate
from autoemb.lab.trained import export_lines, load_trained
from autoemb.serving import Exporter, load_model

EXAMPLES = Path(__file__).parents[2] / "examples" / "schemas"


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    """Fit narrow rows in a fifth of the time, not as well."""
    monkeypatch.setattr("autoemb.serving.fit.STEPS", 60)


def exported(folder):
    trained = load_trained(folder)
    exporter = Exporter(trained.learner, trained.schema, trained.task, about=trained.about)
    model, kept = exporter.export(0.5)
    assert len(export_lines(trained, model, kept)) == 4
    return model


def test_the_state_is_that_of_the_run(make_config, stream, tmp_path):
    run(make_config(method="sam", seed=3), stream, tmp_path, checkpoint_at=0.7)
    trained = load_trained(tmp_path)
    assert (trained.config.seed, trained.schema, trained.task.name) == (
        3,
        stream.schema,
        "regression",
    )
    assert trained.about["position"] == 220  # the end of the batch of 20 that holds event 210
    counts = trained.learner.history.tables["user_id"].count
    assert int(counts.sum()) == 220


def test_a_finished_run_is_exported_and_scored_on_other_events(make_config, stream, tmp_path):
    run(make_config(), stream, tmp_path / "run")
    model = exported(tmp_path / "run")
    assert model.about["position"] == 300
    with pytest.raises(UserError, match="no events follow those that the model was trained on"):
        evaluate(model, stream)
    assert evaluate(model, synthetic(400), every=True)["interactions"] == 400


def test_an_interrupted_run_is_exported_and_scored_on_the_rest(make_config, stream, tmp_path):
    def stop(done, total):
        if done == 120:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        run(make_config(), stream, tmp_path / "run", progress=stop)
    assert evaluate(exported(tmp_path / "run"), stream)["interactions"] == 300 - 120


def test_a_run_that_went_on_from_another_is_exported_with_the_ids_of_both(
    make_config, stream, tmp_path
):
    rest = dataclasses.replace(stream, name="the rest", frame=stream.frame[160:])
    run(make_config(), stream.head(160), tmp_path / "first")
    run(make_config(), rest, tmp_path / "rest", origin=tmp_path / "first", checkpoint_at=0.5)
    model = exported(tmp_path / "rest")
    assert evaluate(model, rest)["interactions"] == 60  # after 160 and 80
    with pytest.raises(UserError, match="not the events that the model was trained on"):
        evaluate(model, stream)
    learner = load_trained(tmp_path / "rest").learner
    seen = stream.frame["user_id"][:240].n_unique()
    assert len(learner.encoder.id_tables["user_id"]) == seen


def test_a_folder_without_state_is_told_how_to_keep_one(tmp_path):
    with pytest.raises(UserError, match="holds no trained state; autoemb run keeps its own"):
        load_trained(tmp_path)


def test_a_file_of_something_else_is_refused(make_config, stream, tmp_path):
    run(make_config(), stream, tmp_path / "run")
    exported(tmp_path / "run").save(path := tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="does not hold the state of a run"):
        load_trained(path)


# On the command line


@pytest.fixture
def autoemb(monkeypatch, capsys):
    """Run the command line in this process, which must do what it is told; return its output."""

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["autoemb", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        said, errors = capsys.readouterr()
        assert not stopped.value.code, errors
        return said

    return call


SMALL = ["--batch-size", "50", "--dims", "1,2", "--hidden", "8", "--controller-hidden", "8"]
SMALL += ["--device", "cpu"]


def test_the_models_own_schema_reads_the_data(autoemb, tmp_path):
    rows = "\n".join(
        f"u{n % 7};{n % 5};a{n % 3}|b{n % 2};{n % 4}.5;{n % 2};{n}" for n in range(300)
    )
    (tmp_path / "events.csv").write_text(f"who;what;tags;price;bought;when\n{rows}\n")
    data = ["--data", tmp_path / "events.csv"]
    columns = ["--sparse", "who,what", "--bags", "tags", "--dense", "price", "--label", "bought"]
    columns += ["--timestamp", "when"]
    out, model = tmp_path / "run", tmp_path / "model"
    autoemb("run", *data, *columns, *SMALL, "--checkpoint-at", "0.5", "--out", out)
    said = autoemb("export", out, "--budget", "0.5", "--out", model)
    assert [line.split(":")[0] for line in said.splitlines()][:3] == ["who", "what", "tags"]
    said = autoemb("evaluate", model, *data)
    assert "AUC " in said
    assert "over 150 events" in said
    assert said.split(" over ")[0] == autoemb("evaluate", model, *data, *columns).split(" over ")[0]
    one = {"who": ["u1", "new"], "what": [1, 9], "tags": [["a1"], []], "price": [0.5, None]}
    found = load_model(model).predict(one)
    assert found.shape == (2,)
    assert bool(((found > 0) & (found < 1)).all())


@pytest.mark.parametrize(
    ("name", "schema"),
    [("ml-100k", None), ("nycflights13", "nycflights13.toml"),
     ("trivago-impressions", "trivago-impressions.toml")],
)  # fmt: skip
def test_real_events_of_every_shape(autoemb, tmp_path, name, schema):
    root = os.environ.get("AUTOEMB_DATA")
    if not root:
        pytest.skip("AUTOEMB_DATA is not set")
    if not (path := Path(root, name)).is_dir():
        pytest.skip(f"AUTOEMB_DATA holds no {name}")
    columns = [] if schema is None else ["--schema", EXAMPLES / schema]
    out, model = tmp_path / "run", tmp_path / "model"
    options = ["--limit", "2000", "--checkpoint-at", "0.7", "--out", out]
    autoemb("run", "--data", path, *columns, *SMALL, *options)
    trained = load_trained(out)
    autoemb("export", out, "--budget", "1", "--out", model)
    assert "over 600 events" in autoemb("evaluate", model, "--data", path)
    loaded = load_model(model)
    assert loaded.schema == trained.schema
    # Past events hold no newcomers, whose rows a learner draws.
    (batch, *_) = trained.learner._recent
    torch.testing.assert_close(
        loaded.logits(batch), trained.learner.predict(batch), rtol=1e-5, atol=2e-6
    )
