"""Matching arms to their baseline."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ablate.data import CorpusInfo
from ablate.errors import GridError
from ablate.plan import build_plan
from ablate.plan.match import SIZES, STEP, TOLERANCE
from ablate.study import load_study

WriteGrid = Callable[..., Path]

SIZED = {"d_model": 64, "n_layers": 2, "n_heads": 4, "context_length": 64}
MULTI_QUERY = {"attention": ["standard", {"name": "standard", "n_kv_heads": 1, "label": "mqa"}]}


@pytest.mark.parametrize("match", ["parameters", "flops"])
def test_arms_are_matched_by_the_width_of_the_mlp(write_grid: WriteGrid, corpus_info: CorpusInfo, match: str) -> None:
    base, other = build_plan(
        load_study(write_grid(model=SIZED, matrix=MULTI_QUERY, baseline={}, match=match)), corpus_info
    ).arms
    assert other.model.d_ff > base.model.d_ff == 256
    assert other.model.d_ff % STEP == 0
    sizes = [SIZES[match](arm.model) for arm in (base, other)]
    assert abs(sizes[1] / sizes[0] - 1) <= TOLERANCE
    assert any("d_ff" in notice for notice in other.notices)


def test_the_nearest_width_is_chosen(write_grid: WriteGrid, corpus_info: CorpusInfo) -> None:
    base, other = build_plan(
        load_study(write_grid(model=SIZED, matrix=MULTI_QUERY, baseline={}, match="parameters")), corpus_info
    ).arms
    target = base.model.num_params()
    distance = abs(other.model.num_params() - target)
    for width in (other.model.d_ff - STEP, other.model.d_ff + STEP):
        assert abs(other.model.model_copy(update={"d_ff": width}).num_params() - target) >= distance


def test_what_cannot_be_matched_is_refused(write_grid: WriteGrid, corpus_info: CorpusInfo) -> None:
    grid = write_grid(model=SIZED, matrix={"model.n_layers": [2, 8]}, baseline={}, match="parameters")
    with pytest.raises(GridError, match=r"n_layers=8 cannot be matched in parameters"):
        build_plan(load_study(grid), corpus_info)


def test_an_arm_that_sets_the_width_itself_is_refused(write_grid: WriteGrid, corpus_info: CorpusInfo) -> None:
    grid = write_grid(model=SIZED, matrix={"model.d_ff": [128, 256]}, baseline={}, match="flops")
    with pytest.raises(GridError, match="sets itself"):
        build_plan(load_study(grid), corpus_info)
