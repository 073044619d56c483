"""The records in a study's files, checked once for all later computations.

Text loses control characters, which a terminal would obey, and characters that no encoding can write. A value of a
wrong type or an impossible size counts as unknown. A record that cannot be used is refused with the name of its file.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ablate.errors import RecordError
from ablate.tracking.evaluations import EvaluationRecord, check_size, list_evaluations
from ablate.tracking.folders import StudyFolder
from ablate.tracking.json_files import parse_json, read_content
from ablate.tracking.study_record import ArmRecord, RunRecord, Status, StudyRecord
from ablate.tracking.values import MAX_COUNT, Value, is_number

_MAX_DEPTH = 32  # of nesting: records need 5
_UNWRITABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_RUN_ID = re.compile(r"[A-Za-z0-9_+-][A-Za-z0-9_.+-]{0,199}")


def clean(value: Any, depth: int = 0) -> Any:
    """Replace lone surrogates, noncharacters, and control characters except tab and line feed with U+FFFD, in JSON.

    Raises `RecursionError` if it is nested deeper than any record.
    """
    if isinstance(value, str):
        return _UNWRITABLE.sub("\N{REPLACEMENT CHARACTER}", value)
    if depth > _MAX_DEPTH:
        raise RecursionError
    if isinstance(value, dict):
        return {clean(key): clean(item, depth + 1) for key, item in value.items()}
    return [clean(item, depth + 1) for item in value] if isinstance(value, list) else value


def read_document(path: Path) -> Any:
    """Read and clean a JSON file. Raises `RecordError`, naming it, if it is missing or cannot be read."""
    content = read_content(path)
    document = parse_json(content, path)
    try:
        return document if _is_clean(content) else clean(document)
    except RecursionError:
        raise RecordError(f"{path}: cannot be read: it is nested too deeply") from None


def _is_clean(content: bytes) -> bool:
    """Tell quickly that a JSON text has nothing to replace: ASCII without escapes, with too few brackets to nest."""
    is_plain = content.isascii() and b"\\" not in content and b"\x7f" not in content
    return is_plain and content.count(b"{") + content.count(b"[") <= _MAX_DEPTH


def read_mapping(path: Path) -> Mapping[str, Any]:
    """Read and clean a JSON object; empty if the file holds none that can be read."""
    try:
        document = read_document(path)
    except RecordError:
        return {}
    return document if isinstance(document, dict) else {}


def read_record(store: StudyFolder) -> StudyRecord:
    """Read `study.json`. Raises `RecordError` if no study was run here, or the file cannot be used."""
    if not store.record.exists():
        return store.read_study()  # its message suggests the nearest name
    return check_record(read_document(store.record), store.record)


def check_record(document: Any, place: Path) -> StudyRecord:
    """Check names and sizes of a study's record. A level that is a list or a mapping becomes its JSON text.

    Raises `RecordError`, naming the `place`.
    """
    try:
        record = StudyRecord.from_dict(document)
    except RecordError as error:
        raise RecordError(f"{place}: {error}") from None
    if not record.arms:
        raise RecordError(f"{place}: it has no arms")
    for run in record.runs:
        _check_run(run, place)
    return replace(
        record,
        arms=tuple(_check_arm(arm, place) for arm in record.arms),
        baseline=_name_levels(record.baseline),
        axes={axis: tuple(map(_name_level, levels)) for axis, levels in record.axes.items()},
    )


def read_status(path: Path) -> Status:
    """Read `status.json`. A missing one means queued, and so does an unusable one, with the reason as its error."""
    if not os.path.lexists(path):
        return Status("queued")
    try:
        return Status.from_dict(read_document(path), path)
    except RecordError as error:
        return Status("queued", error=str(error).replace(str(path), path.name))  # published pages contain no paths


def read_evaluations(folder: Path, status: Status) -> tuple[EvaluationRecord, ...]:
    """Read the results of evaluations of a run that belong to the curve that it ended with.

    Results that cannot be read, and those of an earlier training of the run, are left out.
    """
    found = []
    for path in list_evaluations(folder):
        with suppress(RecordError):
            check_size(path)
            found.append(EvaluationRecord.from_dict(read_document(path), path))
    return tuple(record for record in found if record.curve == status.curve)


def check_manifest(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    """Remove values of a wrong type from a manifest, so they count as unknown."""
    known = {key: value for key, value in manifest.items() if _MANIFEST.get(key, _is_anything)(value)}
    texts = {key: {k: v for k, v in known[key].items() if isinstance(v, str)} for key in _TEXTS if key in known}
    return known | texts


def _is_anything(_: Any) -> bool:
    return True


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_COUNT


_TEXTS = ("device", "versions")
_MANIFEST: Mapping[str, Callable[[Any], bool]] = {
    **dict.fromkeys(_TEXTS, _is_mapping),
    **dict.fromkeys(("precision", "attention_backend", "data_hash", "commit"), _is_text),
    **dict.fromkeys(("threads", "processes", "shared_by", "stacked", "tuning_trials", "peak_memory_bytes"), _is_whole),
    "gpus": is_number,
}


def _check_run(run: RunRecord, place: Path) -> None:
    if not _RUN_ID.fullmatch(run.run_id):
        raise RecordError(f"{place}: {run.run_id[:40]!r} is not a run id (legal: a folder name in ASCII)")


def _check_arm(arm: ArmRecord, place: Path) -> ArmRecord:
    for name, least in (("n_params", 0), ("flops_per_token", 0), ("n_steps", 0), ("n_tokens", 0)):
        size = getattr(arm, name)
        if size is not None and not least <= size <= MAX_COUNT:
            raise RecordError(f"{place}: {name} of the arm {arm.arm!r} is not a number from {least} to {MAX_COUNT}")
    return replace(arm, axes=_name_levels(arm.axes), within=_name_levels(arm.within))


def _name_levels(levels: Mapping[str, Value]) -> dict[str, Value]:
    return {axis: _name_level(level) for axis, level in levels.items()}


def _name_level(level: Value) -> Value:
    return json.dumps(level) if isinstance(level, dict | list) else level
