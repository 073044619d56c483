"""The table of one axis: the names of its variants, and where each is.

In addition to the names in the table, "FILE.py:CLASS" names a class in a user's file.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from .contracts import WORDS, Variant
from .errors import ConfigError, describe_unknown, quote
from .knobs import translate
from .own_code import split_name
from .own_modules import load_attribute
from .own_variants import find_code, installed, make_variant

V = TypeVar("V", bound=Variant)


class Table(Generic[V]):
    """The variants of one axis, as lazy lines "name" -> "module:Class": one variant's imports cannot break another.

    `plain` is the line of the class that makes a variant of a plain module, for axes where that is possible.
    """

    def __init__(
        self, contract: type[Any], axis: str, package: str, lines: Mapping[str, str], plain: str | None = None
    ) -> None:
        self.contract = contract
        self.axis = axis
        self.package = package
        self.lines, self.plain = dict(lines), plain
        self._found: dict[tuple[str, str], type[V]] = {}

    def __iter__(self) -> Iterator[str]:
        yield from self.lines
        yield from (name for name in installed(self.axis) if name not in self.lines)

    def resolve(self, name: object, version: object = None) -> type[V]:
        """Return the config class behind a name; for a user's file, in the version that a record names.

        Raises ConfigError for a name that the table lacks, and for a line whose class lacks part of the contract.
        """
        if isinstance(name, str) and (split_name(name) or (name in installed(self.axis) and name not in self.lines)):
            return self._resolve_own(name, version if isinstance(version, str) else None)
        if not isinstance(name, str) or name not in self.lines:
            raise ConfigError("name", describe_unknown(name, self, self.axis), tuple(self))
        item = name, self.lines[name]
        if item not in self._found:
            self._found[item] = self._import(*item)
        return self._found[item]

    def _resolve_own(self, name: str, version: str | None) -> type[V]:
        code, attribute = find_code(name, self.axis, version)
        item = name, code.version
        if item not in self._found:
            plain = self._load(self.plain) if self.plain else None
            found = load_attribute(code, attribute)
            self._found[item] = make_variant(found, name, code, self.contract, plain, self.package)
        return self._found[item]

    def _load(self, line: str) -> Any:
        module, _, attribute = line.partition(":")
        return getattr(importlib.import_module(f".{module}", self.package), attribute)

    def _import(self, name: str, line: str) -> type[V]:
        place = f"the line {name!r}: {line!r} of the {self.axis} table"
        try:
            named = self._load(line)
        except Exception as error:  # a variant's own file can raise anything
            raise ConfigError("name", f"{place} cannot be imported: {type(error).__name__}: {error}") from error
        if not (isinstance(named, type) and issubclass(named, self.contract)):
            raise ConfigError("name", f"{place} is not a subclass of {self.contract.__name__}")
        found: type[V] = named
        missing = [*sorted(found.__abstractmethods__), *(word for word in WORDS if not hasattr(found, word))]
        missing += [f"a default of {knob}" for knob, info in found.model_fields.items() if info.is_required()]
        if missing:
            raise ConfigError("name", f"{place} names a class that lacks {', '.join(missing)}")
        if found.name != name:
            raise ConfigError("name", f"{place} names a class whose own name is {found.name!r}")
        return found

    def describe(self) -> tuple[dict[str, dict[str, Any]], list[ConfigError]]:
        """Document each variant by name, and list the errors of the lines that have no documentation."""
        described: dict[str, dict[str, Any]] = {}
        broken: list[ConfigError] = []
        for name in self:
            try:
                described[name] = self.resolve(name).describe()
            except ConfigError as error:
                broken.append(error.under(self.axis))
        return described, broken

    def default(self) -> V:
        """The baseline with its default knobs: the first line of the table."""
        return self.resolve(next(iter(self.lines)))()

    def parse(self, value: object) -> V:
        """Make a variant from its name, a mapping {name, knob: value}, or a variant. Raises ConfigError."""
        if isinstance(value, Variant) and isinstance(value, self.resolve(value.name, value.version)):
            return value
        if isinstance(value, str):
            try:
                return self.resolve(value)()
            except ConfigError as error:
                raise ConfigError("", error.message, error.legal) from None
            except ValidationError as error:  # a default that its own knob refuses
                raise translate(error, self.resolve(value)) from None
        if not isinstance(value, Mapping):
            raise ConfigError("", f"expected a name or a mapping with a name, got {quote(value)}", self.lines)
        knobs = dict(value)
        version = knobs.pop("version", None)
        cls = self.resolve(knobs.pop("name", next(iter(self.lines))), version)
        version = cls.version if version is None else version
        if version != cls.version:
            raise ConfigError("version", f"{cls.name} was recorded as version {version}; this code has {cls.version}")
        try:
            return cls(**knobs)
        except ValidationError as error:
            raise translate(error, cls) from None
