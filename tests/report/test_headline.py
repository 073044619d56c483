"""The two sentences of the headline, from given numbers."""

from dataclasses import replace

import pytest

from ablate.analysis.fairness import Fairness
from ablate.analysis.speedup import SpeedUp
from ablate.analysis.summary import ArmSummary, Spread
from ablate.report.headline import judge_speedup, state_result
from ablate.report.notation import explain_targets, format_ratio, format_speedup, format_time, join_with_and, label_arms
from ablate.tracking.study_record import ArmRecord

ROW = SpeedUp("arm", "base", {}, "tokens", "final", 3.0, 1.45, 1.3, 1.61, None, 3, 3, 0.002, 0.004)
LABELS = {"arm": "new", "base": "old", "third": "third"}


def seconds_of(row, ratio, low, high):
    return replace(row, axis="seconds", ratio=ratio, low=low, high=high)


def steps_of(row):
    return replace(row, axis="steps")


def summary(**changes):
    arm = ArmSummary(
        "arm",
        {},
        {},
        "base",
        1,
        1,
        1,
        1,
        3,
        3,
        0,
        0,
        0,
        0,
        0,
        Spread(3.0, 0.1, 3),
        Spread(0.1, 0.0, 3),
        1.0,
        1.0,
        1.0,
        None,
        "",
    )
    return replace(arm, **changes)


def fair(*flags):
    return Fairness("arm", "base", 1.0, 1.0, "", "", "", None, "", 1, None, None, "", flags)


def say(*rows, arms=(), fairness=(), full=(), axis="tokens"):
    return state_result(rows, full, arms or [summary()], fairness or [fair()], axis, LABELS)


def test_one_clear_arm_with_its_price():
    # the time per step is that of the table, over whole runs; 1.45 / 1.10 is the ratio up to the crossing
    arms = [summary(step_ratio=1.3)]
    first, second = say(ROW, steps_of(ROW), seconds_of(ROW, 1.1, 0.98, 1.23), arms=arms)
    assert first == (
        "In tokens, new reaches old's final loss 1.45x as fast (95 % interval 1.30 to 1.61, 3 seeds, p = 0.004), "
        "a clear speedup."
    )
    assert second == "In seconds, new is 1.10x as fast [0.98, 1.23]: a step takes 1.30x as long as the baseline's."


def test_an_undecided_arm_says_so():
    first, _ = say(replace(ROW, low=0.9, p_holm=0.2))
    assert first.endswith("so the study does not decide whether it helps.")


def test_a_bound_says_how_many_never_arrived():
    first, _ = say(bounded(ROW, 0.8))
    assert first == (
        "In tokens, new is at most 0.80x as fast as old: 2 of 3 runs never reached old's final loss, a clear slowdown."
    )


def test_a_baseline_below_the_target_at_once_was_told_as_runs_that_never_arrived():
    first, _ = say(replace(bounded(ROW, 0.5), target=5.0, n_reached=3))
    assert first == (
        "In tokens, new is at most 0.50x as fast as old: old is below a validation loss of 5 at its first evaluation, "
        "a clear slowdown."
    )


def test_a_number_without_an_interval_says_why():
    note = "1 run of this arm left out (failed); no interval: the seeds do not match and one side has one run"
    first, _ = say(replace(ROW, low=None, high=None, p_holm=None, note=note))
    assert first == (
        "In tokens, new reaches old's final loss 1.45x as fast, a number without an interval: the seeds do not match "
        "and one side has one run."
    )


def test_runs_that_no_seed_pairs_were_counted_as_seeds():
    first, _ = say(replace(ROW, method="Welch t on the log cost (conservative: the seeds do not match)"))
    assert "(95 % interval 1.30 to 1.61, 3 unpaired runs, p = 0.004)" in first


def bounded(row, at_most):
    return replace(row, ratio=None, low=None, high=at_most, bound="at_most", n_reached=1)


def test_the_wide_bound_of_an_arm_that_diverged_early_headed_the_list():
    arms = [summary(), summary(arm="third")]
    rows = [replace(bounded(ROW, 4.0), arm="third"), replace(ROW, low=0.9, p_holm=0.2)]
    assert say(*rows, arms=arms)[0].endswith(
        "both arms are undecided (unadjusted 95 % intervals; verdicts use Holm-adjusted p-values): "
        "new 1.45x [0.90, 1.61] and third at most 4.00x."
    )


