"""The rows in play: which they are, how they are numbered, and modules as functions of them."""

import copy
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from autoemb import MLP, Bag, FixedEmbedding, SoftEmbedding
from autoemb.bilevel import Example
from autoemb.bilevel.lock import Lock
from autoemb.bilevel.working_set import Functional, read_by, views_of
from autoemb.nn import Inputs
from autoemb.nn.places import InPlay
from autoemb.schema import Bag as BagFeature
from autoemb.schema import Sparse
from tests.bilevel.small import TABLES, example_of
from tests.nn.small import PAPER

#: Two columns and a bag of one table, one feature and one bag with tables of their own.
READS = {
    feature.column: feature
    for feature in (
        Sparse(column="buyer", table="person"),
        BagFeature(column="tags"),
        Sparse(column="item_id"),
        BagFeature(column="friends", table="person"),
        Sparse(column="seller", table="person"),
    )
}
TABLES_READ = ("person", "tags", "item_id")

some_id = st.integers(0, 9) | st.integers(0, 2**62)
some_ids = st.lists(some_id, max_size=3)
event = st.tuples(some_id, some_id, some_id, some_ids, some_ids)
events = st.lists(event, min_size=1, max_size=6)


def as_bag(lists):
    offsets = torch.tensor([0, *map(len, lists)]).cumsum(0)
    values = torch.tensor([id for ids in lists for id in ids], dtype=torch.int64)
    return Bag(values, offsets)


def as_example(events):
    buyer, item, seller, tags, friends = zip(*events, strict=True)
    ids = {
        "seller": torch.tensor(seller),
        "city": torch.zeros(len(events), dtype=torch.int64),
        "buyer": torch.tensor(buyer),
        "item_id": torch.tensor(item),
        "tags": as_bag(tags),
        "friends": as_bag(friends),
    }
    return Example(Inputs(ids), torch.arange(len(events)))


def values_of(column):
    return column.values if isinstance(column, Bag) else column


def held(example, table):
    """Every id of a table that the events hold."""
    parts = [example.inputs.ids[name] for name, f in READS.items() if f.table == table]
    return torch.cat([values_of(part) for part in parts]).tolist()


ENOUGH = dict.fromkeys(TABLES_READ, 2**62 + 1)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(events, min_size=1, max_size=3))
def test_views_hold_the_distinct_ids_of_each_batch_and_of_all(batches):
    examples, asked = [as_example(batch) for batch in batches], []

    def history(rows):
        asked.append(rows)
        return {table: own.unsqueeze(1) for table, own in rows.items()}

    views = views_of(examples, READS, ENOUGH, history)
    assert len(views) == len(examples)
    for example, view in zip(examples, views, strict=True):
        assert torch.equal(view.example.label, example.label)
        assert view.plans.keys() == view.play.rows.keys() == {*TABLES_READ}
        assert view.places.keys() == {"buyer", "item_id", "seller"}
        for table in TABLES_READ:
            everything = [id for one in examples for id in held(one, table)]
            own, plan = held(example, table), view.plans[table]
            assert view.play.rows[table].tolist() == sorted({*everything})
            assert plan.rows.tolist() == sorted({*own})
            assert plan.counts.tolist() == [own.count(id) for id in plan.rows.tolist()]
            # Asked for by row number of the table, once for each distinct id of all batches.
            assert torch.equal(view.features[table].squeeze(1), view.play.rows[table])
        for name, feature in READS.items():
            given, seen = example.inputs.ids[name], view.example.inputs.ids[name]
            assert torch.equal(values_of(given), values_of(seen))
            if isinstance(seen, Bag):
                assert torch.equal(seen.offsets, given.offsets)
            else:
                rows = view.plans[feature.table].rows
                assert torch.equal(rows[view.places[name]], given)
            # Where the ids are among the rows in play, for the tensor as it is handed on or not.
            for asked_for in (values_of(seen), values_of(seen).clone()):
                found = view.play.positions(feature.table, asked_for)
                assert torch.equal(view.play.rows[feature.table][found], values_of(given))
    assert len(asked) == 1


def test_without_a_history_there_is_no_input_of_a_controller():
    example = as_example([(1, 2, 3, [], [])])
    assert views_of([example], READS, ENOUGH)[0].features == {}


