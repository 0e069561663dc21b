"""The embedding modules against naive ones of torch's modules: numbers, state, errors."""

import copy
import io
import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional

from autoemb import FixedEmbedding, RowAdam, SoftEmbedding, build_info

ROWS = [4, 5]
OP = torch.ops.autoemb.soft_embedding.default
BACKWARD = torch.ops.autoemb.soft_embedding_backward.default


class NaiveSoftEmbedding(nn.Module):
    """Eqs. 1, 2 and 7 event by event; its state_dict has the documented keys by itself."""

    def __init__(self, rows, dims, eps=1e-5, momentum=0.1, average=True, dtype=torch.float64):
        super().__init__()
        width = dims[-1]
        self.average = average

        def each(make):
            return nn.ModuleList(nn.ModuleList(make(d) for d in dims) for _ in rows)

        self.tables = nn.ModuleList(
            nn.ParameterList(torch.zeros(n, d, dtype=dtype) for d in dims) for n in rows
        )
        self.projections = each(lambda d: nn.Linear(d, width, dtype=dtype))
        self.norms = each(lambda d: nn.BatchNorm1d(width, eps, momentum, affine=False, dtype=dtype))

    def forward(self, ids, weights):
        fields = []
        for f, tables in enumerate(self.tables):
            total = 0
            for n, table in enumerate(tables):
                z = self.projections[f][n](functional.embedding(ids[:, f], table))
                total = total + weights[:, f, n, None] * torch.tanh(self.norms[f][n](z))
            fields.append(total / len(tables) if self.average else total)
        return torch.stack(fields, 1)


def draw_ids(batch, rows=ROWS, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randint(n, (batch,), generator=generator) for n in rows], 1)


