"""`--with best.yaml`: settings laid over a grid, such as the best that a search found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from ablate.errors import GridError
from ablate.study.load import describe_problem, read_declaration
from ablate.study.tuning import Frozen
from ablate.study.yaml_source import KeyPath, Source


@dataclass(frozen=True)
class Overlay:
    """Settings for the arms for which `when` holds, or for the arm of a name. They win over the grid's base and rules,
    but never over an arm's own levels. They stand at `place` in the file of `source`."""

    settings: dict[str, Any]
    source: Source
    place: KeyPath = ()
    when: str = ""
    arm: str = ""

    @property
    def origin(self) -> str:
        """The name of the file that the settings come from."""
        return Path(self.source.file).name

    def locate(self, key: str) -> str:
        """The file, the line and the dotted name of a setting."""
        return self.source.locate((*self.place, key))

    def locate_condition(self) -> str:
        """The same of `when`."""
        return self.source.locate((*self.place[:-1], "when"))


class _Entry(Frozen):
    when: str = ""
    set: dict[str, Any] = Field(min_length=1)


class _File(Frozen):
    search: str = ""
    overlay: tuple[_Entry, ...] = Field(min_length=1)


def load_overlay(path: Path) -> tuple[Overlay, ...]:
    """What a search wrote as best.yaml, or a mapping of dotted paths to values. Raises `GridError`."""
    form = "an overlay is a mapping of dotted paths to values, or the best.yaml of a search"
    data, source = read_declaration(path, form)
    if not data:
        raise GridError(f"{path}: {form}; this one is empty")
    if not {"overlay", "search"} & data.keys():
        return (Overlay(data, source),)
    try:
        file = _File.model_validate(data)
    except ValidationError as error:
        raise GridError(describe_problem(error.errors()[0], source, _File)) from None
    return tuple(
        Overlay(entry.set, source, ("overlay", index, "set"), entry.when) for index, entry in enumerate(file.overlay)
    )
