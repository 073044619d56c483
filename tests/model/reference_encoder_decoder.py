"""A naive float64 encoder-decoder, written only from the formulas, one pair of sequences at a time."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from reference import Crossing, enter, final_norm, path, read_out
from torch import Tensor

from ablate_model import EncoderDecoderConfig


def logits(
    config: EncoderDecoderConfig,
    parameters: Mapping[str, Tensor],
    source_bs: Tensor,
    target_bt: Tensor,
    padding: int | None,
) -> Tensor:
    """(b, t, v) in float64."""
    pairs = zip(source_bs, target_bt, strict=True)
    return torch.stack([_logits(config, parameters, source, target, padding) for source, target in pairs])


def _logits(
    config: EncoderDecoderConfig,
    parameters: Mapping[str, Tensor],
    source_s: Tensor,
    target_t: Tensor,
    padding: int | None,
) -> Tensor:
    get = parameters.__getitem__
    source_seen, target_seen = (torch.tensor([int(i) != padding for i in ids]) for ids in (source_s, target_t))
    encoder = config.encoder
    embedding = "embedding" if config.share_embeddings else "source_embedding"
    h = enter(encoder, get, source_s, "source_entrance.", embedding)
    h = path(encoder, get, range(config.n_encoder_layers), h, h, "encoder", source_seen)
    memory = final_norm(encoder, get, "encoder_end.final", h)
    h = enter(config, get, target_t, "target_entrance.")
    crossing = Crossing(config.cross, memory, source_seen)
    h = path(config, get, range(config.n_layers), h, h, "decoder", target_seen, crossing)
    return read_out(config, get, h)
