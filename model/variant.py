"""What every exchangeable component shares: a frozen config that documents, prices and builds itself, and its table."""

from __future__ import annotations

import importlib
import types
import typing
from abc import ABC
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import ErrorDetails

from .errors import ConfigError, describe_unknown, quote

if TYPE_CHECKING:
    from .config import ModelConfig


WORDS = ("name", "summary", "paper", "equations", "deviations", "neutral")  # that each variant says of itself


@dataclass(frozen=True)
class Neutral:
    """The point at which a variant computes exactly what the baseline of its axis computes.

    `knobs` are the variant's; parameters with a name part in `zeros` (`ones`) are set to 0 (1). Where the variant has
    several query (key) heads for one of the baseline's, the baseline has every `query_every`-th (`key_every`-th).
    """

    knobs: Mapping[str, Any] = field(default_factory=dict)
    zeros: tuple[str, ...] = ()
    ones: tuple[str, ...] = ()
    query_every: int = 1
    key_every: int = 1


class Knobs(BaseModel):
    """Frozen settings; unknown keys and values of the wrong type are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def idle(self, config: ModelConfig) -> dict[str, str]:
        """The knobs that decide nothing in this model: dotted name to the reason.

        A variant with such a knob adds it to what this returns. The reason is empty where another knob already says
        what this one would, so that there is nothing to tell. The others must be legal with all of these at their
        defaults.
        """
        groups = {name: group for name, group in self if isinstance(group, Knobs)}
        return {f"{name}.{knob}": why for name, group in groups.items() for knob, why in group.idle(config).items()}


class Variant(Knobs, ABC):
    """One value of an axis. Fields are its knobs; the class variables say what it is and where it comes from.

    `version` is raised when the mathematics change, so that results of different mathematics never share an identity.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    summary: ClassVar[str]
    paper: ClassVar[str]
    equations: ClassVar[str]
    deviations: ClassVar[str]
    neutral: ClassVar[str]
    neutral_point: ClassVar[Neutral | None] = None

    @model_validator(mode="before")
    @classmethod
    def _complete_groups(cls, data: Any) -> Any:
        """A group of knobs of which some are given keeps this variant's defaults for the others, not its class's."""
        if not isinstance(data, Mapping):
            return data
        groups = {name: f.default for name, f in cls.model_fields.items() if isinstance(f.default, Knobs)}
        partial = {name: group for name, group in groups.items() if isinstance(data.get(name), Mapping)}
        return {**data, **{name: {**group.model_dump(), **data[name]} for name, group in partial.items()}}

    def resolve(self, config: ModelConfig) -> Self:
        """The same variant with every default that depends on the model's sizes filled in."""
        return self

    def check(self, config: ModelConfig) -> None:
        """Raise ConfigError, with a path from the model's mapping, when the model cannot be built."""

    def notices(self, config: ModelConfig) -> tuple[str, ...]:
        """Facts about this variant in this model that the reader of a result should know."""
        return ()

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "version": self.version, **self.model_dump(mode="json")}

    @classmethod
    def describe(cls) -> dict[str, Any]:
        """The documentation of this variant as plain data."""
        words = {word: getattr(cls, word) for word in (*WORDS[1:], "version")}
        return {**words, "knobs": _describe_knobs(cls)}


V = TypeVar("V", bound=Variant)


