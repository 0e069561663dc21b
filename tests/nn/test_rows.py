"""Row parameters: growth, their names, and gathering the rows in play."""

import weakref

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

from autoemb import MLP, FixedEmbedding, PerIdLogits, RowAdam, RowModule, SoftEmbedding
from autoemb.nn import Inputs
from autoemb.nn.draws import id_keys, salted
from autoemb.nn.places import InPlay
from autoemb.nn.rows import begin, gather, grow, in_play, row_modules, row_parameters
from autoemb.ops import distinct_columns
from tests.nn.small import make

NAMES = ["user_id", "item_id"]


class Pair(RowModule):
    """Two parameters of one table and one of another; new rows hold the number of theirs."""

    def __init__(self):
        super().__init__(NAMES)
        for number, table in enumerate(("user_id", "user_id", "item_id")):
            rows = 3 if table == "item_id" else 2
            self.register_rows(f"table_{number}", table, torch.empty(rows, 3, 2))

    def new_rows(self, name, keys):
        return torch.full((len(keys), 3, 2), float(name[-1]))


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_registered_rows_are_initialised_parameters():
    module = Pair()
    assert [name for name, _ in module.named_parameters()] == ["table_0", "table_1", "table_2"]
    for number, parameter in enumerate(module.parameters()):
        assert (parameter == number).all()
    assert (module.num_rows("user_id"), module.num_rows("item_id")) == (2, 3)


def test_growth_keeps_rows_and_objects_and_new_rows_are_zeros_until_they_begin():
    module = Pair()
    parameters = list(module.parameters())
    for parameter in parameters:
        nn.init.normal_(parameter)
    before = [parameter.detach().clone() for parameter in parameters]
    module.grow({"user_id": 5, "item_id": 4, "city": 9})
    assert [len(parameter) for parameter in parameters] == [5, 5, 4]
    for number, (old, parameter) in enumerate(zip(before, module.parameters(), strict=True)):
        assert parameter is parameters[number]
        assert parameter.requires_grad
        assert parameter.is_leaf
        assert torch.equal(parameter[: len(old)], old)
        assert not parameter[len(old) :].any()
    begin(
        row_parameters(module),
        "user_id",
        torch.tensor([2, 4]),
        id_keys(np.array([7, 8]), 0, "user_id"),
    )
    for number, parameter in enumerate(parameters[:2]):
        assert torch.equal(parameter[:2], before[number])
        assert (parameter[[2, 4]] == number).all()
        assert not parameter[3].any()
    assert not parameters[2][3].any()


def test_growth_to_fewer_rows_changes_nothing():
    module = Pair()
    before = [parameter.data_ptr() for parameter in module.parameters()]
    module.grow({"user_id": 2, "item_id": 1})
    module.grow({})
    assert [len(parameter) for parameter in module.parameters()] == [2, 2, 3]
    assert [parameter.data_ptr() for parameter in module.parameters()] == before


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_growth_keeps_the_dtype(dtype):
    module = SoftEmbedding([2, 2], (1, 2), dtype=dtype)
    module.grow({"0": 3})
    begin(row_parameters(module), "0", torch.tensor([2]), id_keys(np.array([7]), 0, "0"))
    assert module.table_0.dtype == dtype
    assert module.table_0[2].all()


def test_new_rows_of_embeddings_are_drawn():
    module = FixedEmbedding([2], 1000)
    module.grow({"0": 4})
    begin(row_parameters(module), "0", torch.tensor([2, 3]), id_keys(np.array([7, 8]), 0, "0"))
    new = module.table_0.detach()[2:]
    assert not torch.equal(new[0], new[1])
    assert ((new.std(1) - 0.1).abs() < 0.02).all()


def test_grow_reaches_every_row_module_inside():
    model = nn.ModuleDict(
        {
            "model": MLP(SoftEmbedding([2, 3], (1, 2), features=NAMES), hidden=(4,)),
            "logits": PerIdLogits(NAMES, [2, 3], 2),
        }
    )
    grow(model, {"user_id": 6, "item_id": 3})
    for module in (model["model"].embedding, model["logits"]):
        assert (module.num_rows("user_id"), module.num_rows("item_id")) == (6, 3)


def test_grown_embedding_gives_old_ids_the_same_output_and_takes_new_ids():
    module = SoftEmbedding([2, 3], (1, 2)).eval()
    ids, weights = torch.tensor([[0, 2], [1, 0]]), torch.full((2, 2, 2), 0.5)
    before = module(ids, weights)
    with pytest.raises(IndexError, match=r"table '0': id 2 is not in \[0, 1\]"):
        module(ids + torch.tensor([1, 0]), weights)
    module.grow({"0": 4})
    assert torch.equal(module(ids, weights), before)
    assert module(ids + torch.tensor([2, 0]), weights).shape == (2, 2, 2)


