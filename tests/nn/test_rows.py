"""Row parameters: growth, their names, and gathering the rows in play."""

import weakref

import pytest
import torch
from torch import nn
from torch.func import functional_call

from autoemb import FixedEmbedding, PerIdLogits, RatingModel, RowAdam, SoftEmbedding
from autoemb.nn.rows import RowModule, gather, grow, in_play, row_tables
from autoemb.ops import distinct_columns


class Pair(RowModule):
    """Two tables of one field and one of another; new rows hold the number of the table."""

    def __init__(self):
        super().__init__()
        for number, field in enumerate((0, 0, 1)):
            self.register_rows(f"table_{number}", field, torch.empty(2 + field, 3, 2))

    def init_rows(self, name, rows):
        rows.fill_(int(name[-1]))


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_registered_rows_are_initialised_parameters():
    module = Pair()
    assert [name for name, _ in module.named_parameters()] == ["table_0", "table_1", "table_2"]
    for number, parameter in enumerate(module.parameters()):
        assert (parameter == number).all()
    assert (module.num_rows(0), module.num_rows(1)) == (2, 3)


def test_growth_keeps_rows_and_objects_and_initialises_only_new_rows():
    module = Pair()
    parameters = list(module.parameters())
    for parameter in parameters:
        nn.init.normal_(parameter)
    before = [parameter.detach().clone() for parameter in parameters]
    module.grow([5, 4])
    assert [len(parameter) for parameter in parameters] == [5, 5, 4]
    for number, (old, parameter) in enumerate(zip(before, module.parameters(), strict=True)):
        assert parameter is parameters[number]
        assert parameter.requires_grad
        assert parameter.is_leaf
        assert torch.equal(parameter[: len(old)], old)
        assert (parameter[len(old) :] == number).all()


def test_growth_to_fewer_rows_changes_nothing():
    module = Pair()
    before = [parameter.data_ptr() for parameter in module.parameters()]
    module.grow([2, 1])
    assert [len(parameter) for parameter in module.parameters()] == [2, 2, 3]
    assert [parameter.data_ptr() for parameter in module.parameters()] == before


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_growth_keeps_the_dtype(dtype):
    module = SoftEmbedding([2, 2], (1, 2), dtype=dtype)
    module.grow([3, 2])
    assert module.table_0.dtype == dtype


def test_new_rows_of_embeddings_are_drawn():
    module = FixedEmbedding([2], 1000)
    module.grow([4])
    new = module.table_0.detach()[2:]
    assert not torch.equal(new[0], new[1])
    assert ((new.std(1) - 1).abs() < 0.2).all()


def test_grow_reaches_every_row_module_inside():
    model = nn.ModuleDict(
        {
            "model": RatingModel(SoftEmbedding([2, 3], (1, 2)), hidden=(4,)),
            "logits": PerIdLogits([2, 3], 2),
        }
    )
    grow(model, [6, 3])
    for module in (model["model"].embedding, model["logits"]):
        assert (module.num_rows(0), module.num_rows(1)) == (6, 3)


def test_grown_embedding_gives_old_ids_the_same_output_and_takes_new_ids():
    module = SoftEmbedding([2, 3], (1, 2)).eval()
    ids, weights = torch.tensor([[0, 2], [1, 0]]), torch.full((2, 2, 2), 0.5)
    before = module(ids, weights)
    with pytest.raises(IndexError, match="field 0"):
        module(ids + torch.tensor([1, 0]), weights)
    module.grow([4, 3])
    assert torch.equal(module(ids, weights), before)
    assert module(ids + torch.tensor([2, 0]), weights).shape == (2, 2, 2)


def test_a_grown_module_loads_only_states_as_long_as_its_tables():
    module = SoftEmbedding([2, 3], (1, 2))
    short = module.state_dict()
    module.grow([4, 3])
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
    module.grow([4, 3])
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
    module.grow([2, 5])
    after = module.table_1.grad.to_dense()
    assert torch.equal(after[:3], before)
    assert after.shape == (5, 3)
    assert not after[3:].any()


