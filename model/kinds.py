"""The kinds of models: which configuration describes one, and which module it becomes."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from .config import ModelConfig
from .errors import ConfigError, describe_unknown
from .gpt import HeadedModel

# kind -> the places of its configuration and of its module, imported at first use
KINDS: dict[str, tuple[str, str]] = {
    "gpt": ("config:ModelConfig", "gpt:GPT"),
    "bidirectional": ("encoders.bidirectional:BidirectionalConfig", "gpt:GPT"),
    "encoder_decoder": (
        "encoders.encoder_decoder_config:EncoderDecoderConfig",
        "encoders.encoder_decoder:EncoderDecoder",
    ),
    "vit": ("encoders.vit_config:ViTConfig", "encoders.vit:ViT"),
}


def _find(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(f".{module}", __package__), name)


def parse_config(mapping: Mapping[str, Any]) -> ModelConfig:
    """Make the config that a mapping describes, by its `kind`, or a GPT's if it names none. Raises ConfigError."""
    kind = mapping.get("kind", ModelConfig.kind) if isinstance(mapping, Mapping) else ModelConfig.kind
    if not isinstance(kind, str) or kind not in KINDS:
        raise ConfigError("kind", describe_unknown(kind, KINDS, "kind of model"), KINDS)
    config: ModelConfig = _find(KINDS[kind][0]).parse(mapping)
    return config


def model_class(config: ModelConfig) -> type[HeadedModel]:
    """Return the class of the module that a config describes."""
    found: type[HeadedModel] = _find(KINDS[config.kind][1])
    return found


def build_model(config: ModelConfig, backend: str = "auto", seed: int = 0) -> HeadedModel:
    """Build the module that a config describes, initialized with a seed."""
    make: Any = model_class(config)
    model: HeadedModel = make(config, backend, seed)
    return model
