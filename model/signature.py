"""The knobs of a plain class or function, from its signature: names, types and defaults."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from .errors import ConfigError

PLAIN = (bool, int, float, str, type(None))


@dataclass(frozen=True)
class Signature:
    """What a callable takes: the facts that it asks for by name, and its knobs as pydantic fields."""

    facts: tuple[str, ...]
    knobs: dict[str, Any]
    accepts: frozenset[str]


def read_signature(target: Callable[..., Any], facts: Collection[str], reserved: Collection[str]) -> Signature:
    """Read what `target` takes beyond `facts`, the names that are always filled in.

    A parameter whose default no grid can express, such as a module, is left at its default. Raises ConfigError for a
    parameter without a default, and for a knob with a name of `reserved`.
    """
    label = getattr(target, "__name__", str(target))
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):
        raise ConfigError("name", f"{label} has no signature that can be read") from None
    hints = _read_hints(target)
    knobs: dict[str, Any] = {}
    asked = []
    for parameter in parameters:
        name, default = parameter.name, parameter.default
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise ConfigError("name", f"{label} takes {name!r} by position only; every argument is passed by name")
        if name in facts:
            asked.append(name)
            continue
        if default is parameter.empty:
            message = f"{label} needs {name!r}, which has no default: give it one, or ask for a fact of the model"
            raise ConfigError("name", message, facts)
        kind = _read_kind(hints.get(name, parameter.annotation), default)
        if kind is None:
            continue
        if name in reserved or name.startswith(("_", "model_")):
            raise ConfigError(
                "name", f"{label} has a knob {name!r}, but this name already has a meaning here: rename it"
            )
        is_sequence = typing.get_origin(kind) is tuple
        knobs[name] = (kind, Field(default=default, validate_default=True, strict=False if is_sequence else None))
    return Signature(tuple(asked), knobs, frozenset(parameter.name for parameter in parameters))


def _read_hints(target: Callable[..., Any]) -> dict[str, Any]:
    function: Any = target.__init__ if isinstance(target, type) else target  # type: ignore[misc]
    try:
        return typing.get_type_hints(function)
    except (NameError, TypeError, AttributeError):  # annotations of names that exist only for a type checker
        return {}


def _read_kind(annotation: Any, default: Any) -> Any:
    """Return the type of a knob, or None if no grid can express it."""
    if annotation is inspect.Parameter.empty or isinstance(annotation, str):
        return _kind_of(default)
    if not _is_plain(annotation):
        return None
    if default is None and not _takes_none(annotation):
        return annotation | None
    return annotation


def _kind_of(default: Any) -> Any:
    if default is None:
        return bool | int | float | str | None
    if isinstance(default, list | tuple):
        kinds = tuple(map(_kind_of, default))
        return tuple[kinds] if kinds and None not in kinds else None  # type: ignore[valid-type]
    return type(default) if type(default) in PLAIN else None


def _is_plain(annotation: Any) -> bool:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return all(type(value) in PLAIN for value in arguments)
    if origin is typing.Annotated:
        return _is_plain(arguments[0])
    if origin in (tuple, typing.Union, types.UnionType):
        return all(argument is Ellipsis or _is_plain(argument) for argument in arguments)
    return annotation in PLAIN


def _takes_none(annotation: Any) -> bool:
    return annotation is type(None) or type(None) in typing.get_args(annotation)
