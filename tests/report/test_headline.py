"""The two sentences of the headline, from given numbers."""

from dataclasses import replace

import pytest

from ablate.analysis.differences import Difference
from ablate.analysis.fairness import Fairness
from ablate.analysis.speedup import SpeedUp
from ablate.analysis.summary import ArmSummary, Spread
from ablate.metrics import Metric
from ablate.report.finding import format_verdict
from ablate.report.headline import state_result
from ablate.report.notation import explain_targets, format_ratio, format_speedup, format_time, join_with_and
from ablate.tracking.arm_labels import label_arms
from ablate.tracking.study_record import ArmRecord

ROW = SpeedUp("arm", "base", {}, "tokens", "final", 3.0, 1.45, 1.3, 1.61, None, 3, 3, 0.002, 0.004)
DIFFERENCE = Difference(
    "final_loss",
    {},
    -0.0657,
    3,
    arm="arm",
    baseline="base",
    low_simultaneous=-0.1031,
    high_simultaneous=-0.0282,
    p_simultaneous=0.004,
    verdict="better",
    detectable=0.0421,
    method="paired t",
)
UNDECIDED = replace(DIFFERENCE, verdict="undecided", high_simultaneous=0.0282, p_simultaneous=0.2)
FINDING = (
    "Better: new ends at a clearly lower final loss than old: -0.0657 nats (95 % interval -0.1031 to -0.0282, 3 "
    "seeds, p = 0.004). "
)
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


def say(*rows, arms=(), fairness=(), full=(), axis="tokens", differences=(DIFFERENCE,)):
    return state_result(differences, rows, full, arms or [summary()], fairness or [fair()], axis, LABELS)


def speed(*rows, **options):
    """The first sentences of the answer without the finding."""
    return say(*rows, **options)[0].removeprefix(FINDING)


def test_one_clear_arm_with_its_price():
    # the time per step is that of the table, over whole runs; 1.45 / 1.10 is the ratio up to the crossing
    arms = [summary(step_ratio=1.3)]
    first, second = say(ROW, steps_of(ROW), seconds_of(ROW, 1.1, 0.98, 1.23), arms=arms)
    assert (
        first
        == f"{FINDING}In tokens, new reaches old's final loss 1.45x as fast (95 % interval 1.30 to 1.61, 3 seeds)."
    )
    assert second == "In seconds, new is 1.10x as fast [0.98, 1.23]: a step takes 1.30x as long as the baseline's."


def finding(difference, metric=None, smallest=0.01):
    options = () if metric is None else ((), metric, smallest)
    return state_result([difference], [ROW], (), [summary()], [fair()], "tokens", LABELS, *options)[0].partition(
        " In tokens, "
    )[0]


def test_each_verdict_in_words():
    assert f"{finding(DIFFERENCE)} " == FINDING
    worse = replace(DIFFERENCE, estimate=0.05, low_simultaneous=0.01, high_simultaneous=0.09, verdict="worse")
    assert finding(worse) == (
        "Worse: new ends at a clearly higher final loss than old: +0.0500 nats (95 % interval +0.0100 to +0.0900, 3 "
        "seeds, p = 0.004)."
    )
    assert finding(UNDECIDED) == (
        "The study does not decide whether new ends at a better final loss than old: -0.0657 nats (95 % interval "
        "-0.1031 to +0.0282, 3 seeds, p = 0.200). This study finds a difference of 0.0421 nats in 80 % of cases."
    )
    same = replace(UNDECIDED, estimate=0.001, low_simultaneous=-0.004, high_simultaneous=0.006, verdict="equivalent")
    assert finding(same) == (
        "Equivalent: new ends at the same final loss as old to within 0.01 nats: +0.0010 nats (95 % interval -0.0040 "
        "to +0.0060, 3 seeds, p = 0.200)."
    )
    small = replace(DIFFERENCE, estimate=-0.004, low_simultaneous=-0.006, high_simultaneous=-0.002, is_small=True)
    assert finding(small).startswith(
        "Better: new ends at a clearly lower final loss than old, although by less than 0.01 nats:"
    )
    assert (format_verdict(small), format_verdict(replace(same, is_small=True))) == ("better, but small", "equivalent")
    one = Difference("final_loss", {}, -0.01, 1, arm="arm", baseline="base")
    assert finding(one) == (
        "new minus old in final loss is -0.0100 nats. One pair of runs gives no interval and decides nothing."
    )


def test_a_metric_of_which_higher_is_better_has_no_loss_and_no_nats():
    higher = replace(DIFFERENCE, estimate=0.05, low_simultaneous=0.01, high_simultaneous=0.09)
    assert finding(higher, Metric("val_acc", "higher"), None) == (
        "Better: new ends at a clearly higher final val_acc than old: +0.0500 (95 % interval +0.0100 to +0.0900, "
        "3 seeds, p = 0.004)."
    )


