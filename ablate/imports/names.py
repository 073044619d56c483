"""The names under which other programs log the facts and metrics that a study needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ablate.errors import AblateError, suggest
from ablate.metrics import Direction
from ablate.tracking.values import read_number

FACTS: Mapping[str, tuple[str, ...]] = {
    "arm": ("arm",),
    "seed": ("seed",),
    "device": ("device",),
    "steps": ("max_steps", "n_steps", "num_steps", "total_steps", "train.steps", "max_iters", "num_train_steps"),
    "epochs": ("max_epochs", "n_epochs", "num_epochs", "num_train_epochs", "epochs"),
    "tokens_per_step": ("tokens_per_step", "tokens_per_batch"),
    "flops_per_token": ("flops_per_token",),
    "n_params": ("n_params", "num_params", "num_parameters", "parameters"),
    "precision": ("precision", "train.precision", "dtype"),
    "schedule": ("schedule", "train.schedule", "lr_scheduler_type", "lr_scheduler"),
}
"""The facts that are read from a run's tags and params, each with the names under which it is looked for."""

CURVES: Mapping[str, tuple[str, ...]] = {
    "val_loss": ("val/loss", "val_loss", "eval/loss", "eval_loss", "loss/val"),
    "train_loss": ("train_loss", "train/loss", "loss/train", "loss"),
    "tokens": (
        "tokens",
        "cost/tokens",
        "train/tokens",
        "tokens_seen",
        "n_tokens",
        "num_tokens",
        "num_input_tokens_seen",
    ),
    "flops": ("flops", "train/flops", "cost/flops"),
    "wall_s": ("wall_s", "cost/wall_s"),
    "learning_rate": ("learning_rate", "train/learning_rate", "training/learning_rate", "lr", "train/lr"),
    "grad_norm": ("grad_norm", "train/grad_norm", "training/grad_norm"),
    "tokens_per_s": ("tokens_per_s", "tokens_per_second", "tokens_per_sec", "cost/tokens_per_s"),
}
"""The same for metrics, by the column of a curve."""

PLACES: Mapping[str, tuple[str, ...]] = {
    "step": ("step", "global_step", "train/global_step", "trainer/global_step", "iteration", "iter", "_step"),
    "run": ("run", "run_id", "run_name"),
    "time": ("_runtime", "_timestamp", "wall_time", "timestamp"),
}
"""The same for columns of a table that say to which step, run and time (s) a row belongs."""

_KNOWN = {**FACTS, **CURVES, **PLACES}
_UNKNOWN = frozenset({"", "none", "null", "nan", "n/a"})  # a seed that was never set, as text


@dataclass(frozen=True)
class Names:
    """Names that the user chose for some of `FACTS`, `CURVES` and `PLACES`. Several names for `arm` make one axis each.

    With a `direction`, what `val_loss` names is any metric, and arms are compared by it in this direction. Raises
    `AblateError` for any other key.
    """

    chosen: Mapping[str, str]
    direction: Direction | None = None

    def __post_init__(self) -> None:
        for what, name in self.chosen.items():
            if what not in _KNOWN:
                raise AblateError(f"map: {what!r} is not a known fact or metric{suggest(what, _KNOWN)}")
            if not self.of(what):
                raise AblateError(f"map: {what}={name} names no tag, param or metric")

    def of(self, what: str) -> tuple[str, ...]:
        if what not in self.chosen:
            return _KNOWN[what]
        return tuple(name for part in self.chosen[what].split(",") if (name := part.strip()))

    @property
    def of_curves(self) -> tuple[str, ...]:
        """The names of all metrics that are looked for."""
        return tuple(dict.fromkeys(name for what in CURVES for name in self.of(what)))


def read_seed(text: str) -> int | None:
    """Read a seed; None if the text says that it was never set. Raises `ValueError` if it is not an integer."""
    if text.strip().lower() in _UNKNOWN:
        return None
    number = read_number(text)
    if not isinstance(number, int):
        raise ValueError(text)
    return number
