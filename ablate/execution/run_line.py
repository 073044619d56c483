"""A run in the view of a study: what is known of it, and how each column shows it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ablate.formatting import format_count, format_seconds
from ablate.metrics import LOSS, Metric
from ablate.plan import Run

LEVELS = "▁▂▃▄▅▆▇█"
VALUE = "val"  # the column of the metric: its name, unless it is a validation loss
CURVE, BAR = "curve", "progress"  # columns that draw
CURVE_WIDTH, BAR_WIDTH, MOST_POINTS = 12, 10, 512


def draw_sparkline(values: Sequence[float], width: int) -> str:
    """Draw at most `width` of the values, evenly spaced from the first to the last, from their lowest to their highest.

    Values that are not finite are shown as "!". Fewer than two values, or values that are all the same, give a flat
    line.
    """
    n, last = min(len(values), width), len(values) - 1
    shown = [values[round(last * place / (n - 1)) if n > 1 else last] for place in range(n)]
    finite = [value for value in shown if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    per_level = (high - low) / (len(LEVELS) - 1)
    return "".join(
        "!" if not math.isfinite(value) else LEVELS[round((value - low) / per_level) if per_level else 0]
        for value in shown
    )


def draw_bar(share: float, width: int) -> str:
    """Draw a bar of `width` characters that is filled up to `share`, from 0 to 1."""
    filled = int(min(max(share, 0.0), 1.0) * width)
    return "━" * filled + "╌" * (width - filled)


@dataclass
class RunLine:
    """What the view knows of a run."""

    run: Run
    metric: Metric = LOSS
    state: str = "waiting"
    step: int = 0
    train_loss: float | None = None
    value: float | None = None  # of the metric, at the last evaluation
    tokens_per_s: float = 0.0
    memory_bytes: int = 0
    shown_at: float = 0.0
    text: str = ""
    values: list[float] = field(default_factory=list)  # of the metric, the last `MOST_POINTS`
    losses: list[float] = field(default_factory=list)  # of training

    @property
    def name(self) -> str:
        return f"{self.run.arm.name},seed={self.run.seed}"

    @property
    def progress(self) -> str:
        n_steps = self.run.arm.n_steps
        return f"{self.step}/{n_steps}" if n_steps else str(self.step)

    @property
    def tokens_left(self) -> float | None:
        n_tokens, n_steps = self.run.arm.n_tokens, self.run.arm.n_steps
        return n_tokens * (1 - self.step / n_steps) if n_tokens and n_steps else None

    @property
    def left_s(self) -> float | None:
        tokens = self.tokens_left
        return tokens / self.tokens_per_s if self.tokens_per_s and tokens is not None else None

    @property
    def curve(self) -> str:
        """The metric so far, or the training loss before there are two values of it."""
        return draw_sparkline(self.values if len(self.values) > 1 else self.losses, CURVE_WIDTH)

    @property
    def bar(self) -> str:
        n_steps = self.run.arm.n_steps
        return draw_bar(self.step / n_steps, BAR_WIDTH) if n_steps else ""

    def update(self, record: Mapping[str, Any]) -> None:
        self.step = record["step"]
        self.train_loss = record.get("train_loss")
        self.value = record.get(self.metric.name, self.value)
        for values, key in ((self.values, self.metric.name), (self.losses, "train_loss")):
            if isinstance(value := record.get(key), int | float):
                values.append(value)
                del values[:-MOST_POINTS]
        self.tokens_per_s = record.get("tokens_per_s") or self.tokens_per_s
        self.memory_bytes = record.get("memory_bytes") or self.memory_bytes


COLUMNS: Mapping[str, Callable[[RunLine], str]] = {
    BAR: lambda line: line.bar,
    CURVE: lambda line: line.curve,
    "step": lambda line: line.progress,
    "loss": lambda line: "" if line.train_loss is None else f"{line.train_loss:.4f}",
    VALUE: lambda line: "" if line.value is None else f"{line.value:.4f}",
    "tok/s": lambda line: format_count(line.tokens_per_s) if line.tokens_per_s else "",
    "memory": lambda line: f"{format_count(line.memory_bytes)}B" if line.memory_bytes else "",
    "left": lambda line: "" if line.left_s is None else format_seconds(line.left_s),
}
