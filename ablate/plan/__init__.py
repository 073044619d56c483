"""From a study to its runs. Pure and deterministic: the same grid and corpus give the same plan and run ids."""

from ablate.plan.plan import Arm, Plan, Run, build_plan

__all__ = ["Arm", "Plan", "Run", "build_plan"]
