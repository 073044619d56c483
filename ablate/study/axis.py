"""An axis of a matrix or of a search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ablate.study.yaml_source import KeyPath


@dataclass(frozen=True)
class Axis:
    """A declared axis: its values at `place`, and the condition under which it exists.

    `is_list` is true where the values are the entries of a list at `place`.
    """

    name: str
    values: tuple[Any, ...]
    place: KeyPath
    when: str | None = None
    when_place: KeyPath = ()
    is_list: bool = False

    def place_of(self, index: int) -> KeyPath:
        """The place of one value."""
        return (*self.place, index) if self.is_list else self.place
