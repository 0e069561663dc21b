"""The paper's experiments: options, methods, runs, comparisons."""

from autoemb.lab.compare import compare
from autoemb.lab.config import RunConfig
from autoemb.lab.run import run
from autoemb.lab.stopping import Interrupted

__all__ = ["Interrupted", "RunConfig", "compare", "run"]
