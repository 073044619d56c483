"""Frozen settings, and pydantic's errors about them as ConfigError with the legal values."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, ValidationError, model_serializer
from pydantic_core import ErrorDetails

from .errors import ConfigError, describe_unknown, quote


class Knobs(BaseModel):
    """Frozen settings; unknown keys and values of the wrong type are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
    extra_keys: ClassVar[tuple[str, ...]] = ()  # legal in a mapping, although no field has this name
    later: ClassVar[frozenset[str]] = frozenset()  # fields that came after runs were recorded

    @model_serializer(mode="wrap")
    def _leave_out_later(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out later fields that have their default, so that the ids of recorded runs stay valid."""
        data: dict[str, Any] = dump(self)
        for name in self.later & data.keys():
            if getattr(self, name) == type(self).model_fields[name].default:
                del data[name]
        return data


_LAST = {"missing": 1, "default_factory_not_called": 2}  # the second follows from any other error


def translate(error: ValidationError, cls: type[BaseModel]) -> ConfigError:
    """Turn pydantic's first error about `cls` into a ConfigError with a clean path and the legal values.

    A missing key comes last, because it may be the right name of an unknown one.
    """
    first = min(error.errors(), key=lambda found: _LAST.get(found["type"], 0))
    cause = first.get("ctx", {}).get("error")
    path, legal = _locate(first, cls)
    if isinstance(cause, ConfigError):
        return cause.under(".".join(path))
    if first["type"] == "extra_forbidden":
        message = describe_unknown(path[-1], legal, "key")
    elif first["type"] == "missing":
        field = cls.model_fields.get(path[-1])
        message = f"is required: {field.description}" if field and field.description else "is required"
    else:
        text = first["msg"].replace("Input should be", "must be", 1)
        message = f"{text[0].lower()}{text[1:]}, got {quote(first['input'])}"
    return ConfigError(".".join(path), message, legal)


def _locate(error: ErrorDetails, cls: type[BaseModel]) -> tuple[list[str], tuple[object, ...]]:
    """Return the keys that lead to the error, without pydantic's labels of union members, and what is legal there."""
    keys: list[str] = []
    legal: tuple[object, ...] = ()
    owner: type[BaseModel] | None = cls
    for label in map(str, error["loc"]):
        if owner is not None and label in owner.model_fields:
            annotation = owner.model_fields[label].annotation
            keys.append(label)
            legal = tuple(literal_values(annotation))
            owner = annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
        elif owner is not None and error["type"] == "extra_forbidden":
            keys.append(label)
            legal = tuple(owner.model_fields) + (owner.extra_keys if issubclass(owner, Knobs) else ())
    return keys, legal


def literal_values(annotation: object) -> Iterator[object]:
    """Every value of every Literal inside an annotation."""
    if typing.get_origin(annotation) is typing.Literal:
        yield from typing.get_args(annotation)
    else:
        for argument in typing.get_args(annotation):
            yield from literal_values(argument)


def describe_knobs(cls: type[BaseModel], prefix: str = "") -> dict[str, dict[str, Any]]:
    """Type, default and description of each field, with the fields of groups under dotted names."""
    knobs: dict[str, dict[str, Any]] = {}
    for name, info in cls.model_fields.items():
        default = info.get_default(call_default_factory=True, validated_data={})
        if isinstance(default, BaseModel):
            defaults = default.model_dump(mode="json")
            for key, knob in describe_knobs(type(default), f"{prefix}{name}.").items():
                knobs[key] = {**knob, "default": defaults[key.rpartition(".")[2]]}
        else:
            kind = _spell(info.annotation)
            knobs[prefix + name] = {"type": kind, "default": default, "description": info.description or ""}
    return knobs


def _spell(annotation: object) -> str:
    """Write an annotation as a reader would: int | None, {none, rms, l2}."""
    if typing.get_origin(annotation) is typing.Annotated:
        return _spell(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) is typing.Literal:
        return "{" + ", ".join(map(str, typing.get_args(annotation))) + "}"
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        return " | ".join(_spell(member) for member in typing.get_args(annotation))
    if annotation is type(None):
        return "none"
    return getattr(annotation, "__name__", str(annotation))