def test_an_arm_without_a_final_loss_says_so():
    first, _ = say(bounded(ROW, 0.8), differences=())
    assert first.startswith("new has no final loss that could be compared with its baseline's. In tokens, new is at")
    rows = [ROW, replace(ROW, arm="third")]
    first, _ = say(*rows)
    assert first.startswith(
        "At the end of training, 1 of 2 arms is better than the baseline and 1 has nothing to compare"
    )


def test_a_bound_says_how_many_never_arrived():
    assert speed(bounded(ROW, 0.8)) == (
        "In tokens, new is at most 0.80x as fast as old: 2 of 3 runs never reached old's final loss."
    )


def test_a_baseline_below_the_target_at_once_was_told_as_runs_that_never_arrived():
    assert speed(replace(bounded(ROW, 0.5), target=5.0, n_reached=3)) == (
        "In tokens, new is at most 0.50x as fast as old: old is below a validation loss of 5 at its first evaluation."
    )


def test_a_number_without_an_interval_says_why():
    note = "1 run of this arm left out (failed); no interval: the seeds do not match and one side has one run"
    assert speed(replace(ROW, low=None, high=None, p_holm=None, note=note)) == (
        "In tokens, new reaches old's final loss 1.45x as fast, a number without an interval: the seeds do not match "
        "and one side has one run."
    )


def test_runs_that_no_seed_pairs_were_counted_as_seeds():
    welch = replace(DIFFERENCE, method="Welch's t, because the seeds do not match")
    row = replace(ROW, method="Welch t on the log cost (conservative: the seeds do not match)")
    first, _ = say(row, differences=[welch])
    assert "-0.1031 to -0.0282, 3 unpaired runs, p = 0.004)" in first
    assert "(95 % interval 1.30 to 1.61, 3 unpaired runs)" in first


def bounded(row, at_most):
    return replace(row, ratio=None, low=None, high=at_most, bound="at_most", n_reached=1)


def test_the_wide_bound_of_an_arm_that_diverged_early_headed_the_list():
    arms = [summary(), summary(arm="third")]
    rows = [replace(bounded(ROW, 4.0), arm="third"), replace(ROW, low=0.9, p_holm=0.2)]
    assert say(*rows, arms=arms, differences=())[0] == (
        "None of the 2 arms has a final loss that could be compared with its baseline's. Speedups in tokens to reach "
        "the baseline's final loss (unadjusted 95 % intervals): new 1.45x [0.90, 1.61] and third at most 4.00x."
    )


def test_a_bound_on_the_clock_said_at_twice():
    first, second = say(bounded(ROW, 1.18), bounded(seconds_of(ROW, None, None, None), 1.03))
    assert first.endswith("2 of 3 runs never reached old's final loss.")
    assert second == "In seconds, new is at most 1.03x as fast."


def test_a_step_as_long_as_the_baselines_was_called_a_reason():
    _, second = say(ROW, steps_of(ROW), seconds_of(ROW, 1.45, 1.3, 1.61))
    assert second == "In seconds, new is 1.45x as fast [1.30, 1.61]: a step takes as long as the baseline's."


def test_an_absolute_target_names_the_baseline():
    row = replace(ROW, target=3.2)
    assert speed(row).startswith("In tokens, new reaches a validation loss of 3.2 1.45x as fast as old (95 % interval")
    early = replace(row, ratio=None, low=20.0, high=None, bound="at_least")
    assert speed(early) == "In tokens, new reaches a validation loss of 3.2 at least 20.0x as fast as old."


def test_arms_of_one_verdict_are_counted_together():
    other = replace(ROW, arm="third")
    better = [DIFFERENCE, replace(DIFFERENCE, arm="third")]
    assert say(ROW, other, differences=better)[0].startswith(
        "At the end of training, both arms are better than the baseline (difference in final loss, nats, simultaneous "
        "95 % intervals): new -0.0657 [-0.1031, -0.0282] and third -0.0657 [-0.1031, -0.0282]. Speedups in tokens to "
        "reach the baseline's final loss (unadjusted 95 % intervals): new 1.45x [1.30, 1.61] and third 1.45x"
    )
    undecided = [UNDECIDED, replace(UNDECIDED, arm="third", detectable=0.06)]
    assert say(bounded(ROW, 1.18), bounded(other, 1.13), differences=undecided)[0].endswith(
        "This study finds a difference of 0.051 nats in 80 % of cases (median of the undecided arms). Speedups in "
        "tokens to reach the baseline's final loss: new at most 1.18x and third at most 1.13x."
    )
    small = [replace(row, is_small=True) for row in better]
    assert (
        "The differences are clear but smaller than 0.01 nats for new and third."
        in say(ROW, other, differences=small)[0]
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
        "No effect can be shown: name the arm to compare with, as in --baseline arm=NAME.",
    )
    beside = [one, summary(arm="base", baseline="base"), summary(arm="third", baseline="third")]
    first, second = say(ROW, arms=beside)
    assert first.endswith(
        "1 arm has no baseline to be compared with: third ends at a validation loss of 3.0000 (3 seeds)."
    )
    assert second.endswith("To compare all arms, name the arm to compare with, as in --baseline arm=NAME.")


