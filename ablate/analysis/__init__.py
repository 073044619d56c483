"""The numbers of a study, computed from its records by pure functions with numpy, scipy and pandas."""

from ablate.analysis.comparison import TARGETS, Target, parse_target
from ablate.analysis.results import Results, read_results
from ablate.analysis.run_curve import AXES, RunCurve
from ablate.analysis.speedup import SpeedUp, speed_ups

__all__ = ["AXES", "TARGETS", "Results", "RunCurve", "SpeedUp", "Target", "parse_target", "read_results", "speed_ups"]
