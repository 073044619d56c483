"""An evaluation from a function in a user's file: `def f(model, tokenizer, device) -> dict[str, float]`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, get_args

from pydantic import create_model

from ablate.errors import suggest
from ablate.evaluation.base import Evaluation, Row, Subject
from ablate.formatting import quote
from ablate.metrics import Direction
from ablate_model import ConfigError
from ablate_model.own_code import Code
from ablate_model.own_modules import load_attribute
from ablate_model.signature import read_signature

FACTS = ("model", "tokenizer", "device", "corpus", "context_length", "seed")


class FunctionEvaluation(Evaluation):
    """Calls the function with the facts that it asks for by name, and with its knobs.

    Each entry of the returned mapping is a metric. The function may have an attribute `metrics`, which maps a metric to
    its better direction, `lower` or `higher`; without one, arms are compared but none is called better.
    """

    kinds: ClassVar[frozenset[str] | None] = None
    function: ClassVar[Callable[..., Any]]
    facts: ClassVar[tuple[str, ...]]

    def evaluate(self, subject: Subject) -> Iterator[Row]:
        """Yield a row per metric. Raises `ValueError` if the function returns no mapping from names to numbers."""
        given = {name: getattr(subject, name) for name in self.facts}
        returned = type(self).function(**given, **{name: getattr(self, name) for name in type(self).model_fields})
        if not isinstance(returned, Mapping) or not returned:
            raise ValueError(f"{self.name} must return a mapping from metrics to numbers, got {quote(returned)}")
        for metric, value in returned.items():
            try:
                number = float(value)
            except (TypeError, ValueError, RuntimeError):  # a tensor of several elements
                raise ValueError(f"{self.name}: {metric!r} must be a number, got {quote(value)}") from None
            if math.isfinite(number):
                yield Row(str(metric), number, 1)
            else:
                yield Row(str(metric), None, 0, note=f"it is {number}")


def wrap_function(name: str, code: Code) -> type[Evaluation]:
    """Make the class of an evaluation from a function, whose parameters with defaults become knobs.

    Raises `ConfigError` if the file cannot be imported, lacks the function, or its parameters cannot be knobs.
    """
    function = load_attribute(code, name.rpartition(":")[2])
    if not callable(function):
        raise ConfigError("name", f"{name} is not a function")
    signature = read_signature(function, FACTS, {*dir(Evaluation), "name", "every"})
    directions = getattr(function, "metrics", {})
    if not isinstance(directions, Mapping):
        raise ConfigError("name", f"{name}.metrics must be a mapping from metrics to directions")
    for direction in directions.values():
        if direction not in get_args(Direction):
            raise ConfigError(
                "name", f"{name}.metrics: unknown direction {quote(direction)}{suggest(direction, get_args(Direction))}"
            )
    made: type[FunctionEvaluation] = create_model(
        "FunctionEvaluation", __base__=FunctionEvaluation, __doc__=function.__doc__, **signature.knobs
    )
    made.name, made.metrics, made.facts = name, dict(directions), signature.facts
    made.function = staticmethod(function)
    return made
