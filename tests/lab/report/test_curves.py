import numpy as np
import pytest

from autoemb.lab.records import Bucket, Summary, Window
from autoemb.lab.report.curves import Curve, by_popularity, minus, over_stream, smooth, thin
from autoemb.lab.report.recording import Run

NAN = float("nan")


@pytest.fixture
def run(recorded):
    """Return a function that makes a run of some windows and buckets."""

    def run(windows=(), online=(), offline=()):
        content = recorded.summary() | {"by_popularity": {"offline": offline, "online": online}}
        return Run(Summary.parse(content, "summary.json"), tuple(windows))

    return run


def window(interactions, events, loss, accuracy=0.5):
    return Window(
        interactions=interactions, window=events, loss=loss, accuracy=accuracy, stage="online"
    )


def bucket(low, events, loss, weights=None, feature="user_id"):
    return Bucket(
        feature=feature, low=low, high=2 * low, interactions=events, loss=loss, weights=weights
    )


def test_windows_are_averaged_by_their_events(run):
    runs = [
        run([window(10, 10, 1.0), window(20, 10, 3.0)]),
        run([window(10, 30, 2.0), window(20, 10, NAN), window(25, 0, 9.0)]),
    ]
    curve = over_stream(runs, "loss")
    np.testing.assert_array_equal(curve.x, [10, 20])
    np.testing.assert_allclose(curve.y, [1.75, 3.0])
    np.testing.assert_array_equal(curve.weight, [40, 10])


def test_no_finite_window_gives_an_empty_curve(run):
    for metric in ("accuracy", "loss", "auc"):
        curve = over_stream([run([window(10, 10, NAN, 1e300)])], metric)
        assert len(curve.x) == len(smooth(curve).x) == len(minus(curve, curve).x) == 0


@pytest.mark.parametrize("points", [1, 7, 300, 1000])
def test_thinning_keeps_the_weighted_mean_and_the_end(points):
    random = np.random.default_rng(0)
    curve = Curve(np.arange(1000.0), random.random(1000), random.integers(1, 9, 1000) * 1.0)
    thinned = thin(curve, points)
    assert len(thinned.x) == points
    assert thinned.x[-1] == 999
    expected = np.average(curve.y, weights=curve.weight)
    assert np.average(thinned.y, weights=thinned.weight) == pytest.approx(expected)


@pytest.mark.parametrize("length", [1, 2, 5, 400])
def test_smoothing_keeps_positions_and_range(length):
    random = np.random.default_rng(0)
    curve = Curve(np.arange(float(length)), random.random(length), np.ones(length))
    line = smooth(curve)
    assert line.x is curve.x
    assert line.y.shape == (length,)
    assert curve.y.min() <= line.y.min()
    assert line.y.max() <= curve.y.max()
    if length == 400:
        assert line.y.std() < 0.4 * curve.y.std()


def test_smoothing_weighs_windows_by_their_events():
    curve = Curve(np.arange(3.0), np.array([0.0, 1.0, 0.0]), np.array([1.0, 1e9, 1.0]))
    np.testing.assert_allclose(smooth(curve).y, 1, atol=1e-6)


def test_buckets_are_merged_by_their_events(run):
    runs = [
        run(online=[bucket(3, 10, 1.0, (1.0, 0.0)), bucket(1, 5, 4.0), bucket(7, 0, 1.0)]),
        run(online=[bucket(3, 30, 2.0, (0.0, 1.0)), bucket(1, 5, NAN)]),
        run(offline=[bucket(3, 9, 9.0)], online=[bucket(3, 9, 9.0, feature="item_id")]),
    ]
    low, high = by_popularity(runs, "online", "user_id")
    assert (low.low, low.loss, low.interactions, low.weights) == (1, 4.0, 10, None)
    assert (high.low, high.loss, high.interactions) == (3, 1.75, 40)
    assert high.weights == (0.25, 0.75)


def test_weights_of_different_lengths_are_not_mixed(run):
    runs = [run(online=[bucket(0, 1, 1.0, (1.0,))]), run(online=[bucket(0, 1, 1.0, (0.5, 0.5))])]
    assert by_popularity(runs, "online", "user_id")[0].weights is None
