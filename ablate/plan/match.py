"""Give arms the parameters or FLOPs of their baseline by adapting the width of the MLP."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from ablate.study.declaration import Match
from ablate_model import ModelConfig

STEP = 8  # matrix kernels are fastest when d_ff is a multiple of 8
TOLERANCE = 0.02

SIZES: dict[str, Callable[[ModelConfig], int]] = {
    "parameters": lambda config: config.num_params(),
    "flops": lambda config: config.flops_per_token(),
}


class MatchError(ValueError):
    """No width of the MLP gives the arm a size within the tolerance."""


def match_size(arm: ModelConfig, baseline: ModelConfig, match: Match) -> ModelConfig:
    """The arm with the `d_ff` that brings it closest to the baseline's size.

    Size is linear in `d_ff`, so two evaluations are enough. Raises `MatchError` where the closest size is more than 2 %
    away.
    """
    width = _find_width(arm, baseline, match)
    return arm if width is None else arm.resized(width)


@lru_cache(maxsize=4096)
def _find_width(arm: ModelConfig, baseline: ModelConfig, match: Match) -> int | None:
    """The width, or None where the sizes are equal already.

    Only the width is cached, because equal arms may still differ in settings without an effect."""
    size = SIZES[match]
    target = size(baseline)
    if size(arm) == target:
        return None
    start = max(STEP, arm.d_ff // STEP * STEP)
    first, second = (size(arm.resized(width)) for width in (start, start + STEP))
    if second == first:
        raise MatchError(f"cannot be matched in {match}: its size does not depend on d_ff")
    steps = round((target - first) / (second - first))
    matched = arm.resized(max(STEP, start + steps * STEP))
    difference = size(matched) / target - 1
    if abs(difference) > TOLERANCE:
        raise MatchError(
            f"cannot be matched in {match}: with d_ff {matched.d_ff} it has {size(matched):,} "
            f"against {target:,} of its baseline ({difference:+.1%}; legal: at most {TOLERANCE:.0%})"
        )
    return matched.d_ff
