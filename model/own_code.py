"""A user's files: what one of them imports from its folder, the hash of all of them, and where they can be.

Each content has a namespace of its own in `sys.modules`, so two versions of one file can live in one process, and a
file named `random.py` is `random` to no one else.
"""

from __future__ import annotations

import ast
import hashlib
import posixpath
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

from .errors import ConfigError, quote

OWN_NAME = re.compile(r"(?P<file>[^:]+\.py):(?P<attribute>[A-Za-z_]\w*)")
VERSION = re.compile(r"[0-9a-f]{16}")
MAX_FILE_BYTES = 2_000_000
MAX_FILES = 1000
NAMESPACE = "own_"

Exists = Callable[[str], bool]


class OwnCodeError(ConfigError):
    """A user's file that cannot be found, read or run, or that has been replaced by another one."""


def split_name(name: object) -> tuple[str, str] | None:
    """Split "FILE.py:CLASS" into file and class; None for any other value."""
    found = OWN_NAME.fullmatch(name) if isinstance(name, str) else None
    return (found["file"], found["attribute"]) if found else None


@dataclass(frozen=True, eq=False)
class Code:
    """A file, and the files that it imports from its folder: relative names with "/" and their contents.

    `place` is the folder in which they were found. Code that `is_installed` is imported by its usual name.
    """

    entry: str
    files: Mapping[str, bytes]
    place: Path = field(repr=False)
    is_installed: bool = False

    @cached_property
    def version(self) -> str:
        """16 hexadecimal digits of a sha256 of all names and contents."""
        return hash_files(self.files)

    @property
    def namespace(self) -> str:
        return f"{NAMESPACE}{self.version}"


def hash_files(files: Mapping[str, bytes]) -> str:
    """Return the version of these files: 16 hexadecimal digits of a sha256."""
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name}\n{len(files[name])}\n".encode() + files[name])
    return digest.hexdigest()[:16]


def collect(folder: Path, file: str, within: str = "") -> Code:
    """Read a file of `folder` and everything that it imports from there, which Python does not run for that.

    A file outside the folder ("../shared/mine.py") is read with the files of its own folder. With `within`, a top-level
    package of `folder`, only files of that package count. Raises OwnCodeError, naming file and line.
    """
    entry = posixpath.normpath(file)
    if PurePosixPath(entry).is_absolute():
        raise OwnCodeError("name", f"{quote(file)}: write the path relative to the grid")
    if entry.startswith("../"):
        path = folder / entry
        folder, entry = path.parent, path.name
    files: dict[str, bytes] = {}

    def exists(name: str) -> bool:
        return (folder / name).is_file()

    waiting = [entry, *_files_of(entry.removesuffix(".py").split("/"), exists)]  # with the packages around it
    while waiting:
        name = waiting.pop()
        if name in files or (within and name.split("/")[0] != within):
            continue
        files[name] = _read(folder / name, entry == name)
        if len(files) > MAX_FILES:
            raise OwnCodeError("name", f"{folder / entry} imports more than {MAX_FILES} files of its folder")
        tree = parse(files[name], folder / name)
        waiting += find_imports(tree, name, exists)
    return Code(entry, files, folder, bool(within))


def _read(path: Path, is_entry: bool) -> bytes:
    try:
        if is_entry and not path.exists():
            near = sorted(other.name for other in path.parent.glob("*.py")) if path.parent.is_dir() else []
            raise OwnCodeError("name", f"{path}: there is no such file", near)
        if not path.is_file():
            raise OwnCodeError("name", f"{path}: this is not a file")
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise OwnCodeError("name", f"{path} cannot be read: {error.strerror or error}") from None
    if len(content) > MAX_FILE_BYTES:
        raise OwnCodeError("name", f"{path} has more than {MAX_FILE_BYTES:,} bytes")
    return content


def parse(content: bytes, path: Path) -> ast.Module:
    """Parse a file. Raises OwnCodeError with the line that is not valid Python."""
    try:
        return ast.parse(content, str(path))
    except SyntaxError as error:
        line = f"\n    {error.text.strip()}" if error.text else ""
        raise OwnCodeError("name", f"{path}:{error.lineno}{line}\n{type(error).__name__}: {error.msg}") from None
    except (ValueError, RecursionError) as error:  # a NUL byte, or an expression that is nested too deeply
        raise OwnCodeError("name", f"{path}: this is not valid Python: {error}") from None


