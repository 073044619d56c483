"""`ablate run --seeds +N`: seeds beyond those of the grid, which the study keeps from then on."""

from __future__ import annotations

import re
from dataclasses import replace

from ablate.errors import AblateError
from ablate.plan import Plan, Run
from ablate.study.seeds import MAX_SEEDS
from ablate.tracking.folders import StudyFolder
from ablate.tracking.history import list_added


def parse_added(plan: Plan, text: str) -> int:
    """Read `+N`. Raises `AblateError` for anything else, or if the grid says itself when to add seeds."""
    if not re.fullmatch(r"\+[0-9]{1,5}", text) or not 0 < int(text) <= MAX_SEEDS:
        raise AblateError(
            f"--seeds {text}: write the number of seeds to add as +N, such as +3 (legal: +1 to +{MAX_SEEDS}); "
            "`--set seeds=N` sets the number of all seeds"
        )
    if plan.until_decided is not None:
        raise plan.study.refuse(("seeds",), "--seeds cannot be used: looks decide the number of seeds per arm")
    return int(text)


def choose_seeds(plan: Plan, store: StudyFolder, n: int) -> tuple[int, ...]:
    """The next `n` seeds that neither the study nor its tuning has used; none while earlier ones are not trained.

    So the same command resumes a study that was interrupted. `plan` has the settings with which the study trains.
    """
    known = list_added(store)
    if any(not _has_ended(run, store) for run in extend(plan, known).runs if run.seed in known):
        return ()
    tune = plan.grid.tune
    used = {*plan.study.seeds, *known, *(tune.fresh_seeds(plan.study.seeds) if tune is not None else ())}
    return tuple(range(max(used) + 1, max(used) + 1 + n))


def extend(plan: Plan, seeds: tuple[int, ...]) -> Plan:
    """The plan with further seeds of every arm.

    Raises `GridError` if its runs start from those of another study, which has none for a seed.
    """
    new = tuple(seed for seed in seeds if seed not in plan.study.seeds)
    if not new or plan.until_decided is not None:
        return plan
    for seed in new:
        if any(arm.start is not None and seed not in arm.start.parents for arm in plan.arms):
            raise plan.study.refuse(
                ("start_from",), f"seed {seed} was added to this study, and has no run to start from"
            )
    runs = tuple(Run.of(arm, seed) for seed in new for arm in plan.arms)
    return replace(plan, study=plan.study.replace(seeds=(*plan.study.seeds, *new)), runs=(*plan.runs, *runs))


def _has_ended(run: Run, store: StudyFolder) -> bool:
    folder = store.run(run.run_id)
    return folder.has_ended(folder.read_status())
