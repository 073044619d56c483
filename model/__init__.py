"""One GPT with exchangeable parts: a configuration, a module, and every variant that studies compare."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .config import ModelConfig, variants
from .errors import ConfigError
from .presets import PRESETS

if TYPE_CHECKING:
    from .cache import Cache
    from .encoders.bidirectional import BidirectionalConfig
    from .encoders.decoding import translate
    from .encoders.encoder_decoder import EncoderDecoder
    from .encoders.encoder_decoder_config import EncoderDecoderConfig
    from .encoders.vit import ViT
    from .encoders.vit_config import ViTConfig
    from .gpt import GPT
    from .gpt2 import load_gpt2
    from .kernels.call import BackendError
    from .pruning import drop, measure_cache, measure_importance
    from .sampling import Sampling, generate
    from .storage import load, save

_LAZY = {
    "GPT": "gpt",
    "BackendError": "kernels.call",
    "BidirectionalConfig": "encoders.bidirectional",
    "EncoderDecoder": "encoders.encoder_decoder",
    "EncoderDecoderConfig": "encoders.encoder_decoder_config",
    "Cache": "cache",
    "Sampling": "sampling",
    "ViT": "encoders.vit",
    "ViTConfig": "encoders.vit_config",
    "generate": "sampling",
    "drop": "pruning",
    "measure_cache": "pruning",
    "measure_importance": "pruning",
    "load": "storage",
    "load_gpt2": "gpt2",
    "save": "storage",
    "translate": "encoders.decoding",
}
__all__ = [
    "GPT",
    "PRESETS",
    "BackendError",
    "BidirectionalConfig",
    "Cache",
    "ConfigError",
    "EncoderDecoder",
    "EncoderDecoderConfig",
    "ModelConfig",
    "Sampling",
    "ViT",
    "ViTConfig",
    "drop",
    "generate",
    "load",
    "load_gpt2",
    "measure_cache",
    "measure_importance",
    "save",
    "translate",
    "variants",
]


def __getattr__(name: str) -> Any:
    """Import names that build networks at first use."""
    if name in _LAZY:
        globals()[name] = getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
        return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
