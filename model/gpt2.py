"""GPT-2 checkpoints of other programs."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .config import ModelConfig
from .errors import ConfigError
from .gpt import GPT
from .presets import PRESETS
from .storage import CONFIG, WEIGHTS, check_floats, read_json, read_safetensors

PICKLE = "pytorch_model.bin"
SIZES = {"d_model": "n_embd", "n_layers": "n_layer", "n_heads": "n_head", "vocab_size": "vocab_size"}
OPTIONS = {"context_length": "n_positions", "d_ff": "n_inner", "normalization.eps": "layer_norm_epsilon"}
ACTIVATIONS = {"gelu_new": "tanh", "gelu_pytorch_tanh": "tanh", "gelu": "none"}
# Keys that config.json may omit, with the only supported value.
GPT2_ONLY = {
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "tie_word_embeddings": True,
    "add_cross_attention": False,
}
# The name of a tensor, after any prefix of a wrapper or a head class.
NAME = re.compile(
    r"(?:.*\.)?(wte\.weight|wpe\.weight|ln_f\.\w+|lm_head\.weight|h\.(\d{1,7})\.(?:ln_1|ln_2|attn|mlp)\..+)"
)
MASKS = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")  # constants that old versions stored in each layer
HEAD, EMBEDDING = "lm_head.weight", "wte.weight"
LAYER_PARTS = {  # theirs: ours
    "ln_1": "attention_residual.norm",
    "ln_2": "mlp_residual.norm",
    "attn.c_attn": "attention",
    "attn.c_proj": "attention.output",
    "mlp.c_fc": "mlp.hidden",
    "mlp.c_proj": "mlp.output",
}


def load_gpt2(folder: str | Path) -> GPT:
    """Load a GPT-2 in float32 from a Hugging Face-style folder: config.json beside its weights.

    The weights are model.safetensors or pytorch_model.bin, whole or sharded with an index. Names may have any prefix.
    Raises ConfigError with the key or the tensor if the folder does not contain one whole GPT-2.
    """
    folder = Path(folder)
    described = read_json(folder / CONFIG)
    if described.get("model_type") != "gpt2":
        raise ConfigError("model_type", f"{folder / CONFIG} describes {described.get('model_type')!r}", ["gpt2"])
    config = _translate_config(described)
    theirs = _merge(_read_weights(folder), folder)
    _check_whole(theirs, config, folder)
    model = GPT(config)
    model.load_state_dict(_translate_weights(theirs, config))
    return model


def _translate_config(described: Mapping[str, Any]) -> ModelConfig:
    activation = described.get("activation_function", "gelu_new")
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise ConfigError("activation_function", f"{activation!r} is not supported", ACTIVATIONS)
    missing = [theirs for theirs in SIZES.values() if theirs not in described]
    if missing:
        raise ConfigError(missing[0], "is missing from config.json")
    for key, only in GPT2_ONLY.items():
        if described.get(key, only) != only:
            raise ConfigError(key, f"{described[key]!r} is not supported", [only])
    mapping = {
        **PRESETS["gpt2_124m"],
        **{ours: described[theirs] for ours, theirs in SIZES.items()},
        "context_length": described.get("n_positions", 1024),
        "d_ff": described.get("n_inner"),
        "mlp": {"name": "gelu", "approximate": ACTIVATIONS[activation]},
    }
    mapping["normalization"] = {**mapping["normalization"], "eps": described.get("layer_norm_epsilon", 1e-5)}
    try:
        return ModelConfig.parse(mapping)
    except ConfigError as error:
        theirs = {**SIZES, **OPTIONS}.get(error.path, error.path)
        raise ConfigError(theirs, f"{error.message} (in config.json)", error.legal) from None


def _read_weights(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of every weight file, under the names in the file."""
    for whole, read in ((WEIGHTS, read_safetensors), (PICKLE, _read_pickle)):
        if (folder / whole).is_file():
            return iter(read(folder / whole).items())
        index = folder / f"{whole}.index.json"
        if index.is_file():
            shards = {shard: read(folder / shard) for shard in _list_shards(index)}
            return (item for shard in shards.values() for item in shard.items())
    raise ConfigError("", f"{folder} contains neither {WEIGHTS} nor {PICKLE}, nor an index of their shards")


def _list_shards(index: Path) -> list[str]:
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise ConfigError("weight_map", f"{index} has no mapping from tensors to files")
    for name, shard in shards.items():
        if not isinstance(shard, str) or Path(shard).name != shard:
            raise ConfigError(f"weight_map.{name}", f"{index} names {shard!r}, which is not a file beside it")
    return sorted(set(shards.values()))