def draw_weights(batch, sizes=2, fields=2, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(batch, fields, sizes, generator=generator, dtype=torch.float64)
    return weights.softmax(2).to(dtype)


@pytest.fixture
def inputs():
    return draw_ids(7), draw_weights(7)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def make(dims=(2, 4), rows=ROWS, **options):
    return SoftEmbedding(rows, dims, **options)


@pytest.mark.parametrize("dims", [(2, 16, 128), (8,), (1, 3, 7), (2, 2)], ids=str)
@pytest.mark.parametrize("average", [True, False])
@pytest.mark.parametrize(("eps", "momentum"), [(1e-5, 0.1), (0.1, 0.7)])
def test_training_and_serving_equal_naive(dims, average, eps, momentum, assert_near):
    rows = [40, 3, 7]
    module = SoftEmbedding(
        rows, dims, eps=eps, momentum=momentum, average=average, dtype=torch.float64
    )
    naive = NaiveSoftEmbedding(rows, dims, eps, momentum, average)
    naive.load_state_dict(module.state_dict())
    for step, batch in enumerate((33, 31, 2)):
        ids = draw_ids(batch, rows, step)
        weights = draw_weights(batch, len(dims), 3, torch.float64, step)
        gradients = []
        for model in (module, naive):
            mixed = weights.clone().requires_grad_()
            model.zero_grad()
            output = model(ids, mixed)
            output.square().sum().backward()
            gradients.append((output, mixed.grad))
        for actual, expected in zip(*gradients, strict=True):
            assert_near(actual, expected, "gradients")
        parameters = dict(naive.named_parameters())
        for f, table in enumerate(module.tables):
            expected = torch.cat([parameters[f"tables.{f}.{n}"].grad for n in range(len(dims))], 1)
            assert_near(table.grad, expected, "gradients")
            expected = [parameters[f"projections.{f}.{n}.weight"].grad for n in range(len(dims))]
            assert_near(module.projection.grad[f], torch.cat(expected, 1), "gradients")
        assert not module.bias.grad.any()
    expected = naive.state_dict()
    for key, value in module.state_dict().items():
        assert_near(value.double(), expected[key].double())
    module.eval()
    naive.eval()
    for batch in (33, 1):
        ids, weights = draw_ids(batch, rows), draw_weights(batch, len(dims), 3, torch.float64)
        assert_near(module(ids, weights), naive(ids, weights))
    unchanged = module.state_dict()
    for key, value in expected.items():
        assert_near(unchanged[key].double(), value.double())


def test_running_variance_is_unbiased_and_counts_batches(assert_near):
    module = make(momentum=1.0, dtype=torch.float64)
    ids, weights = draw_ids(31), draw_weights(31, dtype=torch.float64)
    module(ids, weights)
    for f in range(2):
        columns = module.tables[f].split((2, 4), 1)
        for n, matrix in enumerate(module.projection[f].split((2, 4), 1)):
            z = functional.linear(columns[n][ids[:, f]], matrix, module.bias[f, n])
            assert_near(module.running_mean[f, n], z.mean(0))
            assert_near(module.running_var[f, n], z.var(0, correction=1))
    assert (module.num_batches_tracked == 1).all()


def test_training_without_gradients_updates_the_statistics_alike(inputs):
    module = make()
    other = copy.deepcopy(module)
    module(*inputs)
    with torch.no_grad():
        other(*inputs)
    assert torch.equal(module.running_mean, other.running_mean)
    assert torch.equal(module.running_var, other.running_var)


def test_bias_acts_in_eval_mode_only(inputs):
    module = make()
    module(*inputs).sum().backward()
    assert not module.bias.grad.any()
    module.eval()
    module(*inputs).sum().backward()
    assert module.bias.grad.all()


def test_defaults_are_the_papers():
    module = SoftEmbedding([3])
    assert module.embedding_dims == (2, 16, 128)
    assert (module.eps, module.momentum, module.average) == (1e-5, 0.1, True)
    assert (module.norm, module.backend) == ("batch", "auto")
    assert (module.fields, module.output_dim) == (1, 128)
    assert "[3], embedding_dims=(2, 16, 128), norm='batch'" in repr(module)


def test_initial_values_are_those_of_embedding_and_linear():
    module = SoftEmbedding([5000], (1, 64))
    assert abs(module.table_0.mean()) < 0.01
    assert abs(module.table_0.std() - 1) < 0.01
    for n, (columns, width) in enumerate(
        zip(module.projection[0].split((1, 64), 1), (1, 64), strict=True)
    ):
        for values in (columns, module.bias[0, n]):
            assert 0.9 / width**0.5 < values.abs().max() <= 1 / width**0.5
    assert not module.running_mean.any()
    assert (module.running_var == 1).all()


def test_state_dict_has_the_documented_keys_and_shapes():
    expected = {}
    for (f, rows), (n, width) in itertools.product(enumerate(ROWS), enumerate((2, 16, 128))):
        expected |= {
            f"tables.{f}.{n}": (rows, width),
            f"projections.{f}.{n}.weight": (128, width),
            f"projections.{f}.{n}.bias": (128,),
            f"norms.{f}.{n}.running_mean": (128,),
            f"norms.{f}.{n}.running_var": (128,),
            f"norms.{f}.{n}.num_batches_tracked": (),
        }
    state = SoftEmbedding(ROWS).state_dict()
    assert {key: tuple(value.shape) for key, value in state.items()} == expected
    assert not any(value.requires_grad for value in state.values())
    counts = [value for key, value in state.items() if key.endswith("num_batches_tracked")]
    assert all(value.dtype == torch.int64 for value in counts)


def test_state_dict_inside_another_module_has_its_prefix():
    embedding = make()
    state = nn.Sequential(nn.Identity(), embedding).state_dict()
    assert set(state) == {f"1.{key}" for key in embedding.state_dict()}


@pytest.mark.parametrize("nested", [False, True])
def test_state_dict_round_trip_through_a_file(inputs, nested):
    def wrapped():
        return nn.ModuleDict({"inner": make()}) if nested else make()

    def inner(module):
        return module["inner"] if nested else module

    module, other = wrapped(), wrapped()
    inner(module)(*inputs)
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file))
    for a, b in zip(
        (*module.parameters(), *module.buffers()),
        (*other.parameters(), *other.buffers()),
        strict=True,
    ):
        assert torch.equal(a, b)
    assert torch.equal(inner(module).eval()(*inputs), inner(other).eval()(*inputs))


def test_loaded_values_are_copies_in_the_modules_dtype():
    source, target = make(dtype=torch.float64), make()
    parameters = list(target.parameters())
    target.load_state_dict(source.state_dict())
    assert all(a is b for a, b in zip(parameters, target.parameters(), strict=True))
    assert target.table_0.dtype == torch.float32
    assert torch.equal(target.table_0, source.table_0.float())
    with torch.no_grad():
        source.table_0.zero_()
    assert target.table_0.any()