class Table(Generic[V]):
    """The variants of one axis, as lazy lines "name" -> "module:Class": one variant's imports cannot break another."""

    def __init__(self, contract: type[Any], axis: str, package: str, lines: Mapping[str, str]) -> None:
        self.contract = contract
        self.axis = axis
        self.package = package
        self.lines = dict(lines)
        self._found: dict[tuple[str, str], type[V]] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self.lines)

    def resolve(self, name: object) -> type[V]:
        """The config class behind a name.

        Raises ConfigError for a name that the table lacks, and for a line whose class lacks part of the contract.
        """
        if not isinstance(name, str) or name not in self.lines:
            raise ConfigError("name", describe_unknown(name, self.lines, self.axis), self.lines)
        item = name, self.lines[name]
        if item not in self._found:
            self._found[item] = self._import(*item)
        return self._found[item]

    def _import(self, name: str, line: str) -> type[V]:
        place = f"the line {name!r}: {line!r} of the {self.axis} table"
        module, _, attribute = line.partition(":")
        try:
            named = getattr(importlib.import_module(f".{module}", self.package), attribute)
        except Exception as error:  # a variant's own file can raise anything
            raise ConfigError("name", f"{place} cannot be imported: {type(error).__name__}: {error}") from error
        if not (isinstance(named, type) and issubclass(named, self.contract)):
            raise ConfigError("name", f"{place} names no subclass of {self.contract.__name__}")
        found: type[V] = named
        missing = [*sorted(found.__abstractmethods__), *(word for word in WORDS if not hasattr(found, word))]
        missing += [f"a default of {knob}" for knob, info in found.model_fields.items() if info.is_required()]
        if missing:
            raise ConfigError("name", f"{place} names a class that lacks {', '.join(missing)}")
        if found.name != name:
            raise ConfigError("name", f"{place} names a class whose own name is {found.name!r}")
        return found

    def describe(self) -> tuple[dict[str, dict[str, Any]], list[ConfigError]]:
        """The documentation of each variant by name, and what is wrong with the lines that have none."""
        described: dict[str, dict[str, Any]] = {}
        broken: list[ConfigError] = []
        for name in self:
            try:
                described[name] = self.resolve(name).describe()
            except ConfigError as error:
                broken.append(error.under(self.axis))
        return described, broken

    def default(self) -> V:
        """The baseline, which is the first line of the table, with its default knobs."""
        return self.resolve(next(iter(self.lines)))()

    def parse(self, value: object) -> V:
        """A variant from its name, from a mapping {name, knob: value} or from itself. Raises ConfigError."""
        if isinstance(value, Variant) and isinstance(value, self.resolve(value.name)):
            return value
        if isinstance(value, str):
            try:
                return self.resolve(value)()
            except ConfigError as error:
                raise ConfigError("", error.message, error.legal) from None
        if not isinstance(value, Mapping):
            raise ConfigError("", f"expected a name or a mapping with a name, got {quote(value)}", self.lines)
        knobs = dict(value)
        cls = self.resolve(knobs.pop("name", next(iter(self.lines))))
        version = knobs.pop("version", cls.version)
        if version != cls.version:
            raise ConfigError("version", f"{cls.name} was recorded as version {version}; this code has {cls.version}")
        try:
            return cls(**knobs)
        except ValidationError as error:
            raise translate(error, cls) from None


def translate(error: ValidationError, cls: type[BaseModel]) -> ConfigError:
    """The first of pydantic's complaints about `cls` as a ConfigError with a clean path and the legal values."""
    first = error.errors()[0]
    cause = first.get("ctx", {}).get("error")
    path, legal = _locate(first, cls)
    if isinstance(cause, ConfigError):
        return cause.under(".".join(path))
    if first["type"] == "extra_forbidden":
        message = describe_unknown(path[-1], legal, "key")
    elif first["type"] == "missing":
        message = "is required"
    else:
        message = f"{first['msg'][0].lower()}{first['msg'][1:]}, got {quote(first['input'])}"
    return ConfigError(".".join(path), message, legal)


def _locate(error: ErrorDetails, cls: type[BaseModel]) -> tuple[list[str], tuple[object, ...]]:
    """The keys that lead to the error, without pydantic's labels of union members, and what is legal there."""
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
            legal = tuple(owner.model_fields) + (("name",) if issubclass(owner, Variant) else ())
    return keys, legal


def literal_values(annotation: object) -> Iterator[object]:
    """Every value of every Literal inside an annotation."""
    if typing.get_origin(annotation) is typing.Literal:
        yield from typing.get_args(annotation)
    else:
        for argument in typing.get_args(annotation):
            yield from literal_values(argument)


def _spell(annotation: object) -> str:
    """An annotation as a reader would write it: int | None, {none, rms, l2}."""
    if typing.get_origin(annotation) is typing.Annotated:
        return _spell(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) is typing.Literal:
        return "{" + ", ".join(map(str, typing.get_args(annotation))) + "}"
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        return " | ".join(_spell(member) for member in typing.get_args(annotation))
    if annotation is type(None):
        return "none"
    return getattr(annotation, "__name__", str(annotation))


def _describe_knobs(cls: type[BaseModel], prefix: str = "") -> dict[str, dict[str, Any]]:
    knobs: dict[str, dict[str, Any]] = {}
    for name, info in cls.model_fields.items():
        default = info.get_default(call_default_factory=True, validated_data={})
        if isinstance(default, BaseModel):
            defaults = default.model_dump(mode="json")
            for key, knob in _describe_knobs(type(default), f"{prefix}{name}.").items():
                knobs[key] = {**knob, "default": defaults[key.rpartition(".")[2]]}
        else:
            kind = _spell(info.annotation)
            knobs[prefix + name] = {"type": kind, "default": default, "description": info.description or ""}
    return knobs
