"""The report as MLflow gets it: its files, and its final figures as metrics, on the parent run of the study."""

from __future__ import annotations

from pathlib import Path

from ablate.report.content import Report
from ablate.tracking.mlflow_publisher import publish


def attach_report(report: Report, uri: str) -> str:
    """Bring a written report to MLflow; an excuse where MLflow did not take it, else nothing."""
    files = {path.name: path for path in report.paths.values()}
    files |= {Path(path.parent.name, path.name).as_posix(): path for path in report.others}
    description = "\n\n".join(filter(None, (report.record.question, *report.answer)))
    return publish(uri, report.record, files, list_figures(report), description)


def list_figures(report: Report) -> dict[str, float]:
    """The final figures by name: `final_loss/ARM` (nats a token), and `speedup/AXIS/ARM` at the headline's target.

    Ends of intervals, and bounds, are `speedup/AXIS/ARM/low` and `/high`.
    """
    names = {arm: label.replace(" / ", " ") for arm, label in report.labels.items()}
    figures = {f"final_loss/{names[arm.arm]}": arm.final_loss.mean for arm in report.arms}
    for row in report.headline_rows:
        key = f"speedup/{row.axis}/{names[row.arm]}"
        figures |= {key: row.ratio, f"{key}/low": row.low, f"{key}/high": row.high}
    return {name: value for name, value in figures.items() if value is not None}