def test_what_nobody_reads_is_handed_on_as_it_is():
    example = as_example([(1, 2, 3, [], [])])
    example.inputs.ids["city"] = city = torch.tensor([2**62])
    (view,) = views_of([example], READS, dict.fromkeys(TABLES_READ, 9))
    assert view.example.inputs.ids["city"] is city


@pytest.mark.parametrize("name", READS)
@pytest.mark.parametrize("bad", [-1, "V", 2**40])
def test_an_id_beyond_its_table_is_refused_by_name(name, bad):
    table = READS[name].table
    rows = {"person": 20, "tags": 10, "item_id": 30}
    good = as_example([(7, 1, 9, [2, 9], [19]), (19, 29, 0, [0], [])])
    wrong = copy.deepcopy(good)
    bad = rows[table] if bad == "V" else bad
    values_of(wrong.inputs.ids[name])[-1] = bad
    assert len(views_of([good, good], READS, rows)) == 2
    message = rf"table '{table}': id {bad} is not in \[0, {rows[table] - 1}\]"
    with pytest.raises(IndexError, match=message):
        views_of([good, wrong], READS, rows)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"buyer": None}, "feature 'buyer' is missing; there are seller, city, item_id, tags"),
        ({"buyer": as_bag([[1], [2]])}, "'buyer' is a bag; the module reads one id an event"),
        ({"tags": torch.tensor([1, 2])}, "'tags' is one id an event; the module reads a bag"),
        ({"seller": torch.tensor([1, 2, 3])}, r"different numbers of events: \[2, 3\]"),
        ({"item_id": torch.tensor([1, 2, 3])}, r"different numbers of events: \[2, 3\]"),
        ({"item_id": torch.tensor([1.0, 2.0])}, "'item_id': expected int64 rows"),
    ],
)
def test_a_batch_that_is_not_what_is_read_is_refused_by_name(change, message):
    example = as_example([(7, 1, 9, [2, 9], [19]), (19, 29, 0, [0], [])])
    changed = {n: part for n, part in (example.inputs.ids | change).items() if part is not None}
    with pytest.raises(ValueError, match=message):
        views_of([Example(Inputs(changed), example.label)], READS, ENOUGH)


# Who reads what


def towers(**tables):
    return nn.ModuleDict({name: SoftEmbedding([9], features=[f]) for name, f in tables.items()})


def test_the_features_of_all_modules_inside_are_read():
    module = towers(
        a=Sparse(column="user_id"), b=BagFeature(column="seen", table="item_id"), c="item_id"
    )
    module["d"] = nn.Sequential(FixedEmbedding([9], 2, features=["user_id"]))
    read = read_by(module)
    assert {name: feature.table for name, feature in read.items()} == {
        "user_id": "user_id", "seen": "item_id", "item_id": "item_id"
    }  # fmt: skip
    assert isinstance(read["seen"], BagFeature)
    assert read_by(nn.Linear(2, 2)) == {}


def test_one_feature_read_from_two_tables_is_refused():
    module = towers(a="user_id", b=Sparse(column="user_id", table="person"))
    with pytest.raises(
        ValueError, match="'user_id' is read from table 'user_id' and from table 'person'"
    ):
        read_by(module)


def test_one_feature_read_as_one_id_and_as_a_bag_is_refused():
    module = towers(a="user_id", b=BagFeature(column="user_id"))
    with pytest.raises(
        ValueError, match="feature 'user_id' is read as one id an event and as a bag"
    ):
        read_by(module)


def test_one_feature_that_counts_and_does_not_is_refused():
    module = towers(a="user_id", b=Sparse(column="user_id", counts=False))
    with pytest.raises(ValueError, match="read as events of its ids and without counting its ids"):
        read_by(module)


@pytest.mark.parametrize("make", [SoftEmbedding, lambda rows: FixedEmbedding(rows, 2)])
def test_rows_without_named_features_are_refused_by_path(make):
    module = nn.ModuleDict({"one": SoftEmbedding([9], features=["a"]), "other": make([4, 5])})
    with pytest.raises(ValueError, match=r"Embedding \(other\) does not say which features"):
        read_by(module)


# Modules as functions


@pytest.fixture
def model():
    torch.manual_seed(0)
    return MLP(SoftEmbedding([20, 10], (1, 2), features=TABLES, **PAPER), hidden=(4,))


ROWS = {"user_id": torch.tensor([3, 5, 19]), "item_id": torch.tensor([0, 9])}
INPUTS = example_of(torch.tensor([[3, 9], [19, 9], [5, 0], [3, 0]]), None).inputs


