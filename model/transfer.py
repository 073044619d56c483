"""Which weights of one model another model can start from, and how it takes them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .config import ModelConfig
from .errors import ConfigError
from .gpt import HeadedModel
from .kinds import build_model

# What a model reads and writes: tensors whose shapes differ only because of these settings start fresh.
ENDS = ("vocab_size", "context_length", "source_vocab_size", "source_length", "n_classes", "image_size")

Shapes = Mapping[str, Sequence[int]]


def find_fresh(config: ModelConfig, parent: Mapping[str, Any], found: Shapes, place: object) -> tuple[str, ...]:
    """Name the tensors of the config's model that cannot take the parent's values.

    `parent` is the mapping of the parent's config, and `found` are the shapes of its tensors, which `place` holds. A
    tensor may only differ in a size that follows from the vocabulary, the context length, the classes or the image.
    Raises ConfigError, naming the tensor, for every other difference. Allocates no memory.
    """
    kind = parent.get("kind", ModelConfig.kind)
    if kind != config.kind:
        raise ConfigError("", f"{place} holds a model of the kind {kind}, and this is one of the kind {config.kind}")
    wanted, resized = _shapes_of(config), _shapes_of(_resize(config, parent))
    fresh = []
    for name in sorted(wanted.keys() | found.keys()):
        own, theirs = (list(shapes[name]) if name in shapes else None for shapes in (wanted, found))
        if own == theirs:
            continue
        if own is None or theirs is None or list(resized.get(name, ())) != theirs:
            shapes = [f"shape {shape}" if shape is not None else "no such tensor" for shape in (theirs, own)]
            raise ConfigError(name, f"{shapes[0]} in {place}, and {shapes[1]} in this model")
        fresh.append(name)
    return tuple(fresh)


def adopt(model: HeadedModel, weights: Mapping[str, Tensor], fresh: Collection[str], place: object) -> None:
    """Copy weights into a model, except those that stay as initialized. Raises ConfigError, naming a tensor that
    does not fit."""
    own = model.state_dict()
    for name, value in own.items():
        if name not in fresh and (name not in weights or weights[name].shape != value.shape):
            raise ConfigError(name, f"{place} does not have its values")
    model.load_state_dict({name: value if name in fresh else weights[name] for name, value in own.items()})


def _shapes_of(config: ModelConfig) -> Shapes:
    with torch.device("meta"):
        return {name: value.shape for name, value in build_model(config).state_dict().items()}


def _resize(config: ModelConfig, parent: Mapping[str, Any]) -> ModelConfig:
    """The config with the parent's ends; unchanged if the two do not go together."""
    own = config.to_dict()
    try:
        return type(config).parse({**own, **{name: parent[name] for name in ENDS if name in own and name in parent}})
    except ConfigError:
        return config
