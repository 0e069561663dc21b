"""Sparse gradients of the tables, and tables that grow between steps."""

import pytest

from autoemb import RowAdam
from tests.nn.small import draw_ids, draw_weights, make


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
        module.grow({"0": rows, "1": rows})
    assert len(module.table_0) == 16
