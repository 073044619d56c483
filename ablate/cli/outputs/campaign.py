"""What `campaign` prints."""

from __future__ import annotations

from typing import Any

from ablate.cli.outputs.base import Output


class TriedArm(Output):
    """An arm of a try against its baseline. Its numbers hold for all arms of the try at the try's error rate."""

    arm: str
    """Name of the arm."""
    baseline: str
    """Name of the arm that it is compared with."""
    identity: str
    """Hash of both arms and the metric: the same pair in another study has the same."""
    axes: dict[str, Any]
    """Axis to level."""
    n: int
    """Number of pairs of runs."""
    verdict: str
    """better, worse, equivalent or undecided."""
    estimate: float | None
    """Final value, arm minus baseline; null if one of them is missing."""
    low: float | None
    """Lower end of its interval."""
    high: float | None
    """Upper end of its interval."""
    p_value: float | None
    """Adjusted p-value, to be compared with the try's `alpha`."""
    sd: float | None
    """Standard deviation of a paired difference."""
    detectable: float | None
    """The difference that the test finds in 80 % of cases."""
    method: str
    """Name of the test, or why there was no test."""


class CampaignTry(Output):
    """A try of a campaign."""

    k: int
    """Its number, from 1."""
    at: str
    """When it was added (UTC)."""
    study: str
    """Name of the study."""
    question: str
    """The question of the study."""
    identity: str
    """Hash of all pairs of arms."""
    results: str
    """Hash of the runs and of where they ended."""
    alpha: float
    """The error rate at which it was tested."""
    metric: str
    """The metric that compares arms."""
    direction: str
    """The better direction of the metric: lower or higher."""
    smallest_effect: float | None
    """The smallest difference that matters; null if unknown."""
    arms: tuple[TriedArm, ...]
    """The arms, without baselines."""
    decision: str
    """kept, dropped or open."""
    because: str
    """The reason for the decision."""
    repeats: int | None
    """An earlier try of the same arms, if it was tested again."""
    grid: dict[str, Any]
    """How to train it again: axes, baseline, design, seeds, hash of the data, command, and the grid's text if known."""
    code: dict[str, Any]
    """Versions of your files, commits, and `diff` from the files of the try `compared_with`, which was kept last."""
    notes: tuple[str, ...]
    """Remarks, such as arms that earlier tries tested."""


class NextTry(Output):
    """The differences that the next try can detect."""

    k: int
    """Its number."""
    alpha: float
    """The error rate at which it will be tested."""
    metric: str | None
    """The metric of the last try; null before the first."""
    sd: float | None
    """Median standard deviation of a paired difference over all tries; null if unknown."""
    effect: float | None
    """The smallest difference that matters, as in the last try."""
    seeds: int | None
    """Seeds with which one arm finds that difference in 80 % of cases; null if unknown, or more than 10,000."""


class CampaignState(Output):
    """Everything that a campaign knows."""

    name: str
    """Name of the campaign."""
    goal: str
    """What all tries are for."""
    alpha: float
    """Error rate of the whole campaign."""
    spent: float
    """The sum of the tries' rates."""
    left: float
    """What is left of it for all further tries."""
    next: NextTry
    """The next try."""
    tries: tuple[CampaignTry, ...]
    """All tries, in order."""
    added: int | None = None
    """Only with `--add`: the number of the try that the study is."""
    is_new: bool | None = None
    """Only with `--add`: false if the study was this try already."""


class EarlierTest(Output):
    """A try that tested an arm."""

    k: int
    """Number of the try."""
    verdict: str
    """Its verdict on the arm."""
    estimate: float | None
    """Final value, arm minus baseline."""
    low: float | None
    """Lower end of its interval."""
    high: float | None
    """Upper end of its interval."""
    decision: str
    """kept, dropped or open."""
    because: str
    """The reason."""


class CheckedArm(Output):
    """An arm of a grid, as a campaign sees it."""

    arm: str
    """Name of the arm."""
    baseline: str
    """Name of the arm that it is compared with."""
    seeds: int
    """Planned pairs of runs."""
    detectable: float | None
    """The difference that it finds in 80 % of cases, with the scatter of earlier tries; null if unknown."""
    tests: tuple[EarlierTest, ...]
    """Tries that tested the same pair of arms, the newest last."""


class CheckedGrid(Output):
    """A grid as the next try."""

    name: str
    """Name of the campaign."""
    study: str
    """Name of the study."""
    k: int
    """The number that it would have."""
    alpha: float
    """The error rate at which it would be tested."""
    same: int | None = None
    """Number of a try that tested all these arms; null if no try did."""
    is_added: bool = False
    """True if that try has the results of this very study, so that `--add` spends nothing."""
    arms: tuple[CheckedArm, ...]
    """Its arms, without baselines."""


class ListedCampaign(Output):
    """A campaign in the list of all."""

    name: str
    """Name of the campaign."""
    goal: str
    """What all tries are for."""
    n_tries: int
    """Number of its tries."""
    spent: float
    """The sum of the tries' rates."""
    error: str
    """Why its file cannot be read, otherwise empty."""
