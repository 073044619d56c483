"""An arm that trains one of ablate's models on another task than language modeling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablate.plan.estimate import Pace, run_bytes, run_seconds
from ablate.plan.identity import task_identities
from ablate.plan.setup import ModelSetup
from ablate.study.data_schema import DataConfig
from ablate.study.declaration import Declaration
from ablate.tasks.task import DataInfo, Task

# Settings of `train` that only language models read. A task says itself what it measures.
UNREAD = {"eval_tokens": "an evaluation of this task measures its own validation data"}


@dataclass(frozen=True)
class TaskSetup(ModelSetup):
    """A model, its training, and a task with its data. `base` is the folder at which paths may start."""

    task: Task
    data: DataInfo
    base: Path

    @property
    def rows(self) -> str:  # type: ignore[override]
        return self.task.rows

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "task": self.task.to_dict()}

    def identity(self, data_hash: str) -> str:
        return self.identities(data_hash)[0]

    def identities(self, data_hash: str) -> tuple[str, str]:  # noqa: ARG002 - the data are the task's own
        return task_identities(self.model, self.train, self.data.hash, self.task.identity(), frozenset(UNREAD))

    def data_hash(self, corpus_hash: str) -> str:  # noqa: ARG002 - the data are the task's own
        return self.data.hash

    @property
    def measured(self) -> str:
        return self.data.validation

    def tokenizer(self, data: DataConfig) -> tuple[str, str | None] | None:  # noqa: ARG002 - the task has its own
        name = getattr(self.task, "tokenizer", None)
        return None if name is None else (name, getattr(self.task, "tokenizer_path", None))

    def name_tokenizer(self) -> Mapping[str, Any]:
        known = self.task.model_dump(include={"tokenizer", "tokenizer_path"})
        return known if "tokenizer_path" in known else {}

    def directions(self, study: Path) -> Mapping[str, Any]:
        return {**super().directions(study), "task": self.task.locate(self.base).to_dict()}

    def describe_horizon(self, declared: Declaration | None = None) -> str:
        train = self.train if declared is None else declared.train
        n_rows = train.steps * train.batch_size
        epochs = f", {n_rows / self.data.n_train:.3g} epochs" if self.data.n_train else ""
        return f"{train.steps:,} steps of {train.batch_size} {self.rows} ({n_rows:,} {self.rows}{epochs})"

    def explain_idle(self) -> Mapping[str, str]:
        idle = {f"train.{key}": why for key, why in UNREAD.items()}
        return {**super().explain_idle(), **idle, **{f"task.{key}": why for key, why in self.task.idle().items()}}

    @property
    def tokens_per_row(self) -> int:
        return self.data.tokens_per_row or self.model.context_length

    @property
    def n_tokens(self) -> int:
        return self.train.steps * self.train.batch_size * self.tokens_per_row

    def seconds(self, pace: Pace) -> float:
        n_tokens = self.data.n_validation * self.tokens_per_row * self.task.passes_per_evaluation
        return run_seconds(self.model, self.train, pace, n_tokens, self.tokens_per_row)

    @property
    def memory_bytes(self) -> int:
        return run_bytes(self.model, self.train, self.tokens_per_row)

    @property
    def immaterial(self) -> frozenset[str]:
        return super().immaterial | UNREAD.keys()
