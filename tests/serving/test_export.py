"""From a trained learner to a model of a given size."""

import copy

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_flatten

from autoemb import MLP, Bag, Batch, build_learner
from autoemb.bilevel.passes import evaluating
from autoemb.errors import UserError
from autoemb.lab.events import stream_of
from autoemb.lab.ranks import rank_correlation
from autoemb.lab.trained import export_lines
from autoemb.learners import METHODS
from autoemb.nn import MODELS
from autoemb.recipe import OPPONENTS, Recipe
from autoemb.schema import Dense
from autoemb.serving import Exporter, load_model
from autoemb.serving.mixed import mixed_embeddings
from tests.serving.conftest import RICH

pytestmark = pytest.mark.usefixtures("few_steps")

WIDTHS = (1, 2, 4)
TABLES = ("user_id", "item_id")


def exporter_of(run, widths=None):
    return Exporter(run.learner, run.schema, run.task, widths, about=run.about)


def embedding_of(learner):
    """Return the embedding of a model, told or not."""
    (embedding,) = (m for m in learner.modules[0].modules() if hasattr(m, "output_dim"))
    return embedding


def every_id(run):
    """Return a batch that holds every id of each table, those of shorter tables again."""
    tables = {t: np.asarray(ids.ids()) for t, ids in run.learner.encoder.id_tables.items()}
    events = max(map(len, tables.values()))
    random = np.random.default_rng(0)
    sparse, bags = {}, {}
    for number, feature in enumerate(run.schema.sparse):
        ids = np.resize(np.roll(tables[feature.table], number), events)
        sparse[feature.column] = ids if ids.dtype == np.int64 else ids.tolist()
    for bag in run.schema.bag:
        lengths = random.integers(0, 4, events) * (len(tables[bag.table]) > 0)
        ids = np.resize(tables[bag.table], lengths.sum())
        shares = random.random(len(ids)).astype(np.float32) if bag.weights else None
        values = ids if ids.dtype == np.int64 else ids.tolist()
        bags[bag.column] = Bag(values, np.cumsum([0, *lengths]), shares)
    dense = None
    if run.schema.dense:
        dense = torch.linspace(-9, 99, events * len(run.schema.dense)).view(events, -1)
        dense[::3, 0] = torch.nan
    return Batch(sparse, bags, dense)


CASES = [
    *((method, {}) for method in METHODS if method not in OPPONENTS),
    ("autoemb", {"selection": "hard"}),
    ("autoemb", {"norm": "running"}), ("autoemb", {"preset": "paper"}),
    ("autoemb", {"budget": 0.02}), ("sam", {"controller": "separate"}),
    ("autoemb", {"budget": 0.0}), ("autoemb", {"rows": "sizes", "budget": 0.3}),
    ("autoemb", {"rows": "sizes", "budget": 0.0, "model": "mlp"}), ("fse", {"model": "mlp"}),
    ("autoemb", {"controller_history": "full"}),
    ("autoemb", {"history": "none"}), ("fse", {"history": "counts"}),
]  # fmt: skip


