"""best.yaml: the best settings of every arm, to override a grid with `--with`."""

from __future__ import annotations

import yaml

from ablate.files import write_atomic
from ablate.search.arm_search import ARM, best_of, distinct
from ablate.search.descriptions import describe_scope, format_condition
from ablate.search.problem import Problem
from ablate.search.trials import Trials
from ablate.tracking.folders import StudyFolder

BEST = "best.yaml"


def write_best(problem: Problem, trials: Trials, store: StudyFolder) -> None:
    """Write best.yaml into the search's folder."""
    entries = []
    lines = [
        f"The best settings of the search {problem.name}, for {describe_scope(problem)}.",
        "The best of many trials is optimistically biased; the confirmation with fresh seeds is not.",
        "To override a grid with them: ablate plan|run GRID --with best.yaml",
    ]
    for search in trials.searches:
        best = best_of(search)
        if best is None:
            continue
        value = ", ".join(
            f"{objective.text} {number:.6g}" for objective, number in zip(problem.objectives, best.values, strict=True)
        )
        n_trials = len(distinct(search.trials))
        lines.append(f"{search.space.label or problem.name}: trial {best.number}, the best of {n_trials}, {value}")
        settings = {
            search.space.names.path(path): value for path, value in trials.params_of(best.user_attrs[ARM]).items()
        }
        entries.append(
            ({"when": condition} if (condition := format_condition(search.space)) else {}) | {"set": settings}
        )
    head = "".join(f"# {line}\n" for line in lines)
    body = yaml.safe_dump({"search": problem.name, "overlay": entries}, sort_keys=False, allow_unicode=True, width=120)
    write_atomic(store.path / BEST, (head + body).encode())