@pytest.mark.parametrize("prefix", ["", "inner."])
def test_state_dicts_that_do_not_fit_give_torchs_errors(prefix):
    module = nn.ModuleDict({"inner": make()}) if prefix else make()
    state = module.state_dict()

    missing = {key: v for key, v in state.items() if key != f"{prefix}tables.1.0"}
    with pytest.raises(RuntimeError, match=rf'Missing key\(s\).*"{prefix}tables.1.0"'):
        module.load_state_dict(missing)
    unexpected = state | {f"{prefix}table_0": torch.zeros(4, 6)}  # the name of the parameter
    with pytest.raises(RuntimeError, match=rf'Unexpected key\(s\).*"{prefix}table_0"'):
        module.load_state_dict(unexpected)
    misshapen = state | {f"{prefix}norms.0.1.running_var": torch.ones(5)}
    message = (
        rf"size mismatch for {prefix}norms.0.1.running_var: copying a param with shape "
        r"torch.Size\(\[5\]\) from checkpoint, the shape in current model is torch.Size\(\[4\]\)"
    )
    with pytest.raises(RuntimeError, match=message):
        module.load_state_dict(misshapen)
    with pytest.raises(RuntimeError, match="size mismatch"):
        module.load_state_dict(misshapen, strict=False)

    loaded = module.load_state_dict(missing | unexpected, strict=False)
    assert loaded.missing_keys == []
    assert loaded.unexpected_keys == [f"{prefix}table_0"]
    assert module.load_state_dict(missing, strict=False).missing_keys == [f"{prefix}tables.1.0"]


def test_a_partial_state_dict_leaves_the_rest_alone():
    module = make()
    before = copy.deepcopy(module.state_dict())
    module.load_state_dict({"tables.0.1": torch.full((4, 4), 9.0)}, strict=False)
    for key, value in module.state_dict().items():
        expected = torch.full((4, 4), 9.0) if key == "tables.0.1" else before[key]
        assert torch.equal(value, expected)


def test_deepcopy_is_equal_and_independent(inputs):
    module = make()
    module(*inputs)
    twin = copy.deepcopy(module)
    assert torch.equal(twin.eval()(*inputs), module.eval()(*inputs))
    with torch.no_grad():
        twin.table_0.zero_()
    twin.grow([9, 9])
    assert module.table_0.all()
    assert [len(table) for table in module.tables] == ROWS


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str
)
def test_a_module_cast_to_another_dtype_trains_and_serves(dtype):
    module = make().to(dtype)
    ids, weights = draw_ids(31), draw_weights(31, dtype=dtype)
    output = module(ids, weights)
    output.sum().backward()
    assert output.dtype == module.table_0.grad.dtype == dtype
    assert module.running_var.dtype == torch.promote_types(dtype, torch.float32)
    assert module.num_batches_tracked.dtype == torch.int64
    assert module.eval()(ids, weights).dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_a_module_made_in_a_dtype_keeps_exact_statistics(dtype, assert_near):
    module = make((1, 3, 7), dtype=dtype)
    naive = NaiveSoftEmbedding(ROWS, (1, 3, 7))
    naive.load_state_dict(module.state_dict())
    ids, weights = draw_ids(33), draw_weights(33, 3, dtype=dtype)
    statistics = torch.promote_types(dtype, torch.float32)
    assert_near(module(ids, weights), naive(ids, weights.double()))
    expected = naive.state_dict()
    for key, value in module.state_dict().items():
        if "running" in key:
            assert value.dtype == statistics
            assert_near(value, expected[key])
    assert_near(module.eval()(ids, weights), naive.eval()(ids, weights.double()))


@pytest.mark.parametrize("training", [True, False])
def test_empty_batch_gives_an_empty_output_and_leaves_the_statistics_alone(training):
    module = make().train(training)
    before = copy.deepcopy(module.state_dict())
    weights = draw_weights(0).requires_grad_()
    output = module(draw_ids(0), weights)
    assert output.shape == (0, 2, 4)
    output.sum().backward()
    assert weights.grad.shape == (0, 2, 2)
    assert not any(p.grad.any() for p in module.parameters())
    for key, value in module.state_dict().items():
        assert torch.equal(value, before[key])


def test_a_batch_of_one_is_refused_in_training_and_served_in_eval_mode():
    module = make()
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(ValueError, match=r"Expected more than 1 value per channel.*field 0"):
        module(draw_ids(1), draw_weights(1))
    for key, value in module.state_dict().items():
        assert torch.equal(value, before[key])
    assert module.eval()(draw_ids(1), draw_weights(1)).shape == (1, 2, 4)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("bad", [-1, 5])
