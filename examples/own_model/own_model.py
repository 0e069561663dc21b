"""Your own model on a stream: learn, save, load, predict. ``python own_model.py FOLDER``."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from make_events import write_events
from torch import Tensor, nn

from autoemb import Bag, Batch, Schema, SoftEmbedding, Stream, StreamLearner, build_learner
from autoemb.data import load
from autoemb.nn import Inputs
from autoemb.nn.layers import mlp, side_by_side
from autoemb.streaming import checkpoint
from autoemb.tasks import task_for

SCHEMA = Schema.from_toml(Path(__file__).with_name("schema.toml"))
TASK = task_for("click", SCHEMA.label)
FEATURES = {feature.column: feature for feature in SCHEMA.features}
DENSE = SCHEMA.num_dense  # each number, and whether it is missing


# model: begin
class TwoTowers(nn.Module):
    """A vector of who looks, one of what is shown; a click is likely where they agree."""

    def __init__(self) -> None:
        super().__init__()
        who = [FEATURES[name] for name in ("user_id", "city", "device", "last_items")]
        what = [FEATURES[name] for name in ("item_id", "shop")]
        self.who = SoftEmbedding([1] * 4, features=who)
        self.what = SoftEmbedding([1] * 2, features=what)
        self.left, self.right = mlp(4 * 128, (64,), 32), mlp(2 * 128 + DENSE, (64,), 32)

    def forward(self, inputs: Inputs, mix: dict[str, Tensor] | None = None) -> Tensor:
        left = self.left(self.who(inputs, mix).flatten(1))
        right = self.right(side_by_side(self.what(inputs, mix), inputs, DENSE))
        return (left * right).sum(1, keepdim=True)


# model: end


def build() -> StreamLearner:
    """Return an untrained learner, always the same."""
    torch.manual_seed(0)
    return build_learner(SCHEMA, TASK, model=TwoTowers())


def new_events() -> Batch:
    """Return two events to predict: one of known ids, one of a user and an item never seen."""
    return Batch(
        sparse={
            "user_id": ["user-3", "somebody new"],
            "city": ["Graz", "Linz"],
            "device": ["phone", "phone"],
            "item_id": np.array([10**12 + 1, 7]),
            "shop": np.array([1, 5]),
        },
        bags={"last_items": Bag(np.array([10**12, 10**12 + 2]), np.array([0, 2, 2]))},
        dense=torch.tensor([[12.5, 30.0], [9.9, float("nan")]]),
    )


def main(folder: Path) -> None:
    """Write a stream to a folder, learn it, save the learner, and predict with a copy of it."""
    write_events(folder / "events.csv")
    events = load(folder / "events.csv", schema=SCHEMA).events()
    learner = build()
    # Of predictions that are made before a batch is learnt.
    losses = [learner.learn(batch).losses for batch in Stream(events, batch_size=200)]
    first, last = losses[0].mean(), torch.cat(losses[-20:]).mean()
    print(f"log loss: first batch {first:.3f}, last batches {last:.3f}")

    checkpoint.save(learner.state_dict(), folder / "learner.safetensors")
    copy = build()
    copy.load_state_dict(checkpoint.load(folder / "learner.safetensors"))
    chances = TASK.predict(copy.predict(new_events()))
    print("chances of a click:", *(f"{chance:.3f}" for chance in chances.tolist()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
