"""Run every kernel once through the package's own interface: what the sanitizers watch.

``--list`` runs the same under torch's profiler and fails if a kernel of csrc/kernels was not
launched: what sanitizers did not see they have not checked.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import torch

from autoemb import History
from autoemb.ops import distinct_columns
from autoemb.optim import OPTIMIZERS
from bench.workloads import names, on_backend, paper_embedding

REGISTERS = Path(__file__).parents[1] / "csrc/kernels/registers.json"
#: More fields and sizes than kernels take in their parameters, a width of several blocks of
#: columns, sizes that fill no tile; and last a batch that is sorted by more than one block.
CASES = [
    ((2, 16, 128), 2, 70),
    ((1, 3, 7), 40, 33),
    ((16, 64, 256), 2, 40),
    ((2, 16, 128), 1, 5000),
]


def run(device: str) -> None:
    """Run the op's passes, row updates and counters on small inputs."""
    torch.manual_seed(0)
    for dims, fields, batch in CASES:
        rows = [batch + field for field in range(fields)]
        module = paper_embedding(rows, dims, device=device, sparse=True)
        # Half of the events have one id: its segment is as long as they get.
        ids = torch.stack([torch.randint(r, (batch,)) for r in rows], 1)
        ids[::2] = 3
        ids = ids.to(device)
        weights = torch.rand(batch, fields, len(dims), device=device).requires_grad_()
        grad = torch.randn(batch, fields, dims[-1], device=device)
        for precision in ("highest", "high", "medium"):
            torch.set_float32_matmul_precision(precision)
            for training in (True, False):
                module.train(training)
                output = module(ids, weights)
                (alone,) = torch.autograd.grad(output, weights, grad, retain_graph=True)
                grads = torch.autograd.grad(output, [weights, *module.parameters()], grad)
                torch.testing.assert_close(alone, grads[0])
        torch.set_float32_matmul_precision("highest")
        by_name = dict(zip([n for n, _ in module.named_parameters()], grads[1:], strict=True))
        for kind in OPTIMIZERS.values():
            update = kind.rows(module.tables, lr=0.01).update
            for name in module.row_tables:
                sparse = by_name[name]
                update(module.table(name), sparse._indices()[0], sparse._values())
        history = History(tables := names(fields), len(dims), device)
        history.grow(dict(zip(tables, rows, strict=True)))
        for table, plan in zip(tables, distinct_columns(ids), strict=True):
            history.record(table, plan, torch.rand(batch, device=device))
        assert all(bool(table.isfinite().all()) for table in module.tables)
    if device == "cuda":
        torch.cuda.synchronize()


def missing(device: str) -> list[str]:
    """Return the kernels that :func:`run` does not launch on a GPU."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        run(device)
    launched = {
        match[1]
        for event in profile.key_averages()
        if (match := re.search(r"autoemb::.*?(\w+)_kernel\b", event.key))
    }
    recorded = json.loads(REGISTERS.read_text())
    return sorted({name.split()[0] for name in recorded if name != "nvcc"} - launched)


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if "--list" not in sys.argv[1:]:
        on_backend("native", run)(device)
        return
    if device == "cpu":
        raise SystemExit("no CUDA device, so no kernels to list")
    if left := on_backend("native", missing)(device):
        raise SystemExit(f"never launched: {', '.join(left)}")


if __name__ == "__main__":
    main()