def test_a_path_at_the_start_of_a_caveat_keeps_its_spelling():
    known = ["logs/gpt.csv: left out"]
    _, second = state_result([], [], [], [summary()], [fair()], "tokens", LABELS, known=known)
    assert second == "logs/gpt.csv: left out."


def test_caveats_name_every_kind_of_trouble():
    arms = [summary(n_unfinished=1, n_failed=2, n_diverged=1, n_stopped=2, n_incomplete=1)]
    _, second = say(ROW, arms=arms, fairness=[fair("5.0 % more parameters than its baseline")])
    assert second == (
        "1 unfinished run, 2 failed runs and 1 run with an incomplete curve are left out. 1 run diverged and 2 runs "
        "stopped before the end of the budget. Fairness flags of new: 5.0 % more parameters than its baseline."
    )
    assert say(ROW, arms=[summary(n_failed=1)])[1] == "1 failed run is left out."
    caveats = ("tokens: not recorded", "seconds: no device")
    assert state_result([DIFFERENCE], [ROW], (), [summary()], [fair("a", "b"), fair("c")], "tokens", LABELS, caveats)[
        1
    ] == ("Tokens: not recorded; seconds: no device. 2 arms have fairness flags.")


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
    worse = replace(DIFFERENCE, arm="third", estimate=0.05, low_simultaneous=0.01, high_simultaneous=0.09)
    first, _ = say(slow, ROW, differences=[replace(worse, verdict="worse"), DIFFERENCE])
    assert first == (
        "At the end of training, 1 of 2 arms is better than the baseline and 1 is worse (difference in final loss, "
        "nats, simultaneous 95 % intervals): new -0.0657 [-0.1031, -0.0282] and third +0.0500 [+0.0100, +0.0900]. "
        "Speedups in tokens to reach the baseline's final loss (unadjusted 95 % intervals): new 1.45x [1.30, 1.61] and "
        "third 0.70x [0.60, 0.80]."
    )


def test_seconds_that_cannot_be_compared_were_named_twice():
    for before in ("", "1 run of this arm diverged; "):
        note = f"{before}seconds: the runs were trained on different devices"
        seconds = replace(seconds_of(ROW, None, None, None), note=note)
        assert say(ROW, seconds)[1] == "Seconds cannot be compared (the runs were trained on different devices)."


def test_full_schedules_are_quoted_where_they_exist():
    _, second = say(ROW, full=[replace(ROW, ratio=1.3, low=1.2, high=1.4)])
    assert second == "Between full schedules (the number to quote), new is 1.30x as fast [1.20, 1.40]."
    rows, third = [ROW, replace(ROW, arm="third")], replace(ROW, arm="third", ratio=1.6, low=0.9, high=1.9)
    _, second = say(*rows, full=[third, ROW], differences=[replace(UNDECIDED, arm="third"), DIFFERENCE])
    assert second.endswith("new is 1.45x as fast [1.30, 1.61]; it is the best of 2 arms.")  # the other is undecided


def arm(name, **axes):
    return ArmRecord(name, axes, {}, name, 1, 1, 1, 1)


def test_labels_are_levels_and_never_shared():
    assert label_arms([arm("x", a="p", n=2), arm("y", a="q", n=2)]) == {"x": "p / n=2", "y": "q / n=2"}
    assert label_arms([arm("x", a="p"), arm("y", b="p")]) == {"x": "x", "y": "y"}
    settings = [arm(level, **{"model.attention.lambda_init": level}) for level in ("depth", "none")]
    assert label_arms(settings) == {"depth": "lambda_init=depth", "none": "lambda_init=none"}
    assert label_arms([arm("alone")]) == {"alone": "alone"}


OWN = "mine.py:Attention"


@pytest.mark.parametrize(
    ("levels", "labels"),
    [
        ((f"{OWN}(bias=true)", f"{OWN}(bias=false)"), ("bias=true", "bias=false")),
        ((f"{OWN}(bias=true)", OWN), ("Attention(bias=true)", "Attention")),
        ((f"{OWN}(bias=true)", "mine.py:Other(bias=true)"), ("Attention(bias=true)", "Other(bias=true)")),
        ((f"{OWN}(bias=true)", "other.py:Attention(bias=true)"), None),
        ((f"{OWN}(bias=true)", "standard", f"{OWN}(bias=false)"), None),  # nothing that all share
        (("differential(n_heads=3)", "differential(n_heads=4)"), None),  # published names of variants of ablate
        ((OWN, OWN), None),
        ((f"{OWN}(bias=true)", "without a bias"), None),  # a label of the user
    ],
)
def test_labels_leave_out_the_file_and_class_that_all_levels_share(levels, labels):
    arms = [arm(f"arm {i}", attention=level, n=i) for i, level in enumerate(levels)]
    assert list(label_arms(arms).values()) == [f"{label} / n={i}" for i, label in enumerate(labels or levels)]


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
