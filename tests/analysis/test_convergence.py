import math

import numpy as np
import pytest
from by_hand import make_run

from ablate.analysis.convergence import Position, cost_at, find_crossing, find_share, loss_at, reach_loss


def array(*values):
    return np.array(values, np.float64)


def test_crossing_is_linear_in_loss_and_in_log_cost():
    run = make_run("a", 0, [4.0, 3.0, 2.0, 1.0])
    reach = reach_loss(run, 2.5)
    assert reach.position == Position(2, 0.5)
    assert reach.cost("steps") == pytest.approx(math.sqrt(200 * 400))
    assert reach.cost("tokens") == pytest.approx(10 * math.sqrt(200 * 400))
    assert reach.cost("seconds") == pytest.approx(0.5 * math.sqrt(200 * 400))


def test_a_dip_that_does_not_hold_is_no_crossing():
    assert find_crossing(array(4.0, 2.0, 3.0, 2.5, 2.4), 2.6) == Position(3, pytest.approx(0.8))


def test_the_last_evaluation_of_a_whole_run_is_enough_but_not_of_one_that_stopped():
    losses = array(4.0, 3.0, 2.0)
    assert find_crossing(losses, 2.5) == Position(2, 0.5)
    assert find_crossing(losses, 2.5, is_whole=False) is None
    assert find_crossing(array(4.0, 2.0, 2.0), 2.5, is_whole=False) == Position(1, 0.75)


def test_hold_counts_evaluations():
    losses = array(4.0, 2.0, 2.0, 3.0, 2.0, 2.0, 2.0)
    assert find_crossing(losses, 2.5, hold=2) == Position(1, 0.75)
    assert find_crossing(losses, 2.5, hold=3) == Position(4, 0.5)


def test_a_target_that_is_touched_exactly_is_reached_there():
    assert find_crossing(array(4.0, 3.0, 3.0), 3.0) == Position(1, 1.0)


def test_never_reached_is_censored_where_the_run_ended():
    reach = reach_loss(make_run("a", 0, [4.0, 3.0, 2.0, 1.5]), 1.0)
    assert (reach.side, reach.position, reach.cost("steps"), reach.cost("seconds")) == ("never", None, 800, 400)


def test_below_at_the_first_evaluation_is_censored_there():
    reach = reach_loss(make_run("a", 0, [4.0, 3.0, 2.0, 1.5]), 4.5)
    assert (reach.side, reach.cost("tokens")) == ("before", 1000)


def test_training_loss_never_makes_a_crossing():
    run = make_run("a", 0, [4.0, 3.9, 3.8, 3.7], train_loss=[1.0, 1.0, 1.0, 1.0])
    assert reach_loss(run, 2.0).side == "never"


@pytest.mark.parametrize("share", [0.5, 0.75, 0.9])
def test_a_share_of_the_budget_costs_exactly_that_share(share):
    steps, losses = array(100, 200, 400, 800), array(4.0, 3.0, 2.0, 1.0)
    position = find_share(steps, share)
    assert cost_at(steps, position) == pytest.approx(share * 800)
    assert cost_at(10 * steps, position) == pytest.approx(share * 8000)
    fraction = math.log(share * 8000 / 4000) / math.log(2)
    assert loss_at(losses, position) == pytest.approx(2.0 - fraction)


def test_the_whole_share_is_the_last_evaluation_itself():
    assert find_share(array(100, 800), 1.0) == Position(1, 1.0)
    assert find_share(array(800), 1.0) == Position(0, 1.0)


def test_there_is_no_loss_before_the_first_evaluation():
    assert find_share(array(600, 800), 0.5) is None
    assert find_share(array(400, 800), 0.5) == Position(0, 1.0)


def test_an_evaluation_before_training_interpolates_in_the_cost_itself():
    assert cost_at(array(0, 100), Position(1, 0.25)) == 25
    assert find_share(array(0, 100), 0.5) == Position(1, 0.5)
