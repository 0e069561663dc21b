"""Studies: many runs from one file, their options chosen alike, compared in pairs and drawn."""

from autoemb.lab.study.config import Study, read_study
from autoemb.lab.study.run import run_study

__all__ = ["Study", "read_study", "run_study"]