def test_ids_out_of_range_raise_and_change_nothing(training, bad, inputs):
    module = make().train(training)
    before = copy.deepcopy(module.state_dict())
    ids, weights = inputs
    ids[3, 1] = bad
    with pytest.raises(IndexError, match=f"field 1: id {bad}"):
        module(ids, weights)
    for key, value in module.state_dict().items():
        assert torch.equal(value, before[key])


@pytest.mark.parametrize("dtype", [torch.int32, torch.float32, torch.bool], ids=str)
def test_ids_of_another_dtype_are_refused(dtype, inputs):
    with pytest.raises(RuntimeError, match=f"expected ids of dtype torch.int64 but got {dtype}"):
        make()(inputs[0].to(dtype), inputs[1])


@pytest.mark.parametrize("shape", [(7,), (7, 1), (7, 3), (7, 2, 1), ()], ids=str)
def test_ids_of_another_shape_are_refused(shape, inputs):
    with pytest.raises(ValueError, match=r"expected ids of shape \[B, 2\]"):
        make()(torch.zeros(shape, dtype=torch.int64), inputs[1])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int64], ids=str)
def test_weights_of_another_dtype_are_refused(dtype, inputs):
    message = f"expected weights of dtype torch.float32 but got {dtype}"
    with pytest.raises(RuntimeError, match=message):
        make()(inputs[0], inputs[1].to(dtype))