def test_growth_keeps_hooks_of_the_parameter():
    module = FixedEmbedding([2], 3)
    seen = []
    module.table_0.register_hook(lambda gradient: seen.append(len(gradient)))
    module.table_0.register_post_accumulate_grad_hook(lambda table: seen.append(len(table)))
    module.grow([4])
    module(torch.tensor([[3]])).sum().backward()
    assert seen == [4, 4]


def test_growth_while_the_last_loss_and_a_weak_reference_are_alive():
    # torch.compile holds weak references to parameters
    module = FixedEmbedding([2], 3)
    reference = weakref.ref(module.table_0)
    loss = module(torch.tensor([[1]])).sum()
    loss.backward()
    module.zero_grad()
    module.grow([4])
    assert reference() is module.table_0
    module(torch.tensor([[3]])).sum().backward()
    assert module.table_0.grad.any(1).tolist() == [False, False, False, True]
    del loss


def fields_of(module):
    return {name: table.field for name, table in row_tables(module).items()}


def test_tables_are_named_with_their_field():
    model = nn.ModuleDict(
        {"model": RatingModel(SoftEmbedding([2, 3], (1, 2)), hidden=(4,)), "pair": Pair()}
    )
    fields = fields_of(model)
    assert fields == {
        "model.embedding.table_0": 0,
        "model.embedding.table_1": 1,
        "pair.table_0": 0,
        "pair.table_1": 0,
        "pair.table_2": 1,
    }
    assert set(fields) < {name for name, _ in model.named_parameters()}
    assert fields_of(Pair()) == {"table_0": 0, "table_1": 0, "table_2": 1}
    assert fields_of(nn.Linear(2, 2)) == {}


def test_gather_copies_the_rows_of_each_field():
    module = Pair()
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    rows = [torch.tensor([1]), torch.tensor([0, 2])]
    fields = fields_of(module)
    gathered = gather(row_tables(module), rows)
    for name, values in gathered.items():
        table = module.table(name)
        assert torch.equal(values, table[rows[fields[name]]])
        assert not values.requires_grad
        values.zero_()
        assert table.all()


MODELS = {
    "soft": lambda: RatingModel(SoftEmbedding([40, 50], (1, 2)), hidden=(4,)),
    "fixed": lambda: RatingModel(FixedEmbedding([40, 50], 3), hidden=(4,)),
}


@pytest.mark.parametrize("kind", MODELS)
def test_a_call_on_the_rows_in_play_equals_the_call_on_the_tables(kind):
    model = MODELS[kind]()
    ids, weights = torch.randint(40, (31, 2)), torch.randn(31, 2, 2).softmax(2)
    expected = model(ids, weights)
    expected.square().sum().backward()
    rows = [torch.cat([plan.rows, torch.tensor([39])]).unique() for plan in distinct_columns(ids)]
    leaves = gather(row_tables(model), rows)
    for leaf in leaves.values():
        leaf.requires_grad_()
    with in_play(model, rows):
        output = functional_call(model, leaves, (ids, weights))
    assert torch.equal(output, expected)
    output.square().sum().backward()
    for name, field in fields_of(model).items():
        assert torch.equal(leaves[name].grad, model.get_parameter(name).grad[rows[field]])
    assert torch.equal(model(ids, weights), expected)


def test_per_id_logits_find_ids_among_the_rows_in_play():
    controller = PerIdLogits([40, 50], 3)
    for parameter in controller.parameters():
        nn.init.normal_(parameter)
    ids = [torch.tensor([30, 7]), torch.tensor([49, 2, 11])]
    rows = [torch.tensor([7, 8, 30]), torch.tensor([2, 11, 49])]
    leaves = gather(row_tables(controller), rows)
    with in_play(controller, rows):
        weights = functional_call(controller, leaves, (ids, [None, None]))
    for a, e in zip(weights, controller(ids, [None, None]), strict=True):
        assert torch.equal(a, e)


def test_tables_are_whole_again_after_an_error_in_play():
    module = FixedEmbedding([40, 50], 3)
    ids = torch.tensor([[30, 2]])
    expected = module(ids)

    def fail():
        with in_play(module, [torch.tensor([30]), torch.tensor([2])]):
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        fail()
    assert torch.equal(module(ids), expected)
