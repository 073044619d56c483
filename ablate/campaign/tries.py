"""From a finished study to a try of a campaign: its identity, its code, and its verdicts at the level of the try."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from ablate.analysis.differences import Difference
from ablate.analysis.looks import follow
from ablate.analysis.peeking import find_larger_looks, find_peeks
from ablate.analysis.results import Results
from ablate.analysis.stricter import find_differences_at
from ablate.campaign.levels import level_of
from ablate.campaign.log import ArmVerdict, Campaign, CampaignLog, Choice, Decision, Try, now
from ablate.errors import FailedRunsError, RecordError
from ablate.formatting import count
from ablate.tracking.code import find_versions, read_code, write_code
from ablate.tracking.folders import StudyFolder
from ablate.tracking.study_record import ENDED, ArmRecord, RunRecord, StudyRecord

MAX_DIFF = 100_000  # characters of a difference in code


class Judged(Protocol):
    """Anything with a verdict."""

    @property
    def verdict(self) -> str: ...


@dataclass(frozen=True)
class Added:
    """The try that a study is, and whether it is new."""

    found: Try
    is_new: bool


def add_study(log: CampaignLog, results: Results, store: StudyFolder, grid: str, *, again: bool) -> Added:
    """Add a finished study as the next try, and judge it at its level. A study that is a try already stays that try.

    `grid` is the text of its grid, if it is known. Raises `FailedRunsError` if runs have not ended, and `RecordError`
    if the arms were tried before with other results, unless they are to be tested `again`.
    """
    _check_ended(results)
    record = results.record
    if not results.compared_arms:
        raise RecordError(f"{record.study}: it compares no arms, so there is nothing to test")
    pairs, code = identify_pairs(record), _describe_code(store, results)  # other processes need not wait for it
    with log.locked() as (campaign, append):
        same, is_added = find_same(campaign, pairs, results)
        if same is not None and is_added:
            return Added(same, is_new=False)
        k = len(campaign.tries) + 1
        if same is not None and not again:
            raise RecordError(_explain_known(campaign, same, k))
        differences = {row.arm: row for row in find_differences_at(results, level_of(k))}
        found = Try(
            k=k,
            at=now(),
            study=record.study,
            identity=_hash(sorted(pairs.values())),
            results=_hash(_list_ends(results)),
            alpha=level_of(k),
            metric=results.metric.name,
            direction=results.metric.direction,
            arms=tuple(
                _judge_arm(results.arms[arm], pairs[arm], differences.get(arm)) for arm in results.compared_arms
            ),
            question=record.question,
            smallest_effect=results.smallest_effect,
            repeats=None if same is None else same.k,
            grid=_describe_grid(record, grid),
            code=_keep_code(log, campaign, store, code),
            notes=tuple(_list_notes(results)),
        )
        append("try", found.to_dict())
    return Added(found, is_new=True)


def decide(log: CampaignLog, k: int, choice: Choice, because: str) -> None:
    """Keep or drop a try. The same decision again without a reason changes nothing.

    Raises `RecordError` if there is no such try, or if an earlier decision is reversed without a reason.
    """
    with log.locked() as (campaign, append):
        campaign.find(k)
        before = campaign.decision_on(k)
        if before is not None and not because:
            if before.decision == choice:
                return
            known = f" because {before.because}" if before.because else ""
            raise RecordError(
                f"{campaign.name}: try {k} was {before.decision}{known}; to change that, say why with --because TEXT"
            )
        append("decision", Decision(k, now(), choice, because).to_dict())


def set_goal(log: CampaignLog, goal: str) -> None:
    """Start a campaign, or change its goal."""
    with log.locked(start=True) as (campaign, append):
        if campaign.goal != goal:
            append("goal", {"goal": goal, "at": now()})


def identify_pairs(record: StudyRecord) -> Mapping[str, str]:
    """The identity of each arm and its baseline: the same in every study on the same data that compares them by the
    same metric, whatever its seeds and names are."""
    arms = {arm.arm: arm for arm in record.arms}
    own = {name: arm.identity or _identify_by_runs(arm, record.runs) for name, arm in arms.items()}
    return {
        name: _hash([own[name], own[arm.baseline], record.metric.name])
        for name, arm in arms.items()
        if arm.baseline != name
    }


def find_same(campaign: Campaign, pairs: Mapping[str, str], results: Results | None) -> tuple[Try | None, bool]:
    """The try that tested these pairs of arms: the one with these results, otherwise the last, and which of both it is.

    `pairs` are those of `identify_pairs`.
    """
    identity = _hash(sorted(pairs.values()))
    known = [one for one in campaign.tries if one.identity == identity]
    ended = None if results is None else _hash(_list_ends(results))
    exact = next((one for one in known if one.results == ended), None)
    return exact or next(reversed(known), None), exact is not None


def _identify_by_runs(arm: ArmRecord, runs: Iterable[RunRecord]) -> str:
    """What stands for the identity of an arm in records that lack it, such as imported ones."""
    return _hash(sorted(run.run_id for run in runs if run.arm == arm.arm))


def _hash(content: Sequence[Any]) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _list_ends(results: Results) -> list[list[Any]]:
    return sorted([run.arm, run.seed, run.run_id, run.state, repr(float(run.final_loss))] for run in results.runs)


def _check_ended(results: Results) -> None:
    """Raise unless nothing is left to train. Runs that failed count as ended: an idea may fail."""
    rule = results.record.seed_rule
    if rule is not None:
        if any(follow(results, rule).open.values()):
            raise FailedRunsError(f"{results.record.study}: it is not decided yet: `ablate run` trains further seeds")
        return
    left = sum(run.status.state not in (*ENDED, "failed") for run in results.runs)
    if left:
        n = count(len(results.runs), "run")
        raise FailedRunsError(
            f"{results.record.study}: {left} of {n} have not ended: `ablate run` trains them; a try is tested once"
        )


def _explain_known(campaign: Campaign, known: Try, k: int) -> str:
    decision = campaign.decision_on(known.k)
    reason = f" because {decision.because}" if decision is not None and decision.because else ""
    state = {"kept": "was kept", "dropped": "was dropped", "open": "is open"}[campaign.choice_on(known.k)]
    return (
        f"{campaign.name}: try {known.k} tested the same arms ({summarize_verdicts(known.arms)}) and {state}{reason}; "
        f"these results differ from its own. --again tests them as try {k} at {100 * level_of(k):.2g} %"
    )


def summarize_verdicts(arms: Iterable[Judged]) -> str:
    """`1 better, 2 undecided`."""
    verdicts = [arm.verdict for arm in arms]
    return ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in dict.fromkeys(verdicts))


def _judge_arm(arm: ArmRecord, identity: str, row: Difference | None) -> ArmVerdict:
    mine = ArmVerdict(arm.arm, arm.baseline, identity, arm.axes, 0, "undecided", method="no final value to compare")
    if row is None:
        return mine
    return replace(
        mine,
        n=row.n,
        verdict=row.verdict,
        estimate=row.estimate,
        low=row.low_simultaneous,
        high=row.high_simultaneous,
        p_value=row.p_simultaneous,
        sd=row.sd,
        detectable=row.detectable,
        method=row.method,
    )


def _describe_grid(record: StudyRecord, text: str) -> Mapping[str, Any]:
    settings = {
        "axes": {axis: list(levels) for axis, levels in record.axes.items()},
        "baseline": dict(record.baseline),
        "design": record.design,
        "seeds": sorted({run.seed for run in record.runs}),
        "data_hash": str(record.data.get("hash") or ""),
        "command": record.command,
    }
    return settings | ({"text": text} if text else {})


def _list_notes(results: Results) -> list[str]:
    notes = []
    if peeks := find_peeks(results.record):
        looks = ", ".join(map(str, peeks))
        notes.append(f"results were looked at with {looks} seeds before more were added, which no level accounts for")
    if larger := find_larger_looks(results.record):
        looks = ", ".join(map(str, larger))
        notes.append(
            f"results were looked at with {looks} seeds before some were left out, which no level accounts for"
        )
    if n_failed := sum(run.status.state == "failed" for run in results.runs):
        notes.append(f"{count(n_failed, 'run')} failed and do not count" if n_failed > 1 else "1 run failed")
    return notes


def _describe_code(store: StudyFolder, results: Results) -> Mapping[str, Any]:
    """Describe the user's files. `diff` is only what programs recorded."""
    manifests = [run.manifest for run in results.runs]
    diffs = (store.run(run_id).path / "code.diff" for run_id in dict.fromkeys(run.run_id for run in results.runs))
    patches = dict.fromkeys(path.read_bytes() for path in diffs if path.is_file())
    return {
        "versions": find_versions(store.code, (run.config for run in results.runs)),
        "commits": sorted({str(found["commit"]) for found in manifests if found.get("commit")}),
        "is_dirty": any(bool(found.get("dirty")) for found in manifests),
        "diff": "".join(patch.decode(errors="replace") for patch in patches),
    }


