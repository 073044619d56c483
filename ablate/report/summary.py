"""`summary.json` and `speedup.csv`: the numbers for other programs. `summary.schema.json` is the schema."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import asdict, fields
from typing import Any

from ablate.analysis.evaluations import EvaluationResult
from ablate.analysis.speedup import SpeedUp
from ablate.metrics import LANGUAGE_MODEL
from ablate.report.cautions import describe_noise
from ablate.report.looks import summarize_looks
from ablate.report.report import Report
from ablate.tracking.mlflow_names import name_final

SCHEMA_VERSION = 2


def summarize(report: Report) -> dict[str, Any]:
    """The content of `summary.json`. No value in it is infinite or NaN."""
    record = report.record
    summary = {
        "schema_version": SCHEMA_VERSION,
        "study": record.study,
        "question": record.question,
        "verdict": list(report.verdict),
        "answer": list(report.answer),
        **({} if record.metrics == LANGUAGE_MODEL else {"metrics": dict(record.metrics)}),
        "is_complete": report.is_complete,
        **summarize_looks(report),
        "design": record.design,
        "match": record.match,
        "compare_within": list(record.compare_within),
        "baseline": dict(record.baseline),
        "headline": {"target": report.options.headline, "axis": report.axis},
        "speedup": [row.to_dict() for row in report.rows],
        "full_schedule": [row.to_dict() for row in report.full_schedule],
        "trends": [trend.to_dict() for trend in report.trends],
        "smallest_effect": report.results.smallest_effect,
        "differences": [effect.to_dict() for effect in report.differences],
        "effects": [effect.to_dict() for effect in report.effects],
        "importance": [importance.to_dict() for importance in report.importance],
        **_list_cautions(report),
        "arms": [arm.to_dict() | {"label": report.labels[arm.arm]} for arm in report.arms],
        "fairness": [line.to_dict() for line in report.fairness],
        "failures": [asdict(mishap) for mishap in report.mishaps],
        **({"evaluations": [row.to_dict() for row in report.evaluations]} if report.evaluations else {}),
        **({"failed_evaluations": list(map(asdict, failed))} if (failed := report.failed_evaluations) else {}),
        **({"verifications": [made.model_dump() for made in report.verifications]} if report.verifications else {}),
        **({"capabilities": [row.to_dict() for row in report.capabilities]} if report.capabilities else {}),
        "data": dict(record.data),
        "versions": dict(report.versions),
        "command": report.command,
    }
    return {key: _clean(value) for key, value in summary.items()}


def _list_cautions(report: Report) -> dict[str, Any]:
    """What extends or limits the verdicts, each key only if it applies."""
    known = {
        "predictions": [row.to_dict() for row in report.predictions],
        "scaling_laws": [law.to_dict() for law in report.scaling_laws],
        "untuned": report.untuned and asdict(report.untuned),
        "noise": [
            asdict(lender) | {"run_ids": sorted(lender.run_ids)}
            for lender in (report.results.lenders if describe_noise(report.differences) else ())
        ],
        "reruns": report.reruns and asdict(report.reruns),
    }
    return {key: value for key, value in known.items() if value}


def final_metrics(report: Report) -> dict[str, float]:
    """Metrics for MLflow: `final_loss/ARM` (nats per token), and `speedup/AXIS/ARM` at the headline's target.

    For metrics other than the loss of a language model, `final_loss` is `final_` and their name. `speedup/AXIS/ARM/low`
    and `/high` are the ends of its interval, or its bound.
    """
    names = {arm: label.replace(" / ", " ") for arm, label in report.labels.items()}
    figures = {name_final(report.metric, report.labels[arm.arm]): arm.final_loss.mean for arm in report.arms}
    for arm in report.arms:
        figures |= {f"final_{name}/{names[arm.arm]}": spread.mean for name, spread in arm.other_metrics.items()}
    for row in report.headline_rows:
        key = f"speedup/{row.axis}/{names[row.arm]}"
        figures |= {key: row.ratio, f"{key}/low": row.low, f"{key}/high": row.high}
    return {name: value for name, value in figures.items() if value is not None}


def write_speedup_csv(report: Report) -> str:
    """One line per row of `speedup`, with `within` as `axis=level` pairs and empty cells for null."""
    names = [field.name for field in fields(SpeedUp)]
    return write_csv(names, [[_flatten(getattr(row, name)) for name in names] for row in report.rows])


def write_evaluations_csv(report: Report) -> str:
    """One line per row of `evaluations`, with the levels of a cell as `name=level` pairs and empty cells for null."""
    names = [field.name for field in fields(EvaluationResult)]
    return write_csv(names, [[_flatten(getattr(row, name)) for name in names] for row in report.evaluations])


def write_csv(header: list[str], rows: list[list[Any]]) -> str:
    """Comma-separated values. Text that a spreadsheet would run as a formula gets a leading apostrophe."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([[_disarm(cell) for cell in row] for row in rows])
    return out.getvalue()


def _flatten(value: Any) -> Any:
    return "; ".join(f"{axis}={level}" for axis, level in value.items()) if isinstance(value, dict) else value


def _disarm(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else cell


def _clean(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
