"""Samples in float64: what the op promises is checked without the rounding of float32."""

import pytest
import torch

from tests.samples import EMPTY, POPULATED, Case, draw, mode, sampler


@pytest.fixture(scope="session")
def make_sample():
    """Draw a sample by the fields of a Case, in float64."""
    return sampler(torch.float64)


@pytest.fixture(params=POPULATED)
def sample(request):
    """Every odd case in float64, in training mode (batch statistics) and eval mode."""
    return draw(*request.param)


@pytest.fixture(params=EMPTY, ids=str)
def empty_case(request):
    return request.param


@pytest.fixture(params=[True, False], ids=mode)
def training(request):
    return request.param


@pytest.fixture
def small(training):
    """Few numbers, ids that repeat: for checks that differentiate number by number."""
    return draw(Case((1, 3), 2, 6), training)