def test_a_grown_module_loads_only_states_as_long_as_its_tables():
    module = SoftEmbedding([2, 3], (1, 2))
    short = module.state_dict()
    module.grow({"0": 4})
    fresh = SoftEmbedding([4, 3], (1, 2))
    fresh.load_state_dict(module.state_dict())
    assert torch.equal(fresh.table_0, module.table_0)
    with pytest.raises(RuntimeError, match=r"size mismatch for tables.0.0"):
        fresh.load_state_dict(short)


def test_optimiser_state_follows_growth():
    module = SoftEmbedding([2, 3], (1, 2), sparse=True)
    optimizer = RowAdam(module.tables)

    def step(ids):
        optimizer.zero_grad()
        module(torch.tensor(ids), torch.full((2, 2, 2), 0.5))[:, :, 0].sum().backward()
        optimizer.step()

    step([[0, 2], [1, 0]])
    before = {k: v.clone() for k, v in optimizer.state[module.table_0].items()}
    module.grow({"0": 4})
    step([[3, 2], [1, 0]])
    state = optimizer.state[module.table_0]
    assert state["step"].flatten().tolist() == [1, 2, 0, 1]
    assert len(state["exp_avg"]) == len(state["exp_avg_sq"]) == 4
    for key, value in before.items():  # row 0 had no event
        assert torch.equal(state[key][0], value[0])


@pytest.mark.parametrize("sparse", [False, True])
def test_growth_between_backward_and_step_keeps_the_gradient(sparse):
    module = SoftEmbedding([2, 3], (1, 2), sparse=sparse)
    module(torch.tensor([[0, 2], [1, 0]]), torch.rand(2, 2, 2)).sum().backward()
    before = module.table_1.grad.to_dense()
    module.grow({"1": 5})
    after = module.table_1.grad.to_dense()
    assert torch.equal(after[:3], before)
    assert after.shape == (5, 3)
    assert not after[3:].any()


def test_growth_keeps_hooks_of_the_parameter():
    module = FixedEmbedding([2], 3)
    seen = []
    module.table_0.register_hook(lambda gradient: seen.append(len(gradient)))
    module.table_0.register_post_accumulate_grad_hook(lambda table: seen.append(len(table)))
    module.grow({"0": 4})
    module(torch.tensor([[3]])).sum().backward()
    assert seen == [4, 4]


def test_growth_while_the_last_loss_and_a_weak_reference_are_alive():
    # torch.compile holds weak references to parameters
    module = FixedEmbedding([2], 3)
    reference = weakref.ref(module.table_0)
    loss = module(torch.tensor([[1]])).sum()
    loss.backward()
    module.zero_grad()
    module.grow({"0": 4})
    assert reference() is module.table_0
    module(torch.tensor([[3]])).sum().backward()
    assert module.table_0.grad.any(1).tolist() == [False, False, False, True]
    del loss


def tables_of(module):
    return {name: row.table for name, row in row_parameters(module).items()}


def test_row_parameters_are_named_with_their_table():
    embedding = SoftEmbedding([2, 3], (1, 2), features=NAMES)
    model = nn.ModuleDict({"model": MLP(embedding, hidden=(4,)), "pair": Pair()})
    tables = tables_of(model)
    assert tables == {
        "model.embedding.table_0": "user_id",
        "model.embedding.table_1": "item_id",
        "pair.table_0": "user_id",
        "pair.table_1": "user_id",
        "pair.table_2": "item_id",
    }
    assert set(tables) < {name for name, _ in model.named_parameters()}
    assert tables_of(nn.Linear(2, 2)) == {}


def test_gather_copies_the_rows_of_each_table():
    module = Pair()
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    rows = {"user_id": torch.tensor([1]), "item_id": torch.tensor([0, 2])}
    tables = tables_of(module)
    gathered = gather(row_parameters(module), rows)
    assert gathered.keys() == tables.keys()
    for name, values in gathered.items():
        table = module.table(name)
        assert torch.equal(values, table[rows[tables[name]]])
        assert not values.requires_grad
        values.zero_()
        assert table.all()


# Rows in play

MODELS = {
    "soft": lambda **options: MLP(make((1, 2), [40, 50], **options), hidden=(4,)),
    "fixed": lambda **options: MLP(FixedEmbedding([40, 50], 3, **options), hidden=(4,)),
}


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("kind", MODELS)
def test_a_call_on_the_rows_in_play_equals_the_call_on_the_tables(kind, named):
    model = MODELS[kind](features=NAMES)
    ids, weights = torch.randint(40, (31, 2)), torch.randn(31, 2, 2).softmax(2)
    inputs = Inputs(dict(zip(NAMES, ids.unbind(1), strict=True))) if named else ids
    expected = model(inputs, weights)
    expected.square().sum().backward()
    distinct = [plan.rows for plan in distinct_columns(ids)]
    rows = {
        name: torch.cat([own, torch.tensor([39])]).unique()
        for name, own in zip(NAMES, distinct, strict=True)
    }
    leaves = gather(row_parameters(model), rows)
    for leaf in leaves.values():
        leaf.requires_grad_()
    with in_play(row_modules(model), InPlay(rows)):
        output = functional_call(model, leaves, (inputs, weights))
    assert torch.equal(output, expected)
    output.square().sum().backward()
    for name, table in tables_of(model).items():
        assert torch.equal(leaves[name].grad, model.get_parameter(name).grad[rows[table]])
    assert torch.equal(model(inputs, weights), expected)


