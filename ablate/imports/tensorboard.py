"""TensorBoard event files. The files of one folder are one run, as in TensorBoard.

TensorBoard's own reader parses them. It is an optional package, and it does not need TensorFlow.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ablate.errors import RecordError, ResourceError
from ablate.imports.columns import Column, make_history
from ablate.imports.hparams_yaml import read_hparams
from ablate.imports.log_files import LogFile, Notes
from ablate.imports.logged_run import History, LoggedRun
from ablate.imports.names import Names
from ablate.imports.run_names import make_id

SOURCE = "TensorBoard's event files"

_FIRST = b"brain.Event:"  # every event file begins with a record of its version
_HPARAMS, _SESSION = "hparams", "_hparams_/session_start_info"


def recognizes(file: LogFile) -> bool:
    return _FIRST in file.head[:64]


def read(files: Sequence[LogFile], names: Names, notes: Notes) -> list[LoggedRun]:
    """Read one run per folder. Raises `ResourceError` if the package is missing, `RecordError` if a file is damaged."""
    folders: dict[tuple[str, ...], list[LogFile]] = {}
    for file in files:
        folders.setdefault(file.folders, []).append(file)
    found = {place: _Folder(group, names, notes) for place, group in folders.items()}
    for place, folder in found.items():  # the hparams plugin writes into a folder of its own
        if folder.facts and not folder.has_curve and (above := found.get(place[:-1])) is not None:
            above.facts = {**folder.facts, **above.facts}
    return [folder.describe(place) for place, folder in found.items() if folder.has_curve or place[:-1] not in found]


class _Folder:
    """The requested scalars and the hyperparameters in the event files of one folder."""

    def __init__(self, files: Sequence[LogFile], names: Names, notes: Notes) -> None:
        self.facts = read_hparams(files[0].path.parent, notes)
        self.tags: set[str] = set()
        self.start_s = float("nan")
        self._wanted = frozenset(names.of_curves)
        self._points: dict[str, list[tuple[int, float, float]]] = {}
        self._scalars: set[str] = set()
        parts = [(first, events) for file in files if (first := next(events := _read_events(file.path), None))]
        for first, events in sorted(parts, key=lambda part: float(part[0].wall_time)):
            self.start_s = float(np.fmin(self.start_s, first.wall_time))
            for event in events:
                self._add(event)

    @property
    def has_curve(self) -> bool:
        return any(len(points) > 1 for points in self._points.values())

    def describe(self, place: tuple[str, ...]) -> LoggedRun:
        histories = {tag: self._history(points) for tag, points in self._points.items() if points}
        tags = frozenset(self.tags)
        return LoggedRun(make_id(place), "finished", self.facts, tags, histories, self.start_s, place=place)

    def _add(self, event: Any) -> None:
        if event.HasField("session_log"):
            if event.session_log.status == event.session_log.START:  # the run went back to this step
                for tag, points in self._points.items():
                    self._points[tag] = [point for point in points if point[0] < event.step]
            return
        for value in event.summary.value:
            kind, plugin = value.WhichOneof("value"), value.metadata.plugin_data.plugin_name
            if plugin == "scalars":
                self._scalars.add(value.tag)  # later points of a tag do not repeat it
            if plugin == _HPARAMS and value.tag == _SESSION:
                self.facts = {**self.facts, **_read_session(value.metadata.plugin_data.content)}
            elif kind == "simple_value" or (kind == "tensor" and value.tag in self._scalars):
                self.tags.add(value.tag)
                if value.tag in self._wanted:
                    number = value.simple_value if kind == "simple_value" else _read_tensor(value.tensor)
                    self._points.setdefault(value.tag, []).append((event.step, event.wall_time, number))

    def _history(self, points: Sequence[tuple[int, float, float]]) -> History:
        step_p, time_p, value_p = np.array(points, np.float64).T
        there = np.ones(step_p.size, bool)
        return make_history(Column(step_p, there), time_p, Column(value_p, there))


def _read_events(path: Path) -> Iterator[Any]:
    try:
        from google.protobuf.message import DecodeError
        from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
    except ImportError:
        raise ResourceError(
            f"{path}: this is a TensorBoard event file. To read it, run: pip install 'ablate-studies[tensorboard]'"
        ) from None
    try:
        yield from LegacyEventFileLoader(os.fspath(path)).Load()
    except (DecodeError, UnicodeError):
        raise RecordError(f"{path}: this event file is damaged") from None


def _read_tensor(tensor: Any) -> float:
    from tensorboard.util import tensor_util

    numbers = np.asarray(tensor_util.make_ndarray(tensor)).ravel()
    return float(numbers[0]) if numbers.size == 1 else float("nan")


def _read_session(content: bytes) -> dict[str, str]:
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    found = HParamsPluginData.FromString(content).session_start_info.hparams
    kinds = {name: value.WhichOneof("kind") for name, value in found.items()}
    return {name: str(getattr(found[name], kind)) for name, kind in kinds.items() if kind in _VALUES}


_VALUES = ("number_value", "string_value", "bool_value")
