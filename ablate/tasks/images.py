"""Image classification with a vision transformer."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from ablate.data.files import find_path
from ablate.metrics import Direction, metrics_of_phases
from ablate.study.schema import TrainConfig
from ablate.tasks.epochs import draw_words, pick_rows
from ablate.tasks.image_files import ImageFiles, Pixels, read_images
from ablate.tasks.image_files import Images as ImageData
from ablate.tasks.task import DataInfo, Task
from ablate.training.contract import Batch, Metrics, TrainingTask
from ablate.training.phases import summarize_phases
from ablate_model import ConfigError, ModelConfig, ViTConfig

EVALUATION_PATCHES = 16384  # at once; fixed, so that no other setting changes a metric
_CHANGES = 2**62  # keys of random changes, above those of steps
_PERMUTATIONS = 2**61  # keys of labels, above those of steps too
LEAST_PHASES = 2  # without which there is no trend

Labels = npt.NDArray[np.int64]


class Images(Task):
    """Square images and their classes, in epochs that are shuffled."""

    name: ClassVar[str] = "images"
    summary: ClassVar[str] = "a vision transformer classifies images"
    source_of_idea: ClassVar[str] = "An Image is Worth 16x16 Words (arXiv 2010.11929)"
    rows: ClassVar[str] = "images"
    config_class: ClassVar[type[ModelConfig]] = ViTConfig
    data_knobs: ClassVar[tuple[str, ...]] = ("path", "source", "size", "validation_fraction")

    source: Literal["digits", "npz", "folder"] = Field(
        default="digits",
        description="digits: scikit-learn's 1,797 digits of 8 x 8 pixels; npz: x_train, y_train, x_test, y_test, "
        "or images and labels; folder: one folder of images per class, perhaps below train and val",
    )
    path: str = Field(default="", description="the archive or the folder")
    size: int | None = Field(
        default=None, ge=1, le=4096, description="folder: side in pixels to which images are cut and scaled"
    )
    validation_fraction: float = Field(
        default=0.1, gt=0, lt=1, description="share held out where the files have no validation images, by a hash"
    )
    crop: int = Field(default=0, ge=0, le=4096, description="augmentation: largest shift of an image, in pixels")
    flip: bool = Field(default=False, description="augmentation: mirror every other image, left to right")
    label_smoothing: float = Field(default=0.0, ge=0, lt=1, description="share of a label that all classes get")
    permute_labels_every: int = Field(
        default=0,
        ge=0,
        le=10**9,
        description="steps after which the classes get other labels, at random, to measure plasticity; 0: never",
    )
    metric: Literal["accuracy", "loss", "phase_accuracy_trend"] = Field(
        default="accuracy",
        description="the metric by which arms are compared; it does not change the runs. With permute_labels_every: "
        "accuracy, which is then the mean over phases, or phase_accuracy_trend",
    )

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.source == "digits" and self.path:
            raise ConfigError("path", "the source digits comes with scikit-learn and reads no files", ["npz", "folder"])
        if self.source != "digits" and not self.path:
            raise ConfigError("path", f"the source {self.source} needs one")
        if self.source != "folder" and self.size is not None:
            raise ConfigError("size", f"only images of a folder are scaled, and the source is {self.source}", [None])
        legal = ["accuracy", "phase_accuracy_trend"] if self.permute_labels_every else ["accuracy", "loss"]
        if self.metric not in legal:
            phases = "with" if self.permute_labels_every else "without"
            raise ConfigError("metric", f"{self.metric} cannot compare arms {phases} permute_labels_every", legal)
        return self

    @property
    def measures(self) -> Mapping[str, Direction]:
        return {"val_accuracy": "higher", "val_loss": "lower"}

    @property
    def metrics(self) -> dict[str, Direction]:
        if not self.permute_labels_every:
            return super().metrics
        found = metrics_of_phases(self.measures, "accuracy")
        first = "val_mean_phase_accuracy" if self.metric == "accuracy" else f"val_{self.metric}"
        return {first: found[first], **found}

    def check_training(self, train: TrainConfig) -> None:
        every = self.permute_labels_every
        if every and train.steps // every < LEAST_PHASES:
            raise ConfigError(
                "permute_labels_every", f"{train.steps} steps hold fewer than two phases of {every} steps"
            )

    def idle(self) -> Mapping[str, str]:
        return {"validation_fraction": "every fifth digit is held out"} if self.source == "digits" else {}

    def locate(self, base: Path) -> Self:
        place = find_path(self.path, base) if self.path else None
        return self if place is None else self.model_copy(update={"path": str(place)})

    def _read(self, base: Path) -> ImageData:
        return read_images(ImageFiles(self.source, self.path, self.size, self.validation_fraction), base)

    def describe(self, base: Path) -> DataInfo:
        found = self._read(base)
        (images, _), (held_out, _) = found.train, found.validation
        settings = {"image_size": images.shape[2], "n_channels": images.shape[1], "n_classes": len(found.names)}
        name = hashlib.sha256("".join(found.digests).encode()).hexdigest()
        return DataInfo(name, found.digests[1], len(images), len(held_out), settings)

    def check_model(self, config: ModelConfig, data: DataInfo) -> None:
        for knob, needed in data.settings.items():
            if getattr(config, knob) != needed:
                raise ConfigError(
                    knob, f"{getattr(config, knob)} does not fit the images, which need {needed}", [needed]
                )
        if self.crop >= data.settings["image_size"]:
            raise ConfigError(
                "", f"task.crop {self.crop} would shift images of {data.settings['image_size']} pixels away"
            )

    def open(self, config: ModelConfig, base: Path) -> TrainingTask:
        assert isinstance(config, ViTConfig)
        return ImageTraining(self, config, self._read(base))


class ImageTraining(TrainingTask):
    """Batches of (images [b, c, y, x], classes [b])."""

    n_sums = 3

    def __init__(self, task: Images, config: ViTConfig, data: ImageData) -> None:
        self.task, self.model, self.data = task, config, data
        self.tokens_per_row = config.context_length

    def batch(self, seed: int, step: int, n_rows: int) -> Batch:
        images, classes = self.data.train
        rows = pick_rows(seed, step, n_rows, len(images))
        return self._change(images[rows], seed, step), self._label(classes[rows], seed, step)

    def _label(self, classes: Labels, seed: int, step: int) -> Labels:
        """The labels that classes have at a step."""
        if not self.task.permute_labels_every:
            return classes
        phase = (step - 1) // self.task.permute_labels_every
        labels = np.argsort(draw_words(seed, _PERMUTATIONS + phase, len(self.data.names)), kind="stable")
        return labels[classes]

    def _change(self, images: Pixels, seed: int, step: int) -> Pixels:
        """Shift and mirror images. A shift fills the border with 0, the mean of the training images."""
        reach, side = self.task.crop, images.shape[2]
        words = draw_words(seed, _CHANGES + step, 3 * len(images)).reshape(-1, 3)
        if reach:
            padded = np.pad(images, ((0, 0), (0, 0), (reach, reach), (reach, reach)))
            starts = (words[:, :2] % np.uint64(2 * reach + 1)).astype(int)
            cut = [image[:, y : y + side, x : x + side] for image, (y, x) in zip(padded, starts, strict=True)]
            images = np.stack(cut)
        if self.task.flip:
            is_flipped = (words[:, 2] >> np.uint64(63)).astype(bool)
            images = np.where(is_flipped[:, None, None, None], images[..., ::-1], images)
        return np.ascontiguousarray(images)

    def loss(self, model: Any, *batch: Tensor) -> Tensor:
        images_bcyx, classes_b = batch
        images_bcyx = images_bcyx.to(model.patches.weight.dtype)
        loss: Tensor = model.loss(images_bcyx, classes_b, label_smoothing=self.task.label_smoothing)
        return loss

    def validation_batches(self, seed: int, step: int) -> Iterator[Batch]:
        images, classes = self.data.validation
        classes = self._label(classes, seed, step)
        n_rows = max(1, EVALUATION_PATCHES // self.model.context_length)
        for start in range(0, len(images), n_rows):
            yield images[start : start + n_rows], classes[start : start + n_rows]

    def measure(self, model: Any, *batch: Tensor) -> Tensor:
        """Return the sum of the losses (nats), the number of correct images, and the number of images."""
        images_bcyx, classes_b = batch
        logits_bc = model(images_bcyx.to(model.patches.weight.dtype)).double()
        loss = F.cross_entropy(logits_bc, classes_b, reduction="sum")
        n_correct = (logits_bc.argmax(1) == classes_b).sum()
        return torch.stack((loss, n_correct.double(), torch.full_like(loss, len(classes_b))))

    def conclude(self, sums: Sequence[float]) -> dict[str, float]:
        loss, n_correct, n_images = sums
        return {"val_accuracy": n_correct / n_images, "val_loss": loss / n_images}

    def ends_phase(self, step: int) -> bool:
        every = self.task.permute_labels_every
        return every > 0 and step % every == 0

    def summarize(self, step: int, metrics: Mapping[str, float], reached: list[float], *, is_last: bool) -> Metrics:
        if not self.task.permute_labels_every:
            return {}
        if self.ends_phase(step):
            reached.append(metrics["val_accuracy"])
        elif not is_last:
            return {}
        return summarize_phases("accuracy", reached, is_last=is_last)
