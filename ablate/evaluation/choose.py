"""The evaluations that a grid or a command names: built-in ones, and functions in the user's files."""

from __future__ import annotations

import importlib
import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from ablate.data.files import find_path
from ablate.errors import AblateError, suggest
from ablate.evaluation.table import EVALUATIONS
from ablate.formatting import quote
from ablate.study.evaluations import is_own
from ablate.tracking.evaluations import make_key

if TYPE_CHECKING:
    from ablate.evaluation.base import Evaluation
    from ablate_model.own_code import Code

OWN_FORM = "or a function in a file, as in my_eval.py:weight_norm"


class ChoiceError(AblateError):
    """An evaluation that cannot be used. `key` is the knob that is wrong, if one is."""

    def __init__(self, message: str, key: str = "") -> None:
        super().__init__(message)
        self.key = key


@dataclass(frozen=True)
class Choice:
    """An evaluation with its knobs. It can be sent to a worker, which makes the evaluation again.

    `code` is the version of a user's file. With `every`, the model is also evaluated while it trains, each time after
    this many steps. `smallest_effect` maps metrics to the smallest difference that matters.
    """

    name: str
    knobs: Mapping[str, Any]
    code: str = ""
    every: int | None = None
    smallest_effect: Mapping[str, float] = field(default_factory=dict)

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave out the evaluation, whose class only this process may have."""
        return Choice, (self.name, self.knobs, self.code, self.every, self.smallest_effect)

    @cached_property
    def evaluation(self) -> Evaluation:
        """The evaluation itself. The code of a user's file must be known to the library of this process."""
        return make_evaluation(self.name, self.knobs, self.code or None)

    @cached_property
    def label(self) -> str:
        """The name, with the knobs that differ from their defaults."""
        fields = type(self.evaluation).model_fields
        own = [(name, getattr(self.evaluation, name)) for name in fields if name in self.evaluation.model_fields_set]
        changed = [f"{name}={_shorten(value)}" for name, value in own if value != fields[name].default]
        return " ".join((self.name, *changed))

    def key(self, weights: str) -> str:
        """The identity of its result for weights with this hash."""
        return make_key(self.evaluation.describe(), self.code, weights)


def _shorten(value: object) -> str:
    """A value in a label. The folders of a path belong to one machine."""
    if isinstance(value, list | tuple):
        return "+".join(map(_shorten, value))
    return Path(value).name if isinstance(value, str | Path) else f"{value}"


def choose(
    name: str,
    knobs: Mapping[str, Any],
    folder: Path,
    every: int | None = None,
    smallest_effect: Mapping[str, float] | None = None,
) -> Choice:
    """Check an evaluation and its knobs. A user's file is searched in `folder`, and read now.

    Raises `ChoiceError` for an unknown name, knob or value, naming the legal ones, and for a file that cannot be used.
    """
    code = ""
    if is_own(name):
        from ablate_model import ConfigError
        from ablate_model.own_code import LIBRARY

        try:
            found = _collect(name, folder)
        except ConfigError as error:
            raise ChoiceError(_describe(error)) from None
        LIBRARY.keep(found)
        code, name = found.version, f"{found.entry}:{name.rpartition(':')[2]}"
    choice = Choice(name, dict(knobs), code, every, dict(smallest_effect or {}))
    known = choice.evaluation.metrics
    for metric in choice.smallest_effect:
        if known and metric not in known:  # a user's function may name none
            hint = suggest(metric, known)
            raise ChoiceError(f"{name} has no metric {quote(metric)}{hint}", "smallest_effect")
    named = {knob: path for knob, path in knobs.items() if knob in choice.evaluation.paths and isinstance(path, str)}
    if named:  # a worker may have another working directory
        found_paths = {knob: str(find_path(path, folder) or path) for knob, path in named.items()}
        return replace(choice, knobs={**knobs, **found_paths})
    return choice


