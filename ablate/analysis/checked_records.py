"""The border: what stands in the files of a study is checked here once, and the numbers behind it rely on that.

Text loses its control characters, which a terminal would obey, and what no encoding can write. What is not of its type,
or beyond any real value, counts as unknown; a record that nothing can be made of is refused with the name of its file.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ablate.errors import RecordError
from ablate.tracking.folders import StudyFolder, read_json
from ablate.tracking.study_record import MAX_COUNT, ArmRecord, RunRecord, Status, StudyRecord, Value, is_number

_MAX_DEPTH = 32  # of nesting: records need 5
_UNWRITABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_RUN_ID = re.compile(r"[A-Za-z0-9_+-][A-Za-z0-9_.+-]{0,199}")


def clean(value: Any, depth: int = 0) -> Any:
    """JSON with U+FFFD for every control character but tab and line feed, lone surrogate and noncharacter.

    Raises `RecursionError` where it is nested deeper than any record.
    """
    if isinstance(value, str):
        return _UNWRITABLE.sub("\N{REPLACEMENT CHARACTER}", value)
    if depth > _MAX_DEPTH:
        raise RecursionError
    if isinstance(value, dict):
        return {clean(key): clean(item, depth + 1) for key, item in value.items()}
    return [clean(item, depth + 1) for item in value] if isinstance(value, list) else value


def read_document(path: Path) -> Any:
    """Cleaned JSON. Raises `RecordError`, naming the file, where it is missing or cannot be read."""
    try:
        return clean(read_json(path))
    except RecursionError:
        raise RecordError(f"{path}: cannot be read: it is nested too deeply") from None


def read_mapping(path: Path) -> Mapping[str, Any]:
    """A cleaned JSON object; empty where there is none that can be read."""
    try:
        document = read_document(path)
    except RecordError:
        return {}
    return document if isinstance(document, dict) else {}


def read_record(store: StudyFolder) -> StudyRecord:
    """`study.json`. Raises `RecordError` where no study was run here, or the file cannot be used."""
    if not store.record.exists():
        return store.read_study()  # it knows the nearest name
    return check_record(read_document(store.record), store.record)


def check_record(document: Any, place: Path) -> StudyRecord:
    """A study's record with usable names and sizes; a level that is a list or a mapping becomes its JSON text.

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
    """`status.json`: queued where there is none, and, with the reason as its error, where it cannot be used."""
    if not os.path.lexists(path):
        return Status("queued")
    try:
        return Status.from_dict(read_document(path), path)
    except RecordError as error:
        return Status("queued", error=str(error).replace(str(path), path.name))  # pages are published without paths


def check_manifest(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    """The manifest without values of a wrong type: they count as unknown."""
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
    **dict.fromkeys(("threads", "processes", "shared_by", "tuning_trials", "peak_memory_bytes"), _is_whole),
    "gpus": is_number,
}


def _check_run(run: RunRecord, place: Path) -> None:
    if not _RUN_ID.fullmatch(run.run_id):
        raise RecordError(f"{place}: {run.run_id[:40]!r} is no run id (legal: the name of a folder, in ASCII)")


def _check_arm(arm: ArmRecord, place: Path) -> ArmRecord:
    for name, least in (("n_params", 0), ("flops_per_token", 0), ("n_steps", 1), ("n_tokens", 0)):
        size = getattr(arm, name)
        if size is not None and not least <= size <= MAX_COUNT:
            raise RecordError(f"{place}: {name} of the arm {arm.arm!r} is not a number from {least} to {MAX_COUNT}")
    return replace(arm, axes=_name_levels(arm.axes), within=_name_levels(arm.within))


def _name_levels(levels: Mapping[str, Value]) -> dict[str, Value]:
    return {axis: _name_level(level) for axis, level in levels.items()}


def _name_level(level: Value) -> Value:
    return json.dumps(level) if isinstance(level, dict | list) else level
