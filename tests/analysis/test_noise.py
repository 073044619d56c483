"""The noise floor: arms of earlier studies that lend their scatter."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from by_hand import make_results, make_run
from scipy import stats
from scipy.special import digamma

from ablate.analysis import Results
from ablate.analysis.arm_power import find_power
from ablate.analysis.differences import find_differences, list_lenders
from ablate.analysis.moderated import BORROWED_DF, find_loan
from ablate.analysis.noise import choose_lenders
from ablate.analysis.samples import PAIRED
from ablate.analysis.selection import rebase, select
from ablate.report.report import ReportOptions, make_report


def study(name: str, arms: dict[str, tuple[float, ...]], n_params: int = 1000) -> Results:
    runs = [
        replace(make_run(arm, seed, [9.0, 8.0, 7.0, end]), run_id=f"{name}-{arm}-{seed}")
        for arm, losses in arms.items()
        for seed, end in enumerate(losses)
    ]
    return make_results(*runs, name=name, n_params=dict.fromkeys(arms, n_params))


OWN = study("now", {"base": (3.0, 3.0, 3.0), "arm": (3.1, 3.2, 3.3)})
ZEROS = (0.0, 0.0, 0.0)


def earlier(*scatters: float, **changes: Any) -> Results:
    arms = {f"old{k}": (1.0, 1.0 + scatter, 1.0 + 2 * scatter) for k, scatter in enumerate(scatters)}
    return study("before", {"base": ZEROS, **arms}, **changes)


def lend(*studies: Results) -> Results:
    return replace(OWN, lenders=tuple(lender for other in studies for lender in list_lenders(other)))


def test_one_arm_borrows_the_scatter_of_an_earlier_study_by_hand() -> None:
    (row,) = find_differences(lend(earlier(0.2, 0.05)))
    prior_df, earned, _ = BORROWED_DF[1][3][2]
    # the prior is the geometric mean of the variances 0.04 and 0.0025, corrected for the skewness of log s^2
    log_prior = np.log(0.04 * 0.0025) / 2 - digamma(1) + np.log(1) + digamma(prior_df / 2) - np.log(prior_df / 2)
    variance = (prior_df * np.exp(log_prior) + 2 * 0.01) / (prior_df + 2)
    assert row.sd == pytest.approx(np.sqrt(variance))
    assert row.p_value == pytest.approx(2 * stats.t.sf(0.2 / np.sqrt(variance / 3), 2 + earned))
    assert row.method == "moderated paired t, noise from 9 earlier runs of before"
    (alone,) = find_differences(OWN)
    assert alone.method == PAIRED


def test_only_a_number_of_earlier_arms_that_was_simulated_counts() -> None:
    assert find_loan(1, 3, 40) == (2, *BORROWED_DF[1][3][2])
    assert find_loan(1, 3, 0) is None and find_loan(7, 3, 5) is None and find_loan(2, 6, 5) is None
    two, three = (find_differences(lend(earlier(*([0.1] * n))))[0] for n in (2, 3))
    assert two == three


def test_arms_of_another_size_or_with_common_runs_do_not_lend() -> None:
    assert len(choose_lenders(lend(earlier(0.1, n_params=1080)), "base")) == 1
    assert choose_lenders(lend(earlier(0.1, n_params=1300)), "base") == ()
    assert choose_lenders(lend(OWN), "base") == ()  # the very same runs
    assert list_lenders(study("two", {"base": (0.0, 0.0), "arm": (0.1, 0.2)})) == ()  # too few pairs
    assert list_lenders(study("tied", {"base": ZEROS, "arm": (0.5, 0.5, 0.5)})) == ()


def test_views_of_a_study_keep_its_noise_floor_and_reports_say_it() -> None:
    results = lend(earlier(0.1, 0.2))
    assert select(results, "arm == 'arm'").lenders == rebase(results, {"arm": "base"}).lenders == results.lenders
    report = make_report(results, ReportOptions())
    assert "Noise from 9 earlier runs of before counts in the tests." in report.answer[-1]
    assert not any("earlier" in sentence for sentence in make_report(OWN, ReportOptions()).answer)


def test_power_knows_the_noise_floor() -> None:
    (alone,), (helped,) = find_power(OWN, 0.05), find_power(lend(earlier(0.1, 0.1)), 0.05)
    assert helped.detectable < alone.detectable
