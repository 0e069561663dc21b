"""Two tables, and events of them."""

from autoemb.bilevel import Example
from autoemb.nn import Inputs

TABLES = ("user_id", "item_id")


def example_of(ids, label):
    """Events whose ids [B, 2] are those of the two tables."""
    return Example(Inputs(dict(zip(TABLES, ids.unbind(1), strict=True))), label)
