"""The finished runs whose weights are the start of an arm. They are checked before anything is trained.

The parent is another study, or one folder of weights. A run's id holds the id of the run that it starts from, never a
path.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ablate.data.tokenizers import load_tokenizer
from ablate.errors import DataError, GridError, RecordError, suggest
from ablate.formatting import count, quote
from ablate.plan.axes import Assignment, Axes, arm_name, display
from ablate.study.data_schema import DataConfig
from ablate.study.declaration import Study
from ablate.study.settings import is_same
from ablate.study.start import SEED, StartFrom
from ablate.study.yaml_source import KeyPath
from ablate.tracking.folders import RunFolder, StudyFolder
from ablate.tracking.json_files import read_mapping
from ablate.tracking.study_record import ArmRecord, StudyRecord
from ablate.tracking.weights import read_layout
from ablate_model import ConfigError, ModelConfig

PLACE = "start_from"
MOST_NAMED = 6  # arms in a message
_ABSENT = object()  # the level of an axis that an arm does not have

Tokens = tuple[str, str | None]  # the settings tokenizer and tokenizer_path


@dataclass(frozen=True)
class Parent:
    """One set of weights to start from. `identity` is the id of its run, or the hash of a folder's weights."""

    identity: str
    name: str
    folder: RunFolder
    is_run: bool = True

    @cached_property
    def flaw(self) -> str:
        """Why it has no finished weights; empty if it has."""
        if self.is_run:
            status = self.folder.read_status()
            if status.state != "finished":
                return f"{self.name} is {self.folder.shown_state(status)}: finish it first, with `ablate run`"
            if status.is_cut:
                return f"{self.name} was stopped early, at step {status.step}: finish it first, with `ablate run`"
        flaw = self.folder.weights_flaw()
        return flaw and f"{self.name}: {flaw}"

    @cached_property
    def model(self) -> Mapping[str, Any]:
        """The model section of its config. Raises `RecordError` if it cannot be read."""
        config = read_mapping(self.folder.config)
        model = config.get("model", config)
        if not isinstance(model, dict):
            raise RecordError(f"{self.folder.config}: it describes no model")
        return model


@dataclass(frozen=True)
class Start:
    """What the runs of an arm start from. `parents` has the parent of each seed, and `fresh` the tensors that start
    fresh because the vocabulary, the context or the classes differ. `identity` belongs to the arm's: it depends on the
    parent's settings, and on its seed unless runs are matched by seed."""

    parents: Mapping[int, Parent]
    identity: Mapping[str, str]
    name: str
    fresh: tuple[str, ...] = ()

    @property
    def notices(self) -> tuple[str, ...]:
        if not self.fresh:
            return ()
        return (f"{', '.join(self.fresh)}: fresh, because the shape differs from that of {self.name}",)