def draw_mix(rows=(3, 2)):
    return {table: torch.rand(n, 2) for table, n in zip(TABLES, rows, strict=True)}


def test_tables_are_told_from_dense_parameters(model):
    function = Functional(model)
    tables = {name: row.table for name, row in function.rows.items()}
    assert tables == {"embedding.table_0": "user_id", "embedding.table_1": "item_id"}
    assert {*function.dense} | {*tables} == {n for n, _ in model.named_parameters()}
    assert not {*function.dense} & {*tables}


def test_gathered_rows_are_copies_without_history(model):
    function = Functional(model)
    rows = function.gather(ROWS)
    assert torch.equal(rows["embedding.table_0"], model.embedding.tables[0][ROWS["user_id"]])
    assert torch.equal(rows["embedding.table_1"], model.embedding.tables[1][ROWS["item_id"]])
    before = model.embedding.tables[0].detach().clone()
    rows["embedding.table_0"].zero_()
    assert torch.equal(model.embedding.tables[0], before)
    parameters = function.parameters(ROWS)
    assert {*parameters} == {name for name, _ in model.named_parameters()}
    assert not any(value.requires_grad for value in parameters.values())


def test_the_function_of_rows_is_the_module_on_whole_tables(model):
    function, mix = Functional(model), draw_mix()
    whole = {
        table: torch.zeros(n, 2).index_copy(0, ROWS[table], mix[table])
        for table, n in zip(TABLES, (20, 10), strict=True)
    }
    parameters = {n: p.requires_grad_() for n, p in function.parameters(ROWS).items()}
    logits, _ = function(parameters, InPlay(ROWS), INPUTS, mix)
    assert torch.equal(logits, model(INPUTS, whole))  # the same rows in the same order
    grads = torch.autograd.grad(logits.sum(), [*parameters.values()])
    model(INPUTS, whole).sum().backward()
    for name, grad in zip(parameters, grads, strict=True):
        full, row = model.get_parameter(name).grad, function.rows.get(name)
        assert torch.equal(grad, full if row is None else full[ROWS[row.table]])


def test_buffers_are_returned_as_a_call_leaves_them_and_stay_in_the_module(model):
    function = Functional(model)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    _, after = function(function.parameters(ROWS), InPlay(ROWS), INPUTS, draw_mix())
    assert after.keys() == before.keys()
    assert len(before) == 3
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, before[name])
        assert not torch.equal(after[name], before[name])
    model(INPUTS, draw_mix((20, 10)))  # statistics do not depend on the mix
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, after[name])


def test_after_a_failing_call_the_module_reads_whole_tables(model):
    function, mix = Functional(model), draw_mix((20, 10))
    expected = model(INPUTS, mix)
    with pytest.raises(ValueError, match="no mix"):
        function(function.parameters(ROWS), InPlay(ROWS), INPUTS, {})
    with function.lock:  # which is free again
        assert torch.equal(model(INPUTS, mix), expected)


class Slow(FixedEmbedding):
    """An embedding that waits in the middle of a pass."""

    def __init__(self):
        super().__init__([20], 2, features=["user_id"])
        self.inside, self.go_on = threading.Event(), threading.Event()

    def forward(self, ids, weights=None):
        self.inside.set()
        assert self.go_on.wait(60)
        return super().forward(ids, weights)


def test_rows_are_read_before_or_after_a_pass_never_within_it():
    """Within it the module holds the rows in play in the place of its tables."""
    module = Slow()
    function, rows, found = Functional(module), {"user_id": torch.tensor([3, 19])}, []
    arguments = function.gather(rows), InPlay(rows), {"user_id": torch.tensor([19])}
    training = threading.Thread(target=lambda: function(*arguments))
    reading = threading.Thread(target=lambda: found.append(function.gather(rows)))
    training.start()
    assert module.inside.wait(60)
    reading.start()
    reading.join(timeout=0.2)
    assert reading.is_alive()
    module.go_on.set()
    for thread in (training, reading):
        thread.join(timeout=60)
    assert torch.equal(found[0]["table_0"], module.table_0[rows["user_id"]])


def test_a_lock_is_taken_again_by_its_thread_and_not_shared_by_copies():
    lock = Lock()
    with lock, copy.deepcopy(lock), lock:
        assert copy.deepcopy({"a": lock, "b": lock})["a"] is not lock
    twins = copy.deepcopy([lock, lock])
    assert twins[0] is twins[1]
