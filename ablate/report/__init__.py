"""From numbers to pages: HTML, Markdown, CSV, JSON, pictures, and the table of the terminal."""

from ablate.report.content import Report, ReportOptions
from ablate.report.notebook import Study, load
from ablate.report.terminal import format_table, render_table
from ablate.report.write import write_report

__all__ = ["Report", "ReportOptions", "Study", "format_table", "load", "render_table", "write_report"]
