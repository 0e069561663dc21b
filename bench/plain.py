"""How fast a whole default run is beside a plain PyTorch loop over one fixed width, recorded.

``AUTOEMB_DATA=folder OMP_NUM_THREADS=1 python -m bench.plain`` runs ``python -m autoemb run`` over
MovieLens 100K and, in turns with it, what people write: an ``nn.Embedding(sparse=True)`` of width
146 for users and for items, two hidden layers of 512 or of 128, Adagrad, batches of 500, each
predicted before it is learnt. The loop is given row numbers; the run reads the file's ids, and is
timed from its first event on. Writes ``bench/results/plain.json``.
"""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn

from autoemb.data import Dataset, load
from autoemb.tasks import task_for
from bench.harness import write
from bench.trees import HERE, speed

DATA, TURNS, BATCH, WIDTH = "ml-100k", 5, 500, 146
HIDDEN = (512, 128)


class Plain(nn.Module):
    """Two embeddings side by side, and hidden layers."""

    def __init__(self, rows: list[int], hidden: int) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(own, WIDTH, sparse=True) for own in rows)
        self.hidden = nn.Sequential(
            nn.Linear(len(rows) * WIDTH, hidden), nn.Tanh(),
            nn.Linear(hidden, hidden), nn.Tanh(),
            nn.Linear(hidden, 1),
        )  # fmt: skip

    def forward(self, ids: Tensor) -> Tensor:
        found = [table(ids[:, number]) for number, table in enumerate(self.tables)]
        logits: Tensor = self.hidden(torch.cat(found, 1))
        return logits.squeeze(1)


def loop(dataset: Dataset, hidden: int) -> float:
    """Return the events a second of the plain loop."""
    torch.manual_seed(0)
    batch = dataset.events().batch(0, len(dataset))
    assert batch.label is not None
    columns = [torch.as_tensor(ids).unique(return_inverse=True)[1] for ids in batch.sparse.values()]
    ids = torch.stack(columns, 1)
    target = task_for("regression", dataset.schema.label).target(batch.label)
    model = Plain([int(column.max()) + 1 for column in columns], hidden)
    optimizer = torch.optim.Adagrad(model.parameters(), lr=0.01)
    total, start = 0.0, time.perf_counter()
    for own, wanted in zip(ids.split(BATCH), target.split(BATCH), strict=True):
        losses = (torch.sigmoid(model(own)) - wanted).square()
        total += float(losses.detach().sum())
        optimizer.zero_grad()
        losses.mean().backward()
        optimizer.step()
    if not math.isfinite(total):
        raise FloatingPointError("the plain loop diverged")
    return len(dataset) / (time.perf_counter() - start)


def main() -> None:
    """Measure and record."""
    torch.set_num_threads(1)
    data = Path(os.environ["AUTOEMB_DATA"]) / DATA
    dataset = load(data)
    speeds: dict[str, list[float]] = {"autoemb run": []}
    speeds |= {f"plain, hidden {hidden}": [] for hidden in HIDDEN}
    for _ in range(TURNS):
        speeds["autoemb run"].append(speed(HERE, data))
        for hidden in HIDDEN:
            speeds[f"plain, hidden {hidden}"].append(loop(dataset, hidden))
    ours, *others = speeds
    ratios = {
        other: {f.__name__: round(f(speeds[ours]) / f(speeds[other]), 3) for f in (median, max)}
        for other in others
    }
    write("plain", {"data": DATA, "events_per_second": speeds, "ratio": ratios})


if __name__ == "__main__":
    main()
