"""What figures draw of their numbers."""

import math

import numpy as np
import pytest
from matplotlib.figure import Figure

from autoemb.lab.report import figures, panel


def test_sizes_of_a_method_are_joined_and_one_seed_has_no_spread(monkeypatch):
    axes = Figure().add_subplot()
    monkeypatch.setattr(panel, "svg", lambda name, size, paint: paint(axes))
    points = {"fse": [(2**20, 0.5, math.nan), (2**22, 0.4, 0.1)], "autoemb": [(2**21, 0.3, 0.2)]}
    figures.loss_by_bytes("name", points, "loss")
    drawn = [container.lines for container in axes.containers]
    lines = [line for line, _, _ in drawn]
    assert [line.get_xdata().tolist() for line in lines] == [[1, 4], [2]]
    assert [line.get_ydata().tolist() for line in lines] == [[0.5, 0.4], [0.3]]
    assert {line.get_linestyle() for line in lines} == {"-"}
    spreads = [np.ptp(bar[:, 1]) for _, _, (bars,) in drawn for bar in bars.get_segments()]
    assert spreads == pytest.approx([0, 0.2, 0.4])
