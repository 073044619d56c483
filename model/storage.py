"""Models on disk: weights as safetensors beside the configuration. No code in a file is ever executed."""

from __future__ import annotations

import errno
import json
import os
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .config import ModelConfig
from .errors import ConfigError
from .gpt import HeadedModel
from .kinds import build_model, parse_config
from .wrapped import check_shapes, plain_weights, unwrap_kind

WEIGHTS, CONFIG = "model.safetensors", "config.json"
MAX_JSON_BYTES = 10_000_000
CHECKSUM = "crc32"  # in the metadata of the file
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def save(model: nn.Module, folder: str | Path) -> None:
    """Write the weights and the resolved configuration into `folder`, which is created if it is missing.

    The model may be compiled, distributed or averaged (`torch.compile`, `DistributedDataParallel`, `AveragedModel`).
    Either both files are written, or the folder stays as it was.
    Raises ConfigError for a module that contains no whole model, and OSError if the folder cannot be written.
    """
    whole: HeadedModel = unwrap_kind(model, HeadedModel)
    weights = separate(plain_weights(whole))
    config = json.dumps(whole.config.to_dict(), indent=2) + "\n"
    folder = Path(folder)
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".saving-", dir=folder) as temporary:
            _write(Path(temporary), weights, config)
            _put_in_place(Path(temporary), folder)
    except BaseException:
        for place in made:
            with suppress(OSError):
                place.rmdir()
        raise


def load(folder: str | Path, device: str | torch.device = "cpu", weights: str = WEIGHTS) -> HeadedModel:
    """Load a model that `save` wrote, or that a training run left with its configuration under the key "model".

    `weights` is the name of another file of weights in the folder. Weights keep the floating-point type of the file.
    Raises ConfigError for a folder without the two files,
    for a damaged file, and for weights or a configuration that do not fit this code or each other.
    """
    folder = Path(folder)
    config = _parse_config(folder / CONFIG)
    place = folder / weights
    tensors = read_safetensors(place)
    check_shapes(config, {name: value.shape for name, value in tensors.items()}, place)
    model = build_model(config)
    kinds = {name: value.dtype for name, value in model.state_dict().items()}  # a user's module may have other buffers
    floats = {name: value for name, value in tensors.items() if kinds[name].is_floating_point}
    check_floats(floats, place)
    for name in tensors.keys() - floats.keys():
        if tensors[name].dtype != kinds[name]:
            raise ConfigError(name, f"{place} stores it as {tensors[name].dtype}", [str(kinds[name])])
    dtype, *others = {value.dtype for value in floats.values()}
    if not others and dtype != torch.float32:
        model.to(dtype)  # also converts the constants that the model computes from its configuration
    # cloned, because the tensors may be views of the file, which may change while the model lives
    model.load_state_dict({name: value.clone() for name, value in tensors.items()}, assign=True)
    return model.to(device)


def read_json(path: Path) -> dict[str, Any]:
    """Read the mapping in a JSON file. Raises ConfigError for anything else."""
    if not _is_file(path):
        raise ConfigError("", f"there is no {path}")
    try:
        n_bytes = path.stat().st_size
        content = json.loads(path.read_bytes()) if n_bytes <= MAX_JSON_BYTES else None
    except RecursionError:
        raise ConfigError("", f"{path} is nested too deeply") from None
    except OSError as error:
        raise ConfigError("", f"{path} cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise ConfigError("", f"{path} is not valid JSON: {error}") from None
    if n_bytes > MAX_JSON_BYTES:
        raise ConfigError("", f"{path} has {n_bytes:,} bytes; a configuration has at most {MAX_JSON_BYTES:,}")
    if not isinstance(content, dict):
        raise ConfigError("", f"{path} contains a {type(content).__name__} instead of a mapping")
    return content


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors by name. Raises ConfigError for a missing or damaged file.

    Damaged numbers are found if the file has a checksum, which files of other programs and of earlier versions lack.
    """
    if not _is_file(path):
        raise ConfigError("", f"there is no {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError) as error:
        raise ConfigError("", f"{path} contains no weights: {error}") from None
    if CHECKSUM in metadata and metadata[CHECKSUM] != _checksum(tensors):
        raise ConfigError("", f"{path} is damaged: its checksum is not that of its weights")
    return tensors


def make_metadata(weights: Mapping[str, Tensor]) -> dict[str, str]:
    """Return what a file of these weights says about itself: their checksum.

    It is the only key, because safetensors writes several in any order, and equal weights make equal files.
    """
    return {CHECKSUM: _checksum(weights)}


def _checksum(weights: Mapping[str, Tensor]) -> str:
    """The CRC-32 of the names, types, shapes and numbers of tensors, as 8 hexadecimal digits."""
    crc32 = 0
    for name, value in sorted(weights.items()):
        crc32 = zlib.crc32(f"{name} {value.dtype} {[*value.shape]} ".encode(), crc32)
        crc32 = zlib.crc32(value.reshape(-1).view(torch.uint8).cpu().numpy().data, crc32)
    return f"{crc32:08x}"


def check_floats(weights: Mapping[str, Tensor], place: object) -> None:
    """Raise ConfigError, naming the first tensor whose type is not a floating-point type of weights."""
    for name, value in weights.items():
        if value.dtype not in FLOATS:
            legal = [str(dtype).removeprefix("torch.") for dtype in FLOATS]
            raise ConfigError(name, f"{place} stores it as {value.dtype}", legal)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # the name is too long or not a legal file name
        return False


def _parse_config(path: Path) -> ModelConfig:
    described = read_json(path)
    try:
        return parse_config(described.get("model", described))
    except ConfigError as error:
        raise ConfigError(error.path, f"{error.message} (in {path})", error.legal) from None


def separate(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights as safetensors needs them: contiguous, without shared memory."""
    found, taken = {}, set()
    for name, value in weights.items():
        value = value.detach().contiguous()
        place = value.untyped_storage().data_ptr()
        found[name] = value.clone() if place in taken else value
        taken.add(place)
    return found


def _write(folder: Path, weights: dict[str, Tensor], config: str) -> None:
    try:
        save_file(weights, folder / WEIGHTS, make_metadata(weights))
    except SafetensorError as error:  # for example, the disk is full
        raise OSError(f"{folder.parent / WEIGHTS} cannot be written: {error}") from None
    (folder / CONFIG).write_text(config)
    for name in (WEIGHTS, CONFIG):
        with (folder / name).open("rb") as file:
            os.fsync(file.fileno())


def _put_in_place(new: Path, folder: Path) -> None:
    """Move both files from `new` into `folder`, or restore the old ones if that fails.

    The old configuration leaves first and the new one arrives last. A crash in between therefore leaves a folder that
    `load` refuses, never the weights of one model with the configuration of another.
    """
    for name in (WEIGHTS, CONFIG):
        if (folder / name).is_dir():
            raise IsADirectoryError(errno.EISDIR, "is a directory", str(folder / name))
    old = new / "old"
    old.mkdir()
    try:
        for name in (CONFIG, WEIGHTS):
            if (folder / name).exists():
                (folder / name).replace(old / name)
        for name in (WEIGHTS, CONFIG):
            (new / name).replace(folder / name)
    except BaseException:
        for name in (WEIGHTS, CONFIG):
            if (old / name).exists():
                (old / name).replace(folder / name)
            elif not (new / name).exists():
                (folder / name).unlink()
        raise
