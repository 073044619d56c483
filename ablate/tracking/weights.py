"""`model.safetensors` read without torch: the shapes of its tensors, and whether the file is complete."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ablate.errors import RecordError
from ablate.files import check_regular


def read_layout(path: Path) -> Mapping[str, tuple[int, ...]]:
    """Read the shape of each tensor by name. Only the header is read, which says how long the file has to be.

    Raises `RecordError` if the file is missing, truncated, or of another kind.
    """
    from safetensors import SafetensorError, safe_open

    try:
        check_regular(path)
        with safe_open(path, framework="np") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - no mapping
    except OSError as error:
        raise RecordError(f"{path}: cannot be read: {error.strerror or error}") from None
    except SafetensorError as error:
        raise RecordError(f"{path}: these are not complete weights: {error}") from None
