"""The modules that a Python script imports from its own folder, found without running anything."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from ablate.files import open_regular

MAX_BYTES = 2**22  # of a source file that is parsed


def find_imported(folder: Path, scripts: Iterable[str]) -> set[str]:
    """The files of all modules that these scripts import, directly or not, from `folder` or their own folders."""
    found: set[str] = set()
    waiting = [name for name in scripts if name.endswith(".py")]
    roots = dict.fromkeys(("", *(str(PurePosixPath(name).parent) for name in waiting)))
    seen = set(waiting)
    while waiting:
        name = waiting.pop()
        for module in _imports(folder / name, PurePosixPath(name)):
            for file in _locate(folder, module, roots):
                if file not in seen:
                    seen.add(file)
                    found.add(file)
                    waiting.append(file)
    return found


def find_module(folder: Path, dotted: str) -> set[str]:
    """The files that `python -m dotted` runs, if they lie in `folder`."""
    parts = tuple(dotted.split("."))
    return {*_locate(folder, parts, ("",)), *_locate(folder, (*parts, "__main__"), ("",))}


def _imports(path: Path, name: PurePosixPath) -> Iterator[tuple[str, ...]]:
    """The parts of each imported module. A relative import starts with an empty part and its folder."""
    try:
        with open_regular(path) as file:
            tree = ast.parse(file.read(MAX_BYTES))
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return  # the program itself will tell
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = tuple((node.module or "").split(".")) if node.module else ()
            if node.level:
                above = name.parent.parts[: len(name.parent.parts) - node.level + 1]
                parts = ("", *above, *parts)
            yield parts
            yield from ((*parts, alias.name) for alias in node.names if alias.name != "*")


def _locate(folder: Path, parts: tuple[str, ...], roots: Iterable[str]) -> Iterator[str]:
    """The files of a module and of the packages around it, in each root where it exists."""
    is_relative = parts[:1] == ("",)
    parts = parts[1:] if is_relative else parts
    for root in ("",) if is_relative else roots:
        place = PurePosixPath(root)
        for part in parts:
            place = place / part
            for candidate in (place / "__init__.py", place.with_name(f"{place.name}.py")):
                if (folder / candidate).is_file():
                    yield candidate.as_posix()
            if not (folder / place).is_dir():
                break
