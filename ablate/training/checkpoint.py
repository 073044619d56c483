"""Checkpoints: everything that training needs to resume exactly, its copy on the host, and the file that holds it."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save, save_file
from torch import Tensor

from ablate.errors import RecordError
from ablate.files import check_regular, file_crc32, fill_atomic, write_atomic
from ablate.training.optimizer import Optimizer
from ablate_model.gpt import HeadedModel
from ablate_model.storage import make_metadata

TRAILER_START = b"ablate crc32 "
TRAILER = TRAILER_START + b"%08x"  # behind the zip file that torch writes, with the CRC-32 of its bytes


@dataclass
class Progress:
    """How far a run is. `loss_sum` (nats) covers the steps since the last line of the curve, which is at `line_*`.
    `reached` has a value for each phase that has ended, in a task with phases.

    A step's batch, learning rate and random numbers depend only on the step, so no position or generator is kept.
    """

    step: int = 0
    wall_s: float = 0.0
    loss_sum: float = 0.0
    line_step: int = 0
    line_wall_s: float = 0.0
    reached: list[float] = field(default_factory=list)


def capture_state(
    progress: Progress, model: HeadedModel, optimizer_state: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the state to save. It shares the tensors of the run, so copy or write it before the next step."""
    return {"progress": asdict(progress), "model": model.state_dict(), "optimizer": list(optimizer_state)}


def restore_state(state: dict[str, Any], model: HeadedModel, optimizer: Optimizer) -> Progress:
    """Put a captured state back into a model and its optimizer."""
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return Progress(**state["progress"])


class HostCopy:
    """A copy of a state on the host, while training goes on to change the tensors.

    The copy of a CUDA tensor is queued behind the steps before it, so making this waits for no device. `ready` does.
    There is one block of memory per type of number, pinned for CUDA, which the next copy reuses once this one is gone.
    """

    def __init__(self, state: Mapping[str, Any]) -> None:
        found: list[Tensor] = []
        _change_tensors(state, found.append)
        counts: Counter[torch.dtype] = Counter()
        for tensor in found:
            counts[tensor.dtype] += tensor.numel()
        devices = {tensor.device for tensor in found if tensor.is_cuda}
        self._blocks = {kind: torch.empty(n, dtype=kind, pin_memory=bool(devices)) for kind, n in counts.items()}
        self._used: Counter[torch.dtype] = Counter()
        with torch.no_grad():
            self._state: dict[str, Any] = _change_tensors(state, self._copy)
        self._events = [torch.cuda.current_stream(device).record_event() for device in devices]

    def ready(self) -> dict[str, Any]:
        """Return the copy, once it is complete."""
        for event in self._events:
            event.synchronize()
        return self._state

    def _copy(self, tensor: Tensor) -> Tensor:
        start = self._used[tensor.dtype]
        self._used[tensor.dtype] += tensor.numel()
        place = self._blocks[tensor.dtype][start : self._used[tensor.dtype]].view(tensor.shape)
        return place.copy_(tensor, non_blocking=True)


def _change_tensors(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """Return a nested value with each of its tensors changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _change_tensors(part, change) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_change_tensors(part, change) for part in value)
    return value


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Replace a checkpoint. A crash leaves the old one or the new one.

    Raises `OSError` if the disk is full or the folder is not writable. The old checkpoint is then still there.
    """
    write_atomic(path, partial(_save, state))


class _Summed:
    """A file that is written in one go, with the CRC-32 of what was written."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.crc32 = file, 0
        self.flush = file.flush

    def write(self, data: bytes) -> int:
        self.crc32 = zlib.crc32(data, self.crc32)
        return self.file.write(data)


def _save(state: dict[str, Any], file: IO[bytes]) -> None:
    summed = _Summed(file)
    try:
        torch.save(state, summed)  # type: ignore[arg-type]  # it has the methods that torch calls
        file.write(TRAILER % summed.crc32)
    except RuntimeError as error:
        # If writing the file fails, as on a full disk, torch raises an error about positions instead.
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def read_checkpoint(path: Path) -> dict[str, Any] | None:
    """Read a state, with its tensors on the CPU; None if there is no file. Nothing in the file is executed.

    Raises `RecordError` if the file is not a checkpoint, or not as it was written, which torch does not check.
    """
    if not os.path.lexists(path):
        return None
    try:
        check_regular(path)
        if not zipfile.is_zipfile(path):  # torch would try to read any other file in its old format
            raise ValueError("it is truncated, or not a checkpoint file")
        if not _is_sound(path):
            raise ValueError("it is damaged")
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise TypeError(f"it contains a {type(state).__name__}")
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - other bytes can raise anything in zipfile and torch
        raise RecordError(f"{path}: not a checkpoint: {error}") from None
    return state


def _is_sound(path: Path) -> bool:
    """Tell if the bytes are those that were written.

    The zip file has a checksum of each part, but none of its own fields, such as the place of a part. Checkpoints of
    earlier versions have no other.
    """
    with path.open("rb") as file:
        n_bytes = file.seek(-len(TRAILER % 0), os.SEEK_END)
        if (trailer := file.read()).startswith(TRAILER_START):
            return TRAILER % (file_crc32(file, n_bytes) or 0) == trailer
    with zipfile.ZipFile(path) as archive:
        # torch compresses none
        has_sizes = all(part.file_size == part.compress_size for part in archive.infolist())
        return has_sizes and archive.testzip() is None


def write_weights(path: Path, state: Mapping[str, Tensor]) -> None:
    """Write a model's tensors as safetensors. They must not overlap, as in a `HostCopy` or after `separate`.

    Raises `OSError` as `write_checkpoint` does.
    """
    weights = {name: tensor.detach().cpu() for name, tensor in state.items()}
    metadata = make_metadata(weights)
    try:
        fill_atomic(path, lambda temporary: save_file(weights, temporary, metadata))
    except SafetensorError:
        write_atomic(path, save(weights, metadata))  # fails too if the disk is full, with the error of the system
