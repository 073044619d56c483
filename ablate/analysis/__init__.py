"""From the records of a study to numbers: pure functions over curves, with numpy, scipy and pandas."""

from ablate.analysis.results import AXES, Results, RunCurve, read_results
from ablate.analysis.speedup import TARGETS, SpeedUp, Target, parse_target, speed_ups

__all__ = ["AXES", "TARGETS", "Results", "RunCurve", "SpeedUp", "Target", "parse_target", "read_results", "speed_ups"]
