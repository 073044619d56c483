"""What fresh seeds say about the verdicts of a study, as sentences and a table.

Refuted verdicts stand where confirmed ones do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ablate.analysis.differences import Difference
from ablate.analysis.peeking import false_positive_rate
from ablate.formatting import count
from ablate.report.document import Block, Document, Facts, Section, Text
from ablate.report.notation import DASH, LISTED, capitalize, format_signed, join_with_and, name_rest
from ablate.report.table import Table
from ablate.tracking.study_record import StudyRecord
from ablate.tracking.verifications import (
    VERIFICATIONS,
    Measured,
    Replication,
    Verification,
    VerifiedArm,
    read_verifications,
)

SAME = 1e-9  # the largest difference between estimates that come from the same runs: rounding
_ACTIONS: dict[Replication, str] = {"refuted": "refute", "confirmed": "confirm", "undecided": "do not decide"}


def find_verifications(record: StudyRecord, folders: Iterable[Path]) -> tuple[Verification, ...]:
    """Read the verifications of a study from these folders, each once. Those of other settings are left out.

    Raises `RecordError` for a damaged file.
    """
    known = {arm.arm: arm.identity for arm in record.arms}
    found: Mapping[Path, Verification] = {}
    for folder in dict.fromkeys(folder.resolve() for folder in folders):
        found = {**found, **read_verifications(folder)}
    return tuple(
        made
        for made in dict.fromkeys(found.values())
        if made.study == record.study
        and all(known.get(arm.arm) is not None and known[arm.arm] in ("", arm.identity) for arm in made.arms)
    )


def describe_verification(made: Verification) -> str:
    """One sentence: which verdicts the fresh seeds confirm, refute, and leave undecided.

    An undecided verdict claims nothing, so it only counts if it is refuted.
    """
    claims = [arm for arm in made.arms if arm.published.verdict != "undecided" or arm.outcome != "undecided"]
    parts = []
    for outcome, action in _ACTIONS.items():
        arms = [arm for arm in claims if arm.outcome == outcome]
        if arms:
            shown = join_with_and([f"{arm.label}: {arm.published.verdict}" for arm in arms[:LISTED]] + name_rest(arms))
            parts.append(f"{action} {count(len(arms), 'published verdict')} ({shown})")
    said = join_with_and(parts) or "have no verdict to check, because the report leaves its arms undecided"
    return f"{capitalize(_name_seeds(made))} {said}.{'' if made.is_complete else ' Not all of their runs have ended.'}"


def _name_seeds(made: Verification) -> str:
    seeds = made.seeds
    is_range = len(seeds) > 2 and seeds == tuple(range(seeds[0], seeds[-1] + 1))
    shown = f"{seeds[0]} to {seeds[-1]}" if is_range else join_with_and([str(seed) for seed in seeds])
    return f"the fresh seed{'s' if len(seeds) > 1 else ''} {shown}"


def tabulate_verifications(found: Sequence[Verification]) -> Table:
    """One row per verdict that was checked."""
    header = ("Arm", "Outcome", "Published verdict", "Published difference", "At fresh seeds", "Verdict there", "Size")
    rows = tuple(
        (
            arm.label,
            arm.outcome,
            arm.published.verdict,
            format_measured(arm.published),
            DASH if arm.fresh is None else format_measured(arm.fresh),
            DASH if arm.fresh is None else arm.fresh.verdict,
            arm.size,
        )
        for made in found
        for arm in made.arms
    )
    metrics = ", ".join(dict.fromkeys(f"{made.metric}, {made.direction} is better" for made in found))
    note = (
        "Differences are arm minus baseline. No run of the report has one of the fresh seeds. A verdict is confirmed "
        "if the fresh seeds give the same one, and refuted if they do not and the intervals do not overlap."
    )
    return Table("verification", f"Published verdicts at fresh seeds ({metrics}; 95 % intervals)", header, rows, note)


def format_measured(found: Measured) -> str:
    """A difference with its interval and its number of seeds."""
    return f"{format_signed(found.estimate, found.low, found.high)} ({count(found.n_pairs, 'seed')})"


def list_blocks(found: Sequence[Verification], current: Mapping[str, Difference] | None = None) -> list[Block]:
    """The blocks of the section: the table, then the reasons and what differs, by verification.

    `current` are the differences of the report by arm. A verification of other ones is flagged.
    """
    if not found:
        return []
    blocks: list[Block] = [tabulate_verifications(found)]
    for made in found:
        blocks.append(Text(" ".join([describe_verification(made), *_explain(made)])))
        if changed := [arm.label for arm in made.arms if current is not None and _has_changed(arm, current)]:
            names = join_with_and(changed)
            blocks.append(
                Text(f"The report has changed since: its numbers for {names} were different then.", is_flag=True)
            )
        if made.looks:
            blocks.append(Text(_warn_of_looks(made), is_flag=True))
        changes = {
            change.what: f"{change.published or DASH} published, {change.here or DASH} here"
            for change in made.differences
        }
        blocks.append(Facts(changes) if changes else Text("Devices, versions and code are those of the report."))
    return blocks


def _has_changed(arm: VerifiedArm, current: Mapping[str, Difference]) -> bool:
    row = current.get(arm.arm)
    return row is None or row.verdict != arm.published.verdict or abs(row.estimate - arm.published.estimate) > SAME


def _explain(made: Verification) -> list[str]:
    """Why verdicts are not confirmed, each reason once."""
    reasons: dict[str, list[str]] = {}
    for arm in made.arms:
        if arm.outcome != "confirmed":
            reasons.setdefault(arm.reason, []).append(arm.label)
    return [f"For {join_with_and(labels)}: {reason}" for reason, labels in reasons.items()]


def _warn_of_looks(made: Verification) -> str:
    rate = false_positive_rate(len(made.arms), (*made.looks, len(made.seeds)))
    seen = join_with_and([str(n) for n in made.looks])
    return (
        f"Seeds were added after results of {seen} seeds were seen. Verdicts that way are wrong in "
        f"{100 * rate:.0f} % of cases instead of 5 %."
    )


def compose_verification(made: Verification, question: str) -> Document:
    """The page of one verification."""
    return Document(
        name=made.study,
        context=f"{made.study}: a verification with {count(len(made.seeds), 'fresh seed')}",
        heading=question or made.study,
        verdict=(describe_verification(made),),
        answer=(describe_verification(made),),
        sections=(Section(VERIFICATIONS, "Published and fresh", tuple(list_blocks([made]))),),
    )
