"""The fused op by our kernels: what they read and write is allocated here, with torch.

Every function takes the module of compiled kernels first: ``autoemb._cuda``, or its emulation on
the CPU, so that tests without a GPU run this very code. Kernels are functions of addresses, sizes
and a stream. They see no torch header, so the package builds in seconds and one binary serves
every torch version; in a captured CUDA graph nothing of this Python is left.

Nothing here waits for the device, so all of it may be captured. An id out of range counts as an id
without rows; it is noted in memory that the host can read at any time, and raised by
:func:`check_ids` at the next call.

Shapes as in :mod:`autoemb.ops.soft_embedding`; float32 alone.
"""

from autoemb.ops.cuda.compiled import ARCHITECTURES, COMPILED, DEVICE, IMPORT_ERROR, kernels
from autoemb.ops.cuda.errors import check_ids
from autoemb.ops.cuda.op import backward, forward
from autoemb.ops.cuda.plan import PaddedPlan, distinct, rows_of
from autoemb.ops.cuda.rows import record, update_adagrad, update_adam, update_sgd

__all__ = [
    "ARCHITECTURES",
    "COMPILED",
    "DEVICE",
    "IMPORT_ERROR",
    "PaddedPlan",
    "backward",
    "check_ids",
    "distinct",
    "forward",
    "kernels",
    "record",
    "rows_of",
    "update_adagrad",
    "update_adam",
    "update_sgd",
]
