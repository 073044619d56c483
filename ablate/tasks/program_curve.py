"""The curve of a program's run: what it reports, merged by step, with its costs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ablate.files import file_crc32, open_regular
from ablate.tasks.log_lines import Values
from ablate.tasks.recorder import FolderRecorder
from ablate.tracking.curve import CurveWriter, parse_line
from ablate.tracking.values import MAX_COUNT, is_number

COSTS = ("tokens", "flops", "wall_s")
COUNTS = ("tokens", "flops")  # which grow with every step
SECONDS = "seconds"  # another name of wall_s
TAKEN = frozenset({"step", "run_id", "arm", "seed", "state"})  # columns that the tables of a study have of their own
MAX_NAMES = 200
MAX_NAME = 64  # characters
IDLE_S = 2.0  # how long a step that has the first metric waits for its other values


class ProgramCurve:
    """Turns reported values into lines of the curve, in strictly increasing steps.

    An earlier attempt's lines from the first reported step on are dropped: a program that resumes continues its curve,
    and one that starts again has a fresh one. Values of one step are merged. Within an attempt, values of an earlier
    step are left out and noted. `has_diverged` is true once the first metric is not finite.
    """

    def __init__(
        self,
        curve: CurveWriter,
        path: Path,
        recorder: FolderRecorder,
        metrics: Mapping[str, str],
        note: Callable[[str], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.curve, self.path, self.recorder, self.metrics, self.note, self.now = (
            curve, path, recorder, metrics, note, now,
        )  # fmt: skip
        self.primary = next(iter(metrics))
        self.has_diverged = False
        self.has_primary = False
        self._started, self._before_s = now(), 0.0
        self._pending: dict[str, Any] | None = None
        self._pending_at = 0.0
        self._last: dict[str, Any] | None = None  # the last line of the file
        self._last_start = (0, 0)  # where it begins
        self._is_fresh = True
        self._names: dict[str, None] = {}
        self._totals: dict[str, tuple[int, float]] = {}  # (step, value) of each cost that was reported
        self._has_gone_back = False
        self.no_cost: dict[str, str] = {}  # why a cost does not count, by its name

    def add(self, step: int, values: Values) -> None:
        """Take the values of a step."""
        if step > MAX_COUNT:
            self.note("a step was too large: left out")
            return
        if self._is_fresh:
            self._resume(step)
        known = self._pending or self._last
        if known is not None and step < known["step"]:
            if not self._has_gone_back:
                self.note(f"values of step {step} came after step {known['step']}: left out")
            self._has_gone_back = True
            return
        clean = self._check_costs(step, self._clean(values))
        if self._pending is not None and step > self._pending["step"]:
            self.flush()
        if self._pending is None and self._last is not None and step == self._last["step"]:
            self._reopen()
        if self._pending is None:
            self._pending = {"step": step}
        self._pending |= clean
        if "wall_s" not in clean:
            self._pending.setdefault("wall_s", round(self._before_s + self.now() - self._started, 3))
        self._pending_at = self.now()
        if self.primary in clean:
            self.has_primary = True
            self.has_diverged = self.has_diverged or clean[self.primary] is None

    def flush_if_idle(self) -> None:
        """Write a step that has the first metric and got no more values for a while."""
        pending = self._pending
        if pending is not None and self.primary in pending and self.now() - self._pending_at > IDLE_S:
            self.flush()

    def flush(self) -> None:
        if self._pending is None:
            return
        self._last, self._last_start = self._pending, (self.curve.n_bytes, self.curve.crc32)
        self._pending = None
        self.recorder.log(self._last)

    def _reopen(self) -> None:
        """Take the last line back, because its step got more values."""
        self.curve.rewind(*self._last_start)
        self._pending, self._last = self._last, None

    def keep_earlier(self) -> None:
        """Keep the whole curve of an earlier attempt, because this one reported nothing and had nothing left to do."""
        if self._is_fresh:
            self._resume(MAX_COUNT + 1)

    def _resume(self, step: int) -> None:
        """Drop the lines of an earlier attempt from this step on, and continue its clock."""
        self._is_fresh = False
        n_bytes, n_dropped = 0, 0
        with open_regular(self.path) as file:
            for line in file:
                record = parse_line(line) if line.endswith(b"\n") else None
                if record is None or record["step"] >= step:
                    n_dropped += 1
                    break
                n_bytes += len(line)
                self._last = record
                self.has_primary = self.has_primary or is_number(record.get(self.primary))
            crc32 = file_crc32(file, n_bytes)
        self.curve.rewind(n_bytes, crc32 or 0)
        if self._last is None:
            return
        self._last_start = (n_bytes, crc32 or 0)
        for name in COUNTS:
            if is_number(total := self._last.get(name)):
                self._totals[name] = (self._last["step"], float(total or 0))
        seconds = self._last.get("wall_s")
        self._before_s = float(seconds) if seconds is not None and is_number(seconds) else 0.0
        self.note(f"resumed after step {self._last['step']}")

    def _clean(self, values: Values) -> dict[str, float | int | None]:
        """The values under their names in the curve. A number that is not finite becomes None."""
        found: dict[str, float | int | None] = {}
        for name, value in values.items():
            name = "wall_s" if name == SECONDS else name
            if name in TAKEN or not self._knows(name):
                continue
            found[name] = value if is_number(value) else None
            if found[name] is None and name in self.metrics and name != self.primary:
                self.note(f"{name} was not a finite number at some step")
        return found

    def _check_costs(self, step: int, values: dict[str, Any]) -> dict[str, Any]:
        """Leave out costs that are not totals since the start, such as the tokens of one batch."""
        for name in COSTS:
            if name not in values:
                continue
            before, total = self._totals.get(name, (-1, 0.0)), values[name]
            flaw = ""
            if total is None or total < 0:
                flaw = f"{name} was not a number of at least 0 at step {step}"
            elif total < before[1]:
                flaw = f"{name} fell from {before[1]:g} at step {before[0]} to {total:g} at step {step}"
            elif name in COUNTS and total == before[1] > 0 and step > before[0]:
                flaw = f"{name} was {total:g} at step {before[0]} and at step {step}"
            if flaw and name not in self.no_cost:
                self.no_cost[name] = f"{flaw}, so it is no total since the start"
                self.note(f"{self.no_cost[name]}: it does not count")
            self._totals[name] = (step, total or 0.0)
        return {name: value for name, value in values.items() if name not in self.no_cost}

    def _knows(self, name: str) -> bool:
        """Whether a name is kept. A new one that looks like a misspelled metric is noted."""
        if name in self.metrics or name in COSTS or name in self._names:
            return True
        if len(self._names) >= MAX_NAMES or len(name) > MAX_NAME or not name.isprintable():
            self.note(f"more than {MAX_NAMES} names, or names of more than {MAX_NAME} characters: the rest is left out")
            return False
        self._names[name] = None
        if near := get_close_matches(name, self.metrics, n=1, cutoff=0.8):
            self.note(f"{name!r} is not a metric of the grid, so it is kept as a diagnostic; did you mean {near[0]!r}?")
        return True
