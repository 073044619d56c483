"""From numbers to pages: HTML, Markdown, CSV, JSON, pictures, and the table of the terminal."""

from ablate.report.notation import clean_name
from ablate.report.notebook import Study, load
from ablate.report.report import Report, ReportOptions
from ablate.report.terminal import WIDEST, format_table, render_table
from ablate.report.write import attach_report, read_studies, write_report

__all__ = [
    "WIDEST",
    "Report",
    "ReportOptions",
    "Study",
    "attach_report",
    "clean_name",
    "format_table",
    "load",
    "read_studies",
    "render_table",
    "write_report",
]
