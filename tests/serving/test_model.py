"""Served models: what they compute of events of any shape."""

import copy
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

from autoemb import Bag, Batch
from autoemb.errors import UserError
from autoemb.nn.layers import mlp
from autoemb.schema import STARS, Label, Schema, Sparse
from autoemb.serving import ServedModel
from autoemb.tasks import task_for
from tests.serving.by_hand import EVENTS, SCHEMA, D, make_cross, make_model, make_table


@pytest.fixture(params=[False, True], ids=["soft", "linear"])
def model(request):
    return make_model(request.param)


def embedding(model, table, id):
    """Return the embedding of one id."""
    own = model.tables[table]
    known = list(own.ids.ids())
    if id not in known:
        return own.newcomer
    number = known.index(id)
    for rows, projection, offset in zip(own.rows, own.projections, own.offsets, strict=True):
        if number < len(rows):
            if rows.shape[1] == D:
                return rows[number]
            inner = projection @ rows[number] + offset
            return inner if model.linear else model.scale * torch.tanh(inner)
        number -= len(rows)
    raise AssertionError


def pooled(model, event):
    """Return the embeddings [F, D] of one of EVENTS by the definition of pooling."""
    found = [
        embedding(model, feature.table, EVENTS[feature.column][event]) for feature in SCHEMA.sparse
    ]
    for name, table in (("tags", "tags"), ("seen", "item_id")):
        start, stop = EVENTS[name].offsets[event : event + 2]
        ids = EVENTS[name].values[start:stop]
        rows = [embedding(model, table, id) for id in ids]
        if not rows:
            found.append(torch.zeros(D))
        elif name == "seen":
            found.append(torch.stack(rows).sum(0))
        else:
            weights = torch.from_numpy(EVENTS[name].weights[start:stop])
            found.append((torch.stack(rows) * weights.unsqueeze(1)).sum(0) / weights.sum())
    return torch.stack(found)


def test_embeddings_are_those_of_the_formula_bags_pooled(model):
    expected = torch.stack([pooled(model, event) for event in range(4)])
    torch.testing.assert_close(model.embed(EVENTS), expected, rtol=1e-5, atol=1e-6)


def test_logits_are_the_networks_with_dense_features_behind_the_embeddings(model):
    dense = torch.tensor([[3.0, 0.0], [0.0, 1.0], [1.0, 0.0], [-1.0, 0.0]])  # mean 10, deviation 2
    inputs = torch.cat([model.embed(EVENTS).flatten(1), dense], 1)
    torch.testing.assert_close(model.logits(EVENTS), model.hidden(inputs), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model.predict(EVENTS), model.logits(EVENTS).softmax(1))
    assert not model.logits(EVENTS).requires_grad


def test_inputs_are_crossed_before_the_network():
    model, plain = make_model(False, crosses=2), make_model(False)
    dense = torch.tensor([[3.0, 0.0], [0.0, 1.0], [1.0, 0.0], [-1.0, 0.0]])
    start = found = torch.cat([model.embed(EVENTS).flatten(1), dense], 1)
    for cross in model.crosses:
        inner = found @ cross.inner @ cross.outer.weight.T + cross.outer.bias
        found = start * inner + found
    torch.testing.assert_close(model.logits(EVENTS), model.hidden(found), rtol=1e-5, atol=1e-5)
    assert not any(own.requires_grad for cross in model.crosses for own in cross.parameters())
    assert model.bytes()["network"] == plain.bytes()["network"] + 4 * 2 * (22 * 3 + 3 * 22 + 22)


def test_a_batch_and_a_mapping_are_the_same(model):
    lists = {
        "tags": Bag(EVENTS["tags"].values, [0, 2, 2, 3, 5], EVENTS["tags"].weights),
        "seen": [["alien"], [], ["jaws", "nobody's"], []],
        "price": [16.0, None, 12, 8.0],
        "unused": "passed over",
    }
    expected = model.logits(
        Batch(
            {f.column: EVENTS[f.column] for f in SCHEMA.sparse},
            {b.column: EVENTS[b.column] for b in SCHEMA.bag},
            torch.tensor([16.0, torch.nan, 12.0, 8.0]).unsqueeze(1),
            label=torch.full((4,), torch.nan),  # not looked at
        )
    )
    assert torch.equal(model.logits(EVENTS | lists), expected)
    assert torch.equal(model.logits(EVENTS), expected)


