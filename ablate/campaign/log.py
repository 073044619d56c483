"""`<runs>/campaigns/NAME.jsonl`: what happened in a campaign, one line per event, only ever appended to.

Each process that writes holds a lock on the file, so two of them cannot take the same number for a try.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from ablate.analysis.verdicts import Verdict
from ablate.errors import RecordError, suggest
from ablate.files import make_folder, open_regular, study_name_problem
from ablate.tracking.study_record import Record
from ablate.tracking.values import Value

FOLDER = "campaigns"
SUFFIX = ".jsonl"
FORMAT = 1
_CONFIG = ConfigDict(extra="ignore", allow_inf_nan=False)

Choice = Literal["kept", "dropped", "open"]


@dataclass(frozen=True, config=_CONFIG)
class ArmVerdict(Record):
    """An arm of a try against its baseline. `identity` is the same for the same pair of arms in any study.

    The difference is arm minus baseline. Interval, p-value and verdict hold for all arms of the try at its error rate;
    without a test, they are None and undecided. `detectable` is the difference that the test finds in 80 % of cases.
    """

    arm: str
    baseline: str
    identity: str
    axes: Mapping[str, Value]
    n: int
    verdict: Verdict
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    sd: float | None = None
    detectable: float | None = None
    method: str = ""


@dataclass(frozen=True, config=_CONFIG)
class Try(Record):
    """A finished study as try number `k` of a campaign, tested at the error rate `alpha`.

    `identity` is that of its arms, and `results` the hash of its runs and where they ended. `repeats` is the number of
    an earlier try of the same arms, if this one was tested again. `grid` says how to train it again; `code` has the
    versions of the user's files, and their difference from those of the try that was kept last.
    """

    k: int
    at: str
    study: str
    identity: str
    results: str
    alpha: float
    metric: str
    direction: Literal["lower", "higher"]
    arms: tuple[ArmVerdict, ...]
    question: str = ""
    smallest_effect: float | None = None
    repeats: int | None = None
    grid: Mapping[str, Any] = field(default_factory=dict)
    code: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, config=_CONFIG)
class Decision(Record):
    """That a try was kept or dropped, and why."""

    k: int
    at: str
    decision: Choice
    because: str = ""


@dataclass(frozen=True, config=_CONFIG)
class Campaign(Record):
    """A campaign as its file has it. The last decision on a try counts."""

    name: str
    goal: str = ""
    tries: tuple[Try, ...] = ()
    decisions: tuple[Decision, ...] = ()

    def decision_on(self, k: int) -> Decision | None:
        return next((decision for decision in reversed(self.decisions) if decision.k == k), None)

    def choice_on(self, k: int) -> Choice:
        decision = self.decision_on(k)
        return "open" if decision is None else decision.decision

    def chosen(self, choice: Choice) -> tuple[Try, ...]:
        return tuple(one for one in self.tries if self.choice_on(one.k) == choice)

    def tests_of(self, identity: str) -> list[tuple[Try, ArmVerdict]]:
        """The tries that tested a pair of arms."""
        return [(one, arm) for one in self.tries for arm in one.arms if arm.identity == identity]

    def find(self, k: int) -> Try:
        """Return a try by its number. Raises `RecordError` if there is no such try."""
        if not 1 <= k <= len(self.tries):
            legal = f"1 to {len(self.tries)}" if self.tries else "none yet"
            raise RecordError(f"{self.name}: there is no try {k} (legal: {legal})")
        return self.tries[k - 1]


class CampaignLog:
    """The file of a campaign.

    Raises `RecordError` for a name that no campaign can have.
    """

    def __init__(self, runs: Path, name: str) -> None:
        if problem := study_name_problem(name):
            raise RecordError(f"campaign: {problem.replace('a study', 'a campaign')}")
        self.folder, self.name = runs / FOLDER, name
        self.path = self.folder / f"{name}{SUFFIX}"
        self.code = self.folder / f"{name}.code"

    def read(self) -> Campaign:
        """Read the campaign. Raises `RecordError` if it does not exist, or if a line is damaged."""
        try:
            with open_regular(self.path) as file:
                fcntl.flock(file, fcntl.LOCK_SH)
                return self._parse(file.read())
        except FileNotFoundError:
            known = [log.name for log in list_campaigns(self.folder.parent)]
            raise RecordError(
                f"{self.name}: there is no such campaign in {self.folder}{suggest(self.name, known)}; --goal starts one"
            ) from None

    @contextmanager
    def locked(self, *, start: bool = False) -> Iterator[tuple[Campaign, Append]]:
        """Lock the campaign, and yield it with a function that appends an event.

        Raises `RecordError` if it does not exist, unless it is to `start`. So a misspelled name does not
        start a campaign with an error rate of its own.
        """
        if start:
            make_folder(self.folder)
        elif not self.path.exists():
            self.read()
        with open_regular(self.path, "a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            content = file.read()
            yield self._parse(content), Append(file, content.rfind(b"\n") + 1)

    def _parse(self, content: bytes) -> Campaign:
        """Read the events. A last line without an end is one that a process died over before it told anybody."""
        goal, tries, decisions = "", [], []
        for number, line in enumerate(content.split(b"\n")[:-1], 1):
            place = f"{self.path}, line {number}"
            try:
                event = json.loads(line)
                kind = event["event"]
            except (ValueError, TypeError, KeyError):
                raise RecordError(f"{place}: this is not an event of a campaign; restore the file") from None
            if kind == "goal":
                goal = str(event.get("goal", ""))
            elif kind == "try":
                tries.append(Try.from_dict(event, place))
                if tries[-1].k != len(tries):
                    raise RecordError(f"{place}: try {tries[-1].k} follows try {len(tries) - 1}; restore the file")
            elif kind == "decision":
                decisions.append(Decision.from_dict(event, place))
            else:
                raise RecordError(f"{place}: unknown event {kind!r} (legal: goal, try, decision); update ablate")
        return Campaign(self.name, goal, tuple(tries), tuple(decisions))


def list_campaigns(runs: Path) -> list[CampaignLog]:
    """All campaigns of a folder of studies, by name."""
    names = sorted(path.name.removesuffix(SUFFIX) for path in (runs / FOLDER).glob(f"*{SUFFIX}"))
    return [CampaignLog(runs, name) for name in names if not study_name_problem(name)]


class Append:
    """Append events to a locked file, behind its last whole line. An event is written, or the file is as before."""

    def __init__(self, file: BinaryIO, end: int) -> None:
        self._file, self._end = file, end

    def __call__(self, kind: Literal["goal", "try", "decision"], content: Mapping[str, Any]) -> None:
        line = json.dumps({"event": kind, "format": FORMAT, **content}, allow_nan=False).encode() + b"\n"
        self._file.truncate(self._end)
        try:
            if self._file.write(line) != len(line):
                raise OSError(0, "the disk is full", str(self._file.name))
            os.fsync(self._file.fileno())
        except OSError:
            self._file.truncate(self._end)
            raise
        self._end += len(line)


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
