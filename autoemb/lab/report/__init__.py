"""Tables, figures and the page of a run or a comparison, drawn from its recorded files alone.

``draw`` needs the extra ``report``; ``table`` does not.
"""

from autoemb.lab.report.page import draw
from autoemb.lab.report.tables import table

__all__ = ["draw", "table"]
