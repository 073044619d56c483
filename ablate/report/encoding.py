"""How arms look in every chart: color for one factor, dash for another, and panels for what is compared within."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ablate.analysis.results import Results
from ablate.report.palette import DASHES, LIGHT, MAX_COLORS
from ablate.tracking.arm_labels import find_shared, label_levels
from ablate.tracking.study_record import ArmRecord
from ablate.tracking.values import Value

OTHER = "other arms"


@dataclass(frozen=True)
class Look:
    """The look of an arm: the color and the dash stand for `hue` and `style`, and it is drawn in `panel`.

    `short` is its name inside the panel.
    """

    color: str
    dash: tuple[int, ...]
    panel: str
    short: str
    hue: str
    style: str


@dataclass(frozen=True)
class Scales:
    """What all charts of a report share: the colors and dashes by what they stand for, and the panels."""

    hues: tuple[tuple[str, str], ...]
    styles: tuple[tuple[str, tuple[int, ...]], ...]
    panels: tuple[str, ...]


def collect_scales(looks: Mapping[str, Look]) -> Scales:
    hues = {look.hue: LIGHT.other if look.hue == OTHER else look.color for look in looks.values()}
    styles = {look.style: look.dash for look in looks.values()}
    panels = dict.fromkeys(look.panel for look in looks.values())
    return Scales(tuple(hues.items()), tuple(styles.items()), tuple(panels))


def assign_looks(results: Results, labels: Mapping[str, str], ranked: Sequence[str]) -> dict[str, Look]:
    """The look of each arm.

    The axes of `compare_within` become panels. In a crossed design, the factor with the most levels gets colors, and
    the next one dashes or, beyond four levels, panels. Otherwise each arm has a color; beyond eight, only the arms that
    come first in `ranked` have one of their own.
    """
    arms = results.record.arms
    shared = find_shared(arms)
    panels = {arm.arm: _name(arm, results.record.compare_within, shared) for arm in arms}
    factors = _find_factors(arms, results.record.compare_within)
    short = _shorten(arms, [axis for axis, _ in factors], labels, panels, shared)
    hue, dash, panel = _split(arms, factors, results.record.design)
    names = {arm.arm: _name(arm, (hue,), shared) if hue else short[arm.arm] for arm in arms}
    styles = {arm.arm: _name(arm, (dash,), shared) if dash else "" for arm in arms}
    if panel:
        panels = {arm.arm: ", ".join(filter(None, (panels[arm.arm], _name(arm, (panel,), shared)))) for arm in arms}
    baselines = [arm.arm for arm in arms if arm.arm == arm.baseline]
    order = dict.fromkeys(names[name] for name in (*baselines, *ranked, *names))
    if hue:  # levels in the order of the study, the baseline's first
        order = dict.fromkeys(names[name] for name in (*baselines, *names))
    grays = dict.fromkeys(names[name] for name in baselines) if len({names[b] for b in baselines}) == 1 else {}
    bright = [name for name in order if name not in grays]
    colors = dict(zip(bright, LIGHT.lines[1:], strict=False)) | dict.fromkeys(grays, LIGHT.lines[0])
    strokes = {name: DASHES[i % len(DASHES)] for i, name in enumerate(dict.fromkeys(styles.values()))}
    return {
        arm.arm: Look(
            color=colors.get(names[arm.arm], LIGHT.other),
            dash=strokes[styles[arm.arm]],
            panel=panels[arm.arm],
            short=short[arm.arm],
            hue=names[arm.arm] if names[arm.arm] in colors else OTHER,
            style=styles[arm.arm],
        )
        for arm in arms
    }


def _find_factors(arms: Sequence[ArmRecord], within: Sequence[str]) -> list[tuple[str, int]]:
    """The axes with several levels besides those of `within`, each with its number of levels, the most first."""
    axes = dict.fromkeys(axis for arm in arms for axis in arm.axes if axis not in within)
    n_levels = [(axis, len({_key(arm.axes.get(axis)) for arm in arms})) for axis in axes]
    return sorted([(axis, n) for axis, n in n_levels if n > 1], key=lambda item: -item[1])


def _split(
    arms: Sequence[ArmRecord], factors: Sequence[tuple[str, int]], design: str
) -> tuple[str | None, str | None, str | None]:
    """The axes that get colors, dashes and panels. None of them if the arms do not cross two factors."""
    is_crossed = len(factors) > 1 and design == "full" and all(axis in arm.axes for arm in arms for axis, _ in factors)
    if not is_crossed or factors[0][1] > MAX_COLORS or len(factors) > 3:
        return None, None, None
    (hue, _), (second, n_second), *rest = factors
    if n_second > len(DASHES):
        return (hue, None, second) if not rest else (None, None, None)
    return hue, second, rest[0][0] if rest else None


def _shorten(
    arms: Sequence[ArmRecord],
    factors: Sequence[str],
    labels: Mapping[str, str],
    panels: Mapping[str, str],
    shared: Mapping[str, str],
) -> dict[str, str]:
    """Names without the levels that the panel says already, unless two arms of a panel would share one."""
    names = {arm.arm: _name(arm, [axis for axis in arm.axes if axis in factors], shared) for arm in arms}
    is_clear = len({(panels[arm], name) for arm, name in names.items()}) == len(arms) and all(names.values())
    return names if is_clear and any(panels.values()) else dict(labels)


def _name(arm: ArmRecord, axes: Sequence[str], shared: Mapping[str, str]) -> str:
    return label_levels({axis: arm.axes[axis] for axis in axes if axis in arm.axes}, shared)


def _key(level: Value | None) -> tuple[str, str]:
    return type(level).__name__, str(level)
