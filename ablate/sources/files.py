"""Which files of a program decide its results, and their hash."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from ablate.errors import GridError
from ablate.files import open_regular
from ablate.formatting import quote
from ablate.sources.git import list_tracked
from ablate.sources.imports import find_imported, find_module

HASH_LENGTH = 16
MAX_FILES = 20_000
_BLOCK_BYTES = 2**20
_HEAD_BYTES = 2**16
_DECLARES = re.compile(rb"^(study|search)\s*:", re.MULTILINE)
_GLOB = re.compile(r"[*?[]")
_LEFT_OUT = frozenset({"__pycache__", ".git"})


@dataclass(frozen=True)
class Code:
    """Files of a program, by their paths relative to its folder, and the hash of these paths and their contents."""

    files: tuple[str, ...]
    hash: str


def collect(folder: Path, patterns: Sequence[str], words: Iterable[str]) -> Code:
    """The files that `patterns` name, or else those that git tracks in the folder, with the scripts and modules (`-m`)
    among the `words` of the command, and the modules that they import from the folder.

    Grids are left out of the files that git tracks, because a new seed in a grid changes no result. Raises `GridError`
    for a pattern that names nothing, a file outside of the folder, a file that cannot be read, or too many files.
    """
    if patterns:
        found = {name for pattern in patterns for name in _expand(folder, pattern)}
    else:
        words = list(words)
        scripts = [name for word in words if (name := _script(folder, word))]
        scripts += [name for before, word in pairwise(words) if before == "-m" for name in find_module(folder, word)]
        found = {name for name in list_tracked(folder) if not _is_grid(folder / name)}
        found |= {*scripts, *find_imported(folder, scripts)}
    if len(found) > MAX_FILES:
        raise GridError(f"{len(found):,} files (legal: at most {MAX_FILES:,}); name those that matter under code")
    files = tuple(sorted(name for name in found if os.path.lexists(folder / name)))
    return Code(files, hash_program(folder, files))


def hash_program(folder: Path, files: Iterable[str]) -> str:
    """The first digits of a SHA-256 of names and contents. Raises `GridError` for a file that cannot be read."""
    whole = hashlib.sha256()
    for name in files:
        content = hashlib.sha256()
        try:
            with open_regular(folder / name) as file:
                while block := file.read(_BLOCK_BYTES):
                    content.update(block)
        except OSError as error:
            if (folder / name).is_dir():  # a submodule, or a link to a folder: only its name counts
                continue
            raise GridError(f"{name}: {error.strerror or error}") from None
        whole.update(f"{name}\0{content.hexdigest()}\n".encode("utf-8", "surrogateescape"))
    return whole.hexdigest()[:HASH_LENGTH]


def _expand(folder: Path, pattern: str) -> Iterator[str]:
    """The files that a path, a folder or a glob names, relative to the folder."""
    if Path(pattern).is_absolute() or ".." in Path(pattern).parts or not pattern.strip():
        raise GridError(f"{quote(pattern)} must be a path inside the grid's folder")
    root = folder / pattern
    if not _GLOB.search(pattern) and not os.path.lexists(root):
        raise GridError(f"{quote(pattern)}: there is no such file or folder")
    tops = sorted(folder.glob(pattern)) if _GLOB.search(pattern) else [root]
    is_empty = True
    for path in (file for top in tops for file in _walk(top)):
        is_empty = False
        yield path.relative_to(folder).as_posix()
    if is_empty:
        raise GridError(f"{quote(pattern)} matches no file")


def _walk(top: Path) -> Iterator[Path]:
    if not top.is_dir():
        yield top
        return
    for parent, folders, names in os.walk(top):
        folders[:] = [name for name in folders if name not in _LEFT_OUT]
        yield from (Path(parent) / name for name in names if not name.endswith(".pyc"))


def _script(folder: Path, word: str) -> str:
    """The file in the folder that a word of the command names; empty if it names none."""
    relative = os.path.relpath(folder / word, folder) if word and "\0" not in word else ".."
    return Path(relative).as_posix() if not relative.startswith("..") and (folder / word).is_file() else ""


def _is_grid(path: Path) -> bool:
    """Tell if the file is a grid or a search."""
    if path.suffix not in (".yaml", ".yml"):
        return False
    try:
        with open_regular(path) as file:
            return _DECLARES.search(file.read(_HEAD_BYTES)) is not None
    except OSError:
        return False
