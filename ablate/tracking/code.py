"""`<runs>/<study>/code/`: the user's files that its runs execute, one folder per version."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from ablate.errors import RecordError
from ablate.files import make_folder, open_regular

CODE = "code"
VERSION = re.compile(r"[0-9a-f]{16}")
MAX_CODE_BYTES = 2**22  # of one file
_NAME = re.compile(r"[^:]+\.py:[A-Za-z_]\w*")
_PART = re.compile(r"[^/\\\x00-\x1f:.][^/\\\x00-\x1f:]*")  # of a path in a version's folder: nothing leads out of it


def hash_files(files: Mapping[str, bytes]) -> str:
    """Return the version of these files: 16 hexadecimal digits of a sha256 of their names and contents.

    `hash_program` in `ablate/sources/files.py` is another one, because files of a program may be larger than memory and
    are hashed in blocks. Both are part of run ids, so neither can become the other.
    """
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name}\n{len(files[name])}\n".encode() + files[name])
    return digest.hexdigest()[:16]


def write_code(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Write files into the folder of their version in `folder`, unless it is there, and return that folder.

    Readers never see half of it. Raises `RecordError` if a folder of this version holds other files.
    """
    target = folder / hash_files(files)
    if target.is_dir():
        check_version(target)
        return target
    make_folder(folder)
    stage = Path(tempfile.mkdtemp(prefix=".writing-", dir=folder))
    try:
        for name, content in files.items():
            path = stage / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        stage.chmod(0o755)
        with suppress(OSError):  # another process was faster
            stage.rename(target)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    check_version(target)
    return target


def read_code(folder: Path) -> dict[str, bytes]:
    """Read the files of a version, by relative name. Raises `RecordError` if one is not a file or is too large."""
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            continue
        try:
            with open_regular(path) as file:
                content = file.read(MAX_CODE_BYTES + 1)
        except OSError as error:
            raise RecordError(f"{path}: cannot be read: {error.strerror or error}") from None
        if path.is_symlink() or len(content) > MAX_CODE_BYTES:
            raise RecordError(f"{path}: code files must be regular files of at most {MAX_CODE_BYTES:,} bytes")
        files[path.relative_to(folder).as_posix()] = content
    return files


def check_version(folder: Path) -> None:
    """Raise `RecordError` unless the folder is named after the files in it."""
    if (found := hash_files(read_code(folder))) != folder.name:
        raise RecordError(f"{folder}: its files were changed: their version is now {found}; remove the folder")


def check_versions(folder: Path, archive: Path) -> None:
    """Raise `RecordError`, naming the archive, unless every version that was unpacked into `folder` has its files."""
    for version in folder.glob("*"):
        try:
            check_version(version)
        except RecordError:
            raise RecordError(f"{archive}: the files in {CODE}/{version.name} do not have that version") from None


def find_versions(folder: Path, configs: Iterable[Any]) -> list[str]:
    """The versions that these runs' configs name and `folder` has. Raises `RecordError` for changed files."""
    named = {version for config in configs for _, version in named_code(config)}
    found = sorted(version for version in named if (folder / version).is_dir())
    for version in found:
        check_version(folder / version)
    return found


def is_code_path(path: PurePosixPath) -> bool:
    """Tell if the path is that of a file in a version's folder, below the folder of a study."""
    first, version, *rest = (*path.parts, "", "")[: len(path.parts) + 2]
    parts = [part for part in rest if part]
    is_safe = bool(parts) and all(_PART.fullmatch(part) for part in parts)
    return first == CODE and VERSION.fullmatch(version) is not None and is_safe


def named_code(config: Any) -> Iterator[tuple[str, str]]:
    """(name, version) of each variant from a user's file in a run's config.json, the model's and the training's."""
    sections = config.get("model"), config.get("train")
    for section in sections:
        for key, value in section.items() if isinstance(section, Mapping) else ():
            if isinstance(value, Mapping):
                name, version = value.get("name"), value.get("version")
            else:
                name, version = value, section.get(f"{key}_version")
            if isinstance(name, str) and isinstance(version, str) and VERSION.fullmatch(version):
                yield name, version


def is_file_name(name: str) -> bool:
    """Tell if a variant's name is "FILE.py:CLASS" rather than that of an installed package."""
    return _NAME.fullmatch(name) is not None
