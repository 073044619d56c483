"""Advice of a plan on arms that share an untuned learning rate, and the `tune:` block that it proposes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import yaml

from ablate.data import CorpusInfo
from ablate.errors import AblateError
from ablate.plan import Plan
from ablate.search.pose import pose_tuning
from ablate.study.declaration import Study
from ablate.study.schema import LEARNING_RATES, Rule
from ablate.study.tuning import Tune

FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""The proposed learning rates, as factors of the declared one: the best ones of published studies lie in this range."""

RATE = "train.learning_rate"


def propose_tuning(plan: Plan) -> Iterator[str]:
    """Say which arms are not tuned, and yield the lines of a `tune:` block that this grid accepts.

    Nothing is said of grids that tune, that compare learning rates, or that train a program.
    """
    rates = _find_shared_rates(plan)
    if not rates:
        return
    listed = ", ".join(f"{rate:g}" for rate in rates)
    which, verdicts = (
        ("this learning rate", "the verdict holds")
        if len(rates) == 1
        else ("these learning rates", "the verdicts hold")
    )
    who = "no arm was tuned" if _shares_all(plan) else "some arms share a learning rate that was not tuned"
    text = f"{who}: {verdicts} for {which} only ({listed})"
    ruled = {float(rule.set[RATE]) for rule in plan.grid.rules if RATE in rule.set}
    grid = plan.grid.replace(rules=tuple(_drop_rates(plan.grid.rules))) if ruled else plan.grid
    try:
        block = write_tuning(grid, plan.corpus, {rates[0], *ruled})
    except AblateError as error:
        yield f"{text}; this grid cannot take a tune: block as it is: {str(error).splitlines()[0]}"
        return
    instead = f", in place of the rules that set {RATE}" if ruled else ""
    yield f"{text}; to give every arm the same trials, add{instead}:"
    yield from block.splitlines()


def _drop_rates(rules: Iterable[Rule]) -> Iterator[Rule]:
    """The rules without the learning rates that they set: a setting that `tune:` varies has no rules."""
    for rule in rules:
        if rest := {path: value for path, value in rule.set.items() if path != RATE}:
            yield rule.model_copy(update={"set": rest})


def write_tuning(grid: Study, corpus: CorpusInfo, rates: Iterable[float]) -> str:
    """Write a `tune:` block around these learning rates, with trials of half the steps if the grid can have them.

    Raises `GridError` if the grid can have no such block.
    """
    values = sorted({float(f"{rate * factor:.3g}") for rate in rates for factor in FACTORS})
    space = {"space": {RATE: values}, "trials": len(values), "sampler": "GridSampler"}
    half = int(grid.settings.get("train", {}).get("steps", 0)) // 2
    block = {**space, "budget": {"steps": half}}
    try:
        _check(grid, corpus, block)
    except AblateError:
        block = space
        _check(grid, corpus, block)
    lines = [f"  {key}: {yaml.safe_dump(value, default_flow_style=True, width=1000)}" for key, value in block.items()]
    return "tune:\n" + "".join(line.replace("\n...\n", "\n") for line in lines)


def _check(grid: Study, corpus: CorpusInfo, block: Mapping[str, Any]) -> None:
    pose_tuning(grid.replace(tune=Tune.model_validate(block)), corpus)


def _find_shared_rates(plan: Plan) -> list[float]:
    """The learning rates that an arm shares with its baseline, without `tune:` and without an axis of them."""
    axes = {*plan.axes, *(axis.removeprefix("train.") for axis in plan.axes)}
    if plan.grid.tune is not None or plan.study.program is not None or axes & {*LEARNING_RATES}:
        return []
    return sorted({mine for mine, theirs in _pair_rates(plan) if mine == theirs})


def _shares_all(plan: Plan) -> bool:
    return all(mine == theirs for mine, theirs in _pair_rates(plan))


def _pair_rates(plan: Plan) -> Iterator[tuple[float, float]]:
    """Yield the learning rates of each arm and its baseline."""
    rates = {arm.name: arm.train.learning_rate for arm in plan.arms}
    yield from ((rates[arm.name], rates[arm.baseline]) for arm in plan.arms if arm.baseline != arm.name)
