"""From a class in a user's file, or in an installed package, to a variant of an axis."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import nn

from .contracts import WORDS, Variant
from .errors import ConfigError
from .own_code import LIBRARY, Code, OwnCodeError, collect, split_name

GROUP = "ablate.variants"


@cache
def installed(axis: str) -> Mapping[str, EntryPoint]:
    """Return what installed packages offer for an axis: entry points named "AXIS.NAME", by name."""
    prefix = f"{axis}."
    return {
        point.name.removeprefix(prefix): point for point in entry_points(group=GROUP) if point.name.startswith(prefix)
    }


def find_code(name: str, axis: str, version: str | None) -> tuple[Code, str]:
    """Return the code behind "FILE.py:CLASS" or behind the name of an entry point, and the attribute in it."""
    own = split_name(name)
    if own is not None:
        return LIBRARY.find(own[0], version), own[1]
    point = installed(axis)[name]
    parts = point.module.split(".")
    try:
        spec = find_spec(point.module)
    except Exception as error:
        raise OwnCodeError("name", f"{point.value} cannot be imported: {type(error).__name__}: {error}") from error
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise OwnCodeError("name", f"the entry point {point.name} names {point.value}, which is not a Python module")
    path = Path(spec.origin)
    root = path.parents[len(parts) if path.name == "__init__.py" else len(parts) - 1]
    return collect(root, path.relative_to(root).as_posix(), within=parts[0]), point.attr


def make_variant(
    found: Any, name: str, code: Code, contract: type[Variant], plain: type[Any] | None, package: str
) -> type[Any]:
    """Make a variant of a class that is one already, or that is a plain module. Raises ConfigError for any other."""
    made: Any
    if isinstance(found, type) and issubclass(found, contract):
        made = _complete(found, name, code.version)
    elif isinstance(found, type) and issubclass(found, nn.Module) and plain is not None:
        made = plain.adapt(found, name, code.version)
    else:
        needed = f"a subclass of ablate_model.contracts.{contract.__name__}"
        if plain is not None:
            raise ConfigError("name", f"{name} is neither a torch.nn.Module nor {needed}")
        raise ConfigError("name", f"{name}: a plain module cannot be used here; write {needed}")
    made.code = code
    made.__reduce__ = lambda self: (_revive, (package, code, self.to_dict()))
    variant: type[Any] = made
    return variant


def _complete(found: type[Variant], name: str, version: str) -> type[Variant]:
    """Give the user's variant the name and version by which it is recorded."""
    missing = [*sorted(found.__abstractmethods__)]
    missing += [f"a default of {knob}" for knob, info in found.model_fields.items() if info.is_required()]
    if missing:
        raise ConfigError("name", f"{name} names a class that lacks {', '.join(missing)}")
    first = (found.__doc__ or "").strip().splitlines()
    words = dict.fromkeys(WORDS, "") | {"summary": first[0] if first else f"the class {found.__name__}"}
    words = {word: getattr(found, word, default) for word, default in words.items()}
    body = {**words, "name": name, "version": version, "__module__": found.__module__, "__doc__": found.__doc__}
    kind: Any = type(found)
    made: type[Variant] = kind(found.__name__, (found,), body)
    return made


def _revive(package: str, code: Code, described: dict[str, Any]) -> Any:
    """Make a pickled variant again, in a process that may not see the file."""
    LIBRARY.keep(code)
    return importlib.import_module(package).TABLE.parse(described)
