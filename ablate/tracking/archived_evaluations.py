"""The results of evaluations in archives: which are packed, and how they join those that a run has already."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

from ablate.errors import RecordError
from ablate.files import make_folder, write_atomic
from ablate.tracking.evaluations import is_evaluated, list_evaluations, path_of, read_evaluation
from ablate.tracking.folders import RunFolder


def check_evaluations(folder: Path) -> None:
    """Raise `RecordError` if a result in the folder of a run cannot be read."""
    for path in list_evaluations(folder):
        read_evaluation(path)


def add_evaluations(target: RunFolder, source: Path, undo: ExitStack) -> None:
    """Copy the results of evaluations that the run does not have yet. One that failed here is replaced."""
    for path in list_evaluations(source):
        if is_evaluated(target, path.stem):
            continue
        place = path_of(target, path.stem)
        undo.callback(_put_back, place, place.read_bytes() if place.is_file() else None)
        make_folder(place.parent)
        write_atomic(place, path.read_bytes())


def _put_back(path: Path, content: bytes | None) -> None:
    with suppress(OSError):
        if content is None:
            path.unlink()
            path.parent.rmdir()
        else:
            write_atomic(path, content)


def readable_evaluations(folder: Path) -> Iterator[Path]:
    """Yield the results of a run that a reader would accept. Evaluating again replaces a damaged one."""
    for path in list_evaluations(folder):
        with suppress(RecordError):
            read_evaluation(path)
            yield path