def test_a_bound_on_the_clock_said_at_twice():
    first, second = say(bounded(ROW, 1.18), bounded(seconds_of(ROW, None, None, None), 1.03))
    assert first.endswith("2 of 3 runs never reached old's final loss, so the study does not decide whether it helps.")
    assert second == "In seconds, new is at most 1.03x as fast."


def test_a_step_as_long_as_the_baselines_was_called_a_reason():
    _, second = say(ROW, steps_of(ROW), seconds_of(ROW, 1.45, 1.3, 1.61))
    assert second == "In seconds, new is 1.45x as fast [1.30, 1.61]: a step takes as long as the baseline's."


def test_an_absolute_target_names_the_baseline():
    row = replace(ROW, target=3.2)
    assert say(row)[0].startswith("In tokens, new reaches a validation loss of 3.2 1.45x as fast as old (95 % interval")
    early = replace(row, ratio=None, low=20.0, high=None, bound="at_least")
    assert say(early)[0] == (
        "In tokens, new reaches a validation loss of 3.2 at least 20.0x as fast as old, a clear speedup."
    )


def test_arms_of_one_verdict_are_counted_together():
    other = replace(ROW, arm="third")
    assert say(ROW, other)[0].startswith(
        "In tokens to reach the baseline's final loss, both arms are clearly faster than the baseline (unadjusted 95 %"
    )
    assert say(bounded(ROW, 1.18), bounded(other, 1.13))[0] == (
        "In tokens to reach the baseline's final loss, both arms are undecided: "
        "new at most 1.18x and third at most 1.13x."
    )


def test_arms_without_a_baseline_are_told_what_is_missing():
    one = summary(baseline="arm")
    assert say(arms=[one]) == (
        "The only arm, new, ends at a validation loss of 3.0000 (3 seeds).",
        "No effect can be shown: add a level to the matrix.",
    )
    assert say(arms=[one, summary(arm="third", baseline="third")]) == (
        "No arm has a baseline to be compared with: new ends at a validation loss of 3.0000 (3 seeds) and third at "
        "3.0000 (3 seeds).",
        "No effect can be shown: name a baseline that the arms share.",
    )


def test_caveats_name_every_kind_of_trouble():
    arms = [summary(n_unfinished=1, n_failed=2, n_diverged=1, n_stopped=2, n_incomplete=1)]
    _, second = say(ROW, arms=arms, fairness=[fair("5.0 % more parameters than its baseline")])
    assert second == (
        "1 unfinished run, 2 failed runs and 1 run with an incomplete curve are left out. 1 run diverged and 2 runs "
        "stopped before the end of the budget. Fairness flags of new: 5.0 % more parameters than its baseline."
    )
    assert say(ROW, arms=[summary(n_failed=1)])[1] == "1 failed run is left out."
    caveats = ("tokens: not recorded", "seconds: no device")
    assert state_result([ROW], (), [summary()], [fair("a", "b"), fair("c")], "tokens", LABELS, caveats)[1] == (
        "Tokens: not recorded; seconds: no device. 2 arms have fairness flags."
    )


def test_without_trouble_it_says_that():
    assert say(ROW)[1].startswith("Nothing was flagged")


def test_unknown_sizes_were_said_to_be_equal():
    known = say(ROW)[1]
    unknown = replace(fair(), params_ratio=None, precision="unknown")
    assert known.endswith("the arms are alike in size and conditions.")
    assert say(ROW, fairness=[fair(), unknown])[1] == (
        "Nothing was flagged: all runs finished; parameters and precision were not compared, because they are not "
        "known for every arm."
    )


