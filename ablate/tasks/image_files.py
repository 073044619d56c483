"""Square images and their classes: scikit-learn's digits, NumPy archives, and folders with one folder per class."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ablate.data.files import find_path
from ablate.errors import DataError, suggest
from ablate.files import open_regular
from ablate.tasks.pair_files import Stamp, stamp

Source = Literal["digits", "npz", "folder"]
MAX_CLASSES = 1_000_000  # as many as a vocabulary may have tokens
Pixels = npt.NDArray[np.float32]
Classes = npt.NDArray[np.int64]

FORMAT = 1
"""Raise this number when the same files would give other images."""

DIGITS_VALIDATION = 5  # every fifth digit is held out; the images of a writer follow each other
SHARES = 1 << 32
ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
# Names of arrays: images and classes for training, then the same for validation.
_ARRAYS = (("x_train", "y_train", "x_test", "y_test"), ("images", "labels"))
_SPLITS = ("train", "val", "validation", "test")


@dataclass(frozen=True)
class ImageFiles:
    """Where images are. `size` is the side to which images of a folder are cut and scaled, or None."""

    source: Source
    path: str
    size: int | None
    validation_fraction: float


@dataclass(frozen=True, eq=False)
class Images:
    """Images (n, c, y, x) and their classes (n) in two splits; channels have mean 0 and deviation 1 in training.

    `digests` identify training and validation images.
    """

    train: tuple[Pixels, Classes]
    validation: tuple[Pixels, Classes]
    names: tuple[str, ...]
    digests: tuple[str, str]


def read_images(files: ImageFiles, base: Path) -> Images:
    """Read all images. Without images for validation, a hash of each image decides its split.

    Raises `DataError`, naming the file, for what cannot be read, and for images that are not square or not alike.
    """
    if files.source == "digits":
        return _read(files, None)
    place = find_path(files.path, base)
    if place is None:
        raise DataError(f"task.path: {files.path}: there is no such file or folder")
    inside = (path for path in place.rglob("*") if path.is_file()) if place.is_dir() else iter((place,))
    return _read(files, place, tuple(sorted(map(stamp, inside))))


@lru_cache(maxsize=4)
def _read(files: ImageFiles, place: Path | None, _stamps: tuple[Stamp, ...] = ()) -> Images:
    train, held_out, names = _read_files(files, place)
    train, validation = _split(train, files.validation_fraction) if held_out is None else (train, held_out)
    for name, (images, _) in (("training", train), ("validation", validation)):
        if not len(images):
            raise DataError(f"task.path: the {name} split has no images")
    if train[0].shape[1:] != validation[0].shape[1:]:
        raise DataError(
            f"task.path: images of {train[0].shape[1:]} for training, of {validation[0].shape[1:]} to validate"
        )
    mean, deviation = (f(train[0], axis=(0, 2, 3), keepdims=True, dtype=np.float64) for f in (np.mean, np.std))
    scaled = [
        (((images - mean) / np.maximum(deviation, 1e-6)).astype(np.float32), classes)
        for images, classes in (train, validation)
    ]
    return Images(scaled[0], scaled[1], names, (_digest(train), _digest(validation)))


Part = tuple[Pixels, Classes]
Read = tuple[Part, Part | None, tuple[str, ...]]


def _read_files(files: ImageFiles, place: Path | None) -> Read:
    if place is None:
        return _read_digits()
    return _read_npz(place) if files.source == "npz" else _read_folders(place, files.size)


def _read_digits() -> Read:
    from sklearn.datasets import load_digits  # type: ignore[import-untyped]

    found = load_digits()
    images, classes = found.images[:, None].astype(np.float32) / 16, found.target.astype(np.int64)
    is_out = np.arange(len(images)) % DIGITS_VALIDATION == 0
    names = tuple(map(str, found.target_names))
    return (images[~is_out], classes[~is_out]), (images[is_out], classes[is_out]), names


def _read_npz(path: Path) -> Read:
    try:
        with open_regular(path) as file:
            archive = np.load(file, allow_pickle=False)
            arrays: Mapping[str, Any] = {name: archive[name] for name in archive.files}
    except AttributeError:
        raise DataError(f"{path}: is a single NumPy array, not an archive of several") from None
    except (OSError, ValueError, EOFError, KeyError) as error:
        raise DataError(f"{path}: is not a NumPy archive of images: {error}") from None
    except Exception as error:
        if type(error).__name__ != "BadZipFile":
            raise
        raise DataError(f"{path}: is not a NumPy archive: {error}") from None
    names = next((names for names in _ARRAYS if set(names) <= arrays.keys()), None)
    if names is None:
        legal = " or ".join(", ".join(names) for names in _ARRAYS)
        raise DataError(f"{path}: it holds {', '.join(arrays) or 'nothing'}, but the arrays {legal} are expected")
    parts = [
        _check_arrays(path, arrays[pixels], arrays[classes], f"{pixels}, {classes}")
        for pixels, classes in zip(names[::2], names[1::2], strict=True)
    ]
    n_classes = 1 + max((int(classes.max()) for _, classes in parts if len(classes)), default=0)
    if n_classes > MAX_CLASSES:
        raise DataError(f"{path}: the class {n_classes - 1:,} is too large (legal: below {MAX_CLASSES:,})")
    return parts[0], parts[1] if len(parts) > 1 else None, tuple(map(str, range(n_classes)))


def _check_arrays(path: Path, pixels: Any, classes: Any, names: str) -> Part:
    if pixels.ndim == 3:
        pixels = pixels[..., None]
    if pixels.ndim != 4 or pixels.shape[1] != pixels.shape[2] or pixels.shape[3] not in (1, 3, 4):
        message = f"{names}: expected square images (n, y, x) or (n, y, x, channels), got {pixels.shape}"
        raise DataError(f"{path}: {message}")
    classes = classes.reshape(-1) if classes.ndim == 2 and classes.shape[1] == 1 else classes
    if classes.shape != pixels.shape[:1] or classes.dtype.kind not in "iu" or (len(classes) and classes.min() < 0):
        raise DataError(
            f"{path}: {names}: expected {len(pixels)} classes from 0 on, got {classes.dtype} {classes.shape}"
        )
    if pixels.dtype.kind not in "uif" or not np.isfinite(pixels).all():
        raise DataError(f"{path}: {names}: pixels must be finite numbers, got {pixels.dtype}")
    scale = np.iinfo(pixels.dtype).max if pixels.dtype.kind == "u" else 1
    return np.moveaxis(pixels, 3, 1).astype(np.float32) / scale, classes.astype(np.int64)


def _read_folders(root: Path, size: int | None) -> Read:
    if not root.is_dir():
        raise DataError(f"task.path: {root}: must be a folder with one folder of images per class")
    splits = [root / name for name in _SPLITS if (root / name).is_dir()]
    if splits and splits[0].name != "train":
        raise DataError(f"task.path: {root}: has a folder {splits[0].name} but none named train")
    if len(splits) > 2:
        raise DataError(f"task.path: {root}: has several folders to validate: {', '.join(s.name for s in splits[1:])}")
    names = _name_classes(splits[0] if splits else root)
    train, *others = [_read_split(folder, names, size) for folder in splits or [root]]
    return train, others[0] if others else None, names


def _name_classes(folder: Path) -> tuple[str, ...]:
    names = tuple(sorted(place.name for place in folder.iterdir() if place.is_dir() and not place.name.startswith(".")))
    if len(names) < 2:
        raise DataError(f"task.path: {folder}: must have a folder of images for each of at least two classes")
    return names


def _read_split(folder: Path, names: tuple[str, ...], size: int | None) -> Part:
    images: list[Pixels] = []
    classes: list[int] = []
    for name in _name_classes(folder):
        if name not in names:
            raise DataError(f"task.path: {folder / name}: there is no such class in training{suggest(name, names)}")
        for path in sorted(p for p in (folder / name).iterdir() if p.suffix.lower() in ENDINGS):
            image = _read_image(path, size)
            if images and image.shape != images[0].shape:
                message = f"is {_describe(image)}, but images before it are {_describe(images[0])}: set task.size"
                raise DataError(f"{path}: {message}")
            images.append(image)
            classes.append(names.index(name))
    if not images:
        raise DataError(f"task.path: {folder}: its folders hold no images ({', '.join(ENDINGS)})")
    return np.stack(images), np.array(classes, dtype=np.int64)


def _read_image(path: Path, size: int | None) -> Pixels:
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as file:
            image = file.convert("L" if file.mode in ("1", "L", "I;16") else "RGB")
        if size is not None:
            image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
        pixels: Pixels = np.asarray(image, dtype=np.float32) / np.float32(255)
    except (OSError, UnidentifiedImageError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: is not an image that can be read: {error}") from None
    if pixels.shape[0] != pixels.shape[1]:
        raise DataError(f"{path}: is {pixels.shape[1]} x {pixels.shape[0]} pixels, not square: set task.size")
    return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, 2, 0)


def _describe(image: Pixels) -> str:
    channels, side, _ = image.shape
    return f"{side} x {side} with {channels} channel{'s' * (channels > 1)}"


def _split(part: Part, fraction: float) -> tuple[Part, Part]:
    """Hold out images by a hash of their pixels, so that copies of an image stay together."""
    images, classes = part
    shares = [int.from_bytes(hashlib.sha256(image.tobytes()).digest()[:4], "big") for image in images]
    is_out = np.array(shares) < fraction * SHARES
    return (images[~is_out], classes[~is_out]), (images[is_out], classes[is_out])


def _digest(part: Part) -> str:
    images, classes = part
    content = hashlib.sha256(repr((FORMAT, images.shape)).encode())
    content.update(np.ascontiguousarray(images).astype("<f4").tobytes())
    content.update(classes.astype("<i8").tobytes())
    return content.hexdigest()
