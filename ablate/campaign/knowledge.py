"""What a campaign knows: its tries, the error rate spent and left, and what a grid would try again."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import filterfalse
from statistics import median
from typing import Any

import numpy as np

from ablate.analysis.power import find_detectable
from ablate.analysis.results import Results
from ablate.analysis.stricter import find_levels
from ablate.campaign.levels import RATE, level_of, seeds_for
from ablate.campaign.log import Campaign, Try
from ablate.campaign.tries import find_same, identify_pairs
from ablate.tracking.study_record import StudyRecord

# Campaigns of earlier versions store such notes with the decision of that time.
_EARLIER = re.compile(r".* was tested in try \d+: \w+, (kept|dropped|open)")


def describe(campaign: Campaign) -> Mapping[str, Any]:
    """Describe the campaign as plain data, with every try and what the next one can find."""
    spent = math.fsum(one.alpha for one in campaign.tries)
    tries = []
    for one in campaign.tries:
        decision = campaign.decision_on(one.k)
        because = "" if decision is None else decision.because
        notes = [*filterfalse(_EARLIER.fullmatch, one.notes), *_list_earlier(campaign, one)]
        tries.append({**one.to_dict(), "decision": campaign.choice_on(one.k), "because": because, "notes": notes})
    return {
        "name": campaign.name,
        "goal": campaign.goal,
        "alpha": RATE,
        "spent": spent,
        "left": RATE - spent,
        "next": _describe_next(campaign),
        "tries": tries,
    }


def _list_earlier(campaign: Campaign, one: Try) -> Iterator[str]:
    """Say which arms of a try were tested before, and what is decided on those tries now."""
    for arm in one.arms:
        for earlier, verdict in [found for found in campaign.tests_of(arm.identity) if found[0].k < one.k][-1:]:
            yield f"{arm.arm} was tested in try {earlier.k}: {verdict.verdict}, {campaign.choice_on(earlier.k)}"


def _describe_next(campaign: Campaign) -> Mapping[str, Any]:
    k = len(campaign.tries) + 1
    last = campaign.tries[-1] if campaign.tries else None
    metric, effect = (None, None) if last is None else (last.metric, last.smallest_effect)
    sd = find_scatter(campaign, metric) if metric else None
    seeds = seeds_for(effect, sd, level_of(k)) if effect is not None and sd else None
    return {"k": k, "alpha": level_of(k), "metric": metric, "sd": sd, "effect": effect, "seeds": seeds}


def find_scatter(campaign: Campaign, metric: str) -> float | None:
    """The median standard deviation of a paired difference in this metric over the arms of all tries."""
    known = [arm.sd for one in campaign.tries if one.metric == metric for arm in one.arms if arm.sd]
    return median(known) if known else None


def check_grid(campaign: Campaign, record: StudyRecord, trained: Results | None = None) -> Mapping[str, Any]:
    """Describe what a planned study would be as the next try: its level, and which arms were tested before.

    `tests` are the earlier tests of an arm, the newest last. `detectable` is the difference that each arm finds in 80 %
    of cases if it scatters like the arms of earlier tries; None if that is not known. `same` is the number of a try
    that tested all these arms; `is_added` says that it has the very results of this study, which are in `trained`.
    """
    k = len(campaign.tries) + 1
    sd = find_scatter(campaign, record.metric.name)
    seeds = Counter(run.arm for run in record.runs)
    baselines = {arm.arm: arm.baseline for arm in record.arms}
    members = Counter(baseline for arm, baseline in baselines.items() if baseline != arm)
    arms = []
    pairs = identify_pairs(record)
    for name, identity in pairs.items():
        baseline = baselines[name]
        level, _ = find_levels(members[baseline], level_of(k) / len(members))
        n = min(seeds[name], seeds[baseline])
        detectable = None
        if sd and n > 1 and record.seed_rule is None:
            detectable = float(find_detectable(np.asarray(sd / np.sqrt(n)), np.asarray(n - 1.0), 1 - float(level)))
        tests = [
            {
                "k": one.k,
                "verdict": verdict.verdict,
                "estimate": verdict.estimate,
                "low": verdict.low,
                "high": verdict.high,
                "decision": campaign.choice_on(one.k),
                "because": "" if (found := campaign.decision_on(one.k)) is None else found.because,
            }
            for one, verdict in campaign.tests_of(identity)
        ]
        arms.append({"arm": name, "baseline": baseline, "seeds": n, "detectable": detectable, "tests": tests})
    same, is_added = find_same(campaign, pairs, trained if trained and _is_whole(record, trained.record) else None)
    return {
        "name": campaign.name,
        "study": record.study,
        "k": k,
        "alpha": level_of(k),
        "same": None if same is None else same.k,
        "is_added": is_added,
        "arms": arms,
    }


def _is_whole(planned: StudyRecord, trained: StudyRecord) -> bool:
    """Whether training would add no run to a study. A rule for seeds may have added some that no plan knows."""
    wanted, known = ({run.run_id for run in record.runs} for record in (planned, trained))
    return wanted == known or (
        planned.seed_rule is not None and planned.seed_rule == trained.seed_rule and wanted < known
    )
