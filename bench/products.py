"""The matrix products of a step and nothing else: the least time the step could take with a BLAS.

Only what Algorithm 1 cannot do without is counted: everything that depends on the id alone is
multiplied once per distinct id, the validation pass has no weight gradients, the training pass has
none of the controllers (SAM, which trains them there, has). Results go to memory allocated before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch

from autoemb.ops import product

Product = tuple[int, int, int]  # (m, k, n): [m, k] @ [k, n]


def network(
    rows: int, widths: Sequence[int], *, weight_grads: bool, backward: bool, input_grad: bool
) -> list[Product]:
    """Return the products of a feed-forward network: forward, and what of backward is wanted."""
    layers = list(pairwise(widths))
    products = [(rows, k, n) for k, n in layers]
    if backward:
        products += [(rows, n, k) for k, n in (layers if input_grad else layers[1:])]
    if weight_grads:
        products += [(k, rows, n) for k, n in layers]
    return products


def step(
    method: str,
    batch: int,
    distinct: Sequence[int],
    validation: Sequence[int],
    *,
    dims: Sequence[int] = (2, 16, 128),
    hidden: Sequence[int] = (512, 512),
    outputs: int = 1,
) -> list[Product]:
    """Return the products of one first-order step of Algorithm 1.

    ``distinct`` and ``validation`` are the numbers of distinct ids of each field in the training
    and in the validation batch.
    """
    fields, sizes = len(distinct), len(dims)
    width = dims[-1] if method != "fse" else sum(dims)
    model, controller = (fields * width, *hidden, outputs), (32 + sizes + 3, *hidden, sizes)
    products = network(batch, model, weight_grads=True, backward=True, input_grad=True)
    if method != "fse":
        for rows in distinct:
            products += [(rows, d, width) for d in dims]  # projection
            products += [(rows, width, d) for d in dims] + [(d, rows, width) for d in dims]
    if method in ("sam", "autoemb"):
        joint = method == "sam"
        for rows in distinct:
            products += network(
                rows, controller, weight_grads=joint, backward=joint, input_grad=False
            )
    if method in ("darts", "autoemb"):  # the validation pass
        products += network(batch, model, weight_grads=False, backward=True, input_grad=True)
        for rows in validation:
            products += [(rows, d, width) for d in dims]
    if method == "autoemb":
        for rows in validation:
            products += network(
                rows, controller, weight_grads=True, backward=True, input_grad=False
            )
    return products


def flops(products: Sequence[Product]) -> int:
    """Return multiplications and additions."""
    return sum(2 * m * k * n for m, k, n in products)


def bare_onednn(products: Sequence[Product]) -> Callable[[], None]:
    """Return the same by the faster of PyTorch's two libraries, which autoemb uses."""
    operands = [(torch.randn(m, k), torch.randn(n, k).t()) for m, k, n in products]

    def run() -> None:
        for a, b in operands:
            product(a, b)

    return run


def bare(products: Sequence[Product]) -> Callable[[], None]:
    """Return a function that computes the products by torch.mm, each on operands of its own."""
    operands = [(torch.randn(m, k), torch.randn(k, n), torch.empty(m, n)) for m, k, n in products]

    def run() -> None:
        for a, b, out in operands:
            torch.mm(a, b, out=out)

    return run
