"""The learning rate against the explicit formulas."""

from __future__ import annotations

import math
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablate.recipes.schedules import SCHEDULES
from ablate.study.schema import TrainConfig
from ablate.training.schedule import learning_rate

EXACT = 1e-15
"""Relative: the same few float64 operations, perhaps in another order."""


def config(schedule: str, steps: int = 10, warmup_steps: int | None = 2, **more: float) -> TrainConfig:
    more = {"learning_rate": 1.0, "min_learning_rate": 0.2, **more}
    return TrainConfig(steps=steps, warmup_steps=warmup_steps, schedule=schedule, **more)


def test_every_schedule_of_the_grid_has_a_shape():
    assert set(SCHEDULES) == set(get_args(TrainConfig.model_fields["schedule"].annotation))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_warm_up_is_linear_and_reaches_the_peak_one_step_later(schedule):
    rates = [learning_rate(step, config(schedule)) for step in (1, 2, 3)]
    assert rates == pytest.approx([1 / 3, 2 / 3, 1.0], rel=EXACT)


def test_cosine():
    for step in range(3, 11):
        expected = 0.2 + 0.8 * (1 + math.cos(math.pi * (step - 3) / 8)) / 2
        assert learning_rate(step, config("cosine")) == pytest.approx(expected, rel=EXACT)
    assert learning_rate(7, config("cosine")) == pytest.approx(0.6, rel=EXACT)


def test_linear():
    rates = [learning_rate(step, config("linear")) for step in range(3, 11)]
    assert rates == pytest.approx([1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3], rel=EXACT)


def test_constant():
    assert {learning_rate(step, config("constant")) for step in range(3, 11)} == {1.0}


def test_wsd_stays_at_the_peak_then_falls_linearly():
    rates = [learning_rate(step, config("wsd", decay_fraction=0.5)) for step in range(3, 11)]
    assert rates == pytest.approx([1.0, 1.0, 1.0, 1.0, 1.0, 0.8, 0.6, 0.4], rel=EXACT)


@pytest.mark.parametrize("rho", [0.01, 0.1, 3.0])
def test_logarithmic(rho):
    for step in range(3, 11):
        r = (step - 3) / 8
        expected = 0.2 + 0.8 * (1 - math.log(1 + r / rho) / math.log(1 + 1 / rho))
        assert learning_rate(step, config("logarithmic", logarithmic_rho=rho)) == pytest.approx(expected, rel=1e-13)


def test_logarithmic_with_a_large_rho_is_linear():
    for step in range(3, 11):
        linear = learning_rate(step, config("linear"))
        assert learning_rate(step, config("logarithmic", logarithmic_rho=1e9)) == pytest.approx(linear, rel=1e-8)


@given(
    schedule=st.sampled_from(sorted(SCHEDULES)),
    steps=st.integers(1, 500),
    data=st.data(),
    minimum=st.floats(0, 1),
)
def test_rates_stay_between_minimum_and_peak_and_never_rise_after_warm_up(schedule, steps, data, minimum):
    train = config(schedule, steps, data.draw(st.integers(0, steps - 1)), min_learning_rate=minimum)
    rates = [learning_rate(step, train) for step in range(1, steps + 1)]
    assert all(0 < rate <= 1 + EXACT for rate in rates)
    falling = rates[train.warmup_steps :]
    assert all(rate >= minimum - EXACT for rate in falling)
    assert falling == sorted(falling, reverse=True)
    assert falling[0] == pytest.approx(1.0, rel=EXACT)


def test_an_unresolved_warm_up_is_refused():
    with pytest.raises(ValueError, match="warmup_steps must be resolved"):
        learning_rate(1, config("cosine", warmup_steps=None))
