"""The source code of the running interpreter's standard library, which every machine has."""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from ablate.data.files import size_of
from ablate.data.sources.text import TextSource
from ablate.data.splits import Split, digest, part
from ablate.errors import DataError
from ablate.study.data_schema import DataConfig

_NO_SOURCE = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "sitecustomize.py"}
_GENERATED = ("config-", "_sysconfigdata")
"""Files that the build of an interpreter adds to the library; they contain paths of the machine that built it."""


class StdlibSource(TextSource):
    """Files are held out by a hash of their path inside the library."""

    summary = "the source code of the running interpreter's standard library"
    validation = "files, chosen by a hash of their path inside the library (validation_fraction sets the share)"

    def split(self, config: DataConfig, base: Path) -> Split:  # noqa: ARG002 - the library needs no path
        root = Path(sysconfig.get_path("stdlib"))
        names = sorted(path.relative_to(root).as_posix() for path in _walk_sources(root) if size_of(path))
        if len(names) < 2:
            raise DataError(f"{root}: the standard library of this Python has no source files; use data.source: text")
        return part(digest([root / name for name in names]), names, config.validation_fraction)


def _walk_sources(root: Path) -> Iterator[Path]:
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = filter(_is_source, subfolders)
        yield from (Path(folder, name) for name in files if name.endswith(".py") and _is_source(name))


def _is_source(name: str) -> bool:
    return name not in _NO_SOURCE and not name.startswith(_GENERATED)
