"""Tables, figures and the page of a run or a comparison, drawn from its recorded files alone.

``draw`` needs the extra ``report``; ``table`` and ``markdown`` do not.
"""

from autoemb.lab.report.page import draw
from autoemb.lab.report.tables import markdown, table

__all__ = ["draw", "markdown", "table"]