def test_per_id_logits_find_ids_among_the_rows_in_play():
    controller = PerIdLogits(NAMES, [40, 50], 3)
    for parameter in controller.parameters():
        nn.init.normal_(parameter)
    ids = {"user_id": torch.tensor([30, 7]), "item_id": torch.tensor([49, 2, 11])}
    rows = {"user_id": torch.tensor([7, 8, 30]), "item_id": torch.tensor([2, 11, 49])}
    leaves = gather(row_parameters(controller), rows)
    with in_play(row_modules(controller), InPlay(rows)):
        mix = functional_call(controller, leaves, (ids, {}))
    for table, expected in controller(ids, {}).items():
        assert torch.equal(mix[table], expected)


def test_tables_are_whole_again_after_an_error_in_play():
    module = FixedEmbedding([40, 50], 3)
    ids = torch.tensor([[30, 2]])
    expected = module(ids)

    def fail():
        with in_play(
            row_modules(module), InPlay({"0": torch.tensor([30]), "1": torch.tensor([2])})
        ):
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        fail()
    assert torch.equal(module(ids), expected)


@pytest.mark.parametrize("shape", [(3,), (3, 1), ()])
@pytest.mark.parametrize("bad", [5, 0, 8, -1, 2**62])
def test_an_id_that_is_not_in_play_is_named_with_its_table(bad, shape):
    play = InPlay({"user_id": torch.tensor([3, 7]), "item_id": torch.tensor([0, 5, 8])})
    ids = torch.full(shape, 7)
    assert play.positions("user_id", ids).tolist() == torch.ones(shape, dtype=int).tolist()
    ids.view(-1)[-1] = bad
    with pytest.raises(IndexError) as caught:
        play.positions("user_id", ids)
    assert str(caught.value) == f"table 'user_id': id {bad} is not among the rows in play"


def test_no_row_is_in_play_of_an_empty_batch_or_another_table():
    play = InPlay({"user_id": torch.tensor([], dtype=torch.int64)})
    assert len(play.positions("user_id", torch.tensor([], dtype=torch.int64))) == 0
    with pytest.raises(IndexError, match="table 'user_id': id 0 is not among the rows in play"):
        play.positions("user_id", torch.tensor([0]))
    with pytest.raises(IndexError, match="table 'city' has no rows in play"):
        play.positions("city", torch.tensor([0]))


def test_places_belong_to_the_very_tensors_that_were_given():
    rows = {"user_id": torch.tensor([3, 7]), "item_id": torch.tensor([7, 9])}
    ids, places = torch.tensor([7, 3]), torch.tensor([1, 0])
    play = InPlay(rows, [("user_id", ids, places)])
    assert play.positions("user_id", ids) is places
    assert play.positions("user_id", ids.clone()).tolist() == [1, 0]
    with pytest.raises(IndexError, match="table 'item_id': id 3"):  # the places of another table
        play.positions("item_id", ids)


# What ids start with


def test_an_id_starts_alike_whatever_the_row_the_others_and_the_size_of_the_table():
    one, other = (SoftEmbedding([rows, 5], (1, 2), features=NAMES) for rows in (4, 90))
    ids = np.array([11, -5, 2**60, 7])
    keys = id_keys(ids, 3, "user_id")
    begin(row_parameters(one), "user_id", torch.tensor([0, 1, 2, 3]), keys)
    for row, key in zip((40, 3, 89, 17), keys, strict=True):
        begin(row_parameters(other), "user_id", torch.tensor([row]), key[None])
    assert torch.equal(one.table_0, other.table_0[[40, 3, 89, 17]])
    assert torch.equal(one.table_0, one.new_rows("table_0", salted(keys, "table_0")))


def test_two_modules_draw_apart_for_one_id():
    model = nn.ModuleDict({n: FixedEmbedding([4], 9, features=["user_id"]) for n in ("a", "b")})
    begin(row_parameters(model), "user_id", torch.tensor([1]), id_keys(np.array([7]), 0, "user_id"))
    a, b = (model[n].table_0.detach()[1] for n in ("a", "b"))
    assert (a != b).all()


def test_a_module_that_says_not_what_ids_start_with_is_named():
    class Silent(RowModule):
        pass

    with pytest.raises(NotImplementedError, match=r"Silent\.new_rows"):
        Silent(["user_id"]).register_rows("rows_0", "user_id", torch.empty(2, 3))
