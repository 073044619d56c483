"""The configuration of the vision transformer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field, SerializeAsAny, field_validator, model_validator

from ..config import TABLES
from ..contracts import Position, Size
from ..cost import count_block_flops, count_block_params
from ..errors import ConfigError
from .bidirectional import BidirectionalConfig


class ViTConfig(BidirectionalConfig):
    """A classifier of square images: patches, non-causal blocks, the mean of the last stream, a linear head.

    With `normalization: ngpt` it is nViT. `vocab_size` is the number of classes and `context_length` the number of
    patches; both follow from the settings of the images.
    """

    kind: ClassVar[str] = "vit"
    derived: ClassVar[tuple[str, ...]] = ("vocab_size", "context_length")

    image_size: Size = Field(description="pixels per side of an image")
    patch_size: Size = Field(description="pixels per side of a patch; divides image_size")
    n_classes: Size = Field(description="number of classes")
    n_channels: Size = Field(default=3, description="color channels of an image")
    input_shift: float | None = Field(
        default=None,
        gt=0.0,
        le=1e6,
        description="SimbaV2's shift: append this number to each patch and divide the patch by its norm",
    )
    position: SerializeAsAny[Position] = Field(
        default_factory=lambda: TABLES["position"].parse("learned"), description="how the model knows a patch's place"
    )

    @model_validator(mode="before")
    @classmethod
    def _derive_sizes(cls, data: Any) -> Any:
        """Fill in what follows from the images. Invalid settings keep their own errors."""
        if not isinstance(data, Mapping):
            return data
        sizes = [data.get(name) for name in ("image_size", "patch_size", "n_classes")]
        image, patch, n_classes = (size if type(size) is int and size > 0 else 1 for size in sizes)
        derived = {"vocab_size": n_classes, "context_length": max(image // patch, 1) ** 2}
        for name, value in derived.items():
            if data.get(name, value) != value:
                message = f"follows from the images and is {value}, not {data[name]}; leave it out"
                raise ConfigError(name, message, [value])
        return {**data, **derived}

    @field_validator("patch_size")
    @classmethod
    def _check_patch(cls, value: int, info: Any) -> int:
        image_size = info.data.get("image_size", value)
        if image_size % value:
            divisors = [n for n in range(1, image_size + 1) if image_size % n == 0]
            raise ConfigError("", f"must divide image_size = {image_size}, got {value}", divisors)
        return value

    @property
    def patch_features(self) -> int:
        """Numbers that describe a patch, the shift included."""
        return self.n_channels * self.patch_size**2 + (self.input_shift is not None)

    def finish(self) -> None:
        super().finish()
        if self.tie_embeddings:
            raise ConfigError("tie_embeddings", "a patch embedding has no vectors of classes", [False])

    def num_params(self) -> int:
        end = self.topology.end(self)
        outside = self.normalization.num_model_params(end) + self.position.num_params(self)
        matrices = self.d_model * self.patch_features + end.d_model * self.n_classes
        return count_block_params(self) + outside + matrices

    def forward_flops(self) -> int:
        """Return the matmul FLOPs of a forward pass per image."""
        per_patch = count_block_flops(self, self.context_length) + 2 * self.d_model * self.patch_features
        return self.context_length * per_patch + 2 * self.topology.end(self).d_model * self.n_classes

    def flops_per_image(self) -> int:
        """Return training FLOPs per image: three times the forward pass."""
        return 3 * self.forward_flops()

    def flops_per_token(self) -> int:
        """Return training FLOPs per patch, with its share of the head."""
        return round(self.flops_per_image() / self.context_length)
