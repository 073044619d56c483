"""JSON files of a study: written atomically, and read with one clear error."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ablate.errors import RecordError
from ablate.files import open_regular, write_atomic

MAX_JSON_BYTES = 2**28  # of a record; that of thousands of arms has a few megabytes


def write_json(path: Path, data: Mapping[str, Any], *, durable: bool = True) -> None:
    """Write one line per key, sorted.

    Nested values stay on the line of their key. Indenting them takes Python's slow encoder, which needs a second for a
    study of thousands of arms.
    """
    encode = json.JSONEncoder(sort_keys=True, allow_nan=False).encode
    lines = ",\n".join(f" {encode(key)}: {encode(data[key])}" for key in sorted(data))
    write_atomic(path, f"{{\n{lines}\n}}\n".encode(), durable=durable)


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises `RecordError` if it is missing or is not JSON."""
    return parse_json(read_content(path), path)


def read_content(path: Path) -> bytes:
    """Read a JSON file without parsing it. Raises `RecordError` if it is missing or too large."""
    try:
        with open_regular(path) as file:
            if os.fstat(file.fileno()).st_size > MAX_JSON_BYTES:
                raise RecordError(f"{path}: cannot be read: it has more than {MAX_JSON_BYTES} bytes")
            return file.read()
    except FileNotFoundError:
        raise RecordError(f"{path}: there is no such file") from None
    except OSError as error:
        raise RecordError(f"{path}: cannot be read: {error.strerror or error}") from None


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds a mapping. Raises `RecordError` if it does not."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise RecordError(f"{path}: it is not a mapping")
    return content


def parse_json(content: bytes, place: object) -> Any:
    """Parse JSON. Raises `RecordError`, naming the place, if the content is not JSON."""
    try:
        return json.loads(content)
    except RecursionError:
        raise RecordError(f"{place}: cannot be read: it is nested too deeply") from None
    except ValueError as error:
        raise RecordError(f"{place}: cannot be read: {error}") from None
