"""Whether the seeds of an arm can train as one batch of models."""

from __future__ import annotations

from ablate.plan.axes import Assignment, arm_name
from ablate.study.declaration import Declaration
from ablate.study.schema import TrainConfig
from ablate_model import ModelConfig
from ablate_model.stacked import explain_unstackable

BACKENDS = ("auto", "sdpa", "math")  # which compute the calls of all models as one


def check_stack(declared: Declaration, model: ModelConfig, train: TrainConfig, arm: Assignment) -> None:
    """Raises `GridError` for `resources.stack` where the runs of an arm cannot be stacked."""
    if declared.resources.stack is None:
        return
    reason = explain_unstackable(model)
    if not declared.is_language_model:
        reason = f"the task {declared.task['name']}"
    elif declared.resources.n_processes > 1:
        reason = f"{declared.resources.n_processes} processes per run"
    elif not train.optimizer_class.can_be_stacked:
        reason = f"the optimizer {train.optimizer}, whose steps are not elementwise"
    elif train.deterministic:
        reason = "train.deterministic, because stacked models round differently"
    elif train.recompute:
        reason = "train.recompute"
    elif train.attention_backend not in BACKENDS:
        reason = f"train.attention_backend {train.attention_backend}; use {', '.join(BACKENDS)}"
    elif train.micro_batch_size == "auto":
        reason = "train.micro_batch_size auto; give a number"
    if reason:
        message = f"seeds cannot train as one batch of models with {reason} (the arm {arm_name(arm)})"
        raise declared.refuse(("resources", "stack"), message)
