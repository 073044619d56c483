"""Settings at dotted paths of a nested mapping, each with its place, and the equality of their values."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from ablate.study.yaml_source import KeyPath, Place

TASK = "task"
MAPPINGS = (dict, Mapping)  # plans test many settings, and the test for an abstract class is slow
NAME = "name"  # the key of a component's variant: `attention: gated` is short for `attention: {name: gated}`


class Settings:
    """A nested mapping, read and changed by dotted path. It keeps the place of every value that was set with one.

    A path is text, or a tuple where a key holds a dot or is the index of a list's entry. A change copies what it
    changes, so that the arms of a plan share the settings of their base.
    """

    def __init__(self, tree: Mapping[str, Any], places: Mapping[str, Place] | None = None) -> None:
        self.tree: dict[str, Any] = dict(tree)
        self.places = dict(places or {})

    def get(self, path: str | KeyPath) -> Any:
        """The value at `path`, or None."""
        tree: Any = self.tree
        for key in _split(path):
            if isinstance(tree, str) and key == NAME:
                break
            if not (isinstance(tree, MAPPINGS) and key in tree) and not _is_entry(tree, key):
                return None
            tree = tree[key]
        return tree

    def set(self, path: str | KeyPath, value: Any, place: Place | None = None) -> None:
        """Put `value` at `path`, and remember its place. Raises `ValueError` where a value above has no parts."""
        *above, last = _split(path)
        tree: Any = self.tree
        for key in above:
            if isinstance(tree, dict):
                child = tree.get(key)
            else:
                _check_entry(tree, key)
                child = tree[key]
            if child is None:
                child = {}
            elif isinstance(child, MAPPINGS):
                child = dict(child)
            elif isinstance(child, list):
                child = [*child]
            elif isinstance(child, str) and (tree is self.tree.get("model") or (tree is self.tree and key == TASK)):
                child = {NAME: child}
            else:
                raise ValueError(f"{key!r} is {child!r}, which has no parts")
            tree[key] = child
            tree = child
        _check_entry(tree, last)
        tree[last] = value
        if place is not None:
            self.places[path if isinstance(path, str) else ".".join(map(str, path))] = place

    def places_near(self, path: str) -> Iterator[Place]:
        """The places of what was set at `path`, above it or inside it."""
        if path in self.places:
            yield self.places[path]
        inside = f"{path}."
        for other, place in self.places.items():
            if other.startswith(inside) or path.startswith(f"{other}."):
                yield place


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted path, value) for every value of a nested mapping. Empty mappings are values too."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def value_key(value: Any) -> Hashable:
    """A key that is equal for values that are the same: 1 is 1.0, but neither is true or "1"."""
    key: Hashable = value
    if isinstance(value, bool):
        key = "bool", value
    elif isinstance(value, int | float):
        key = "number", value
    elif isinstance(value, Mapping):
        key = "mapping", frozenset((name, value_key(part)) for name, part in value.items())
    elif isinstance(value, list | tuple):
        key = "list", tuple(map(value_key, value))
    return key


def is_same(one: Any, other: Any) -> bool:
    """Compare two values and their kinds: 1 is 1.0, but neither is true or "1"."""
    return value_key(one) == value_key(other)


def find_same(value: Any, values: Iterable[Any]) -> int | None:
    """The index of the first of `values` that is the same as `value`, or None."""
    key = value_key(value)
    return next((index for index, other in enumerate(values) if value_key(other) == key), None)


@lru_cache(maxsize=10_000)
def _split(path: str | KeyPath) -> KeyPath:
    return tuple(path.split(".")) if isinstance(path, str) else path


def _is_entry(tree: Any, key: str | int) -> bool:
    return isinstance(tree, list) and isinstance(key, int) and 0 <= key < len(tree)


def _check_entry(tree: Any, key: str | int) -> None:
    if isinstance(tree, list) and not _is_entry(tree, key):
        raise ValueError(f"{key!r} is not the index of an entry (legal: 0 to {len(tree) - 1})")
