"""Looks at a study with `until: decided`: after each seed, arms that are decided leave, and the others go on.

A look of n seeds judges the arms of one baseline by the first n seeds. It takes place once the runs of all arms that
are still open, and of their baseline, have ended for these seeds. So looks depend on the curves alone, and not on the
order in which runs ended. An arm that has left keeps its verdict, and lends its scatter to the others.

Each look of each arm has a nominal level, so that over all looks and arms at most 5 % of studies are wrong
(`spending`). The same levels give the intervals, which are repeated confidence intervals (Jennison & Turnbull 1989):
they hold at all looks together, and exclude 0 exactly if the arm is better or worse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

from ablate.analysis.curve_columns import Floats
from ablate.analysis.families import Family, adjust_sidak, single_level
from ablate.analysis.intervals import ROUNDING
from ablate.analysis.results import Results
from ablate.analysis.run_curve import RunCurve
from ablate.analysis.samples import Sample, collect_sample, estimate_family
from ablate.analysis.spending import KEPT_FOR_EQUIVALENCE, kept, level_at, repeated_p_value, spend
from ablate.analysis.verdicts import ALPHA, VERDICTS, Verdict
from ablate.tracking.study_record import ENDED, SeedRule

BETTER, WORSE, EQUIVALENT, UNDECIDED = VERDICTS


@dataclass(frozen=True)
class ArmLook:
    """An open arm at a look. The interval is simultaneous, and None below two pairs or without a new one."""

    arm: str
    n_pairs: int
    estimate: float | None
    low: float | None
    high: float | None
    verdict: Verdict


@dataclass(frozen=True)
class Look:
    """A look at the arms of a baseline after `seeds` seeds. `spent` is the error rate that may be spent up to it."""

    baseline: str
    seeds: int
    spent: float
    arms: tuple[ArmLook, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"arms": [asdict(arm) for arm in self.arms]}


@dataclass(frozen=True, eq=False)
class Standing:
    """An arm at its last look with new pairs: its sample, and the pairs at this look and the ones before.

    `n_arms` is the size of the family.
    """

    sample: Sample
    standard_error: float
    df: float
    method: str
    pairs: tuple[int, ...]
    seeds: tuple[int, ...]
    at_most: int
    n_arms: int
    verdict: Verdict

    @property
    def estimate(self) -> float:
        return self.sample.estimate

    @property
    def single_alpha(self) -> float:
        """The error rate of each arm, with which all arms of the family together have `ALPHA`."""
        return 1 - single_level(self.n_arms)

    def level(self, alpha: float) -> float:
        """The nominal level of the test at this look, if all looks together may have the error rate `alpha`."""
        return level_at(kept(self.at_most) * alpha, self.pairs, self.seeds, self.at_most)

    def half_width(self, alpha: float) -> float:
        return float(stdtrit(self.df, 1 - self.level(alpha) / 2) * self.standard_error)

    def is_within(self, margin: float) -> bool:
        """Tell whether the difference is shown to be smaller than a margin, as for equivalence."""
        level = level_at(KEPT_FOR_EQUIVALENCE * ALPHA, self.pairs, self.seeds, self.at_most, 1)
        return bool(abs(self.estimate) + stdtrit(self.df, 1 - level) * self.standard_error < margin)

    @cached_property
    def p_values(self) -> tuple[float, float]:
        """The p-value of the arm by itself, and that for the whole family; both account for all looks."""
        if self.standard_error <= ROUNDING:
            p_value = 0.0 if abs(self.estimate) > ROUNDING else 1.0
        else:
            p_value = float(2 * stdtr(self.df, -abs(self.estimate) / self.standard_error))
        plain, single = (
            repeated_p_value(p_value, alpha, self.pairs, self.seeds, self.at_most)
            for alpha in (ALPHA, self.single_alpha)
        )
        return plain, float(adjust_sidak(np.asarray(single), self.n_arms))


@dataclass(eq=False)
class Course:
    """The looks so far. `open` are the arms of each baseline that are not decided, none once all seeds are used.

    `next_look` is the number of seeds of each baseline's next look.
    """

    looks: list[Look] = field(default_factory=list)
    standings: dict[str, Standing] = field(default_factory=dict)
    open: dict[str, tuple[str, ...]] = field(default_factory=dict)
    next_look: dict[str, int] = field(default_factory=dict)

    def is_open(self, arm: str, baseline: str) -> bool:
        """Tell whether further seeds of an arm count. A baseline is open as long as one of its arms is."""
        return bool(self.open.get(baseline)) if arm == baseline else arm in self.open.get(baseline, ())


def is_over(run: RunCurve) -> bool:
    """Tell whether a look need not wait for a run: it finished or diverged. One that was cut is trained to its end."""
    return run.status.state in ENDED and not (run.status.is_cut or run.is_altered or run.unread)


def follow(results: Results, rule: SeedRule) -> Course:
    """Take all looks for which the runs have ended."""
    course = Course()
    families: dict[str, list[str]] = {}
    for arm in results.compared_arms:
        families.setdefault(results.baseline_of(arm), []).append(arm)
    for baseline, arms in families.items():
        _follow_family(course, results, rule, baseline, arms)
    course.looks.sort(key=lambda look: look.seeds)
    return course


def _follow_family(course: Course, results: Results, rule: SeedRule, baseline: str, arms: Sequence[str]) -> None:
    over = {(run.arm, run.seed) for run in results.runs if is_over(run)}
    course.open[baseline], course.next_look[baseline] = tuple(arms), rule.at_least
    pairs: dict[str, tuple[int, ...]] = dict.fromkeys(arms, ())
    for n in range(rule.at_least, rule.at_most + 1):
        is_open = course.open[baseline]
        if not is_open or any((arm, seed) not in over for arm in (baseline, *is_open) for seed in rule.seeds[:n]):
            return
        found = {arm: collect_sample(results, arm, rule.seeds[:n]) for arm in is_open}
        pairs |= {arm: (*pairs[arm], 0 if sample is None else sample.n) for arm, sample in found.items()}
        seeds = tuple(range(rule.at_least, n + 1))
        levels = {arm: _levels_of(pairs[arm], seeds, rule.at_most, len(arms)) for arm in is_open}
        judged = {arm: sample for arm, sample in found.items() if sample is not None and levels[arm][0]}
        if judged:
            course.standings |= _judge(course, judged, arms, levels, pairs, seeds, rule.at_most, results)
        rows = tuple(
            _write_row(arm, found[arm], course.standings.get(arm) if arm in judged else None) for arm in is_open
        )
        course.looks.append(Look(baseline, n, ALPHA * spend(n / rule.at_most), rows))
        left = tuple(row.arm for row in rows if row.verdict == UNDECIDED) if n < rule.at_most else ()
        course.open[baseline], course.next_look[baseline] = left, n + 1


def _levels_of(pairs: tuple[int, ...], seeds: tuple[int, ...], at_most: int, n_arms: int) -> tuple[float, float]:
    """The nominal levels of an arm at a look: of the test for a difference, and of that for equivalence."""
    alpha = kept(at_most) * (1 - single_level(n_arms))
    return level_at(alpha, pairs, seeds, at_most), level_at(KEPT_FOR_EQUIVALENCE * ALPHA, pairs, seeds, at_most, 1)


def _judge(
    course: Course,
    judged: Mapping[str, Sample],
    arms: Sequence[str],
    levels: Mapping[str, tuple[float, float]],
    pairs: Mapping[str, tuple[int, ...]],
    seeds: tuple[int, ...],
    at_most: int,
    results: Results,
) -> dict[str, Standing]:
    """Judge arms at a look together with those that left, or have no new pair, which only lend their scatter."""
    others = [course.standings[arm].sample for arm in arms if arm in course.standings and arm not in judged]
    family, methods = estimate_family([*judged.values(), *others])
    n = len(judged)
    mine = Family(results.metric.orient(family.mean[:n]), family.standard_error[:n], family.df[:n])
    different, equivalent = (np.array([levels[arm][k] for arm in judged]) for k in (0, 1))
    verdicts: list[Verdict] = judge_look(mine, different, equivalent, results.smallest_effect).tolist()
    return {
        arm: Standing(
            sample,
            float(family.standard_error[place]),
            float(family.df[place]),
            methods[place],
            pairs[arm],
            seeds,
            at_most,
            len(arms),
            verdicts[place],
        )
        for place, (arm, sample) in enumerate(judged.items())
    }


def _write_row(arm: str, sample: Sample | None, standing: Standing | None) -> ArmLook:
    if sample is None:
        return ArmLook(arm, 0, None, None, None, UNDECIDED)
    if standing is None:
        return ArmLook(arm, sample.n, sample.estimate, None, None, UNDECIDED)
    half = standing.half_width(standing.single_alpha)
    estimate = sample.estimate
    return ArmLook(arm, sample.n, estimate, estimate - half, estimate + half, standing.verdict)


def judge_look(family: Family, level_a: Floats, equivalence_level_a: Floats, margin: float | None) -> NDArray[np.str_]:
    """Return the verdict on each arm [..., arm] at a look with these nominal levels. Below 0 is better."""
    size, error = np.abs(family.mean), family.standard_error
    is_clear = size > np.maximum(stdtrit(family.df, 1 - level_a / 2) * error, ROUNDING)
    is_equivalent = np.zeros_like(is_clear)
    if margin is not None:
        is_equivalent = size + stdtrit(family.df, 1 - equivalence_level_a) * error < margin
    cases = [is_clear & (family.mean < 0), is_clear, is_equivalent]
    return np.select(cases, [BETTER, WORSE, EQUIVALENT], UNDECIDED)
