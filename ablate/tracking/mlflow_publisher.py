"""The report of a study in MLflow: files and final figures on the parent of its runs, so that MLflow shows them too."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from ablate.tracking.mlflow_mirror import explain, find_mirror_obstacle, redact
from ablate.tracking.mlflow_writer import MlflowWriter
from ablate.tracking.study_record import StudyRecord

FOLDER = "report"  # of the artifacts

_DESCRIPTION = "mlflow.note.content"  # what MLflow shows as the description of a run
_UNNAMED = re.compile(r"[^\w. :/-]+", re.ASCII)  # what may not stand in the name of a metric
_MAX_NAME = 250


def publish(
    uri: str, record: StudyRecord, files: Mapping[str, Path], figures: Mapping[str, float], description: str
) -> str:
    """Attach files (by their path below `report`), log figures as metrics, describe the study; an excuse, or nothing.

    The parent is made where there is none; every run of the study that has no parent becomes its child.
    """
    if obstacle := find_mirror_obstacle(uri):
        return obstacle
    try:
        writer = MlflowWriter(uri, record)
        parent = writer.adopt()
        for name, path in files.items():
            folder = Path(FOLDER, name).parent.as_posix()
            writer.client.log_artifact(parent, str(path), folder)
        writer.log_figures(parent, {_clean(name): value for name, value in figures.items()})
        writer.client.set_tag(parent, _DESCRIPTION, description)
    except Exception as error:  # noqa: BLE001 - MLflow's errors have no common root, and the report is written
        return f"MLflow at {redact(uri)} has not got the report ({explain(error, uri)})"
    return ""


def _clean(name: str) -> str:
    return _UNNAMED.sub("-", name)[:_MAX_NAME]
