"""The vision transformer."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from ..blocks import Stack
from ..context import Context
from ..gpt import HeadedModel
from ..kernels.unit_vectors import unit
from ..layers import WRITES, Embedding, StreamMatrix, multiply
from .vit_config import ViTConfig


class PatchEmbedding(StreamMatrix):
    """Cuts images (b, c, y, x) into patches and maps each to d_model features: (b, t, d), row after row."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__(config, (config.d_model, config.patch_features), "embedding", WRITES, config.base_std)
        self.patch_size, self.shift = config.patch_size, config.input_shift

    def forward(self, images_bcyx: Tensor) -> Tensor:
        p = self.patch_size
        patches = images_bcyx.unfold(2, p, p).unfold(3, p, p)  # (b, c, rows, columns, p, p)
        patches_btf = patches.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
        if self.shift is not None:
            patches_btf = unit(F.pad(patches_btf, (0, 1), value=self.shift))
        return multiply(patches_btf, self.read_weight())


class ViT(HeadedModel):
    """A classifier of images, initialized with a seed: images (b, c, y, x) to logits (b, n_classes).

    Inside nGPT, the tokens that enter the first block are unit vectors, and the mean of the last ones is not
    normalized again, as in nViT.
    """

    config: ViTConfig

    def __init__(self, config: ViTConfig, backend: str = "auto", seed: int = 0) -> None:
        super().__init__(config, backend)
        self.patches = PatchEmbedding(config)
        self.position = config.position.build(config)
        self.input = config.normalization.build_input(config)
        self.stack: Stack = config.topology.build(config)
        end = config.topology.end(config)
        self.final = config.normalization.build_final(end)
        self.head = Embedding(end, config.n_classes, "head")
        self.constrain = config.normalization.constrain
        self.initialize(seed)

    def forward(self, images_bcyx: Tensor) -> Tensor:
        """Raises ValueError for images of another size."""
        return self.form_logits(self.encode(images_bcyx))

    def encode(self, images_bcyx: Tensor) -> Tensor:
        """Compute the residual stream (b, t, d) after the last block."""
        expected = (self.config.n_channels, self.config.image_size, self.config.image_size)
        if tuple(images_bcyx.shape[1:]) != expected:
            raise ValueError(f"expected images of shape {expected}, got {tuple(images_bcyx.shape[1:])}")
        h_btd, tables = self.position(self.patches(images_bcyx), 0)
        h_btd = self.constrain(h_btd)
        if self.input is not None:
            h_btd = self.input(h_btd)
        h_btd = F.dropout(h_btd, self.config.dropout, self.training)
        source_btd = self.normalize_source(h_btd) if self.config.embedding_shortcut else None
        out_btd: Tensor = self.stack(h_btd, Context(tables, self.backend, source_btd, is_causal=False))
        return out_btd

    def form_logits(self, h_btd: Tensor) -> Tensor:
        """Turn the stream (b, t, d) after the last block into logits (b, n_classes)."""
        mean_bd = self.final.read(h_btd).mean(1)
        return self.scale_logits(multiply(mean_bd, self.head_weight()))

    def loss(self, images_bcyx: Tensor, labels_b: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Compute the mean cross-entropy in nats."""
        loss = F.cross_entropy(self(images_bcyx), labels_b, label_smoothing=label_smoothing)
        return self.add_penalties(loss)

    def stacks(self) -> tuple[Stack, ...]:
        return (self.stack,)

    def probe(self, n_sequences: int) -> None:
        size, weight = self.config.image_size, self.patches.weight
        self.encode(weight.new_zeros(n_sequences, self.config.n_channels, size, size))
