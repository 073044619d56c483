from dataclasses import replace

import pytest
from by_hand import make_results, make_run

from ablate.analysis import speed_ups
from ablate.analysis.results import Results
from ablate.analysis.selection import merge, rebase, select
from ablate.errors import AblateError
from ablate.tracking.study_record import HistoryEvent

LOSSES = [4.0, 3.0, 2.0, 1.0]
AXES = {
    "base": {"norm": "pre", "size": 1},
    "big": {"norm": "pre", "size": 2},
    "new": {"norm": "ngpt", "size": 1},
    "newbig": {"norm": "ngpt", "size": 2},
}


@pytest.fixture
def results():
    runs = [make_run(arm, seed, LOSSES) for arm in AXES for seed in (0, 1)]
    return make_results(*runs, axes=AXES, study_axes={"norm": ("pre", "ngpt"), "size": (1, 2)})


def test_where_keeps_the_arms_it_names_and_their_baseline(results):
    assert list(select(results, "norm == 'ngpt' and size == 1").arms) == ["base", "new"]
    assert {row.arm for row in speed_ups(select(results, "size == 2"))} == {"big", "newbig"}


def test_where_reads_seeds_and_arm_names(results):
    kept = select(results, "arm == 'new' and seed == 1")
    assert [(run.arm, run.seed) for run in kept.runs] == [("base", 0), ("base", 1), ("new", 1)]
    assert [(run.arm, run.seed) for run in kept.record.runs] == [(run.arm, run.seed) for run in kept.runs]


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("nrom == 'ngpt'", "no axis 'nrom'; did you mean 'norm'"),
        ("norm == 'ngtp'", "no level 'ngtp'; did you mean 'ngpt'"),
        ("norm ==", "does not parse"),
        ("__import__('os').system('true')", "not allowed"),
        ("size > 7", "holds for no run"),
        ("size < 'x'", "cannot be compared"),
    ],
)
def test_a_wrong_where_is_one_message(results, where, message):
    with pytest.raises(AblateError, match=message):
        select(results, where)


def test_another_baseline_matches_the_axes_that_it_leaves_open(results):
    baselines = {arm: record.baseline for arm, record in rebase(results, {"norm": "ngpt"}).arms.items()}
    assert baselines == {"base": "new", "new": "new", "big": "newbig", "newbig": "newbig"}
    assert {arm.baseline for arm in rebase(results, {"norm": "pre", "size": "2"}).record.arms} == {"big"}
    assert {arm.baseline for arm in rebase(results, {"arm": "new"}).record.arms} == {"new"}


def test_a_baseline_written_in_another_way_is_the_same_level():
    axes = {arm: {**levels, "rate": 0.001 if levels["size"] == 1 else 0.002} for arm, levels in AXES.items()}
    runs = [make_run(arm, 0, LOSSES) for arm in axes]
    rated = make_results(*runs, axes=axes, study_axes={"norm": ("pre", "ngpt"), "size": (1, 2), "rate": (0.001, 0.002)})
    chosen = rebase(rated, {"norm": "pre", "size": "1.0", "rate": "1e-3"})
    assert {arm.baseline for arm in chosen.record.arms} == {"base"}


@pytest.mark.parametrize(
    ("baseline", "message"),
    [
        ({"nrom": "pre"}, "no axis 'nrom'; did you mean 'norm'"),
        ({"norm": "prr"}, "no level 'prr'; did you mean 'pre'"),
        ({"arm": "nwe"}, "no arm 'nwe'; did you mean 'new'"),
    ],
)
def test_a_wrong_baseline_is_one_message(results, baseline, message):
    with pytest.raises(AblateError, match=message):
        rebase(results, baseline)


def test_an_arm_without_such_a_baseline_is_told(results):
    partial = select(results, "norm == 'ngpt' and size == 2")
    with pytest.raises(AblateError, match="matches base on the other axes"):
        rebase(partial, {"norm": "ngpt"})


def test_studies_are_merged_under_their_names(results):
    other = Results(replace(results.record, study="other", data={"hash": "b"}), results.runs)
    merged = merge([Results(replace(results.record, data={"hash": "a"}), results.runs), other])
    assert merged.record.study == "by-hand + other"
    assert merged.record.data == {"hash": "a, b"}
    assert merged.arms["other: new"].baseline == "other: base"
    assert len(merged.runs) == 16
    assert {row.baseline for row in speed_ups(merged) if row.arm == "other: big"} == {"other: base"}
    across = rebase(merged, {"study": "by-hand", "norm": "pre", "size": 1})
    assert across.arms["other: new"].baseline == "by-hand: base"


def test_merged_studies_keep_what_is_known_about_each(results):
    """The first study's margins counted for all, and tuning at the edge of a range and peeks were not said."""
    at = "2026-01-01T00:00:00+00:00"
    history = tuple(HistoryEvent(what, at, n) for what, n in (("seeds", 1), ("look", 1), ("seeds", 2)))
    tuned = {"arms": {"new": {"space": {"train.learning_rate": [1, 2]}, "best": {"train.learning_rate": 2}}}}
    one = replace(results.record, smallest_results={"recall": {"accuracy": 0.1}}, predict={"axis": "size"})
    other = replace(one, study="other", smallest_results={"recall": {"accuracy": 0.05, "loss": 1.0}})
    other = replace(other, tuning=tuned, history=history, predict={})
    record = merge([Results(one, results.runs), Results(other, results.runs)]).record
    assert record.smallest_results == {"recall": {"accuracy": 0.05, "loss": 1.0}}
    assert record.tuning == {"arms": {"other: new": tuned["arms"]["new"]}}
    assert record.predict == {}
    (caveat,) = record.caveats
    assert caveat.startswith("other: its seeds changed after a look")


def test_two_studies_of_one_name_are_refused(results):
    with pytest.raises(AblateError, match="two of the studies are named 'by-hand'"):
        merge([results, results])
