"""The bilevel problem: hypergradients and the trainer of Algorithm 1."""

from autoemb.bilevel.hypergradient import hypergradient
from autoemb.bilevel.outcome import Outcome
from autoemb.bilevel.trainer import BilevelTrainer
from autoemb.bilevel.working_set import Example

__all__ = ["BilevelTrainer", "Example", "Outcome", "hypergradient"]
