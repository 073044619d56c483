"""`model.safetensors` without torch: what it says that it holds, and whether it is whole."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ablate.errors import RecordError
from ablate.files import check_regular


def read_layout(path: Path) -> Mapping[str, tuple[int, ...]]:
    """The shape of each tensor by its name. Reads the header, which says how long the file has to be.

    Raises `RecordError` where the file is missing, truncated, or something else.
    """
    from safetensors import SafetensorError, safe_open

    try:
        check_regular(path)
        with safe_open(path, framework="np") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - no mapping
    except OSError as error:
        raise RecordError(f"{path}: cannot be read: {error.strerror or error}") from None
    except SafetensorError as error:
        raise RecordError(f"{path}: these are no whole weights: {error}") from None
