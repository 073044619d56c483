"""From a study to its runs. Pure and deterministic: the same grid and corpus give the same plan and run ids."""

from ablate.plan.build import build_plan
from ablate.plan.plan import Arm, Plan, Run

__all__ = ["Arm", "Plan", "Run", "build_plan"]
