"""Sentences of the answer about what limits its verdicts, such as untuned arms, borrowed noise, differing reruns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ablate.analysis.differences import Difference
from ablate.analysis.repeats import Reruns
from ablate.analysis.samples import IDENTICAL, MODERATED
from ablate.analysis.untuned import Untuned
from ablate.formatting import count, format_number
from ablate.metrics import Metric
from ablate.report.notation import LISTED, capitalize, join_with_and, name_rest


def describe_cautions(
    untuned: Untuned | None,
    differences: Sequence[Difference],
    uneven: Mapping[str, float],
    reruns: Reruns | None,
    labels: Mapping[str, str],
    metric: Metric,
) -> list[str]:
    """All sentences of this module that apply."""
    return [
        *describe_identical(differences, labels),
        *describe_untuned(untuned, labels),
        *describe_noise(differences),
        *describe_uneven(uneven, labels),
        *describe_reruns(reruns, metric),
    ]


def describe_identical(differences: Sequence[Difference], labels: Mapping[str, str]) -> list[str]:
    """Say which arms train exactly like their baselines, as settings do that never reach the model."""
    arms = [row.arm for row in differences if row.method == IDENTICAL]
    if not arms:
        return []
    names = join_with_and([labels[arm] for arm in arms[:LISTED]] + name_rest(arms))
    verb = (
        "logs exactly the same losses as its baseline"
        if len(arms) == 1
        else "log exactly the same losses as their baseline"
    )
    return [f"{names} {verb} for every seed: check that the setting has an effect."]


def describe_untuned(untuned: Untuned | None, labels: Mapping[str, str]) -> list[str]:
    """Say which verdicts hold for one learning rate only."""
    if untuned is None:
        return []
    rates = join_with_and([f"{rate:g}" for rate in untuned.rates])
    which = "this learning rate" if len(untuned.rates) == 1 else "these learning rates"
    one = len(untuned.arms) == 1
    verdicts = "the verdict holds" if one else "the verdicts hold"
    if untuned.is_all:
        return [f"No arm was tuned: {verdicts} for {which} only ({rates})."]
    names = join_with_and([labels[arm] for arm in untuned.arms[:LISTED]] + name_rest(untuned.arms))
    were = "was" if one else "were"
    return [f"{names} {were} not tuned, and neither was the baseline: {verdicts} for {which} only ({rates})."]


def describe_noise(differences: Sequence[Difference]) -> list[str]:
    """Say whose scatter counts in the tests, apart from the study's own."""
    start = f"{MODERATED}, "
    sources = dict.fromkeys(row.method.removeprefix(start) for row in differences if row.method.startswith(start))
    return [f"{capitalize(join_with_and(list(sources)))} counts in the tests."] if sources else []


def describe_uneven(uneven: Mapping[str, float], labels: Mapping[str, str]) -> list[str]:
    """Say which arms scatter so much that the tests of the others suffer."""
    return [
        f"{labels[arm]} scatters {ratio:.0f}x as much between seeds as the other arms of its baseline. The tests share "
        "the scatter, so its own verdict may be too sure, and those of the others too cautious."
        for arm, ratio in uneven.items()
    ]


def describe_reruns(reruns: Reruns | None, metric: Metric) -> list[str]:
    """Say how far reruns of the same run id were seen to differ."""
    if reruns is None:
        return []
    what = count(reruns.n_runs, "run")
    were = "was" if reruns.n_runs == 1 else "were"
    if not reruns.largest:
        return [f"{what} {were} trained again under the same id, with the same final {metric.short}."]
    size = f"{format_number(reruns.largest)}{metric.unit}"
    why = (
        "although all were deterministic: their devices or versions differ"
        if reruns.is_deterministic
        else "because kernels add up in any order; train.deterministic: true prevents that on one GPU"
    )
    return [
        f"{what} {were} trained again under the same id, and the final {metric.short} differs by up to {size}, {why}."
    ]
