"""The metrics of a study: their names, and which direction of each is better."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import AfterValidator, BeforeValidator

from ablate.errors import suggest
from ablate.formatting import quote

Direction = Literal["lower", "higher"]

LONGEST_NAME = 64
_NAME = re.compile(rf"[A-Za-z_][\w./@-]{{0,{LONGEST_NAME - 1}}}", re.ASCII)
# What else a line of a curve, or a table of all curves, holds under its own name.
_TAKEN = (
    "step",
    "tokens",
    "flops",
    "wall_s",
    "learning_rate",
    "grad_norm",
    "tokens_per_s",
    "run_id",
    "arm",
    "seed",
    "state",
)

# Metrics of ablate's tasks in words: the name in a sentence, and after an adjective, as in `the final accuracy`.
_WORDS: Mapping[str, tuple[str, str]] = {
    "val_loss": ("validation loss", "loss"),
    "val_accuracy": ("validation accuracy", "accuracy"),
    "val_token_accuracy": ("validation token accuracy", "token accuracy"),
    "val_exact_match": ("validation exact match", "exact match"),
    "val_bleu": ("validation BLEU", "BLEU"),
    "val_mean_phase_loss": ("validation loss (mean over the ends of phases)", "mean loss of the phases"),
    "val_phase_loss_trend": ("trend of the validation loss per phase", "trend of the loss per phase"),
    "val_phase_loss": ("validation loss at the end of a phase", "loss at the end of the last phase"),
    "val_mean_phase_accuracy": ("validation accuracy (mean over the ends of phases)", "mean accuracy of the phases"),
    "val_phase_accuracy_trend": ("trend of the validation accuracy per phase", "trend of the accuracy per phase"),
    "val_phase_accuracy": ("validation accuracy at the end of a phase", "accuracy at the end of the last phase"),
    "val_f1": ("validation F1", "F1"),
}

_SUMMARIES = frozenset(name for name in _WORDS if name.startswith("val_mean_phase_") or name.endswith("_trend"))

T = TypeVar("T")


@dataclass(frozen=True)
class Metric:
    """A metric: the key in a line of a curve, and the better direction.

    `is_loss` holds for the validation loss of a language model, in nats per token. The unit of any other metric is not
    known.
    """

    name: str
    direction: Direction
    is_loss: bool = False

    @property
    def sign(self) -> float:
        """1 if lower is better, -1 if higher is."""
        return 1.0 if self.direction == "lower" else -1.0

    @property
    def wanted(self) -> str:
        """The kind of value that is good: `low` or `high`."""
        return self.direction.removesuffix("er")

    @property
    def label(self) -> str:
        """The name in a sentence: `validation loss`, `validation accuracy`, `val_acc`."""
        return self._words[0]

    @property
    def title(self) -> str:
        """The name at the beginning of a sentence: `Validation loss`, `val_acc`."""
        return self._begin(self.label)

    @property
    def short(self) -> str:
        """The name after an adjective, as in `the final loss`, `the final val_acc`."""
        return self._words[1]

    @property
    def indefinite(self) -> str:
        """The short name with its article: `a loss`, `an accuracy`."""
        return f"{'an' if self.short[0].lower() in 'aeiou' else 'a'} {self.short}"

    @property
    def heading(self) -> str:
        """The short name at the beginning of a column's title: `Loss`, `Accuracy`, `val_acc`."""
        return self._begin(self.short)

    def _begin(self, words: str) -> str:
        return words if words == self.name else words[0].upper() + words[1:]

    @property
    def _words(self) -> tuple[str, str]:
        return _WORDS.get(self.name, (self.name, self.name))

    @property
    def has_curve(self) -> bool:
        """Whether it is measured along training. A summary of phases has one value, so there is no cost to reach it."""
        return self.name not in _SUMMARIES

    @property
    def side(self) -> str:
        """The side of a target on which a value has reached it."""
        return "below" if self.direction == "lower" else "above"

    @property
    def unit(self) -> str:
        """The unit of a difference, with a space before it; empty for a metric of unknown unit."""
        return " nats" if self.is_loss else ""

    @property
    def full_label(self) -> str:
        """The name with its unit, for an axis: `validation loss (nats per token)`, `val_acc`."""
        return f"{self.label} (nats per token)" if self.is_loss else self.label

    def orient(self, value: Any) -> Any:
        """Turn a value, or an array of values, so that lower is better. Doing it twice changes nothing.

        All statistics work on turned values, so a metric and its negative give the same verdicts, digit for digit.
        """
        return value if self.direction == "lower" else -value

    def orient_interval(self, low: T, high: T) -> tuple[T, T]:
        """Turn the two ends of an interval, of which either may be None."""
        if self.direction == "lower":
            return low, high
        return _negate(high), _negate(low)

    def worse_end(self, bounds: tuple[float, float]) -> float:
        """The worse of two bounds, low and high."""
        return bounds[1] if self.direction == "lower" else bounds[0]

    def is_better(self, value: float, other: float) -> bool:
        """Tell whether a value is strictly better than another one. nan is never better."""
        return bool(self.orient(value) < self.orient(other))

    def best(self, values: Iterable[float]) -> float:
        """Return the best of the values. Raises `ValueError` without any value."""
        return min(values) if self.direction == "lower" else max(values)


def _negate(value: Any) -> Any:
    return None if value is None else -value


def _check_direction(value: object) -> object:
    legal = get_args(Direction)
    if value not in legal:
        raise ValueError(f"unknown direction {quote(value)}{suggest(value, legal)}")
    return value


def _read_pairs(value: object) -> object:
    """Read metrics from a record, which lists them as pairs because JSON objects are written with sorted keys."""
    if isinstance(value, list | tuple) and all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in value):
        return dict(value)
    return value


def _check_names(value: Mapping[str, Direction]) -> Mapping[str, Direction]:
    if not value:
        raise ValueError("name at least one metric, with its better direction: lower or higher")
    for name in value:
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"{quote(name)} is not a metric's name: use letters, digits and _ . / @ -, starting with a letter, "
                f"at most {LONGEST_NAME} characters"
            )
        if name in _TAKEN:
            raise ValueError(f"{name!r} cannot be a metric: a line of a curve has another value of that name")
    return value


# Metrics to their better directions. The first is the one by which arms are compared.
Metrics = Annotated[
    Mapping[str, Annotated[Direction, BeforeValidator(_check_direction)]],
    BeforeValidator(_read_pairs),
    AfterValidator(_check_names),
]

LOSS = Metric("val_loss", "lower", is_loss=True)
LANGUAGE_MODEL: Mapping[str, Direction] = {LOSS.name: LOSS.direction}


def metrics_of_phases(measures: Mapping[str, Direction], name: str) -> dict[str, Direction]:
    """The metrics of runs with phases, for one of the measures, such as `loss`, and then the measures.

    `val_mean_phase_loss` is the mean over phases of the validation loss at the end of a phase, on the phase's own data,
    `val_phase_loss_trend` its slope per phase (least squares), and `val_phase_loss` its value at the end of each phase.
    """
    names = (f"val_mean_phase_{name}", f"val_phase_{name}_trend", f"val_phase_{name}")
    return {**dict.fromkeys(names, measures[f"val_{name}"]), **measures}


def list_metrics(metrics: Mapping[str, Direction]) -> tuple[Metric, ...]:
    """List the metrics in their order."""
    if metrics == LANGUAGE_MODEL:
        return (LOSS,)
    return tuple(Metric(name, direction) for name, direction in metrics.items())