@pytest.mark.parametrize("shape", [(7, 2), (7, 2, 3), (6, 2, 2), (7, 1, 2), (1, 2, 2)], ids=str)
def test_weights_of_another_shape_are_refused(shape, inputs):
    with pytest.raises(ValueError, match=r"expected weights of shape \[7, 2, 2\]"):
        make()(inputs[0], torch.zeros(shape))


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([],), {}, "num_embeddings must be positive"),
        (([4, 0],), {}, "num_embeddings must be positive"),
        (([4, -1],), {}, "num_embeddings must be positive"),
        (([4], ()), {}, "embedding_dims must be positive"),
        (([4], (0, 2)), {}, "embedding_dims must be positive"),
        (([4], (4, 2)), {}, "embedding_dims must ascend"),
        (([4],), {"norm": "layer"}, "norm must be \"batch\"; got 'layer'"),
        (([4],), {"backend": "cuda"}, 'backend must be one of "auto", "reference", "native"'),
    ],
)
def test_constructor_arguments_are_checked(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        SoftEmbedding(*arguments, **options)


def test_native_backend_where_it_is_not_built_says_why(monkeypatch):
    info = build_info() | {"native": False, "cuda": False, "reason": "no compiler"}
    monkeypatch.setattr("autoemb.embedding.build_info", lambda: info)
    with pytest.raises(RuntimeError, match="not in this build: no compiler"):
        make(backend="native")
    make(backend="auto")
    make(backend="reference")


def test_reference_backend_gives_the_same_numbers(inputs, assert_near):
    module = make(backend="reference")
    other = make()
    other.load_state_dict(module.state_dict())
    assert_near(other(*inputs), module(*inputs).double())


def test_sparse_module_gives_the_gradients_of_the_dense_one(inputs, assert_near):
    dense, sparse = make(), make(sparse=True)
    sparse.load_state_dict(dense.state_dict())
    for module in (dense, sparse):
        module(*inputs).square().sum().backward()
    for (name, a), b in zip(sparse.named_parameters(), dense.parameters(), strict=True):
        assert a.grad.is_sparse == name.startswith("table")
        assert_near(a.grad, b.grad, "gradients")


def test_sparse_module_accumulates_over_batches(assert_near):
    dense, sparse = make(), make(sparse=True)
    sparse.load_state_dict(dense.state_dict())
    for module in (dense, sparse):
        for seed in range(3):
            module(draw_ids(7, seed=seed), draw_weights(7, seed=seed)).square().sum().backward()
    assert_near(sparse.table_0.grad, dense.table_0.grad, "gradients")


@pytest.mark.parametrize("sparse", [False, True])
def test_tables_grow_between_steps_while_the_last_loss_is_alive(inputs, sparse):
    module = make(sparse=sparse)
    for rows in (8, 16):
        loss = module(*inputs).square().sum()  # the loop's variable holds the old graph
        module.zero_grad()
        loss.backward()
        if sparse:
            RowAdam(module.tables).step()
        module.grow([rows, rows])
    assert len(module.table_0) == 16


@pytest.mark.parametrize("sparse", [False, True])
def test_compiled_training_step_keeps_the_op_as_one_node(sparse, recording_backend, assert_near):
    backend, graphs = recording_backend
    eager = make(sparse=sparse)
    module = copy.deepcopy(eager)
    compiled = torch.compile(module, fullgraph=True, backend=backend)
    for seed in range(3):
        ids = draw_ids(7, seed=seed)
        weights = [draw_weights(7, seed=seed).requires_grad_() for _ in range(2)]
        compiled(ids, weights[0]).square().sum().backward()
        eager(ids, weights[1]).square().sum().backward()
        assert_near(weights[0].grad, weights[1].grad.double(), "gradients")
    for a, b in zip(module.parameters(), eager.parameters(), strict=True):
        assert_near(a.grad, b.grad.double(), "gradients")
    for a, b in zip(module.buffers(), eager.buffers(), strict=True):
        assert_near(a.double(), b.double())
    # One graph each way: other ids of the same shape do not compile again.
    ours = [[n.target for n in graph.nodes if "autoemb" in str(n.target)] for graph in graphs]
    assert ours == [[OP], [BACKWARD]]


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("dynamic", [False, True])
def test_exported_inference_keeps_the_op_as_one_node(inputs, strict, dynamic):
    module = make()
    module(*inputs)
    module.eval()
    batch = {0: torch.export.Dim("batch")} if dynamic else None
    program = torch.export.export(module, inputs, dynamic_shapes=(batch, batch), strict=strict)
    targets = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert targets.count(OP) == 1
    assert all(target is OP or target.__name__ == "getitem" for target in targets)
    for size in (7, 3) if dynamic else (7,):
        served = draw_ids(size, seed=1), draw_weights(size, seed=1)
        assert torch.equal(program.module()(*served), module(*served))


class TestFixedEmbedding:
    def test_equals_one_embedding_a_field(self):
        module = FixedEmbedding(ROWS, 6, dtype=torch.float64)
        ids = draw_ids(33)
        expected = [functional.embedding(ids[:, f], module.table(f"table_{f}")) for f in range(2)]
        for weights in (None, draw_weights(33)):
            assert torch.equal(module(ids, weights), torch.stack(expected, 1))
        assert (module.fields, module.output_dim) == (2, 6)

    def test_gradient_of_a_row_is_the_sum_over_its_events(self):
        module = FixedEmbedding([4], 2)
        module(torch.tensor([[1], [3], [1]])).sum().backward()
        assert module.table_0.grad[:, 0].tolist() == [0, 2, 0, 1]

    def test_empty_batch(self):
        output = FixedEmbedding(ROWS, 6)(draw_ids(0))
        assert output.shape == (0, 2, 6)
        output.sum().backward()

    def test_bad_ids_are_refused(self):
        module = FixedEmbedding(ROWS, 6)
        for bad in (-1, 5):
            with pytest.raises(IndexError):
                module(torch.tensor([[0, bad]]))
        with pytest.raises(RuntimeError, match=r"torch.int64 but got torch.int32"):
            module(draw_ids(3).int())
        with pytest.raises(ValueError, match=r"ids of shape \[B, 2\]"):
            module(draw_ids(3)[:, :1])

    def test_state_dict_round_trip(self):
        module, other = FixedEmbedding(ROWS, 6), FixedEmbedding(ROWS, 6)
        other.load_state_dict(module.state_dict())
        assert torch.equal(other(draw_ids(7)), module(draw_ids(7)))


class Extended(SoftEmbedding):
    def __init__(self):
        super().__init__(ROWS, (2, 3))
        self.scale = torch.nn.Parameter(torch.ones(1))
        self.head = torch.nn.Linear(3, 1)


def test_what_a_subclass_adds_is_saved_and_loaded():
    module, other = Extended(), Extended()
    with torch.no_grad():
        module.scale.fill_(7)
    saved = module.state_dict()
    assert {"scale", "head.weight", "tables.0.0"} <= set(saved)
    assert "table_0" not in saved
    other.load_state_dict(saved)
    for name, value in other.state_dict().items():
        assert torch.equal(value, saved[name])
    del saved["scale"]
    with pytest.raises(RuntimeError, match=r'Missing key.*"scale"'):
        other.load_state_dict(saved)


def test_assigning_a_state_dict_is_refused():
    module = SoftEmbedding(ROWS, (2, 3), device="meta")
    with pytest.raises(RuntimeError, match="assign=True"):
        module.load_state_dict(SoftEmbedding(ROWS, (2, 3)).state_dict(), assign=True)
