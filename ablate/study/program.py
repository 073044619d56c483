"""The `program:` section: the command that trains the arms, and how its metrics are read."""

from __future__ import annotations

import re
import shlex
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, WithJsonSchema, field_validator, model_validator

from ablate.formatting import quote
from ablate.metrics import LANGUAGE_MODEL, Metrics
from ablate.study.schema import MAX_STEPS, Texts
from ablate.study.template import TemplateError, names_in
from ablate.study.tuning import Frozen

STEP = "step"
COSTS = ("tokens", "flops", "wall_s")  # what a program may log besides its metrics; everything else is a diagnostic
SILENT_S = 1800.0
_OPERATORS = frozenset({"&&", "||", "|", ";", "&", ">", ">>", "<", "2>&1"})
_VARIABLE = re.compile(r"[A-Za-z_]\w*", re.ASCII)


def _split(value: object) -> object:
    """Split a command as a shell does, and change nothing else: no variables, globs or pipes."""
    if not isinstance(value, str):
        return tuple(value) if isinstance(value, list) else value
    try:
        words, raw = tuple(shlex.split(value)), shlex.split(value, posix=False)
    except ValueError as error:
        raise ValueError(f"cannot be split into words: {error}") from None
    if operator := next((word for word in raw if word in _OPERATORS), None):
        raise ValueError(
            f"{quote(operator)} means nothing, because no shell runs: put the commands into a script of their own, "
            "or quote it if it is an argument"
        )
    return words


def _to_text(value: object) -> object:
    """Let a variable be a number: `OMP_NUM_THREADS: 4`."""
    if not isinstance(value, dict):
        return value
    return {key: str(v) if isinstance(v, int | float) and not isinstance(v, bool) else v for key, v in value.items()}


Words = Annotated[
    tuple[str, ...],
    BeforeValidator(_split),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}),
]
Variables = Annotated[
    dict[str, str],
    BeforeValidator(_to_text),
    WithJsonSchema({"type": "object", "additionalProperties": {"type": ["string", "number"]}}),
]


class Program(Frozen):
    """Your own program, which trains the arms. No shell runs: the command is split into words, then placeholders such
    as `{train.lr}`, `{seed}` and `{run_dir}` are filled in."""

    command: Words = Field(description="the command, as text or as a list of words; {NAME} is filled in")
    code: Texts = Field(
        (),
        description="files, folders or globs that decide the results; default: the files that git tracks in the "
        "grid's folder, the script, and the modules that it imports from there",
    )
    metrics: Metrics = Field(
        LANGUAGE_MODEL,
        description="metric to its better direction, lower or higher; the first one compares the arms",
    )
    pattern: Texts = Field(
        (),
        description="regular expressions with named groups (step, metrics, costs) that find metrics in the output; "
        "not needed if the program calls ablate.log or prints JSON lines",
    )
    env: Variables = Field({}, description="environment variables of the program; {NAME} is filled in")
    steps: int | str | None = Field(
        None, description="steps of a run: a number, or the setting that holds it, such as train.max_iters"
    )
    silent_for: float = Field(
        SILENT_S, gt=0, strict=True, description="seconds without any output after which a program counts as hung"
    )
    timeout: float | None = Field(None, gt=0, strict=True, description="seconds that one run may take; default: any")

    @field_validator("command")
    @classmethod
    def _has_words(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or not value[0]:
            raise ValueError("is empty: write the command that trains one arm, such as python train.py --lr {lr}")
        for word in value:
            _check_template(word)
        return value

    @field_validator("pattern")
    @classmethod
    def _can_be_read(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            try:
                pattern = re.compile(text)
            except (re.error, RecursionError, OverflowError) as error:
                raise ValueError(f"{quote(text)} is not a regular expression: {error}") from None
            if not set(pattern.groupindex) - {STEP}:
                raise ValueError(f"{quote(text)} has no named group for a metric: write (?P<val_loss>[\\d.]+)")
        return value

    @field_validator("env")
    @classmethod
    def _are_variables(cls, value: dict[str, str]) -> dict[str, str]:
        for name, text in value.items():
            if not _VARIABLE.fullmatch(name):
                raise ValueError(f"{quote(name)} is not a valid name of an environment variable")
            _check_template(text)
        return value

    @field_validator("steps", mode="before")
    @classmethod
    def _is_count_or_setting(cls, value: object) -> object:
        is_count = isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MAX_STEPS
        if value is not None and not is_count and not (isinstance(value, str) and value):
            raise ValueError(f"must be a number of steps, or the name of a setting, got {quote(value)}")
        return value

    @model_validator(mode="after")
    def _names_steps(self) -> Self:
        groups = [set(re.compile(text).groupindex) for text in self.pattern]
        if groups and not any(STEP in names for names in groups):
            raise ValueError("pattern: no pattern has a group for the step: write (?P<step>\\d+)")
        return self

    @property
    def primary(self) -> str:
        """The metric by which arms are compared."""
        return next(iter(self.metrics))


def _check_template(text: str) -> None:
    try:
        names_in(text)
    except TemplateError as error:
        raise ValueError(str(error)) from None
    if "\0" in text:
        raise ValueError(f"{quote(text)} has a zero byte")
