"""Reports to look at and to pass on.

PNG plots and one self-contained HTML page per run or comparison (needs matplotlib).
"""

from depo.runs.report.comparison import comparison_table, write_comparison
from depo.runs.report.run import write_report

__all__ = ["comparison_table", "write_comparison", "write_report"]
