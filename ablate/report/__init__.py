"""From numbers to pages: HTML, Markdown, LaTeX, CSV, JSON, figures, and the table in the terminal."""

from ablate.report.notation import clean_name
from ablate.report.notebook import Study, load
from ablate.report.report import Report, ReportOptions
from ablate.report.summary import summarize
from ablate.report.terminal import WIDEST, SpeedupTable, format_table
from ablate.report.text_plot import plot_differences
from ablate.report.write import attach_report, read_studies, write_report

__all__ = [
    "WIDEST",
    "Report",
    "ReportOptions",
    "SpeedupTable",
    "Study",
    "attach_report",
    "clean_name",
    "format_table",
    "load",
    "plot_differences",
    "read_studies",
    "summarize",
    "write_report",
]
