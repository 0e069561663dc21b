"""The paper's experiments: options, methods, runs, comparisons."""

from autoemb.experiment.compare import compare
from autoemb.experiment.config import RunConfig
from autoemb.experiment.run import run
from autoemb.experiment.stopping import Interrupted

__all__ = ["Interrupted", "RunConfig", "compare", "run"]
