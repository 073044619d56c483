"""Placeholders such as `{train.lr}` in the words of a command. `{{` and `}}` stand for braces."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from ablate.formatting import quote

_PART = re.compile(r"\{\{|\}\}|\{([A-Za-z_][\w.-]*)\}|[{}]")


class TemplateError(ValueError):
    """A brace that neither belongs to a placeholder nor is doubled."""


def names_in(text: str) -> list[str]:
    """The names of the placeholders of a text. Raises `TemplateError`."""
    names: list[str] = []

    def note(name: str) -> str:
        names.append(name)
        return ""

    _replace(text, note)
    return names


def fill(text: str, values: Mapping[str, Any]) -> str:
    """The text with every placeholder replaced by its value. Raises `KeyError` for a name without a value."""
    return _replace(text, lambda name: write_value(values[name]))


def is_placeholder(text: str) -> bool:
    """Tell if the whole text is one placeholder."""
    found = _PART.fullmatch(text)
    return found is not None and found[1] is not None


def _replace(text: str, value_of: Callable[[str], str]) -> str:
    def replace(found: re.Match[str]) -> str:
        if found[1] is not None:
            return value_of(found[1])
        if len(found[0]) == 2:
            return found[0][0]
        raise TemplateError(f"{quote(text)} has a single brace: write {{{{ or }}}} for a brace, {{NAME}} for a value")

    return _PART.sub(replace, text)


def write_value(value: Any) -> str:
    """A value as a program reads it: text as it is, numbers, True, False and None as Python writes them.

    Python's spelling suits `ast.literal_eval`, with which nanoGPT and others read their options. Lists and mappings
    become JSON.
    """
    if isinstance(value, str):
        return value
    return json.dumps(value) if isinstance(value, dict | list | tuple) else str(value)


def placeholder_values(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every value of nested settings by its dotted name, the mappings included."""
    values: dict[str, Any] = {}
    for key, value in settings.items():
        values[f"{prefix}{key}"] = value
        if isinstance(value, Mapping):
            values |= placeholder_values(value, f"{prefix}{key}.")
    return values