def test_many_arms_are_counted_by_verdict_and_the_best_come_first():
    slow = replace(ROW, arm="third", ratio=0.7, low=0.6, high=0.8)
    first, _ = say(slow, ROW)
    assert first == (
        "In tokens to reach the baseline's final loss, 1 of 2 arms is clearly faster than the baseline and 1 is "
        "clearly slower (unadjusted 95 % intervals; verdicts use Holm-adjusted p-values): "
        "new 1.45x [1.30, 1.61] and third 0.70x [0.60, 0.80]."
    )


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "faster"),
        ({"p_holm": 0.06}, "undecided"),
        ({"low": 0.99}, "undecided"),
        ({"low": 0.5, "high": 0.9, "ratio": 0.7}, "slower"),
        ({"low": None, "high": None, "p_holm": None}, "undecided"),
        ({"ratio": None, "low": None, "high": 0.9, "bound": "at_most"}, "slower"),
        ({"ratio": None, "low": None, "high": 1.2, "bound": "at_most"}, "undecided"),
        ({"ratio": None, "low": 1.1, "high": None, "bound": "at_least"}, "faster"),
        ({"ratio": None, "low": None, "high": 0.9, "bound": "at_most", "p_holm": None}, "undecided"),  # one seed
        ({"ratio": None, "low": 1.1, "high": None, "bound": "at_least", "p_holm": None}, "undecided"),
        ({"ratio": None, "low": None, "high": 1.0, "bound": "at_most", "p_holm": 0.25}, "undecided"),
        ({"ratio": None, "low": None, "high": None, "bound": "not_determined", "p_holm": None}, "undecided"),
    ],
)
def test_verdicts(changes, verdict):
    assert judge_speedup(replace(ROW, **changes)) == verdict


def test_seconds_that_cannot_be_compared_were_named_twice():
    for before in ("", "1 run of this arm diverged; "):
        note = f"{before}seconds: the runs were trained on different devices"
        seconds = replace(seconds_of(ROW, None, None, None), note=note)
        assert say(ROW, seconds)[1] == "Seconds cannot be compared (the runs were trained on different devices)."


def test_full_schedules_are_quoted_where_they_exist():
    _, second = say(ROW, full=[replace(ROW, ratio=1.3, low=1.2, high=1.4)])
    assert second == "Between full schedules (the number to quote), new is 1.30x as fast [1.20, 1.40]."
    _, second = say(ROW, full=[ROW, replace(ROW, arm="third", ratio=1.3, low=1.2, high=1.4)])
    assert second.endswith("new is 1.45x as fast [1.30, 1.61]; it is the best of 2 arms.")
    limit = replace(ROW, ratio=None, low=1.0, high=None, bound="at_least", p_value=0.01)
    others = [replace(limit, arm="third", p_value=p) for p in (0.04, None)]
    _, second = say(ROW, full=[others[0], limit, others[1]])
    assert second.endswith("new is at least 1.00x as fast; it is the best of 3 arms.")


def arm(name, **axes):
    return ArmRecord(name, axes, {}, name, 1, 1, 1, 1)


def test_labels_are_levels_and_never_shared():
    assert label_arms([arm("x", a="p", n=2), arm("y", a="q", n=2)]) == {"x": "p / n=2", "y": "q / n=2"}
    assert label_arms([arm("x", a="p"), arm("y", b="p")]) == {"x": "x", "y": "y"}
    settings = [arm(level, **{"model.attention.lambda_init": level}) for level in ("depth", "none")]
    assert label_arms(settings) == {"depth": "lambda_init=depth", "none": "lambda_init=none"}
    assert label_arms([arm("alone")]) == {"alone": "alone"}


def test_numbers_in_words():
    assert [format_ratio(v) for v in (None, 0.456, 1.454, 12.34, 345.6)] == [
        "\N{EN DASH}",
        "0.46x",
        "1.45x",
        "12.3x",
        "346x",
    ]
    assert [format_time(v) for v in (0.0123, 1.5, 90, 7200, 200_000)] == [
        "12.3 ms",
        "1.5 s",
        "1.5 min",
        "2 h",
        "2.31 d",
    ]
    assert format_speedup(replace(ROW, low=None, high=None)) == "1.45x (no interval)"
    assert [join_with_and(parts) for parts in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == [
        "",
        "a",
        "a and b",
        "a, b and c",
    ]


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        (("50", "final"), "its loss at this share"),
        ((3.28,), "a validation loss (nats per token)"),
        (("final", 3.28), "its loss at this share, or a validation loss (nats per token)"),
    ],
)
def test_a_ladder_of_losses_was_told_as_one_of_shares(targets, words):
    assert explain_targets(targets, "its loss at this share") == words
