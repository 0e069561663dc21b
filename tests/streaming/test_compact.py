"""Numbers in two and three bytes: near what they were, and right on average."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoemb.streaming.compact import CompactRows

SUMS, OTHERS = 2, 3
singles = st.floats(width=32, allow_nan=False, allow_infinity=False)
rows_of_singles = st.lists(
    st.lists(singles, min_size=1 + SUMS + OTHERS, max_size=1 + SUMS + OTHERS), max_size=8
)

#: The largest that neither three bytes nor two round up to infinity.
LARGEST = np.array([0x7F7F0000], np.uint32).view(np.float32)[0]


def make(rows, sums=SUMS, others=OTHERS):
    own = CompactRows(sums, others)
    own.grow(rows)
    return own


def array(values):
    return np.array(values, np.float32).reshape(-1, 1 + SUMS + OTHERS)


def written(values):
    own = make(len(values))
    own.write(slice(None), values)
    return own.read(slice(None))


@given(rows_of_singles)
def test_counts_are_kept_and_others_within_their_last_bit(rows):
    values = array(rows)
    safe = np.clip(values, -LARGEST, LARGEST)
    found = written(safe)
    np.testing.assert_array_equal(found[:, 0], safe[:, 0])
    for columns, bits in ((slice(1, 1 + SUMS), 15), (slice(1 + SUMS, None), 7)):
        own, wanted = found[:, columns].astype(float), safe[:, columns].astype(float)
        # Subnormal numbers have fewer bits: steps of 2^-149 times those left out.
        allowed = np.maximum(np.abs(wanted) * 2.0**-bits, 2.0 ** (-149 + 23 - bits))
        assert (np.abs(own - wanted) <= allowed).all()


@given(rows_of_singles)
def test_what_was_read_is_written_without_a_change(rows):
    values = written(np.clip(array(rows), -LARGEST, LARGEST))
    np.testing.assert_array_equal(written(values).view(np.uint32), values.view(np.uint32))


@given(rows_of_singles)
def test_the_same_numbers_give_the_same_bytes_wherever_they_are(rows):
    values = array(rows)
    one, other = make(len(values)), make(3 * len(values) + 2)
    one.write(slice(None), values)
    places = np.arange(len(values))[::-1] * 3 + 1
    for place, row in zip(places, values, strict=True):
        other.write(np.array([place]), row[None])
    np.testing.assert_array_equal(one.packed, other.packed[places])
    untouched = np.setdiff1d(np.arange(len(other)), places)
    assert not other.packed[untouched].any()


@pytest.mark.parametrize(
    ("column", "step"),
    [(1, 1e-3), (1, -3e-4), (4, 0.05)],
)
def test_many_small_steps_add_up(column, step):
    """Rounded to the nearest they would all be lost."""
    own, random = make(400), np.random.default_rng(0)
    start = 1000.0 if column == 1 else 100.0
    values = np.zeros((400, 1 + SUMS + OTHERS), np.float32)
    values[:, column] = start * np.linspace(1, 1.4, 400)
    own.write(slice(None), values)
    first = own.read(slice(None))[:, column].astype(float)
    for _ in range(2000):
        values = own.read(slice(None))
        values[:, 0] += 1
        values[:, column] += (step * random.uniform(0.5, 1.5, 400)).astype(np.float32)
        own.write(slice(None), values)
    moved = own.read(slice(None))[:, column] - first
    assert moved.mean() == pytest.approx(2000 * step, rel=0.05)


@pytest.mark.parametrize(("column", "bits"), [(1, 15), (4, 7)])
@pytest.mark.parametrize("scale", [1.0, -256.0, 2.0**-16])
def test_a_number_is_rounded_up_as_often_as_it_is_near(column, bits, scale):
    gap = abs(scale) * 2.0**-bits
    values = np.zeros((50_000, 1 + SUMS + OTHERS), np.float32)
    values[:, column] = scale * np.random.default_rng(0).uniform(1, 2, len(values))
    error = (written(values).astype(float) - values)[:, column] / gap
    above = np.abs(values[:, column].astype(float)) / gap % 1
    assert np.abs(error).max() < 1
    # Means of 5,000 errors, whose standard deviation is half a gap or less.
    by_share = error[np.argsort(above)].reshape(10, -1).mean(1)
    assert np.abs(by_share).max() < 0.03


@pytest.mark.parametrize("value", [np.inf, -np.inf, 0.0, -0.0])
def test_numbers_of_no_fraction_stay(value):
    found = written(np.full((1, 6), value, np.float32))
    np.testing.assert_array_equal(found, np.full((1, 6), value, np.float32))
    assert (np.signbit(found) == np.signbit(value)).all()


def test_no_number_becomes_another_sign_or_nothing_at_all_at_the_extremes():
    largest = np.finfo(np.float32).max
    found = written(np.array([[largest], [-largest]], np.float32).repeat(6, 1))
    assert (found[0] >= LARGEST).all()  # infinity is nearer than anything else
    assert (found[1] <= -LARGEST).all()


@pytest.mark.parametrize("bits", [0x7FC00000, 0xFFC00000])  # as arithmetic makes them
def test_what_is_no_number_does_not_become_one(bits):
    found = written(np.full((1, 6), bits, np.uint32).view(np.float32))
    assert np.isnan(found).all()


def test_rows_are_as_long_as_they_say_and_new_ones_zeros():
    own = make(3, sums=1, others=0)
    assert (own.row_bytes, own.width, own.packed.nbytes) == (7, 2, 21)
    own.write(np.array([1]), np.array([[2, 3]], np.float32))
    own.grow(5)
    own.grow(2)
    assert len(own) == 5
    assert own.read(slice(None)).tolist() == [[0, 0], [2, 3], [0, 0], [0, 0], [0, 0]]
    assert own.read(np.zeros(0, np.int64)).shape == (0, 2)
