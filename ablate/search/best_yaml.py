"""best.yaml: the best settings of every arm, to be laid over a grid with `--with`."""

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
    """Write the overlay into the search's folder."""
    entries = []
    lines = [
        f"What the search {problem.name} found, at {describe_scope(problem)}.",
        "A search's own best value flatters: the confirmation with fresh seeds tells what it is worth.",
        "Lay it over a grid: ablate plan|run GRID --with best.yaml",
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