def test_one_event_is_a_batch(model):
    alone = {
        "user_id": [50], "item_id": ["jaws"], "prev": [""],
        "tags": [[]], "seen": [["alien", "jaws"]], "price": [1.0],
    }  # fmt: skip
    assert model.predict(alone).shape == (1, 5)
    assert torch.equal(model.embed(alone)[0, 3], torch.zeros(D))


LABELS = [
    (STARS, "regression", 1),
    (STARS, "classification", 5),
    (Label(column="x", kind="click"), None, 1),
    (Label(column="x", kind="value"), None, 1),
    (Label(column="x", kind="classes", classes=("a", "b", "c")), None, 3),
]


@pytest.mark.parametrize(("label", "task", "outputs"), LABELS)
def test_predictions_are_what_the_task_makes_of_logits(label, task, outputs):
    schema = Schema(label=label, sparse=[Sparse(column="user_id")])
    table = make_table([[7], [], []])
    model = ServedModel(schema, {"user_id": table}, mlp(D, (3,), outputs), task)
    users = {"user_id": [7, 8, 9]}
    expected = task_for(task, label).predict(model.logits(users))
    assert torch.equal(model.predict(users), expected)
    assert model.predict(users).shape == ((3,) if outputs == 1 else (3, outputs))


def test_nothing_is_inserted_and_unknown_ids_are_newcomers(model):
    before = {name: len(table.ids) for name, table in model.tables.items()}
    unknown = {"user_id": [10**15, -3], "item_id": ["?", "??"], "prev": ["???", "????"]}
    unknown |= {"tags": [[1], [2]], "seen": [[], []], "price": [0.0, 0.0]}
    found = model.embed(unknown)
    assert torch.equal(found[:, 0], model.tables["user_id"].newcomer.expand(2, -1))
    assert torch.equal(found[:, 1], found[:, 2])
    assert {name: len(table.ids) for name, table in model.tables.items()} == before


def drop(name):
    return {key: value for key, value in EVENTS.items() if key != name}


REFUSED = {
    "a feature less": (drop("item_id"), "feature 'item_id' is missing; the batch has user_id"),
    "a bag less": (drop("seen"), "feature 'seen' is missing"),
    "no numbers": (drop("price"), "dense feature 'price' is missing; there are user_id"),
    "ids of another kind": (
        EVENTS | {"user_id": ["ann", "bob", "cat", "dan"]},
        "feature 'user_id': ids are strings; those of table 'user_id' are integers",
    ),
    "a column too short": (EVENTS | {"prev": ["jaws"]}, "prev has 1 values for 4 events"),
    "numbers too few": (
        EVENTS | {"price": [1.0]},
        r"dense features are \[1, 1\]; expected a tensor \[4, 1\]",
    ),
    "text for a number": (EVENTS | {"price": list("1x23")}, "price: .* expected numbers, or None"),
    "an infinite number": (EVENTS | {"price": [1, 2, np.inf, 3]}, "event 2: price is infinite"),
    "one number": (EVENTS | {"price": 3.0}, "price is one float; expected one value an event"),
    "one id": (EVENTS | {"item_id": "jaws"}, "item_id is one str; expected one value an event"),
    "ids for a bag": (EVENTS | {"seen": ["jaws"] * 4}, "a bag of seen is one str"),
    "a bag too few": (EVENTS | {"seen": [[]] * 3}, "bag 'seen': expected 5 offsets"),
    "ids that are fractions": (EVENTS | {"user_id": [0.5] * 4}, "feature 'user_id': ids are float"),
    "a bag of both": (EVENTS | {"seen": [["a"], [1], [], []]}, "feature 'seen': id 1 is 1"),
    "a matrix": (EVENTS | {"price": np.zeros((4, 2))}, r"price has shape \[4, 2\]"),
    "no events": (
        {"user_id": [], "item_id": [], "prev": [], "tags": [], "seen": [], "price": []},
        "the batch holds no events",
    ),
}


@pytest.mark.parametrize(("events", "message"), REFUSED.values(), ids=REFUSED)
def test_events_that_are_not_what_the_schema_says_are_refused_in_one_line(model, events, message):
    expected = model.logits(EVENTS)
    with pytest.raises(UserError, match=message) as caught:
        model.predict(events)
    assert "\n" not in str(caught.value)
    assert torch.equal(model.logits(EVENTS), expected)


