"""`--with best.yaml`: settings laid over a grid, such as the best that a search found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from ablate.errors import GridError
from ablate.study.load import describe_problem, read_declaration
from ablate.study.tuning import Frozen


@dataclass(frozen=True)
class Overlay:
    """Settings for the arms for which `when` holds, or for the arm of a name. They win over the grid's base and rules,
    but never over an arm's own levels. `origin` is the file that they come from."""

    origin: str
    settings: dict[str, Any]
    when: str = ""
    arm: str = ""


class _Entry(Frozen):
    when: str = ""
    set: dict[str, Any] = Field(min_length=1)


class _File(Frozen):
    search: str = ""
    overlay: tuple[_Entry, ...] = Field(min_length=1)


def load_overlay(path: Path) -> tuple[Overlay, ...]:
    """What a search wrote as best.yaml, or a mapping of dotted paths to values. Raises `GridError`."""
    data, source = read_declaration(path)
    if "overlay" not in data:
        data = {"overlay": [{"set": data}]}
    try:
        file = _File.model_validate(data)
    except ValidationError as error:
        raise GridError(describe_problem(error.errors()[0], source, _File)) from None
    return tuple(Overlay(path.name, entry.set, entry.when) for entry in file.overlay)
