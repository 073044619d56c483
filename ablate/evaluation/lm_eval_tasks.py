"""Tasks of EleutherAI's harness, run by the harness itself."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from ablate.errors import DataError, suggest
from ablate.evaluation.base import Row, Subject
from ablate.evaluation.language_model import LanguageModelEvaluation, refuse
from ablate.evaluation.multiple_choice import hash_files
from ablate.metrics import Direction
from ablate_model import GPT

PACKAGE = "lm_eval"


class LmEval(LanguageModelEvaluation):
    """Tasks of the harness by their names there, or defined by YAML files in the folder `include_path`.

    Task data comes from where the harness looks for it: where there is no network, from local files that a task in
    `include_path` names (`dataset_path: json` with `data_files`). Metrics that are not in the list are left out.
    """

    name: ClassVar[str] = "lm_eval"
    metrics: ClassVar[Mapping[str, Direction | None]] = {
        "acc": "higher",
        "acc_norm": "higher",
        "acc_bytes": "higher",
        "exact_match": "higher",
        "em": "higher",
        "f1": "higher",
        "mcc": "higher",
        "perplexity": "lower",
        "word_perplexity": "lower",
        "byte_perplexity": "lower",
        "bits_per_byte": "lower",
    }
    source: ClassVar[str] = "EleutherAI's lm-evaluation-harness"
    needs = frozenset({"tokenizer"})
    paths: ClassVar[frozenset[str]] = frozenset({"include_path"})

    tasks: tuple[str, ...] = Field(min_length=1, description="names of tasks")
    include_path: str | None = Field(None, description="a folder with more tasks as YAML files")
    num_fewshot: int | None = Field(None, ge=0, description="examples in the context; null is the task's own number")
    limit: int | None = Field(None, ge=1, description="items per task, from the first on")

    def describe(self) -> dict[str, Any]:
        files = None if self.include_path is None else hash_files(Path(self.include_path))
        return {**super().describe(), "harness": _find_version(), "include_path": files}

    def measure(self, model: GPT, subject: Subject) -> Iterator[Row]:
        if importlib.util.find_spec(PACKAGE) is None:
            raise DataError("lm_eval: the package is missing: pip install 'ablate-studies[eval]'")
        assert subject.tokenizer is not None
        if subject.tokenizer.separator is None:
            yield from refuse(["acc"], "its tokenizer has no token that starts a document")
            return
        import lm_eval
        from lm_eval.tasks import TaskManager

        from ablate.evaluation.harness import HarnessModel

        manager = TaskManager(include_path=self.include_path)
        for task in self.tasks:
            if task not in manager.all_tasks:
                raise DataError(f"lm_eval.tasks: unknown task {task!r}{suggest(task, manager.all_tasks)}")
        adapter = HarnessModel(model, subject.tokenizer, subject.device, subject.context_length)
        found = lm_eval.simple_evaluate(
            model=adapter,
            tasks=list(self.tasks),
            num_fewshot=self.num_fewshot,
            limit=self.limit,
            task_manager=manager,
            bootstrap_iters=100,
        )
        for task, results in found["results"].items():
            yield from self._list_rows(task, results, found["samples"].get(task, ()))

    def _list_rows(self, task: str, results: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]) -> Iterator[Row]:
        numbers = [len(sample["arguments"]) for sample in samples]
        chance = sum(1 / n for n in numbers) / len(numbers) if numbers and min(numbers) > 1 else None
        for key, value in results.items():
            metric, _, kind = key.partition(",")
            if metric in self.metrics and isinstance(value, int | float):
                error = results.get(f"{metric}_stderr,{kind}")
                within = {"task": task} if kind in ("", "none") else {"task": task, "filter": kind}
                is_share = metric in ("acc", "acc_norm", "acc_bytes")
                spread = float(error) if isinstance(error, int | float) else None
                yield Row(metric, float(value), len(samples), within, spread, chance if is_share else None)


def _find_version() -> str:
    try:
        return importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return "none"
