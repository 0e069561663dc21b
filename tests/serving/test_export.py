"""From a trained run to a model of a given size."""

import numpy as np
import pytest
import torch
from autoemb.lab.methods import METHODS

from autoemb.bilevel.passes import evaluating
from autoemb.errors import UserError
from autoemb.lab.events import stream_of
from autoemb.lab.ranks import rank_correlation
from autoemb.lab.trained import export_lines, load_trained
from autoemb.serving import Exporter
from autoemb.serving.export import mixed_embeddings

WIDTHS = (1, 2, 4)


def exporter_of(run, widths=None):
    return Exporter(run.learner, run.task, widths, about=run.about)


def columns(learner):
    """Return every id of both fields in pairs, the shorter field repeated."""
    ids = [np.asarray(table.ids()) for table in learner.id_tables]
    return [np.resize(column, max(map(len, ids))) for column in ids]


@pytest.mark.parametrize(
    ("method", "options"),
    [*((method, {}) for method in METHODS), ("autoemb", {"selection": "hard"}),
     ("autoemb", {"norm": "running"}),
     ("autoemb", {"task": "classification", "preset": "paper"}), ("autoemb", {"budget": 0.3})],
)  # fmt: skip
def test_with_the_whole_budget_predictions_are_the_trainers(trained, method, options):
    run = trained(method=method, **options)
    ids = columns(run.learner)
    expected = run.learner.predict(ids, hard=options.get("selection") == "hard")
    model, _ = exporter_of(run).export(1.0)
    torch.testing.assert_close(model.logits(ids), expected, rtol=1e-5, atol=1e-6)


def test_a_newcomer_has_rows_of_zeros_and_what_the_controller_gives_the_unknown(trained):
    learner = trained(norm="running").learner
    users, items = mixed_embeddings(learner)
    model, controller = learner.modules
    embedding = model.embedding
    features = [learner.state.features(f, torch.tensor([len(t)])) for f, t in
                enumerate(learner.id_tables)]  # fmt: skip
    assert [int(learner.state.count(f, torch.tensor([len(t)]))) for f, t in
            enumerate(learner.id_tables)] == [0, 0]  # fmt: skip
    with evaluating([controller]), torch.no_grad():
        weights = controller([torch.tensor([0])] * 2, features)
    for f, known in enumerate((users, items)):
        inner = embedding.bias[f] - embedding.running_mean[f]
        inner = torch.tanh(inner / (embedding.running_var[f] + embedding.eps).sqrt())
        expected = (weights[f][0].unsqueeze(1) * inner).sum(0)
        torch.testing.assert_close(known[-1], expected.detach(), rtol=1e-5, atol=1e-6)


