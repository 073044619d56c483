"""The shared model package: every variant researchers compare, as one configuration and one module."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .config import ModelConfig, variants
from .errors import ConfigError

if TYPE_CHECKING:
    from .cache import Cache
    from .generate import generate
    from .gpt import GPT

__all__ = ["GPT", "Cache", "ConfigError", "ModelConfig", "generate", "variants"]

_LAZY = {"GPT": "gpt", "Cache": "cache", "generate": "generate"}


def __getattr__(name: str) -> Any:
    """Names that build networks are imported at first use."""
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