@pytest.mark.parametrize(("method", "options"), CASES)
@pytest.mark.parametrize("data", ["ratings", "rich"])
def test_with_the_whole_budget_predictions_are_the_learners(
    trained, request, data, method, options
):
    task = {"task": "classification"} if data == "ratings" and "preset" in options else {}
    run = trained(request.getfixturevalue(data), method=method, **options, **task)
    batch = every_id(run)
    expected = run.learner.predict(batch, hard=options.get("selection") == "hard")
    model, _ = exporter_of(run).export(1.0)
    torch.testing.assert_close(model.logits(batch), expected, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("options", [{}, {"budget": 0.0}, {"history": "none"}], ids=str)
@pytest.mark.parametrize("data", ["ratings", "rich"])
def test_what_crosses_learnt_goes_with_the_model_and_its_file(
    trained, request, data, options, tmp_path
):
    run = trained(request.getfixturevalue(data), **options)
    batch, (model, _) = every_id(run), exporter_of(run).export(1.0)
    assert len(model.crosses) == 1
    assert model.crosses[0].outer.weight.any()  # it began as the identity
    model.save(tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    logits = run.learner.predict(batch)
    torch.testing.assert_close(loaded.logits(batch), logits, rtol=1e-5, atol=2e-6)
    assert loaded.bytes() == model.bytes()
    model.crosses.clear()
    assert (model.logits(batch) - logits).abs().max() > 1e-3


def test_a_newcomer_has_rows_of_zeros_and_what_the_controller_gives_the_unknown(trained):
    learner = trained(norm="running").learner
    found = mixed_embeddings(learner, embedding_of(learner))
    controller, embedding = learner.modules[1], embedding_of(learner)
    rows = {table: torch.tensor([n]) for table, n in learner.num_ids().items()}
    assert [int(learner.history.count(*row)) for row in rows.items()] == [0, 0]
    with evaluating([controller]), torch.no_grad():
        mix = controller(rows, learner.history.features(rows))
    for f, table in enumerate(TABLES):
        inner = embedding.bias[f] - embedding.running_mean[f]
        inner = torch.tanh(inner / (embedding.running_var[f] + embedding.eps).sqrt())
        expected = (mix[table][0].unsqueeze(1) * inner).sum(0)
        torch.testing.assert_close(found[table][-1], expected.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("data", ["ratings", "rich"])
def test_embeddings_do_not_depend_on_how_many_are_computed_at_once(
    trained, request, data, monkeypatch
):
    learner = trained(request.getfixturevalue(data)).learner
    whole = mixed_embeddings(learner, embedding_of(learner))
    monkeypatch.setattr("autoemb.serving.mixed.CHUNK", 20)
    other = mixed_embeddings(learner, embedding_of(learner))
    for table, rows in learner.num_ids().items():
        assert len(whole[table]) == rows + 1
        torch.testing.assert_close(whole[table], other[table], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("method", "options"), CASES)
def test_the_learner_stays_as_it_is(trained, rich, method, options):
    learner = trained(rich, method=method, **options).learner
    before, mode = copy.deepcopy(learner.state_dict()), [m.training for m in learner.modules]
    Exporter(learner, RICH).export(0.1)
    (old, shape), (new, same) = tree_flatten(before), tree_flatten(learner.state_dict())
    assert shape == same
    for one, other in zip(old, new, strict=True):
        if isinstance(one, torch.Tensor):
            torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
        else:
            assert np.array_equal(one, other)
    assert [m.training for m in learner.modules] == mode


def test_the_model_stays_as_it_is_while_the_learner_learns_on(trained, rich):
    run = trained(rich)
    model, _ = exporter_of(run).export(0.5)
    batch = every_id(run)
    before, own = model.logits(batch), run.learner.predict(batch)
    run.learner.learn(next(iter(stream_of(rich, run.config))))
    assert not torch.equal(run.learner.predict(batch), own)
    assert torch.equal(model.logits(batch), before)


@pytest.mark.parametrize("budget", [0.5, 0.2, 0.05, 0.001])
@pytest.mark.parametrize("data", ["ratings", "rich"])
def test_rows_stay_within_the_budget(trained, request, data, budget):
    run = trained(request.getfixturevalue(data))
    model, kept = exporter_of(run).export(budget)
    ids = sum(run.learner.num_ids().values())
    floats = sum(int(widths.sum()) for widths in kept.values())
    assert floats <= budget * ids * sum(WIDTHS)
    assert model.bytes()["rows"] == 4 * floats
    # What remains of the budget is less than the next step of some id would cost.
    if budget >= 0.05:
        assert floats > 0.6 * budget * ids * sum(WIDTHS)


def test_the_model_holds_what_was_kept(trained, rich):
    run = trained(rich, history="none")
    model, kept = exporter_of(run).export(0.2)
    assert [*model.tables] == [*kept] == [*RICH.tables]
    for name, table in model.tables.items():
        widths, ids = kept[name], np.asarray(run.learner.encoder.id_tables[name].ids())
        assert set(table.ids.ids()) == set(ids[(widths > 0).numpy()])
        for rows in table.rows:
            assert len(rows) == int((widths == rows.shape[1]).sum())
        if name == "never":
            assert len(table.ids) == 0
            continue
        numbers = table.ids.rows(ids.tolist(), insert=False)
        ends = np.cumsum([len(rows) for rows in table.rows])
        width_of = [WIDTHS[int(np.searchsorted(ends, n, side="right"))] for n in
                    numbers[numbers >= 0]]  # fmt: skip
        assert width_of == widths[widths > 0].tolist()


@pytest.mark.parametrize("data", ["ratings", "rich"])
def test_narrow_rows_are_close_to_what_they_stand_for(trained, request, data):
    run = trained(request.getfixturevalue(data))
    batch = every_id(run)
    expected = run.learner.predict(batch)
    error = {}
    for budget in (0.4, 0.1, 0.001):
        model, _ = exporter_of(run).export(budget)
        error[budget] = (model.logits(batch) - expected).square().mean()
    assert error[0.4] < error[0.1] < error[0.001]


def test_popular_ids_get_wider_rows(trained):
    run = trained()
    _, kept = exporter_of(run).export(0.15)
    counts = [run.learner.history.tables[table].count[: len(w)] for table, w in kept.items()]
    # 0.30 here; widths that had nothing to do with popularity would stay below 0.2, at 200 ids.
    assert rank_correlation(torch.cat(counts), torch.cat([*kept.values()])) > 0.2


@pytest.mark.parametrize("method", ["autoemb", "fse"])
@pytest.mark.parametrize("data", ["ratings", "rich"])
def test_errors_are_those_of_the_first_hidden_layer_summed_over_the_features_of_a_table(
    trained, request, data, method
):
    run = trained(request.getfixturevalue(data), method=method)
    exporter = exporter_of(run)
    weight = exporter.model.hidden[0].weight.detach()
    width = exporter.model.embedding.output_dim
    blocks = dict(
        zip((f.column for f in run.schema.features), weight.split(width, 1), strict=False)
    )
    for table, errors in exporter.errors.items():
        known = exporter.embeddings[table]
        count = run.learner.history.tables[table].count[: len(errors)].clamp_min(1)
        candidates = [known[-1].expand_as(known[:-1])]
        for fit in exporter.fits[table]:
            inner = fit.rows @ fit.projection.t() + fit.offset if len(fit.projection) else fit.rows
            soft = exporter.soft and len(fit.projection)
            candidates.append(exporter.scale * (torch.tanh(inner) if soft else inner))
        readers = [blocks[f.column] for f in run.schema.features if f.table == table]
        for k, candidate in enumerate(candidates):
            change = candidate - known[:-1]
            squares = sum((change @ block.t()).square().sum(1) for block in readers)
            expected = squares * count.float().sqrt()
            torch.testing.assert_close(errors[:, k], expected, rtol=1e-3, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_learner_on_a_gpu_is_exported_to_the_cpu(rich):
    recipe = Recipe(dims=WIDTHS, hidden=(8,), controller_hidden=(8,), budget=0)
    learner = build_learner(RICH, recipe=recipe, device="cuda")
    events = rich.events()
    for start in range(0, 600, 50):
        learner.learn(events.batch(start, start + 50))
    batch = events.batch(0, 50)
    model, _ = Exporter(learner, RICH).export(1.0)
    expected = learner.predict(batch).cpu()
    torch.testing.assert_close(model.logits(batch), expected, rtol=1e-4, atol=1e-5)


# What is told


def test_ids_are_told_by_width_and_bytes_before_and_after(trained):
    run = trained()
    model, kept = exporter_of(run).export(0.2)
    users, items, rows, rest = export_lines(run, model, kept)
    assert users.startswith("user_id: ")
    assert "rank correlation with popularity" in items
    ids = sum(run.learner.num_ids().values())
    assert rows == f"rows: {model.bytes()['rows']:,} bytes instead of {4 * ids * 7:,}"
    assert rest.endswith(
        f"network: {model.bytes()['network']:,}; ids: {model.bytes()['ids']:,}; "
        f"history: {model.bytes()['history']:,} bytes"
    )
    # Of a rating: a count of four bytes, two sums of three and seven other numbers of two.
    assert model.bytes()["history"] == ids * (4 + 2 * 3 + 7 * 2)


def test_ids_of_one_width_or_of_no_events_have_no_rank_correlation(trained, rich):
    run = trained(rich)
    lines = export_lines(run, *exporter_of(run, [4]).export(1.0))
    assert all("rank correlation" not in line for line in lines)
    told = {line.split(":")[0]: line for line in export_lines(run, *exporter_of(run).export(0.2))}
    assert "rank correlation" in told["item_id"]
    assert "rank correlation" not in told["rivals"]
    assert told["never"] == "never: no ids"


# What is refused


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
    assert [rows.shape[1] for rows in model.tables["user_id"].rows] == [1, 3]
    assert set(torch.cat([*kept.values()]).tolist()) <= {0, 1, 3}


@pytest.mark.parametrize(
    ("where", "options", "message"),
    [
        ("embedding.table_1", {"budget": 0.0}, "an embedding of item_id"),
        ("embedding.arenas.5.rows", {}, "an embedding of item_id"),
        ("hidden.2.bias", {}, "hidden.2.bias of the network"),
        ("crosses.0.inner", {}, "crosses.0.inner of the network"),
    ],
)
@pytest.mark.parametrize("history", ["none", "full"])
def test_a_run_that_diverged_is_refused(trained, where, options, message, history):
    run = trained(history=history, **options)
    model = run.learner.modules[0]
    with torch.no_grad():
        getattr(model, "model", model).get_parameter(where)[1 if "rows" in where else 0] = float(
            "nan"
        )
    with pytest.raises(UserError, match=f"it has diverged: {message}"):
        exporter_of(run).export(0.5)


@pytest.mark.parametrize("counts", [0, -1])
def test_a_state_that_counted_no_events_is_refused(trained, counts):
    run = trained()
    run.learner.history.tables["item_id"].count.fill_(counts)
    with pytest.raises(UserError, match="no events of the ids of item_id are counted"):
        exporter_of(run)


class Other(MLP):
    """A model of somebody's own."""


@pytest.mark.parametrize(
    "name", [*(name for name in MODELS if name not in ("mlp", "dcn")), "Other"]
)
def test_another_model_is_refused_by_its_name_with_those_that_are_not(name):
    own = Other if name == "Other" else None
    recipe = Recipe(dims=(1, 2)) if own else Recipe(dims=(1, 2), model=name)
    learner = build_learner(RICH, recipe=recipe, model=own)
    with pytest.raises(UserError, match=f"the model is {name}; an export is of: mlp, dcn"):
        Exporter(learner, RICH)


def test_a_schema_that_is_not_the_learners_is_refused(trained, rich):
    run = trained(rich)
    less = RICH.model_copy(update={"sparse": RICH.sparse[:-1]})
    with pytest.raises(UserError, match=r"the features of the learner .* are not the schema's"):
        Exporter(run.learner, less)
    other = RICH.model_copy(update={"dense": (Dense(column="price"), RICH.dense[1])})
    with pytest.raises(UserError, match=r"the dense features of the learner .* are not"):
        Exporter(run.learner, other)
