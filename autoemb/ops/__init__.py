"""The ops of autoemb: schemas, shapes, autograd, the specification, and what is around kernels."""

from autoemb.ops.cuda import check_ids
from autoemb.ops.lookup import look_up, rows_of
from autoemb.ops.native import chosen_backend
from autoemb.ops.plan import Plan, distinct, distinct_columns, fill_padding
from autoemb.ops.pool import pool
from autoemb.ops.product import Linear, product
from autoemb.ops.record import count_events, record
from autoemb.ops.soft_embedding import SoftEmbeddingOutput, soft_embedding
from autoemb.ops.tanh import Tanh, tanh

__all__ = [
    "Linear",
    "Plan",
    "SoftEmbeddingOutput",
    "Tanh",
    "check_ids",
    "chosen_backend",
    "count_events",
    "distinct",
    "distinct_columns",
    "fill_padding",
    "look_up",
    "pool",
    "product",
    "record",
    "rows_of",
    "soft_embedding",
    "tanh",
]