def _keep_code(log: CampaignLog, campaign: Campaign, store: StudyFolder, code: Mapping[str, Any]) -> Mapping[str, Any]:
    """Keep the user's files beside the campaign. Returns how they differ from those of the try kept last, too."""
    for version in code["versions"]:
        write_code(log.code, read_code(store.code / version))
    kept = campaign.chosen("kept")
    before = list(kept[-1].code.get("versions", ())) if kept else []
    text = _write_diff(log.code, before, code["versions"]) + code["diff"]
    return {
        **code,
        "compared_with": kept[-1].k if kept else None,
        "diff": text if len(text) <= MAX_DIFF else f"{text[:MAX_DIFF]}\n... the rest was left out\n",
    }


def _write_diff(folder: Path, before: Sequence[str], after: Sequence[str]) -> str:
    """The unified difference of all files of some versions from those of others."""
    old, new = _read_files(folder, before), _read_files(folder, after)
    return "".join(
        line
        for name in sorted(old.keys() | new.keys())
        for line in difflib.unified_diff(old.get(name, []), new.get(name, []), f"a/{name}", f"b/{name}")
    )


def _read_files(folder: Path, versions: Sequence[str]) -> dict[str, list[str]]:
    """The lines of each file. If versions have different files of one name, the name says which."""
    files: dict[str, dict[bytes, str]] = {}
    for version in versions:
        for name, content in read_code(folder / version).items() if (folder / version).is_dir() else ():
            files.setdefault(name, {}).setdefault(content, version)
    return {
        name if len(contents) == 1 else f"{name} ({version})": content.decode(errors="replace").splitlines(True)
        for name, contents in files.items()
        for content, version in contents.items()
    }