def _read_pickle(path: Path) -> dict[str, Tensor]:
    """Read the tensors in a file of torch.save; no code in it is executed."""
    if not path.is_file():
        raise ConfigError("", f"there is no {path}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # torch's own message suggests executing the file
        raise ConfigError("", f"{path} contains something other than tensors, or is damaged") from None
    except Exception as error:  # noqa: BLE001 - a damaged file can raise anything
        raise ConfigError("", f"{path} cannot be read: {type(error).__name__}: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError("", f"{path} contains a {type(content).__name__} instead of tensors by name")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor) or value.layout != torch.strided:
            raise ConfigError(
                f"{name}", f"{path} contains a {type(value).__name__} under this name instead of a dense tensor"
            )
    return content


def _merge(named: Iterator[tuple[str, Tensor]], folder: Path) -> dict[str, Tensor]:
    """Merge the tensors under GPT-2's own names, without the constant masks and the tied head."""
    found: dict[str, Tensor] = {}
    origin: dict[str, str] = {}
    for name, value in named:
        match = NAME.fullmatch(name)
        if match is None:
            raise ConfigError(name, f"{folder} contains a tensor that is not part of a GPT-2")
        own = match[1]
        if MASKS.fullmatch(own):
            continue
        check_floats({name: value}, folder)
        if own in found and not _is_same(found[own], value):
            raise ConfigError(
                name, f"{folder} contains different values under {origin[own]!r}, which is the same weight"
            )
        found[own], origin[own] = value, name
    if HEAD in found:  # tied to the embedding, which a file may omit as a shared tensor
        head = found.pop(HEAD)
        if not _is_same(head, found.setdefault(EMBEDDING, head)):
            message = (
                f"{folder} contains different values under {origin[EMBEDDING]!r}; only a head tied to it is supported"
            )
            raise ConfigError(origin[HEAD], message)
    return found


def _is_same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a.double(), b.double())


def _check_whole(theirs: Mapping[str, Tensor], config: ModelConfig, folder: Path) -> None:
    """Raise ConfigError, naming the tensor, unless these are all weights of a GPT-2, of the right shapes and finite."""
    depth = 1 + max((int(match[2]) for match in map(NAME.fullmatch, theirs) if match and match[2]), default=-1)
    if depth != config.n_layers:
        raise ConfigError(
            "n_layer", f"config.json says {config.n_layers} layers, but {folder} contains weights of {depth}"
        )
    rest = dict(theirs)
    for part, kind, shape in _list_weights(config):
        name = f"{part}.{kind}"
        value = rest.pop(name, None)
        if value is None:
            raise ConfigError(name, f"is missing from {folder}")
        if tuple(value.shape) != shape:
            raise ConfigError(
                name, f"{folder} contains shape {list(value.shape)}, but config.json describes {list(shape)}"
            )
        if not value.isfinite().all():
            raise ConfigError(name, f"{folder} contains values that are not finite")
    if rest:
        raise ConfigError(min(rest), f"{folder} contains a tensor that is not part of a GPT-2")


def _list_weights(config: ModelConfig) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Yield (their name, weight or bias, shape); linear weights are stored (in, out), with q, k and v side by side."""
    d, d_ff = config.d_model, config.d_ff
    yield from (("wte", "weight", (config.vocab_size, d)), ("wpe", "weight", (config.context_length, d)))
    yield from (("ln_f", "weight", (d,)), ("ln_f", "bias", (d,)))
    shapes = {"attn.c_attn": (d, 3 * d), "attn.c_proj": (d, d), "mlp.c_fc": (d, d_ff), "mlp.c_proj": (d_ff, d)}
    for layer in range(config.n_layers):
        for part in LAYER_PARTS:
            shape = shapes.get(part, (d,))
            yield from ((f"h.{layer}.{part}", "weight", shape), (f"h.{layer}.{part}", "bias", shape[-1:]))


def _translate_weights(theirs: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Translate their names and layouts to ours."""
    ours = {"embedding.weight": theirs["wte.weight"], "position.table.weight": theirs["wpe.weight"]}
    for kind, our_kind in (("weight", "gain"), ("bias", "bias")):
        ours[f"final.norm.{our_kind}"] = theirs[f"ln_f.{kind}"]
    for layer in range(config.n_layers):
        for their_part, our_part in LAYER_PARTS.items():
            part = f"stack.blocks.{layer}.{our_part}"
            weight, bias = (theirs[f"h.{layer}.{their_part}.{kind}"] for kind in ("weight", "bias"))
            if their_part == "attn.c_attn":
                for name, rows, entries in zip(
                    ("query", "key", "value"), weight.T.chunk(3), bias.chunk(3), strict=True
                ):
                    ours |= {f"{part}.{name}.weight": rows, f"{part}.{name}.bias": entries}
            elif weight.dim() == 1:
                ours |= {f"{part}.gain": weight, f"{part}.bias": bias}
            else:
                ours |= {f"{part}.weight": weight.T, f"{part}.bias": bias}
    return ours