@dataclass(frozen=True)
class Starts:
    """The parents of a study's arms. Raises `GridError` where a parent is missing, ambiguous, or does not fit."""

    study: Study
    axes: Axes
    start: StartFrom
    store: StudyFolder | None = None
    record: StudyRecord | None = None
    _fitted: dict[tuple[str, ModelConfig], tuple[str, ...]] = field(default_factory=dict)

    def find(self, arm: Assignment, seeds: Iterable[int], base: Mapping[str, Any]) -> Start:
        """What an arm starts from. `base` has the values of settings that are no axes."""
        if self.store is None or self.record is None:
            parent = self._folder
            return Start(dict.fromkeys(seeds, parent), {"run": parent.identity}, parent.name)
        found = self._find_arm(arm, base, self.record)
        if not found.identity:
            raise self._refuse("study", f"{self.record.study} was recorded by an older version: `ablate run` renews it")
        runs = {run.seed: run.run_id for run in self.record.runs if run.arm == found.arm}
        where = f"of {self.record.study}"

        def parent_of(seed: int) -> Parent:
            return Parent(runs[seed], f"{found.arm},seed={seed} {where}", self.store.run(runs[seed]))  # type: ignore[union-attr]

        if SEED not in self.start.match:
            if len(runs) != 1:
                message = f"the arm {found.arm} {where} has {count(len(runs), 'run')} of different seeds: add {SEED}"
                raise self._refuse("match", message)
            only = parent_of(next(iter(runs)))
            return Start(dict.fromkeys(seeds, only), {"run": only.identity}, only.name)
        wanted = {seed: self.start.parent_seed(seed) for seed in seeds}
        missing = [str(seed) for seed in dict.fromkeys(wanted.values()) if seed not in runs]
        if missing:
            message = f"the arm {found.arm} {where} has no run of the {'seed' if len(missing) == 1 else 'seeds'} "
            raise self._refuse("study", f"{message}{', '.join(missing)} (it has: {', '.join(map(str, sorted(runs)))})")
        parents = {seed: parent_of(parent) for seed, parent in wanted.items()}
        return Start(parents, {"arm": found.identity}, f"{found.arm} {where}")

    def fit(self, start: Start, config: ModelConfig, tokenizer: Tokens | None, arm: str) -> Start:
        """The start with the tensors that are fresh. A parent without readable weights is left to `check_parents`."""
        from ablate_model.transfer import find_fresh

        parent = next((parent for parent in start.parents.values() if not parent.flaw), None)
        if parent is None:
            return start
        key = (parent.identity, config)
        if key not in self._fitted:
            try:
                found = read_layout(parent.folder.weights)
                self._fitted[key] = find_fresh(config, parent.model, found, parent.name)
            except RecordError as error:
                raise self._refuse("", str(error)) from None
            except ConfigError as error:
                tensor = f"the tensor {error.path} does not fit: " if error.path else ""
                raise self._refuse("", f"the arm {arm}: {tensor}{error.message}") from None
            if tokenizer is not None and parent.model.get("vocab_size") == config.vocab_size:
                self._check_tokens(parent, tokenizer, arm)
        return replace(start, fresh=self._fitted[key])

    def _find_arm(self, arm: Assignment, base: Mapping[str, Any], record: StudyRecord) -> ArmRecord:
        """The only arm of the parent that has the levels of `match`."""
        wanted = {axis: self._level(axis, arm, base) for axis in self.start.axes}
        found = [
            other
            for other in record.arms
            if all(self._has_level(other, axis, levels) for axis, levels in wanted.items())
        ]
        if len(found) == 1:
            return found[0]
        if not found:
            levels = ", ".join(f"{axis}={_show(level)}" for axis, level in wanted.items())
            known = ", ".join(other.arm for other in record.arms[:MOST_NAMED])
            more = f" and {len(record.arms) - MOST_NAMED} more" if len(record.arms) > MOST_NAMED else ""
            message = f"{record.study} has no arm with {levels}, which the arm {arm_name(arm)} starts from"
            raise self._refuse("match", f"{message} (its arms: {known}{more})")
        names = " and ".join(other.arm for other in found[:2])
        differing = [axis for axis in record.axes if len({_show(other.axes.get(axis, _ABSENT)) for other in found}) > 1]
        message = f"{len(found)} arms of {record.study} match the arm {arm_name(arm)}, such as {names}"
        raise self._refuse("match", f"{message}: add {' or '.join(differing)}")

    def _level(self, axis: str, arm: Assignment, base: Mapping[str, Any]) -> tuple[Any, ...]:
        """The level of an arm on an axis, as its label and its name; the base's value where it is no axis here."""
        own = self.axes.names.axis_of(axis, self.axes.levels)
        if own is None:
            path = self.axes.names.path(axis)
            return (base.get(axis, base.get(path, _ABSENT)),)
        level = arm.get(own)
        return (_ABSENT,) if level is None else (level.label, level.name)

    def _has_level(self, parent: ArmRecord, axis: str, levels: Sequence[Any]) -> bool:
        path = self.axes.names.path(axis)
        own = next((level for name, level in parent.axes.items() if self.axes.names.path(name) == path), _ABSENT)
        return any(own is level or is_same(own, level) for level in levels)

    @cached_property
    def tokenizer(self) -> Tokens | None:
        """The tokenizer of the parent's training; None if it is not known."""
        if self.record is None or self.store is None or self.record.data.get("source") == "bin":
            return None
        described: Mapping[str, Any] = self.record.data
        with suppress(RecordError, StopIteration):  # a task's tokenizer may be a default, which its runs state
            task = read_mapping(self.store.run(next(iter(self.record.runs)).run_id).config).get("task")
            described = {**described, **task} if isinstance(task, dict) else described
        name, path = described.get("tokenizer"), described.get("tokenizer_path")
        return (str(name), path if isinstance(path, str) else None) if name else None

    def _check_tokens(self, parent: Parent, own: Tokens, arm: str) -> None:
        """Raises `GridError` if equal token ids mean other text than in the parent's training."""
        theirs = self.tokenizer
        if theirs is None or theirs[0] == own[0]:
            return
        with suppress(DataError):  # the same file may have two names
            mine, other = (load_tokenizer(_read(each), self.study.folder).identity for each in (own, theirs))
            if mine == other:
                return
        message = f"the arm {arm} starts from {parent.name}, which read the tokens of {quote(theirs[0])}"
        place = "data" if self.study.is_language_model else "task"
        raise self.study.refuse((place, "tokenizer"), f"{message}: use that tokenizer, not {quote(own[0])}")

    @cached_property
    def _folder(self) -> Parent:
        folder = find_place(self.study, self.start.folder or "", "model.safetensors")
        if folder is None:
            raise self._refuse("folder", f"{self.start.folder}: no folder with a model.safetensors is here")
        try:
            digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
        except OSError as error:
            raise self._refuse("folder", f"{folder}: cannot be read: {error.strerror or error}") from None
        return Parent(f"sha256:{digest}", str(self.start.folder), RunFolder(folder), is_run=False)

    def _refuse(self, key: str, message: str) -> GridError:
        return self.study.refuse((PLACE, key) if key else (PLACE,), message)


