"""The view of a study while it trains: a live table on a terminal, and plain lines elsewhere."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console, ConsoleOptions
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ablate.execution.progress import Event
from ablate.execution.run_line import BAR, COLUMNS, CURVE, VALUE, RunLine
from ablate.formatting import format_count, format_seconds
from ablate.metrics import LOSS, Metric
from ablate.plan import Run
from ablate.tracking.study_record import State

PLAIN_EVERY_S = 10.0
ESTIMATE_SHARE = 0.01  # of the time goes into estimates of the time left, which add up all runs
ENDINGS = ("finished", "diverged", "failed")
COLORS: Mapping[str, str] = {
    "running": "cyan",
    "finished": "green",
    "diverged": "yellow",
    "failed": "red",
    "queued": "dim",
    "waiting": "dim",
}
GAP = 2  # characters between two columns
NAME_ROOM = 24  # minimum width of the names of runs, before columns are left out
DISPENSABLE = ("memory", "tok/s", BAR, "loss", CURVE, "left", VALUE, "step")


class View:
    """Shows the driver's events.

    With `quiet`, it prints only failures. With `as_json`, every event is a line of JSON on standard output, and all
    other text goes to the console, which then writes to standard error.
    """

    def __init__(self, console: Console, *, quiet: bool = False, as_json: bool = False) -> None:
        self.console, self.quiet, self.as_json = console, quiet, as_json
        self.lines: dict[str, RunLine] = {}
        self.running: dict[str, RunLine] = {}
        self.counts: Counter[str] = Counter()  # of the runs in each state
        self.slots, self.metric = 1, LOSS
        self.started = time.monotonic()
        self.last_event = ""
        self._live: Live | None = None
        self._left_s: float | None = None
        self._estimate_until = 0.0

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.started

    @contextmanager
    def shown(self, runs: Sequence[Run], slots: int, metric: Metric = LOSS) -> Iterator[None]:
        """Show these runs and their values of a metric while they are trained, `slots` of them at a time."""
        self.slots, self.metric = slots, metric
        self.lines = {run.run_id: RunLine(run, metric) for run in runs}
        self.counts = Counter(waiting=len(self.lines))
        self.started = time.monotonic()
        if self.quiet or self.as_json or not self.console.is_terminal:
            yield
            return
        with Live(self, console=self.console, refresh_per_second=4, transient=True) as live:
            self._live = live
            yield

    def observe(self, event: Event) -> None:
        if self.as_json:
            print(json.dumps(_describe(event)), flush=True)
            return
        if event.run is None:
            self.last_event = event.text
            self.console.print(event.text, style="yellow", markup=False, highlight=False)
            return
        if event.run.run_id not in self.lines:
            self.lines[event.run.run_id] = RunLine(event.run, self.metric)
            self.counts["waiting"] += 1
        line = self.lines[event.run.run_id]
        match event.kind:
            case "started":
                self._set_state(line, "running")
                self.slots = max(self.slots, len(self.running))  # nodes may have joined
                self._say(line, "started")
            case "progress":
                self._set_state(line, "running")
                line.update(event.record)
                if self._live is None and not self.quiet and time.monotonic() - line.shown_at > PLAIN_EVERY_S:
                    self._say(line, self._progress(line))
            case "retry":
                self._set_state(line, "waiting")
                self._say(line, event.text)
            case "ended":
                self._end(line, event.state or "failed", event.text)

    def _set_state(self, line: RunLine, state: str) -> None:
        self.counts[line.state] -= 1
        self.counts[state] += 1
        line.state = state
        if state == "running":
            self.running[line.run.run_id] = line
        else:
            self.running.pop(line.run.run_id, None)

    def _end(self, line: RunLine, state: State, text: str) -> None:
        self._set_state(line, "waiting" if state == "queued" else state)
        if state != "queued":
            line.values, line.losses = [], []  # only runs in progress are drawn
        value = f", {self.metric.label} {line.value:.4f}" if line.value is not None else ""
        word = "stopped" if state == "queued" else state
        self._say(line, f"{word}{value}{': ' if text else ''}{text}")

    def _say(self, line: RunLine, text: str) -> None:
        line.shown_at, line.text = time.monotonic(), text
        ended = sum(self.counts[state] for state in ENDINGS)
        name = line.name
        self.last_event = f"{name}: {text}"
        if self.quiet and line.state != "failed":
            return
        counter = f"[{ended}/{len(self.lines)}]"
        if not self.console.is_terminal:  # a file or a pipe gets unwrapped lines
            print(f"{counter} {name}: {text}", file=self.console.file, flush=True)  # rich takes ten times as long
        elif self._live is None or line.state in ENDINGS:
            content = Text.assemble((counter, "dim"), f" {name}: ", (text, COLORS.get(line.state, "")))
            self.console.print(content, highlight=False)

    def _progress(self, line: RunLine) -> str:
        parts = [f"step {line.progress}"]
        if line.train_loss is not None:
            parts.append(f"loss {line.train_loss:.4f}")
        if line.value is not None:
            parts.append(f"{self.metric.label} {line.value:.4f}")
        if line.tokens_per_s:
            parts.append(f"{format_count(line.tokens_per_s)} tokens/s")
        if line.left_s is not None:
            parts.append(f"{format_seconds(line.left_s)} left")
        return ", ".join(parts)

    def _study_left_s(self) -> float | None:
        """Seconds until the last run ends, from the rates seen so far. It is at least the time that the slowest run in
        progress needs, even if other slots are idle."""
        rates = [line.tokens_per_s for line in self.lines.values() if line.tokens_per_s]
        if not rates:
            return None
        left = [line for line in self.lines.values() if line.state in ("running", "waiting")]
        tokens = sum(line.tokens_left or 0.0 for line in left)
        shared_s = tokens / (sum(rates) / len(rates)) / self.slots
        return max([shared_s, *(line.left_s or 0.0 for line in self.running.values())])

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table | Text]:
        """The table of the runs in progress. The line below it counts those that wait.

        A narrow terminal loses columns, the least important first, and then the middle of the names, because their ends
        have the seed.

        The table never has more lines than the terminal, because lines that scroll off the top cannot be erased.
        """
        running, n_waiting = list(self.running.values()), self.counts["waiting"]
        below = [self._describe_study(len(running), n_waiting), *([self.last_event] if self.last_event else [])]
        below = below[: max(1, console.height - 2)]
        lines = running[: max(1, console.height - 1 - len(below))]
        titles = {} if self.metric.is_loss else {VALUE: self.metric.short}
        columns = {
            name: [titles.get(name, name), *map(cell, lines)]
            for name, cell in COLUMNS.items()
            if not (options.ascii_only and name in (CURVE, BAR))
        }
        widths = {name: max(map(len, cells)) + GAP for name, cells in columns.items()}
        for name in DISPENSABLE:
            if NAME_ROOM + sum(widths.values()) > options.max_width:
                del columns[name], widths[name]
        table = Table(box=None, pad_edge=False, expand=False, show_edge=False)
        table.add_column("run", no_wrap=True, header_style="dim")
        for title, *_ in columns.values():
            table.add_column(title, justify="right", no_wrap=True, header_style="dim")
        name_room = max(2, options.max_width - sum(widths.values()))
        for index, line in enumerate(lines, 1):
            shown = Text(shorten(line.name, name_room), style=COLORS[line.state])
            table.add_row(shown, *(cells[index] for cells in columns.values()))
        yield table
        for text in below:
            yield Text(" ".join(text.split()), style="dim italic", no_wrap=True, overflow="ellipsis")

    def _describe_study(self, n_running: int, n_waiting: int) -> str:
        ended = len(self.lines) - n_running - n_waiting
        if time.monotonic() >= self._estimate_until:
            began = time.monotonic()
            self._left_s = self._study_left_s()
            self._estimate_until = began + (time.monotonic() - began) / ESTIMATE_SHARE
        left = self._left_s
        return (
            f"{ended} of {len(self.lines)} runs ended, {n_waiting} waiting, {format_seconds(self.elapsed_s)} so far"
            + (f", about {format_seconds(left)} left" if left is not None else "")
        )


def shorten(name: str, room: int) -> str:
    """Leave out the middle of a name so that it fits into `room` characters."""
    if len(name) <= room:
        return name
    end = (room - 1) // 2
    return f"{name[: room - 1 - end]}…{name[len(name) - end :]}"


def _describe(event: Event) -> dict[str, Any]:
    described: dict[str, Any] = {"event": event.kind, "time": time.time()}
    if event.run is not None:
        described |= {"run_id": event.run.run_id, "arm": event.run.arm.name, "seed": event.run.seed}
    if event.state is not None:
        described["state"] = event.state
    if event.text:
        described["text"] = event.text
    return described | dict(event.record)