def find_imports(tree: ast.Module, name: str, exists: Exists) -> Iterator[str]:
    """Yield the files of the folder that the file `name` imports anywhere."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for module in (alias.name for alias in node.names):
                base = find_base(name, module, (), exists)
                if base is not None:
                    yield from _files_of([*base, *module.split(".")], exists)
        elif isinstance(node, ast.ImportFrom):
            names = [alias.name for alias in node.names]
            parts = _parts_of(node, name, names, exists)
            if parts is not None:
                yield from _files_of(parts, exists)
                for alias in names:
                    yield from _files_of([*parts, alias], exists)


def _parts_of(node: ast.ImportFrom, name: str, names: Sequence[str], exists: Exists) -> list[str] | None:
    """Return the path of the module that a `from` statement names; None if it lies outside the folder."""
    module = node.module.split(".") if node.module else []
    if not node.level:
        base = find_base(name, node.module or "", names, exists)
        return None if base is None else [*base, *module]
    package = name.split("/")[:-1]
    kept = len(package) - (node.level - 1)
    return None if kept < 0 else [*package[:kept], *module]


def find_base(
    name: str, module: str, names: Sequence[str], exists: Exists, is_installed: Exists | None = None
) -> list[str] | None:
    """Return the folder from which the file `name` imports `module`, or None for an installed one.

    The standard library comes first, then the file's own folder, then that of the grid, then what is installed. A
    folder without __init__.py counts only where no installed package has its name.
    """
    parts = module.split(".")
    if parts[0] in sys.stdlib_module_names:
        return None
    bases = [name.split("/")[:-1], []]
    for base in bases:
        top = "/".join([*base, parts[0]])
        if exists(f"{top}.py") or exists(f"{top}/__init__.py"):
            return base
    for base in bases:
        inner = [*base, *parts]
        found = [*_files_of(inner, exists), *(file for alias in names for file in _files_of([*inner, alias], exists))]
        if found and not (is_installed or _is_installed)(parts[0]):
            return base
    return None


def _files_of(parts: Sequence[str], exists: Exists) -> list[str]:
    """List the files that are run when the module at this path is imported: it and the packages around it."""
    found = []
    for end in range(1, len(parts) + 1):
        place = "/".join(parts[:end])
        files = [f"{place}/__init__.py"] if end < len(parts) else [f"{place}/__init__.py", f"{place}.py"]
        found += [file for file in files if exists(file)][:1]
    return found if any(file.startswith("/".join(parts)) for file in found) else []


def _is_installed(package: str) -> bool:
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None  # a folder that is not a package has no origin


class Library:
    """Where own files may lie: beside the grid, and in the `code/` folders of trusted studies, by version.

    A file beside the grid is read once, so that an edit cannot change a search that is under way.
    """

    def __init__(self) -> None:
        self.folder: Path | None = None
        self._beside: dict[str, Code] = {}
        self._stores: list[Path] = []
        self._known: dict[tuple[str, str], Code] = {}

    def look_in(self, folder: Path) -> None:
        """Take files without a version from `folder`, as they are now."""
        self.folder, self._beside = folder, {}

    def trust(self, store: Path) -> None:
        """Also take files from `store`, which has a folder per version."""
        if store not in self._stores:
            self._stores.append(store)

    def keep(self, code: Code) -> None:
        """Remember code that was sent to this process."""
        self._known.setdefault((code.entry, code.version), code)

    def find(self, file: str, version: str | None = None) -> Code:
        """Return the code of a file, in the version that a record names. Raises OwnCodeError."""
        entry = posixpath.normpath(file)
        entry = posixpath.basename(entry) if entry.startswith("../") else entry
        if version is not None and (entry, version) in self._known:
            return self._known[entry, version]
        code = self._find(file, entry, version)
        self._known[entry, code.version] = code
        return code

    def _find(self, file: str, entry: str, version: str | None) -> Code:
        try:
            code = self._find_beside(file) if self.folder is not None else None
        except OwnCodeError:
            if version is None:
                raise
            code = None  # gone or broken beside the grid, but a study may have it
        if version is None and code is None:
            raise OwnCodeError("name", f"{file}: own files are searched next to a grid, but no grid was read")
        if code is not None and version in (None, code.version):
            return code
        for store in self._stores:
            if VERSION.fullmatch(str(version)) and (store / str(version) / entry).is_file():
                return read_stored(store / str(version), entry)
        found = f"; {code.place / code.entry} has {code.version}" if code else ""
        raise OwnCodeError("version", f"{file} was recorded with the code {version}, which does not exist here{found}")

    def _find_beside(self, file: str) -> Code | None:
        assert self.folder is not None
        if file not in self._beside:
            self._beside[file] = collect(self.folder, file)
        return self._beside[file]


def read_stored(folder: Path, entry: str) -> Code:
    """Read the code that a study keeps in a folder named after its version. Raises OwnCodeError if it was changed."""
    files = {str(PurePosixPath(path.relative_to(folder))): path for path in sorted(folder.rglob("*.py"))}
    code = Code(entry, {name: _read(path, False) for name, path in files.items()}, folder)
    if code.version != folder.name:
        raise OwnCodeError("version", f"{folder}: its files were changed: their version is now {code.version}")
    return code


LIBRARY = Library()
