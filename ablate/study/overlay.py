"""`--with best.yaml`: settings that override a grid, such as the best that a search found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from ablate.errors import GridError
from ablate.study.load import describe_problem, read_declaration
from ablate.study.schema import Rule
from ablate.study.tuning import Frozen
from ablate.study.yaml_source import KeyPath, Place, Source


@dataclass(frozen=True)
class Overlay:
    """Settings for the arms for which `when` holds, or for the arm named `arm`. They override the grid's base and its
    rules, but never an arm's own levels. They stand at `keys` in the file of `source`."""

    settings: dict[str, Any]
    source: Source
    keys: KeyPath = ()
    when: str = ""
    arm: str = ""

    @property
    def origin(self) -> str:
        """The name of the file that the settings come from."""
        return Path(self.source.file).name

    def place_of(self, key: str) -> Place:
        """The place of a setting."""
        return Place(self.source, (*self.keys, key))

    @property
    def condition_place(self) -> Place:
        """The place of `when`."""
        return Place(self.source, (*self.keys[:-1], "when"))


class _Entry(Rule):
    when: str = ""


class _File(Frozen):
    search: str = ""
    overlay: tuple[_Entry, ...] = Field(min_length=1)


def load_overlay(path: Path) -> tuple[Overlay, ...]:
    """Read the best.yaml of a search, or a mapping of dotted paths to values. Raises `GridError`."""
    form = "an overlay is a mapping of dotted paths to values, or the best.yaml of a search"
    data, source = read_declaration(path, form)
    if not data:
        raise GridError(f"{path}: the file is empty; {form}")
    if not {"overlay", "search"} & data.keys():
        return (Overlay(data, source),)
    try:
        file = _File.model_validate(data)
    except ValidationError as error:
        raise GridError(describe_problem(error.errors()[0], source, _File)) from None
    return tuple(
        Overlay(entry.set, source, ("overlay", index, "set"), entry.when) for index, entry in enumerate(file.overlay)
    )
