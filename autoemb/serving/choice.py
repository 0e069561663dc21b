"""Which width each id gets within a budget."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

#: Halvings of the price of a float: more than float64 can tell apart.
HALVINGS = 200


def choose_widths(errors: Sequence[Tensor], widths: Sequence[int], budget: float) -> list[Tensor]:
    """Return the choice of widths with the least total error for what it costs.

    An id takes the width with the least ``error + price * width``; the price is the lowest one at
    which all ids together stay within the budget. So no other choice that costs as much or less
    has a lower total error (Everett's theorem).

    Parameters
    ----------
    errors : sequence of T Tensor[V_t, K]
        Error of each id of each table at each width.
    widths : sequence of K int
        Floats that an id costs; ascending, the first 0.
    budget : float
        Floats that all ids of all tables may cost together, not negative.

    Returns
    -------
    list of T Tensor[V_t], int64
        Index of the width.

    Raises
    ------
    ValueError
        For an error that is not a finite number.

    Examples
    --------
    >>> errors = [torch.tensor([[9.0, 1.0, 0.0], [2.0, 1.5, 0.0]])]
    >>> for budget in (100, 5, 3):
    ...     print(choose_widths(errors, (0, 2, 4), budget))
    [tensor([2, 2])]
    [tensor([1, 0])]
    [tensor([1, 0])]
    """
    if not all(bool(torch.isfinite(error).all()) for error in errors):
        raise ValueError("errors must be finite numbers")
    costs = torch.tensor(widths, dtype=torch.float64)

    def at(price: float) -> list[Tensor]:
        # Of equal sums the first is taken: the narrowest width.
        return [(error.double() + price * costs).argmin(1) for error in errors]

    def within(choices: list[Tensor]) -> bool:
        return sum(float(costs[choice].sum()) for choice in choices) <= budget

    if within(free := at(0.0)):
        return free
    low, high = 0.0, 1.0
    while not within(at(high)):
        low, high = high, high * 1024
    for _ in range(HALVINGS):
        middle = (low + high) / 2 if low == 0 else (low * high) ** 0.5
        if not low < middle < high:
            break
        low, high = (low, middle) if within(at(middle)) else (middle, high)
    return at(high)
