"""Everything that training needs to go on as if nothing had happened, and its file."""

from __future__ import annotations

import os
import pickle
import zipfile
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import torch

from ablate.errors import RecordError
from ablate.files import check_regular, write_atomic
from ablate.training.optimizer import Optimizer
from ablate_model import GPT


@dataclass
class Progress:
    """How far a run is. `loss_sum` (nats) is over the steps since the last line of the curve, which stood at `line_*`.

    A step's batch, rate and random numbers are functions of the step, so there is no position or generator to keep.
    """

    step: int = 0
    wall_s: float = 0.0
    loss_sum: float = 0.0
    line_step: int = 0
    line_wall_s: float = 0.0


def capture(progress: Progress, model: GPT, optimizer: Optimizer) -> dict[str, Any]:
    """The state to save: tensors are those of the run itself, so write it before the next step."""
    return {"progress": asdict(progress), "model": model.state_dict(), "optimizer": optimizer.state_dict()}


def restore(state: dict[str, Any], model: GPT, optimizer: Optimizer) -> Progress:
    """Put a captured state back into a model and its optimizer."""
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return Progress(**state["progress"])


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """A crash leaves the old checkpoint or the new one.

    Raises `OSError` where the disk is full or the folder cannot be written; the old checkpoint is then still there.
    """
    write_atomic(path, partial(_save, state))


def _save(state: dict[str, Any], file: IO[bytes]) -> None:
    try:
        torch.save(state, file)
    except RuntimeError as error:
        # torch answers the file's own error, a full disk for one, with an error about positions.
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def read_checkpoint(path: Path) -> dict[str, Any] | None:
    """The state, with its tensors on the CPU; None where there is no file. Nothing in the file is executed.

    Raises `RecordError` where the file is no checkpoint.
    """
    if not os.path.lexists(path):
        return None
    try:
        check_regular(path)
        if not zipfile.is_zipfile(path):  # torch would try to read anything else by its old format
            raise ValueError("it is torn, or of another kind")
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        raise RecordError(f"{path}: not a checkpoint: {error}") from None
    return state
