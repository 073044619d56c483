"""The sentences about growth and interactions, from given numbers."""

from dataclasses import replace

import pytest

from ablate.analysis.effects import Effect
from ablate.analysis.trend import Trend
from ablate.metrics import Metric
from ablate.report.growth_and_interactions import describe_growth, describe_interactions, judge_trend

TREND = Trend(
    {"normalization": "ngpt"}, "train.steps", (1500, 6000), "tokens", ("a", "b"), 1.35, 1.1, 1.66, None, 6, 0.01
)


def effect(estimate, p_value, **levels):
    together = {"low_simultaneous": estimate - 0.01, "high_simultaneous": estimate + 0.01, "p_simultaneous": p_value}
    return Effect("final_loss", levels, estimate, 12, estimate - 0.005, estimate + 0.005, p_value / 2, **together)


def test_growth_in_words():
    assert describe_growth([replace(TREND, axis="seconds", growth=9.0), TREND], "tokens") == [
        "The speedup of ngpt in tokens clearly grows with train.steps: from steps=1500 to steps=6000 it is multiplied "
        "by 1.35x [1.10, 1.66]."
    ]
    (undecided,) = describe_growth([replace(TREND, low=0.9)], "tokens")
    assert undecided.startswith(
        "The study does not decide whether the speedup of ngpt in tokens grows with train.steps:"
    )
    assert "clearly shrinks" in describe_growth([replace(TREND, growth=0.8, low=0.7, high=0.9)], "tokens")[0]
    unknown = replace(TREND, growth=None, low=None, high=None, p_value=None, note="the seeds do not match")
    assert describe_growth([unknown], "tokens") == [
        "This study cannot determine whether the speedup of ngpt in tokens grows from steps=1500 to steps=6000: the "
        "seeds do not match."
    ]
    told = replace(unknown, loss_change=0.02, loss_low=0.01, loss_high=0.03)
    assert describe_growth([told], "tokens")[0].endswith(
        "do not match. The final loss of ngpt minus the baseline's changes by +0.0200 [+0.0100, +0.0300] nats."
    )
    assert describe_growth([told], "tokens", Metric("val_phase_accuracy_trend", "higher")) == [
        "From steps=1500 to steps=6000, the final trend of the accuracy per phase of ngpt minus the baseline's changes "
        "by +0.0200 [+0.0100, +0.0300]."
    ]
    other = replace(TREND, family={"normalization": "peri"}, growth=None, low=1.2, high=None, bound="at_least")
    assert describe_growth([TREND, other], "tokens") == [
        "From steps=1500 to steps=6000, the speedups in tokens are multiplied by these factors: ngpt 1.35x [1.10, "
        "1.66] and peri at least 1.20x."
    ]
    assert describe_growth([], "tokens") == []


def test_families_of_other_levels_were_told_with_the_range_of_the_first():
    other = replace(TREND, family={"normalization": "peri"}, levels=(1500, 3000), growth=0.9, low=0.7, high=1.2)
    wide, narrow = describe_growth([TREND, other], "tokens")
    assert "speedup of ngpt in tokens" in wide and "from steps=1500 to steps=6000 it is multiplied by 1.35x" in wide
    assert "speedup of peri in tokens" in narrow and "from steps=1500 to steps=3000 it is multiplied by 0.90x" in narrow


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "up"),
        ({"low": 0.9}, "undecided"),
        ({"low": 0.5, "high": 0.9}, "down"),
        ({"low": None, "high": None, "p_value": None}, "undecided"),
        ({"growth": None, "low": 1.2, "high": None, "bound": "at_least"}, "up"),
        ({"growth": None, "low": None, "high": 0.9, "bound": "at_most"}, "down"),
        ({"growth": None, "low": 1.2, "high": None, "bound": "at_least", "p_value": 0.1}, "undecided"),
        ({"growth": None, "low": None, "high": 0.9, "bound": "at_most", "p_value": None}, "undecided"),  # one seed
    ],
)
def test_verdicts_on_growth(changes, verdict):
    assert judge_trend(replace(TREND, **changes)) == verdict


def test_one_pair_of_levels():
    effects = [
        effect(-0.05, 0.001, normalization="ngpt"),
        effect(-0.02, 0.01, attention="gated"),
        effect(0.015, 0.02, attention="gated", normalization="ngpt"),
    ]
    average, pair = describe_interactions(effects, ())
    assert average == (
        "Averaged over the other axes, the final loss changes as follows (nats per token, simultaneous 95 % "
        "intervals): by attention, gated -0.0200 [-0.0300, -0.0100]; by normalization, ngpt -0.0500 [-0.0600, -0.0400]."
    )
    assert pair == (
        "Together, gated and ngpt end at a clearly higher loss than the sum of their separate effects: +0.0150 "
        "[+0.0050, +0.0250] nats."
    )
    assert describe_interactions([replace(effects[2], p_simultaneous=0.06)], ()) == [
        "Together, gated and ngpt show no detectable interaction: +0.0150 [+0.0050, +0.0250] nats from the sum of "
        "their separate effects."
    ]
    assert describe_interactions(effects, ("attention",)) == []  # a horizon is no component


def test_several_pairs_are_counted_and_the_clear_ones_come_first():
    pairs = [
        effect(0.9, 0.5, attention="a", normalization="ngpt"),
        effect(0.01, 0.01, attention="b", normalization="ngpt"),
        effect(-0.02, 0.01, attention="c", normalization="ngpt"),
    ]
    (sums,) = describe_interactions(pairs, ())  # without a main effect, no sentence about averages
    assert sums == (
        "Among 3 pairs of levels, 1 ends clearly above the sum of its separate effects (it gains less or loses more), "
        "1 ends clearly below the sum of its separate effects (it gains more or loses less) and 1 shows no detectable "
        "interaction. Differences from the sum of the separate effects, in nats: c with ngpt -0.0200 "
        "[-0.0300, -0.0100], b with ngpt +0.0100 [+0.0000, +0.0200] and a with ngpt +0.9000 [+0.8900, +0.9100]."
    )
    undecided = describe_interactions([replace(pair, p_simultaneous=0.3) for pair in pairs], ())[0]
    assert "3 pairs of levels, 3 show no detectable interaction" in undecided
