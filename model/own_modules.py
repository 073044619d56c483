"""Load a user's files as modules, and report their errors with the user's own lines."""

from __future__ import annotations

import ast
import importlib
import linecache
import os
import sys
import traceback
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from types import ModuleType
from typing import Any

from .own_code import NAMESPACE, Code, OwnCodeError, find_base, parse

_codes: dict[str, Code] = {}  # by namespace
_lines: dict[str, list[str]] = {}  # the lines of loaded files, by the name in their code objects


def load_attribute(code: Code, attribute: str) -> Any:
    """Import the file and return a class or function of it.

    Raises OwnCodeError with file, line and exception if the file cannot be imported or lacks the name.
    """
    module = _load_installed(code) if code.is_installed else load(code)
    try:
        return getattr(module, attribute)
    except AttributeError:
        defined = [name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
        raise OwnCodeError("name", f"{code.place / code.entry} has no {attribute!r}", defined) from None


def load(code: Code) -> ModuleType:
    """Import the file of `code` in its own namespace."""
    _codes.setdefault(code.namespace, code)
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
    dotted = code.entry.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    try:
        return importlib.import_module(f"{code.namespace}.{dotted}")
    except (Exception, SystemExit) as error:
        for name in [name for name in sys.modules if f"{name}.".startswith(f"{code.namespace}.")]:
            del sys.modules[name]
        raise as_own_error(error, f"{code.place / code.entry} cannot be imported") from error


def _load_installed(code: Code) -> ModuleType:
    name = code.entry.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    _lines.update({str(code.place / file): content.decode().splitlines() for file, content in code.files.items()})
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise as_own_error(error, f"{name} cannot be imported") from error


def as_own_error(error: BaseException, otherwise: str) -> OwnCodeError:
    """Make the error to raise for an exception of own code: its lines, or `otherwise` where it has none."""
    return OwnCodeError("", describe_error(error) or f"{otherwise}: {type(error).__name__}: {error}")


def describe_error(error: BaseException) -> str:
    """Show the lines of own files that an exception passed through, and the exception; empty if it passed none.

    Frames of other code are left out: the user can change only their own lines.
    """
    frames = [
        f"{_shorten(name)}:{number}, in {frame.f_code.co_name}\n    {_line(name, number)}"
        for frame, number in traceback.walk_tb(error.__traceback__)
        if (name := frame.f_code.co_filename) in _lines
    ]
    if not frames:
        return ""
    frames = list(dict.fromkeys(frames))  # an endless recursion passes the same line a thousand times
    return "\n".join([*frames, *(line.rstrip() for line in traceback.format_exception_only(error))])


def _line(name: str, number: int | None) -> str:
    lines = _lines[name]
    return lines[number - 1].strip() if number and number <= len(lines) else ""


def _shorten(name: str) -> str:
    relative = os.path.relpath(name)
    return name if relative.startswith("..") else relative


class _Finder(MetaPathFinder):
    """Finds the modules of all namespaces, and no others."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith(NAMESPACE):
            return None
        namespace, _, dotted = fullname.partition(".")
        code = _codes.get(namespace)
        if code is None:
            return None
        place = dotted.replace(".", "/")
        for file in (f"{place}/__init__.py", f"{place}.py"):
            if file in code.files:
                return _spec(fullname, code, file)
        if not place or any(file.startswith(f"{place}/") for file in code.files):
            return _spec(fullname, code, "")
        return None


def _spec(fullname: str, code: Code, file: str) -> ModuleSpec | None:
    is_package = not file or file.endswith("__init__.py")
    origin = str(code.place / file) if file else None
    return spec_from_loader(fullname, _Loader(code, file), origin=origin, is_package=is_package)


class _Loader(Loader):
    """Runs one file; its imports of other own files lead into the same namespace."""

    def __init__(self, code: Code, file: str) -> None:
        self.code, self.file = code, file

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        if not self.file:
            return
        path = self.code.place / self.file
        content = self.code.files[self.file]
        tree = _Redirect(self.code, self.file).visit(parse(content, path))
        lines = content.decode(errors="replace").splitlines(keepends=True)
        _lines[str(path)] = lines
        linecache.cache[str(path)] = (len(content), None, lines, str(path))  # the lines that ran, even after an edit
        module.__file__ = str(path)
        exec(compile(ast.fix_missing_locations(tree), str(path), "exec", dont_inherit=True), module.__dict__)


class _Redirect(ast.NodeTransformer):
    """Leads absolute imports of own files into the namespace: `import helpers` becomes `import own_HASH.helpers`."""

    def __init__(self, code: Code, file: str) -> None:
        self.code, self.file = code, file

    def _base(self, module: str, names: Sequence[str] = ()) -> list[str] | None:
        return find_base(self.file, module, names, self.code.files.__contains__, lambda _: False)

    def visit_Import(self, node: ast.Import) -> list[ast.stmt]:
        statements: list[ast.stmt] = []
        for alias in node.names:
            base = self._base(alias.name)
            if base is None:
                statements.append(ast.copy_location(ast.Import([alias]), node))
                continue
            top = alias.name.split(".")[0]
            whole, first = (".".join([self.code.namespace, *base, name]) for name in (alias.name, top))
            names = [ast.alias(whole, alias.asname or top)]
            if alias.asname is None and top != alias.name:  # `import a.b` binds a
                names.append(ast.alias(first, top))
            statements.append(ast.copy_location(ast.Import(names), node))
        return statements

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.ImportFrom:
        if node.level or node.module is None:
            return node
        base = self._base(node.module, [alias.name for alias in node.names])
        if base is not None:
            node.module = ".".join([self.code.namespace, *base, node.module])
        return node


def defined_names(code: Code) -> list[str]:
    """Return the classes that the file itself defines, in their order. Raises OwnCodeError if it cannot be imported."""
    module = load(code)
    return [
        name for name, value in vars(module).items() if isinstance(value, type) and value.__module__ == module.__name__
    ]