def explain_misfit(evaluation: type[Evaluation], kind: str, offered: Container[str]) -> str:
    """Say why an evaluation cannot measure models of this kind, whose training offers a corpus, a tokenizer or neither.

    Empty if it can.
    """
    if evaluation.kinds is not None and kind not in evaluation.kinds:
        return f"it evaluates models of kind {', '.join(sorted(evaluation.kinds))}, but these are of kind {kind}"
    missing = sorted(need for need in evaluation.needs if need not in offered)
    return f"it needs a {' and a '.join(missing)}" if missing else ""


def code_of(choices: Iterable[Choice]) -> list[Code]:
    """The user's files that these evaluations execute."""
    from ablate_model.own_code import LIBRARY

    return [LIBRARY.find(choice.name.rpartition(":")[0], choice.code) for choice in choices if choice.code]


def _collect(name: str, folder: Path) -> Code:
    from ablate_model.own_code import collect

    path = folder / name.rpartition(":")[0]
    return collect(path.parent, path.name)


def make_evaluation(name: str, knobs: Mapping[str, Any], code: str | None = None) -> Evaluation:
    """Make an evaluation from its name and its knobs. Raises `ChoiceError` as `choose` does."""
    kind = _find_own(name, code) if code is not None else find_class(name)
    for knob in knobs:
        if knob not in kind.model_fields:
            raise ChoiceError(f"{name} has no knob {quote(knob)}{suggest(knob, kind.model_fields)}", str(knob))
    try:
        return kind.model_validate(dict(knobs))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Value error, ").replace("Input should be", "must be", 1)
        got = f", got {quote(first['input'])}" if first["type"] not in ("value_error", "missing") else ""
        text = f"{message[0].lower()}{message[1:]}{got}"
        raise ChoiceError(": ".join(filter(None, (name, key, text))), key) from None


def find_class(name: str) -> type[Evaluation]:
    """Import a built-in evaluation. Raises `ChoiceError`, naming all of them, for an unknown name."""
    if name not in EVALUATIONS:
        hint = suggest(name, EVALUATIONS)
        raise ChoiceError(f"there is no evaluation {quote(name)}{hint}; {OWN_FORM}")
    module, _, attribute = EVALUATIONS[name].partition(":")
    kind: type[Evaluation] = getattr(importlib.import_module(module), attribute)
    return kind


def _find_own(name: str, code: str) -> type[Evaluation]:
    from ablate.evaluation.own import wrap_function
    from ablate_model import ConfigError
    from ablate_model.own_code import LIBRARY

    try:
        return wrap_function(name, LIBRARY.find(name.rpartition(":")[0], code))
    except ConfigError as error:
        raise ChoiceError(_describe(error)) from None


def _describe(error: Any) -> str:
    return f"{error.message}{suggest('', error.legal) if error.legal else ''}"


_SPLIT = re.compile(r"\s*(?P<name>[^,:{}]+(?::[A-Za-z_]\w*)?)\s*(?::\s*(?P<knobs>\{.*))?", re.DOTALL)


def parse_with(text: str) -> list[tuple[str, Mapping[str, Any]]]:
    """Read a value of --with: `needle,recall`, `needle:{samples: 20}` or `my_eval.py:weight_norm`.

    Raises `ChoiceError` for anything else.
    """
    found: list[tuple[str, Mapping[str, Any]]] = []
    for part in _split_commas(text):
        match = _SPLIT.fullmatch(part)
        if match is None:
            raise ChoiceError(f"{quote(part)} names no evaluation; write needle, 'needle:{{samples: 20}}' {OWN_FORM}")
        found.append((match["name"].strip(), _read_knobs(match["name"], match["knobs"]) if match["knobs"] else {}))
    return found


def _split_commas(text: str) -> list[str]:
    """Split at commas that are in no braces or brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "{[") - (character in "}]")
        if character == "," and depth <= 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def _read_knobs(name: str, text: str) -> Mapping[str, Any]:
    import yaml

    try:
        knobs = yaml.safe_load(text)
    except yaml.YAMLError:
        knobs = None
    if not isinstance(knobs, dict) or not all(isinstance(key, str) for key in knobs):
        raise ChoiceError(f"{name}: write its knobs as {{knob: value}}, got {quote(text)}")
    return knobs
