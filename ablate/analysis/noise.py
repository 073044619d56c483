"""The noise floor: scatter between seeds that earlier studies of the same size and data have measured.

A report uses it only if it is asked to, so that the same study gives the same page wherever its folder is. It
names the studies that it used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ablate.analysis.families import Earlier
from ablate.formatting import count
from ablate.tracking.study_record import ArmRecord

if TYPE_CHECKING:
    from ablate.analysis.results import Results

FEWEST_PAIRS = 3
"""An arm of an earlier study needs as many pairs of runs as in the simulations."""

SAME_SIZE = 0.1
"""Largest relative difference in parameters and in training tokens between arms of the same size."""


@dataclass(frozen=True)
class Lender:
    """An arm of an earlier study: the variance (ddof 1) of its `n_pairs` paired differences, its size, and its runs."""

    study: str
    arm: str
    variance: float
    n_pairs: int
    n_params: int | None
    n_tokens: int | None
    run_ids: frozenset[str]


def choose_lenders(results: Results, baseline: str) -> tuple[Lender, ...]:
    """Choose the earlier arms of about the baseline's size that share no run with the study."""
    base, own = results.arms[baseline], {run.run_id for run in results.runs}
    return tuple(lender for lender in results.lenders if _is_same_size(lender, base) and not lender.run_ids & own)


def collect_earlier(lenders: Sequence[Lender]) -> Earlier | None:
    """Turn lenders into the form in which a family takes them; None if the list is empty."""
    if not lenders:
        return None
    variance, n_pairs = zip(*((lender.variance, float(lender.n_pairs)) for lender in lenders), strict=True)
    return Earlier(np.array(variance), np.array(n_pairs))


def name_lenders(lenders: Sequence[Lender]) -> str:
    """`noise from 12 earlier runs of one, two`."""
    n_runs = len(frozenset[str]().union(*(lender.run_ids for lender in lenders)))
    studies = ", ".join(dict.fromkeys(lender.study for lender in lenders))
    return f"noise from {count(n_runs, 'earlier run')} of {studies}"


def _is_same_size(lender: Lender, arm: ArmRecord) -> bool:
    return _is_near(lender.n_params, arm.n_params) and _is_near(lender.n_tokens, arm.n_tokens)


def _is_near(one: int | None, other: int | None) -> bool:
    return one is not None and other is not None and abs(one - other) <= SAME_SIZE * other
