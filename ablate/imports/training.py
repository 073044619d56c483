"""One imported training: its arm and seed, and the curves of its metrics.

A training that was requeued consists of several runs, which are joined here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ablate.analysis.checked_records import clean
from ablate.analysis.curve_columns import Floats
from ablate.errors import RecordError
from ablate.imports.logged_run import History, LoggedRun
from ablate.imports.metric_curve import Curve, begins_late, counts_same_steps, join, settle, undo
from ablate.imports.names import Names, read_seed
from ablate.tracking.study_record import ENDED, State
from ablate.tracking.values import MAX_COUNT, Value, read_level, read_number

_MIRRORED_AXIS = "axis."  # the prefix of levels in runs that ablate itself mirrored
_OF_TRAINING = ("train_loss", "learning_rate", "grad_norm", "tokens_per_s")  # logged by training steps
NO_CURVE = Curve(*(np.empty(0),) * 3)


def choose(run: LoggedRun, names: tuple[str, ...]) -> str | None:
    """Choose the first name under which the run has a whole curve: at least half as long as its longest."""
    lengths = {name: run.histories[name].steps.size for name in names if name in run.histories}
    longest = max(lengths.values(), default=0)
    return next((name for name, length in lengths.items() if length and 2 * length >= longest), None)


@dataclass(frozen=True, eq=False)
class Training:
    """One run, or all runs of a requeued training, from the first to the last.

    `metrics` maps each column of a curve to its names in the order of preference.
    """

    pieces: tuple[LoggedRun, ...]
    names: Names
    metrics: Mapping[str, tuple[str, ...]]

    @property
    def run_id(self) -> str:
        return self.pieces[-1].run_id

    @cached_property
    def axes(self) -> Mapping[str, Value]:
        """Its levels; empty if no fact names its arm."""
        found = {name: self._look(name) for name in self.names.of("arm")}
        if "arm" not in self.names.chosen and found["arm"] is not None:
            mirrored = {name.removeprefix(_MIRRORED_AXIS): text for name, text in self.pieces[-1].facts.items()
                        if name.startswith(_MIRRORED_AXIS)}  # fmt: skip
            found = {**mirrored} or found
        return {clean(axis): read_level(clean(text)) for axis, text in found.items() if text is not None}

    @property
    def arm(self) -> str:
        names = self.names.of("arm")
        if len(names) == 1:
            return str(read_level(clean(self._look(names[0]) or "")))
        return ",".join(f"{axis}={level}" for axis, level in self.axes.items())

    @cached_property
    def seed(self) -> int | None:
        """None if it is not known. Raises `RecordError` if it is not a whole number."""
        text = self.fact("seed")
        try:
            return None if text is None else read_seed(text)
        except ValueError:
            raise RecordError(f"run {self.run_id}: its seed is {text!r}, which is not a whole number") from None

    def fact(self, what: str) -> str | None:
        """Return a fact that its runs agree on; None if they differ or do not have it."""
        found = {
            text
            for run in self.pieces
            if (text := next((text for name in self.names.of(what) if (text := run.facts.get(name))), None))
        }
        return found.pop() if len(found) == 1 else None

    def count_of(self, what: str) -> int:
        """Return a fact that is a positive whole number; 0 if it is not known."""
        number = read_number(self.fact(what) or "") or 0
        return int(number) if 0 < number <= MAX_COUNT else 0

    def _look(self, name: str) -> str | None:
        return self.pieces[-1].facts.get(name) or None

    @cached_property
    def histories(self) -> tuple[Mapping[str, History], ...]:
        """The metrics of each run by the column of a curve, with times in seconds since the training began."""
        shifted: list[Mapping[str, History]] = []
        elapsed = 0.0
        for index, run in enumerate(self.pieces):
            chosen = {what: name for what, names in self.metrics.items() if (name := choose(run, names))}
            found = {what: run.histories[name] for what, name in chosen.items()}
            if index:  # at step 0, a resumed run only checks itself
                found = {what: _select(history, history.steps > 0) for what, history in found.items()}
            start_s = run.start_s if index else _find_start(found, run.start_s)
            shift = elapsed - start_s
            found = {what: replace(history, times_s=history.times_s + shift) for what, history in found.items()}
            ends = [float(history.times_s.max()) for history in found.values() if history.times_s.size]
            elapsed = max(ends, default=elapsed)
            shifted.append(found)
        return tuple(shifted)

    @cached_property
    def curves(self) -> Mapping[str, Curve]:
        """The metrics that count the steps of the validation loss, by the column of a curve."""
        settled = self.settled
        loss = settled.get("val_loss", NO_CURVE)
        shared = {what: curve for what, curve in settled.items() if counts_same_steps(loss, curve) is not False}
        returns = tuple(set().union(*(curve.returns for curve in shared.values())))
        return {what: undo(curve, returns) for what, curve in shared.items()}

    @cached_property
    def settled(self) -> Mapping[str, Curve]:
        columns = dict.fromkeys(what for piece in self.histories for what in piece)
        return {what: settle(join([p[what] for p in self.histories if what in p])) for what in columns}

    @property
    def loss(self) -> Curve:
        return self.curves.get("val_loss", NO_CURVE)

    @cached_property
    def counts_training(self) -> bool | None:
        """Whether the validation loss is logged by training steps and not by epochs; None if this is not known."""
        last, n_steps, n_epochs = self.last_step, self.count_of("steps"), self.count_of("epochs")
        if n_epochs > 1 and last in (n_epochs - 1, n_epochs) and abs(n_steps - last) > self.loss.interval:
            return False
        told = {counts_same_steps(self.loss, self.settled[what]) for what in _OF_TRAINING if what in self.settled}
        return False if False in told else True if True in told else None

    @property
    def budget(self) -> int:
        """The planned steps, in the unit of the validation loss; 0 if not known."""
        return 0 if self.counts_training is False else self.count_of("steps")

    @property
    def last_step(self) -> int:
        return int(max((curve.steps[-1] for curve in self.curves.values() if curve.size), default=0))

    @cached_property
    def first_step(self) -> int:
        """The first step after 0 at which anything was logged; 0 without any."""
        firsts = [float(curve.steps[curve.steps > 0].min()) for curve in self.curves.values() if curve.steps.any()]
        return int(min(firsts, default=0))

    @cached_property
    def begins_late(self) -> bool:
        """Whether its curves begin in the middle of a training."""
        told = {begins_late(curve) for curve in self.curves.values()}
        return True in told and False not in told

    @property
    def state(self) -> State:
        """The state of its last run; `diverged` if the last logged loss is not finite, however the run ended."""
        state = self.pieces[-1].state
        last = (c.values[-1] for name in ("val_loss", "train_loss") if (c := self.settled.get(name)) and c.size)
        is_lost = not all(map(math.isfinite, last)) or self.pieces[-1].facts.get("state") == "diverged"
        return "diverged" if is_lost and state in ("finished", "failed") else state

    def is_whole(self, budget: int) -> bool:
        """Tell whether it was trained from the beginning to the end of the budget (steps), or until it diverged."""
        if self.state not in ENDED or self.loss.size < 2 or self.begins_late:
            return False
        return self.state == "diverged" or self.last_step + self.loss.interval >= budget

    def continues(self, other: Training, budget: int) -> bool:
        """Tell whether it goes on where the other training was interrupted before the end of the budget."""
        if other.is_whole(budget) or other.begins_late or not self.loss.size or not other.loss.size:
            return False
        is_further = self.last_step > other.last_step
        is_part = self.begins_late or (self.loss.size == 1 and is_further)
        gap = max(self.loss.interval, float(np.diff(other.loss.steps, prepend=0)[-1]))
        return is_part and 0 < self.first_step <= other.last_step + 1.5 * gap

    @property
    def flaw(self) -> str:
        """Why its curve cannot count; empty if it can."""
        if self.begins_late:
            return f"the curve lacks its beginning: it starts at step {self.first_step:,}"
        raw = [piece["val_loss"].steps for piece in self.histories if "val_loss" in piece]
        if self.loss.size == 1 and not self.loss.steps.any() and sum(steps.size for steps in raw) > 1:
            return "the validation loss was logged without its steps"
        return ""

    @cached_property
    def lines(self) -> Floats:
        """Every step at which anything was logged."""
        return np.unique(np.concatenate([np.empty(0), *(curve.steps for curve in self.curves.values())]))


def _select(history: History, is_kept: NDArray[np.bool_]) -> History:
    return History(history.steps[is_kept], history.times_s[is_kept], history.values[is_kept])


def _find_start(histories: Mapping[str, History], start_s: float) -> float:
    """Find when the training began: at a point of step 0, preferably of the validation loss, or with the run."""
    loss = [histories["val_loss"]] if "val_loss" in histories else []
    for group in (loss, [*histories.values()]):
        times_s = [float(h.times_s[h.steps == 0].min()) for h in group if (h.steps == 0).any()]
        if times_s:
            return min(times_s)
    return start_s