def test_many_threads_may_predict_at_once():
    model = make_model(linear=False)
    model.tables["tags"] = make_table([[], [], []])  # without ids, so of no kind yet
    model = ServedModel(
        model.schema, model.tables, model.hidden, model.task, dense=model.dense, scale=0.5
    )
    requests = [EVENTS, EVENTS | {"tags": [["a"], [], ["b"], []]}]
    expected = [model.logits(request) for request in requests]
    wrong, barrier = [], threading.Barrier(4)

    def predict(number):
        barrier.wait()
        for _ in range(200):
            try:
                if not torch.equal(model.logits(requests[number % 2]), expected[number % 2]):
                    wrong.append("another answer")
            except Exception as error:
                wrong.append(error)

    threads = [threading.Thread(target=predict, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# What does not fit together


def test_parts_that_do_not_fit_the_schema_are_refused(model):
    parts = model.schema, model.tables, model.hidden, "classification"
    kept = {"dense": model.dense}

    def refused(message, schema=parts[0], tables=parts[1], hidden=parts[2], task=parts[3], **own):
        with pytest.raises(ValueError, match=message):
            ServedModel(schema, tables, hidden, task, **kept | own)

    less = {name: table for name, table in parts[1].items() if name != "tags"}
    refused("the tables are user_id, item_id; the schema names user_id, item_id, tags", tables=less)
    refused("the transform is of other dense features", dense=None)
    refused("the network has 21 inputs and 5 outputs; expected 22 and 5", hidden=mlp(21, (), 5))
    refused("the network has 22 inputs and 5 outputs; expected 22 and 1", task="regression")
    refused("the network has 0 inputs", hidden=torch.nn.Sequential())
    crosses = [make_cross(22), make_cross(21)]
    refused("a cross layer has 21 inputs; expected 22", crosses=crosses)
    narrow = less | {"tags": make_table([[], [], []], width=2)}
    refused(r"tables are \[2, 4\] wide; expected one width", tables=narrow)
    other = task_for("regression", Label(column="y", kind="rating", scale=(0, 5)))
    refused("the task is of another label", task=other)
    refused("task click does not fit the label 'rating' of kind rating", task="click")


# Bytes and copies


def test_bytes_are_those_of_the_tensors(model):
    sizes = model.bytes()
    own = [table.rows for table in model.tables.values()]
    assert sizes["rows"] == 4 * sum(rows.numel() for table in own for rows in table)
    assert sizes["projections"] == 4 * 3 * (4 * 1 + 4 * 3 + 3 * 4 + 4)
    assert sizes["network"] == 4 * (22 * 5 + 5 + 5 * 6 + 6 + 6 * 5 + 5) + 8 * 3
    text = len("jawsalien\ud7ffé".encode())
    assert sizes["ids"] == 8 * 5 + (8 * 4 + text) + 8 * 3


def test_copies_predict_the_same(model, tmp_path):
    expected = model.logits(EVENTS)
    torch.save(model, tmp_path / "model.pt")
    copies = [
        pickle.loads(pickle.dumps(model)),
        copy.deepcopy(model),
        # Not a state_dict but an object of ours, which PyTorch only loads where told to trust it.
        torch.load(tmp_path / "model.pt", weights_only=False),
    ]
    for other in copies:
        assert torch.equal(other.logits(EVENTS), expected)
        assert (other.about, other.schema) == (model.about, model.schema)
        other.tables["user_id"].ids.rows(np.array([77]))
    assert len(model.tables["user_id"].ids) == 5


class Scored(torch.utils.data.Dataset):
    """A user's prediction by a model that travels to other processes."""

    def __init__(self, model):
        self.model = model

    def __len__(self):
        return 4

    def __getitem__(self, index):
        part = slice(index, index + 1)
        event = {name: EVENTS[name][part] for name in ("user_id", "item_id", "prev", "price")}
        return self.model.logits(event | {"tags": [[]], "seen": [[]]})[0]


def test_a_model_travels_to_the_workers_of_a_loader():
    model = make_model(linear=False)
    loader = torch.utils.data.DataLoader(
        Scored(model), batch_size=4, num_workers=1, multiprocessing_context="spawn"
    )
    expected = model.logits(EVENTS | {"tags": [[]] * 4, "seen": [[]] * 4})
    torch.testing.assert_close(torch.cat([*loader]), expected)


def test_serving_needs_nothing_that_only_experiments_need():
    code = "import sys, autoemb.serving; print(*sys.modules)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    loaded = {*done.stdout.split()}
    assert "autoemb.serving.export" in loaded
    assert not loaded & {"autoemb.lab", "autoemb.data", "polars", "typer", "rich", "matplotlib"}
