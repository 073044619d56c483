"""Resolve the arms of a task: its settings, its data, and the model that fits them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from ablate.data import CorpusInfo
from ablate.errors import DataError
from ablate.plan.axes import Assignment, Axes
from ablate.plan.compiling import choose_compile
from ablate.plan.processes import check_processes
from ablate.plan.resolve import Resolver
from ablate.plan.setup import Resolved
from ablate.plan.stacking import check_stack
from ablate.plan.task_setup import UNREAD, TaskSetup
from ablate.study.declaration import Declaration
from ablate.study.overlay import Overlay
from ablate.study.schema import TrainConfig
from ablate.study.settings import Settings
from ablate.study.yaml_source import Place
from ablate.tasks.task import DataInfo, Task, read_task, task_class
from ablate_model import ConfigError


class TaskResolver(Resolver):
    """Resolves the settings of a task too, and completes those of the model from its data.

    Raises `GridError` for data that cannot be used, and for a model that does not fit them.
    """

    def __init__(
        self,
        declared: Declaration,
        axes: Axes,
        corpus: CorpusInfo,
        overlays: Sequence[Overlay] = (),
        budget: Mapping[str, Place] | None = None,
    ) -> None:
        super().__init__(declared, axes, corpus, overlays, budget)
        self.task_class = task_class(declared.task["name"])
        self._known: dict[str, tuple[Task, DataInfo]] = {}
        if "data" in declared.model_fields_set:
            message = f"{self.task_class.name} does not read it: its data are settings of `task`"
            raise declared.refuse(("data",), message)
        for key in UNREAD:
            if getattr(declared.train, key) == TrainConfig.model_fields[key].default:
                continue  # a search fills in every setting
            raise declared.refuse(("train", key), f"{self.task_class.name} does not read it: {UNREAD[key]}")

    def _conclude(self, settings: Settings, arm: Assignment, notices: Sequence[str]) -> Resolved:
        self._keep_tokenizer(settings)
        task, data = self._read_task(settings)
        for name, value in data.settings.items():
            if settings.get(f"model.{name}") is None:
                settings.set(f"model.{name}", value)
        key = f"{data.hash} {settings.get('model')!r}"
        if key not in self._models:
            self._models[key] = self._build_model(settings, task.config_class)
            try:
                task.check_model(self._models[key], data)
            except ConfigError as error:
                raise self._refuse(f"model.{error.path}" if error.path else "task", settings, error.message) from None
        config = self._models[key]
        training, chosen = choose_compile(self._parse_train(settings, config), config)
        try:
            task.check_training(training)
        except ConfigError as error:
            raise self._refuse(f"task.{error.path}", settings, error.message) from None
        check_processes(self.declared, training, arm)
        check_stack(self.declared, config, training, arm)
        setup = TaskSetup(config, training, task, data, self.declared.folder)
        idle = [
            f"task.{knob} has no effect: {why}" for knob, why in task.idle().items() if knob in task.model_fields_set
        ]
        return Resolved(setup, (*notices, *config.notices(), *data.notices, *idle, *chosen), frozenset(settings.places))

    def _keep_tokenizer(self, settings: Settings) -> None:
        """Take the parent's tokenizer where the grid names none."""
        known = self.starts.tokenizer if self.starts is not None else None
        fields = ("tokenizer", "tokenizer_path")
        if known is None or any(settings.get(f"task.{name}") is not None for name in fields):
            return
        for name, value in zip(fields, known, strict=True):
            if name in self.task_class.model_fields and value is not None:
                settings.set(f"task.{name}", value)

    def _read_task(self, settings: Settings) -> tuple[Task, DataInfo]:
        """Parse the task and describe its data. Arms with the same task share both."""
        key = json.dumps(settings.get("task"), sort_keys=True, default=str)
        if key not in self._known:
            try:
                task = read_task(settings.get("task"))
                self._known[key] = task, task.describe(self.declared.folder)
            except ConfigError as error:
                legal = f" (legal: {', '.join(map(str, error.legal))})" if error.legal else ""
                path = f"task.{error.path}" if error.path else "task"
                raise self._refuse(path, settings, f"{error.message}{legal}") from None
            except DataError as error:
                path, _, rest = str(error).partition(": ")
                is_knob = path.removeprefix("task.") in self.task_class.model_fields
                raise self._refuse(path if is_knob else "task", settings, rest if is_knob else str(error)) from None
        return self._known[key]