def read_starts(declared: object, axes: Axes) -> Starts | None:
    """The parents of a grid's arms; None without `start_from`. Raises `GridError` if the parent cannot be used."""
    start = declared.start_from if isinstance(declared, Study) else None
    if start is None:
        return None
    assert isinstance(declared, Study)
    starts = Starts(declared, axes, start)
    if start.study is None:
        return starts
    place: KeyPath = (PLACE, "study")
    folder = find_place(declared, start.study, "study.json")
    if folder is None:
        runs = start.runs or Path("runs")
        near = suggest(start.study, sorted(path.parent.name for path in runs.glob("*/study.json")))
        raise declared.refuse(place, f"no study {quote(start.study)} was run{near}")
    store = StudyFolder(folder)
    try:
        record = store.read_study()
    except RecordError as error:
        raise declared.refuse(place, str(error)) from None
    known = {axes.names.path(axis): axis for axis in record.axes}
    for axis in start.axes:
        if axes.names.path(axis) not in known:
            legal = [*record.axes, SEED]
            raise declared.refuse((PLACE, "match"), f"{record.study} has no axis {quote(axis)}{suggest(axis, legal)}")
        if axes.names.axis_of(axis, axes.levels) is None:
            try:
                axes.names.check_axis(axis)
            except ValueError as error:
                raise declared.refuse((PLACE, "match"), str(error)) from None
    return replace(starts, store=store, record=record)


def find_place(study: Study, name: str, file: str) -> Path | None:
    """Find a folder with this file in it, by name: near the grid, in the working directory, or among all studies."""
    runs = study.start_from.runs if study.start_from else None
    bases = [study.folder, Path(), *([runs] if runs is not None else [])]
    return next((place.resolve() for base in bases if (place := base / name, (place / file).is_file())[1]), None)


def check_parents(study: Study, runs: Iterable[tuple[str, Parent | None]]) -> None:
    """Raises `GridError` where a run that is left to train starts from a run that has no finished weights."""
    place = study.start_from.runs if study.start_from else None
    store = StudyFolder(place / study.name) if place is not None else None
    for run_id, parent in runs:
        if parent is None or not parent.flaw:
            continue
        own = store.run(run_id) if store is not None else None
        if own is None or not own.has_ended(own.read_status()):
            raise study.refuse((PLACE,), parent.flaw)


def _read(tokenizer: Tokens) -> DataConfig:
    """A data section with a tokenizer, which has no files."""
    name, path = tokenizer
    return DataConfig(source="text", path=("-",), tokenizer=name, tokenizer_path=path)


def _show(level: Any) -> str:
    if isinstance(level, tuple):
        level = level[0]
    return "nothing" if level is _ABSENT else display(level)
