"""Dense features: transforms fitted on the past, against NumPy on the whole of it."""

import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoemb.nn.dense import LARGEST, DenseTransform
from autoemb.schema import Dense

KINDS = ("standardise", "log1p", "none")
FEATURES = [Dense(column=kind, transform=kind) for kind in KINDS]
NAN = float("nan")

number = st.floats(-1e6, 1e6, width=32) | st.just(NAN)
past = st.lists(st.tuples(number, number, number), min_size=1, max_size=40)


def as_tensor(rows):
    return torch.tensor(rows, dtype=torch.float32).view(-1, len(KINDS))


def scaled(kind, values):
    values = values.astype(np.float64)
    return np.sign(values) * np.log1p(np.abs(values)) if kind == "log1p" else values


def moments(kind, known):
    """Return NumPy's mean and deviation of what is known of a feature, which may be nothing."""
    seen = scaled(kind, known)
    seen = seen[~np.isnan(seen)]
    if len(seen) < 2 or (seen == seen[0]).all():
        return 0.0, 0.0
    return seen.mean(), seen.std()


def by_hand(known, values):
    """Return what NumPy makes of values [B, C], by what is known: all rows of the past at once."""
    columns, missing = [], np.isnan(values)
    for c, kind in enumerate(KINDS):
        own = scaled(kind, values[:, c])
        if kind != "none":
            mean, std = moments(kind, known[:, c])
            own = np.clip((own - mean) / std, -LARGEST, LARGEST) if std > 0 else np.zeros_like(own)
        columns.append(np.where(missing[:, c], 0, own))
    return np.concatenate([np.stack(columns, 1), missing], 1)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(rows=past, splits=st.lists(st.integers(0, 40), max_size=5), now=past)
def test_any_split_of_the_past_is_numpys_mean_and_deviation(rows, splits, now):
    whole = as_tensor(rows)
    parts = torch.tensor_split(whole, sorted(splits))
    transform = DenseTransform(FEATURES)
    for part in parts:
        transform.update(part)
    found, expected = transform(as_tensor(now)), by_hand(whole.numpy(), as_tensor(now).numpy())
    assert found.dtype == torch.float32
    for c, kind in enumerate(KINDS):
        mean, std = moments(kind, whole[:, c].numpy())
        # A deviation of 1e-6 of the mean keeps 10 of float64's 16 digits; the result is float32.
        if kind == "none" or std == 0 or std > 1e-6 * abs(mean):
            np.testing.assert_allclose(found[:, c], expected[:, c], rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(found[:, 3:], expected[:, 3:])


def test_a_value_is_scaled_by_what_was_seen_before_it_alone():
    torch.manual_seed(0)
    stream = torch.randn(9, 20, 3) * 5 + 2
    transform = DenseTransform(FEATURES)
    for step, batch in enumerate(stream):
        found = transform(batch)
        known = stream[:step].reshape(-1, 3).numpy()
        np.testing.assert_allclose(found, by_hand(known, batch.numpy()), rtol=1e-5, atol=1e-5)
        assert torch.equal(transform(batch), found)  # looking changes nothing
        transform.update(batch)


def test_nothing_is_known_before_two_numbers_of_a_feature():
    transform = DenseTransform(FEATURES)
    values = torch.tensor([[3.0, 4.0, 5.0]])
    assert transform(values).tolist() == [[0, 0, 5, 0, 0, 0]]
    transform.update(torch.tensor([[1.0, NAN, 1.0]]))
    assert transform(values).tolist() == [[0, 0, 5, 0, 0, 0]]
    transform.update(torch.tensor([[2.0, 7.0, NAN]]))
    assert transform(values)[0, 0] == 3  # (3 - 1.5) / 0.5
    assert transform(values)[0, 1] == 0


def test_missing_values_are_the_mean_with_an_indicator_and_leave_what_is_known():
    transform = DenseTransform(FEATURES)
    transform.update(torch.tensor([[1.0, 1.0, 1.0], [3.0, 3.0, 3.0]]))
    before = copy.deepcopy(transform.state_dict())
    transform.update(torch.full((4, 3), NAN))
    assert all(torch.equal(value, before[key]) for key, value in transform.state_dict().items())
    assert transform(torch.full((1, 3), NAN)).tolist() == [[0, 0, 0, 1, 1, 1]]


@pytest.mark.parametrize("value", [0.1, 1e6 / 3, -7.3, 0.0])
@pytest.mark.parametrize("split", [1, 3, 7])
def test_a_constant_column_says_nothing_whatever_rounding_leaves(value, split):
    transform = DenseTransform([Dense(column="x"), Dense(column="y", transform="log1p")])
    for size in (split, 5, 1, 1000, split):
        transform.update(torch.full((size, 2), value))
    assert transform(torch.full((2, 2), value)).tolist() == [[0, 0, 0, 0]] * 2
    # One that differs from the others by float32's last digit is a change, though.
    other = np.nextafter(np.float32(value), np.float32(np.inf))
    transform.update(torch.full((1, 2), float(other)))
    if value:
        assert transform(torch.full((1, 2), float(other)))[0, 0] == LARGEST


def test_far_away_values_are_cut_and_plain_ones_are_not():
    transform = DenseTransform(FEATURES)
    transform.update(torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]))
    found = transform(torch.tensor([[1e9, -1e9, 1e9]]))
    assert found[0, :3].tolist() == [LARGEST, -LARGEST, 1e9]


def test_log1p_is_odd():
    transform = DenseTransform([Dense(column="x", transform="log1p")])
    transform.update(torch.tensor([[-9.0], [9.0]]))
    found = transform(torch.tensor([[-3.0], [3.0], [0.0]]))[:, 0]
    assert found[0] == -found[1] == pytest.approx(-np.log(4) / np.log(10))
    assert found[2] == 0


def test_no_event_changes_nothing_and_many_stay_exact():
    transform = DenseTransform([Dense(column="x")])
    transform.update(torch.zeros(0, 1))
    assert transform(torch.zeros(0, 1)).shape == (0, 2)
    # A far mean: raw sums of squares in float32 would keep nothing of the deviation.
    random = torch.Generator().manual_seed(0)
    values = 1e5 + torch.randn(20_000, 1, generator=random)
    for part in values.split(500):
        transform.update(part)
    assert transform.mean.item() == pytest.approx(values.double().mean().item(), rel=1e-12)
    deviation = (transform.squares / transform.count).sqrt().item()
    assert deviation == pytest.approx(values.double().std(correction=0).item(), rel=1e-9)


def test_it_is_saved_loaded_and_copied():
    transform = DenseTransform(FEATURES)
    transform.update(torch.randn(9, 3))
    values, other = torch.randn(4, 3), DenseTransform(FEATURES)
    assert {*transform.state_dict()} == {"count", "mean", "squares"}
    other.load_state_dict(transform.state_dict())
    for twin in (other, copy.deepcopy(transform), pickle.loads(pickle.dumps(transform))):
        assert torch.equal(twin(values), transform(values))
        twin.update(values)
        assert not torch.equal(twin.count, transform.count)
