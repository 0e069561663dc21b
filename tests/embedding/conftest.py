"""A batch, and the same random numbers for every test."""

import pytest
import torch

from tests.embedding.small import draw_ids, draw_weights


@pytest.fixture
def inputs():
    return draw_ids(7), draw_weights(7)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
