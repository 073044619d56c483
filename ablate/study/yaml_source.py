"""Read YAML together with the place of every value, so that an error can point at it."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from typing import Any

import yaml

from ablate.errors import GridError
from ablate.formatting import quote

KeyPath = tuple[str | int, ...]

MAX_NODES = 20_000  # counted with repeated aliases, which can make a small file expand without end
MAX_TEXT = 10_000  # characters of one value
MAX_KEY = 200  # characters of one key
TOO_MANY = f"more than {MAX_NODES:,} values"


class _Loader(yaml.SafeLoader):
    """A safe loader with the scalars of YAML 1.2: 1e-3 is a number, `off` and `no` are words, 1:30 is a string."""

    n_nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.n_nodes += 1
        if self.n_nodes > MAX_NODES:
            raise yaml.MarkedYAMLError(problem=TOO_MANY, problem_mark=self.peek_event().start_mark)  # type: ignore[no-untyped-call]
        return super().compose_node(parent, index)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Limit merge keys: in older versions of PyYAML they multiply before their values are counted."""
        super().flatten_mapping(node)
        if len(node.value) > MAX_NODES:
            raise yaml.MarkedYAMLError(problem=TOO_MANY, problem_mark=node.start_mark)

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - declared so by the base class


_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?[0-9][0-9_]*$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9]*)?)([eE][-+]?[0-9]+)?$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$"),
    list("-+.0123456789"),
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:merge", re.compile(r"^<<$"), ["<"])


_TAGS = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float", "str", "seq", "map"))


def _construct_int(_loader: _Loader, node: yaml.ScalarNode) -> int:
    return int(node.value.replace("_", ""))  # YAML 1.1 would read 010 as eight


def _construct_float(_loader: _Loader, node: yaml.ScalarNode) -> float:
    value = float(re.sub(r"\.(?=inf|nan)", "", node.value.replace("_", "").lower()))
    return value + 0.0  # -0.0 trains as 0.0, so it is not another level


_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _construct_float)


@dataclass(frozen=True)
class Source:
    """The places of the values of a file.

    `file` is the name in messages, `lines` maps key paths to line numbers from 1, and `settings` are the key paths that
    `--set` gave.
    """

    file: str = "grid"
    lines: dict[KeyPath, int] = field(default_factory=dict)
    settings: frozenset[KeyPath] = frozenset()

    def locate(self, path: KeyPath) -> str:
        """`file:line: dotted.path` of the value at `path`, or of the nearest value above it."""
        name = ".".join(str(part) for part in path)
        suffix = f": {name}" if name else ""
        if path and path not in self.lines and any(setting[: len(path)] == path for setting in self.settings):
            return f"--set{suffix}"
        for length in range(len(path), -1, -1):
            prefix = path[:length]
            if prefix in self.settings:
                return f"--set{suffix}"
            if prefix in self.lines:
                return f"{self.file}:{self.lines[prefix]}{suffix}"
        return f"{self.file}{suffix}"

    def with_setting(self, path: KeyPath) -> Source:
        return replace(self, settings=self.settings | {path})


@dataclass(frozen=True)
class Place:
    """Where a value of a declaration stands. `level` is the level of the arm that the value belongs to, as text."""

    source: Source
    keys: KeyPath
    level: str = ""

    def refuse(self, message: str) -> GridError:
        """The error to raise about the value, with its file and line."""
        return GridError(f"{self.source.locate(self.keys)}: {message}")


def parse_yaml(text: str, file: str) -> tuple[Any, Source]:
    """Parse YAML. Returns plain data and the line of every value.

    Raises `GridError` for a syntax error, an unknown tag, a duplicate key, or a file that expands without end.
    """
    try:
        loader = _Loader(text)
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        raise GridError(
            f"{file}:{line}: this is not valid YAML: the character {chr(int(error.character))!a} is not text"
        ) from None
    try:
        node = loader.get_single_node()
        reader = _Reader(loader, file)
        data = reader.read(node, ()) if node is not None else None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{file}:{mark.line + 1}" if mark else file
        column = mark.column if mark else None
        raise GridError(f"{place}: this is not valid YAML: {error.problem or error.context}", column) from None
    except RecursionError:
        raise GridError(f"{file}: this is not valid YAML: it is nested too deeply, or contains itself") from None
    except (yaml.YAMLError, ValueError) as error:
        raise GridError(f"{file}: this is not valid YAML: {error}") from None
    finally:
        loader.dispose()
    return data, Source(file, reader.lines if node is not None else {})


class _Reader:
    def __init__(self, loader: _Loader, file: str) -> None:
        self.loader, self.file, self.count = loader, file, 0
        self.lines: dict[KeyPath, int] = {}

    def read(self, node: yaml.Node, path: KeyPath) -> Any:
        self.count += 1
        if self.count > MAX_NODES:
            raise GridError(f"{self.file}: {TOO_MANY}; do aliases repeat other aliases?")
        self.lines[path] = node.start_mark.line + 1
        if node.tag not in _TAGS:
            raise GridError(
                f"{self.file}:{self.lines[path]}: this is not valid YAML here: unknown tag {quote(node.tag)}"
            )
        if isinstance(node, yaml.MappingNode):
            return self._read_mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.read(child, (*path, index)) for index, child in enumerate(node.value)]
        return self._read_scalar(node)

    def _read_scalar(self, node: yaml.Node) -> Any:
        line = node.start_mark.line + 1
        if len(node.value) > MAX_TEXT:
            raise GridError(
                f"{self.file}:{line}: a value of {len(node.value):,} characters (legal: at most {MAX_TEXT:,})"
            )
        try:
            value = self.loader.construct_object(node)
        except (ValueError, KeyError):
            raise GridError(
                f"{self.file}:{line}: this is not valid YAML: {quote(node.value[:40])} is not a valid {node.tag[18:]}"
            ) from None
        if isinstance(value, str) and any(unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t" for c in value):
            raise GridError(f"{self.file}:{line}: {ascii(value)[:60]} contains a character that is not text")
        return value

    def _read_mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[Hashable, Any]:
        written = Counter(str(key.value) for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge")
        for key, _ in reversed(node.value):
            if written[str(key.value)] > 1:
                raise GridError(f"{self.file}:{key.start_mark.line + 1}: the key {quote(key.value)} appears twice")
        self.loader.flatten_mapping(node)
        result: dict[Hashable, Any] = {}
        for key, child in node.value:
            name = self._read_scalar(key) if isinstance(key, yaml.ScalarNode) else None
            if not isinstance(name, str | int | float | bool):
                raise GridError(f"{self.file}:{key.start_mark.line + 1}: a key must be a word, not a {key.tag[18:]}")
            name = name if isinstance(name, str) else key.value
            if len(name) > MAX_KEY:
                where = f"{self.file}:{key.start_mark.line + 1}"
                raise GridError(f"{where}: a key of {len(name):,} characters (legal: at most {MAX_KEY})")
            result[name] = self.read(child, (*path, name))
            self.lines[(*path, name)] = key.start_mark.line + 1
        return result
