"""From numbers to pages: HTML, Markdown, CSV, JSON, pictures, and the table of the terminal."""

from ablate.report.attach import attach_report
from ablate.report.content import Report, ReportOptions
from ablate.report.notebook import Study, load
from ablate.report.terminal import WIDEST, format_table, render_table
from ablate.report.words import clean_name
from ablate.report.write import read_studies, write_report

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
