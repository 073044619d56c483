"""When a study got its seeds, and when its results were looked at: `history` in its record."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Literal

from ablate.errors import RecordError
from ablate.tracking.folders import StudyFolder
from ablate.tracking.study_record import HistoryEvent, StudyRecord


def continue_history(record: StudyRecord, store: StudyFolder, added: tuple[int, ...] = ()) -> StudyRecord:
    """Add the history so far to a new record of a study, and an event if its seeds differ from those before."""
    history = read_history(store)
    rule = record.seed_rule
    n_seeds = len({run.seed for run in record.runs}) if rule is None else rule.at_most
    what: Literal["seeds", "until decided"] = "seeds" if rule is None else "until decided"
    last = next((event for event in reversed(history) if event.what != "look"), None)
    if last is None or (last.what, last.n_seeds) != (what, n_seeds) or added:
        history = (*history, HistoryEvent(what, _now(), n_seeds, added))
    return replace(record, history=history)


def read_history(store: StudyFolder) -> tuple[HistoryEvent, ...]:
    """The history of a study; empty if it has none."""
    with suppress(RecordError):  # there is no record, or it cannot be read
        return store.read_study().history
    return ()


def list_added(store: StudyFolder) -> tuple[int, ...]:
    """The seeds that `ablate run --seeds` has added to a study."""
    return tuple(dict.fromkeys(seed for event in read_history(store) for seed in event.added))


def note_look(store: StudyFolder, n_seeds: int) -> None:
    """Note that results of `n_seeds` seeds were reported, unless that is known, or a rule decides on seeds.

    A study whose folder cannot be written is left as it is.
    """
    with suppress(RecordError, OSError):
        record = store.read_study()
        last = next(reversed(record.history), None)
        is_known = last is not None and last.what == "look" and last.n_seeds == n_seeds
        if record.seed_rule is None and n_seeds and not is_known:
            event = HistoryEvent("look", _now(), n_seeds)
            store.write_study(replace(record, history=(*record.history, event)))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
