"""The sentences about growth and interactions, from given numbers."""

from dataclasses import replace

import pytest

from ablate.analysis.effects import Effect
from ablate.analysis.trend import Trend
from ablate.report.growth_and_interactions import describe_growth, describe_interactions, judge_trend

TREND = Trend(
    {"normalization": "ngpt"}, "train.steps", (1500, 6000), "tokens", ("a", "b"), 1.35, 1.1, 1.66, None, 6, 0.01
)


def effect(estimate, p_holm, **levels):
    return Effect("final_loss", levels, estimate, 12, estimate - 0.01, estimate + 0.01, p_holm, p_holm)


def test_growth_in_words():
    assert describe_growth([replace(TREND, axis="seconds", growth=9.0), TREND], "tokens") == [
        "Does it grow with train.steps? From steps=1500 to steps=6000, the speed-up of ngpt in tokens is multiplied by "
        "1.35x [1.10, 1.66]: it clearly grows."
    ]
    unknown = replace(TREND, growth=None, low=None, high=None, p_value=None, note="the seeds do not match")
    assert describe_growth([unknown], "tokens") == [
        "Whether the speed-up of ngpt in tokens grows from steps=1500 to steps=6000 is not determined: the seeds do "
        "not match."
    ]
    told = replace(unknown, loss_change=0.02, loss_low=0.01, loss_high=0.03)
    assert describe_growth([told], "tokens")[0].endswith(
        "do not match; its final loss minus the baseline's changes by +0.0200 [+0.0100, +0.0300] nats."
    )
    other = replace(TREND, family={"normalization": "peri"}, growth=None, low=1.2, high=None, bound="at_least")
    assert describe_growth([TREND, other], "tokens") == [
        "Does it grow with train.steps? From steps=1500 to steps=6000, the speed-ups in tokens are multiplied by: ngpt "
        "1.35x [1.10, 1.66] and peri at least 1.20x."
    ]
    assert describe_growth([], "tokens") == []


def test_families_of_other_levels_were_told_with_the_range_of_the_first():
    other = replace(TREND, family={"normalization": "peri"}, levels=(1500, 3000), growth=0.9, low=0.7, high=1.2)
    wide, narrow = describe_growth([TREND, other], "tokens")
    assert "From steps=1500 to steps=6000, the speed-up of ngpt in tokens is multiplied by 1.35x" in wide
    assert "From steps=1500 to steps=3000, the speed-up of peri in tokens is multiplied by 0.90x" in narrow


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
    assert describe_interactions(effects, ()) == [
        "On average over the other axes, the final loss changes (nats a token, 95 % intervals) by attention, gated "
        "-0.0200 [-0.0300, -0.0100]; by normalization, ngpt -0.0500 [-0.0600, -0.0400].",
        "Do the gains add up? Together, gated and ngpt end at a clearly higher loss than the sum of what each changes "
        "alone (from the sum, in nats: +0.0150 [+0.0050, +0.0250]).",
    ]
    assert describe_interactions(effects, ("attention",)) == []  # a horizon is no component


def test_several_pairs_are_counted_and_the_clear_ones_come_first():
    pairs = [
        effect(0.9, 0.5, attention="a", normalization="ngpt"),
        effect(0.01, 0.01, attention="b", normalization="ngpt"),
        effect(-0.02, 0.01, attention="c", normalization="ngpt"),
    ]
    (sums,) = describe_interactions(
        pairs, ()
    )  # without a main effect that the design can estimate, nothing "changes by"
    assert sums == (
        "Do the gains add up? Of 3 pairs of levels, 1 ends clearly above its sum (together it gains less, or loses "
        "more), 1 ends clearly below its sum (together it gains more, or loses less) and 1 is undecided; from the sum "
        "of what each level changes alone, in nats: c with ngpt -0.0200 [-0.0300, -0.0100], b with ngpt +0.0100 "
        "[+0.0000, +0.0200] and a with ngpt +0.9000 [+0.8900, +0.9100]."
    )
    assert "3 pairs of levels, 3 are undecided" in describe_interactions([replace(p, p_holm=0.3) for p in pairs], ())[0]
