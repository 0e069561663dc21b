"""What a soft embedding saves, loads and copies."""

import copy
import io
import itertools

import pytest
import torch
from torch import nn

from autoemb import SoftEmbedding
from tests.nn.small import ROWS, make


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


def test_assigning_a_state_dict_is_refused():
    module = SoftEmbedding(ROWS, (2, 3), device="meta")
    with pytest.raises(RuntimeError, match="assign=True"):
        module.load_state_dict(SoftEmbedding(ROWS, (2, 3)).state_dict(), assign=True)


def test_deepcopy_is_equal_and_independent(inputs):
    module = make()
    module(*inputs)
    twin = copy.deepcopy(module)
    assert torch.equal(twin.eval()(*inputs), module.eval()(*inputs))
    with torch.no_grad():
        twin.table_0.zero_()
    twin.grow({"0": 9, "1": 9})
    assert module.table_0.all()
    assert [len(table) for table in module.tables] == ROWS


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