def test_embeddings_do_not_depend_on_how_many_are_computed_at_once(trained, monkeypatch):
    learner = trained().learner
    whole = mixed_embeddings(learner)
    monkeypatch.setattr("autoemb.serving.export.CHUNK", 7)
    for one, other in zip(whole, mixed_embeddings(learner), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("budget", [0.5, 0.2, 0.05, 0.001])
def test_rows_stay_within_the_budget(trained, budget):
    run = trained()
    model, kept = exporter_of(run).export(budget)
    ids = sum(map(len, run.learner.id_tables))
    floats = sum(int(widths.sum()) for widths in kept)
    assert floats <= budget * ids * sum(WIDTHS)
    assert model.bytes()["rows"] == 4 * floats
    # What remains of the budget is less than the next step of some id would cost.
    if budget >= 0.05:
        assert floats > 0.6 * budget * ids * sum(WIDTHS)


def test_the_model_holds_what_was_kept(trained):
    run = trained()
    model, kept = exporter_of(run).export(0.2)
    for field, table, widths in zip(model.fields, run.learner.id_tables, kept, strict=True):
        ids = np.asarray(table.ids())
        assert set(field.ids.ids()) == set(ids[(widths > 0).numpy()])
        for rows in field.rows:
            assert len(rows) == int((widths == rows.shape[1]).sum())
        numbers = field.ids.rows(ids, insert=False)
        ends = np.cumsum([len(rows) for rows in field.rows])
        width_of = [WIDTHS[int(np.searchsorted(ends, n, side="right"))] for n in
                    numbers[numbers >= 0]]  # fmt: skip
        assert width_of == widths[widths > 0].tolist()


def test_narrow_rows_are_close_to_what_they_stand_for(trained):
    run = trained()
    ids = columns(run.learner)
    expected = run.learner.predict(ids)
    error = {}
    for budget in (0.4, 0.1, 0.001):
        model, _ = exporter_of(run).export(budget)
        error[budget] = (model.logits(ids) - expected).square().mean()
    assert error[0.4] < error[0.1] < error[0.001]


def test_popular_ids_get_wider_rows(trained):
    run = trained()
    _, kept = exporter_of(run).export(0.15)
    counts = [
        state.count[: len(w)] for state, w in zip(run.learner.state.fields, kept, strict=True)
    ]
    # 0.30 here; widths that had nothing to do with popularity would stay below 0.2, at 200 ids.
    assert rank_correlation(torch.cat(counts), torch.cat(kept)) > 0.2


def test_ids_are_told_by_width_and_bytes_before_and_after(trained):
    run = trained()
    model, kept = exporter_of(run).export(0.2)
    users, items, rows, rest = export_lines(run, model, kept)
    assert users.startswith("users: ")
    assert "rank correlation with popularity" in items
    ids = sum(map(len, run.learner.id_tables))
    assert rows == f"rows: {model.bytes()['rows']:,} bytes instead of {4 * ids * 7:,}"
    assert rest.endswith(
        f"network: {model.bytes()['network']:,}; ids: {model.bytes()['ids']:,} bytes"
    )


def test_ids_of_one_width_have_no_rank_correlation(trained):
    run = trained()
    lines = export_lines(run, *exporter_of(run, [4]).export(1.0))
    assert all("rank correlation" not in line for line in lines)


@pytest.mark.parametrize("budget", [0, -1, 1.1, float("nan")])
def test_a_budget_out_of_range_is_refused(trained, budget):
    with pytest.raises(UserError, match=r"--budget is .*; expected a share"):
        exporter_of(trained()).export(budget)


@pytest.mark.parametrize("widths", [[0], [5], [2, 100]])
def test_widths_out_of_range_are_refused(trained, widths):
    with pytest.raises(UserError, match=r"--widths is .*; expected widths from 1 to 4"):
        exporter_of(trained(), widths).export(0.5)


def test_other_widths_may_be_chosen_from(trained):
    model, kept = exporter_of(trained(), [3, 1]).export(0.3)
    assert [rows.shape[1] for rows in model.fields[0].rows] == [1, 3]
    assert set(torch.cat(kept).tolist()) <= {0, 1, 3}


def test_a_run_that_diverged_is_refused(trained):
    run = trained()
    with torch.no_grad():
        run.learner.modules[0].embedding.table_1[0] = float("nan")
    with pytest.raises(UserError, match="it has diverged"):
        exporter_of(run).export(0.5)


def test_the_learner_learns_on_after_an_export(trained, stream):
    run = trained()
    model, _ = exporter_of(run).export(0.5)
    layer = run.learner.modules[0].hidden[0]
    before = layer.weight.detach().clone()
    run.learner.learn(next(iter(stream_of(stream, run.config))))
    assert not torch.equal(layer.weight, before)
    torch.testing.assert_close(model.hidden[0].weight, before, rtol=0, atol=0)


@pytest.mark.parametrize("counts", [0, -1])
def test_a_state_that_counted_no_events_is_refused(trained, counts):
    run = trained()
    run.learner.state.fields[1].count.fill_(counts)
    with pytest.raises(UserError, match="no events of its ids are counted"):
        exporter_of(run)


def test_a_folder_without_state_is_told_how_to_keep_one(tmp_path):
    with pytest.raises(UserError, match="holds no trained state; autoemb run keeps its own"):
        load_trained(tmp_path)


def test_a_file_of_something_else_is_refused(trained, tmp_path):
    model, _ = exporter_of(trained()).export(0.5)
    model.save(path := tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="does not hold the state of a run"):
        load_trained(path)


def test_the_state_is_that_of_the_run(trained):
    run = trained(method="sam", seed=3)
    assert run.config.seed == 3
    assert run.about["position"] == 450  # the end of the batch of 50 that holds event 420
    assert sum(int(c) for c in run.learner.state.fields[0].count) == 450


@pytest.mark.parametrize("method", ["autoemb", "fse"])
def test_errors_are_those_of_the_embeddings_in_the_first_hidden_layer(trained, method):
    exporter = exporter_of(trained(method=method))
    first = exporter.model.hidden[0].weight.detach().chunk(2, 1)
    for f, (known, errors) in enumerate(zip(exporter.embeddings, exporter.errors, strict=True)):
        count = exporter.learner.state.fields[f].count[: len(errors)]
        candidates = [known[-1].expand_as(known[:-1])]
        for fit in exporter.fits[f]:
            inner = fit.rows @ fit.projection.t() + fit.offset if len(fit.projection) else fit.rows
            soft = exporter.soft and len(fit.projection)
            candidates.append(exporter.scale * (torch.tanh(inner) if soft else inner))
        for k, candidate in enumerate(candidates):
            change = ((candidate - known[:-1]) @ first[f].t()).square().sum(1)
            expected = change * count.float().sqrt()
            torch.testing.assert_close(errors[:, k], expected, rtol=1e-3, atol=1e-5)
