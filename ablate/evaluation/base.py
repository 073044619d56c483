"""The contract of an evaluation: what it is given, and the rows that it returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch

from ablate.data import Corpus, Tokenizer
from ablate.metrics import Direction
from ablate.study.tuning import Frozen
from ablate_model.gpt import HeadedModel

Need = Literal["corpus", "tokenizer"]


@dataclass(frozen=True)
class Subject:
    """A trained model to evaluate, in evaluation mode on `device`.

    `context_length` is the number of tokens that it was trained on. `corpus` and `tokenizer` are those of its training,
    and None where they are not available. `seed` is the run's; random draws of an evaluation must not depend on it, so
    that all arms and seeds see the same items.
    """

    model: HeadedModel
    device: torch.device
    context_length: int
    tokenizer: Tokenizer | None = None
    corpus: Corpus | None = None
    seed: int = 0


@dataclass(frozen=True)
class Row:
    """One result: the mean of `metric` over `n` items, of the cell `within`, such as {"needles": 2, "depth": 0.5}.

    `standard_error` is over items, and None if the result has no items. `chance` is what guessing scores, if
    that is defined. A cell that cannot be evaluated has `value` None, `n` 0 and the reason in `note`. `is_factor` marks
    a value like "4 times", above 0, whose logarithms are averaged over seeds.
    """

    metric: str
    value: float | None
    n: int
    within: Mapping[str, str | int | float] = field(default_factory=dict)
    standard_error: float | None = None
    chance: float | None = None
    note: str = ""
    is_factor: bool = False


class Evaluation(Frozen, ABC):
    """A measurement of a trained model. The fields of a subclass are its knobs.

    `version` is raised when the same model would get other numbers. `metrics` maps each metric to its better
    direction, or to None where neither is better. `source` names the paper or the protocol. `kinds` are the kinds of
    models that it can evaluate, such as `gpt`; None stands for all. `needs` are the parts of the training that it
    cannot do without. `paths` are the knobs that name files or folders: relative ones start at the working directory,
    or else at the grid's folder.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    metrics: ClassVar[Mapping[str, Direction | None]]
    source: ClassVar[str] = ""
    kinds: ClassVar[frozenset[str] | None] = frozenset({"gpt"})
    needs: ClassVar[frozenset[Need]] = frozenset()
    paths: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def evaluate(self, subject: Subject) -> Iterator[Row]:
        """Yield the rows. Raises `DataError` where files that it needs are missing or of the wrong kind."""

    def describe(self) -> dict[str, Any]:
        """The name, the version and the knobs: everything but the weights that decides the result."""
        return {"name": self.name, "version": self.version, **self.model_dump(mode="json")}
