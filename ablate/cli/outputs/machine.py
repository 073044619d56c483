"""What the verbs about variants and this machine print: `variants`, `check`, `doctor`, `warm`, `bench` and `mcp`."""

from __future__ import annotations

from typing import Any

from ablate.cli.outputs.base import Output


class CheckLine(Output):
    """A check of a variant."""

    name: str
    """What is checked."""
    outcome: str
    """pass, fail or skip."""
    detail: str
    """What was found, or why the check failed or was skipped."""


class CheckedVariant(Output):
    """The checks of a variant. Its sizes and times stand beside them as text."""

    variant: str
    """FILE:CLASS."""
    axis: str
    """The axis it belongs to."""
    files: str
    """The files that its version covers."""
    version: str
    """Hash of these files."""
    checks: tuple[CheckLine, ...]
    """The checks."""


class VariantEntry(Output):
    """A variant of a component. A variant that has a neutral point also has the key `neutral`."""

    summary: str
    """What it is."""
    paper: str
    """Where it comes from."""
    version: int | str
    """Version of its mathematics, which is part of run ids."""
    knobs: dict[str, Any]
    """Knob to its default, type and description."""


class Warmed(Output):
    """A kind of model that was compiled in advance."""

    arms: tuple[str, ...]
    """The arms that share its compiled code."""
    seconds: float
    """How long it took; little if the caches on disk had it."""
    error: str
    """Why it failed; empty if it did not."""


class Finding(Output):
    """A fact about this machine."""

    name: str
    """What was looked at."""
    found: str
    """What was found."""
    advice: str
    """What to do; empty if nothing is wrong."""


class ArmSpeed(Output):
    """The speed of an arm."""

    arm: str
    """Name of the arm."""
    n_params: int
    """Parameters of the model."""
    tokens_per_step: int
    """Tokens per optimizer step."""
    backend: str
    """Attention backend."""
    step_ms: float
    """Milliseconds per step, in the median window."""
    tokens_per_s: float
    """Tokens per second."""
    model_tflops: float
    """The model's own matrix products, in TFLOP/s."""
    ceiling_share: float
    """Their share of the rate of a large matrix product."""
    peak_memory_bytes: int
    """Peak memory."""
    first_step_cold_s: float | None
    """Seconds to the end of the first step with an empty compilation cache; null without `--cold`."""
    first_step_warm_s: float
    """The same with a full cache."""


class Speeds(Output):
    """The speeds of all arms of a grid on one device."""

    study: str
    """Name of the study."""
    command: str
    """The command that measured them."""
    device: str
    """Name of the device."""
    versions: dict[str, str]
    """Package to version."""
    ceiling_tflops: dict[str, float]
    """Precision to the rate of a large matrix product."""
    arms: tuple[ArmSpeed, ...]
    """The arms that could be measured."""
    failed: dict[str, str]
    """Arm to the reason why it could not."""


class AgentTool(Output):
    """A tool for agents."""

    name: str
    """Its name."""
    description: str
    """What it does."""
    arguments: dict[str, Any]
    """JSON Schema of its arguments."""
