"""Models on disk: weights as safetensors, the configuration beside them; and GPT-2 checkpoints of other origin.

Nothing in a file is ever executed: safetensors holds numbers only, and pickles are read by torch's weights-only loader.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from .config import ModelConfig
from .errors import ConfigError
from .gpt import GPT
from .presets import PRESETS

WEIGHTS, CONFIG = "model.safetensors", "config.json"
# What a GPT-2's config.json may leave out, and what else it may not say.
GPT2_ONLY = {
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "tie_word_embeddings": True,
    "add_cross_attention": False,
}


def save(model: GPT, folder: Path) -> None:
    """Write the weights and the resolved configuration into `folder`, which is made if it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(model.config.to_dict(), indent=2) + "\n")


def load(folder: Path, device: str | torch.device = "cpu") -> GPT:
    """The model that `save` wrote, or that a training run left with its configuration under the key "model".

    Raises ConfigError for a folder without the two files, or with a torn one, or with what does not fit this code.
    """
    described = _read_json(folder / CONFIG)
    model = GPT(ModelConfig.parse(described.get("model", described)))
    _fill(model, _read_safetensors(folder / WEIGHTS), folder / WEIGHTS)
    return model.to(device)


def load_gpt2(folder: Path) -> GPT:
    """A GPT-2 from a Hugging Face-style folder: config.json beside model.safetensors or pytorch_model.bin.

    Raises ConfigError for a folder without these files, or of another architecture.
    """
    described = _read_json(folder / CONFIG)
    if described.get("model_type") != "gpt2":
        raise ConfigError("model_type", f"{folder / CONFIG} describes {described.get('model_type')!r}", ["gpt2"])
    model = GPT(_translate_config(described))
    _fill(model, _translate_weights(_read_weights(folder), model.config), folder)
    return model


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError("", f"there is no {path}")
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise ConfigError("", f"{path} is no JSON: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError("", f"{path} holds no mapping")
    return content


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ConfigError("", f"there is no {path}")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ConfigError("", f"{path} holds no weights: {error}") from None


def _read_weights(folder: Path) -> dict[str, Tensor]:
    if (folder / WEIGHTS).is_file():
        return _read_safetensors(folder / WEIGHTS)
    if (folder / "pytorch_model.bin").is_file():
        weights: dict[str, Tensor] = torch.load(folder / "pytorch_model.bin", map_location="cpu", weights_only=True)
        return weights
    raise ConfigError("", f"{folder} holds neither {WEIGHTS} nor pytorch_model.bin")


def _fill(model: GPT, weights: dict[str, Tensor], place: Path) -> None:
    wanted = {name: value.shape for name, value in model.state_dict().items()}
    found = {name: value.shape for name, value in weights.items()}
    wrong = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    if wrong:
        name = wrong[0]
        shapes = [list(shapes[name]) if name in shapes else "nothing" for shapes in (found, wanted)]
        raise ConfigError(name, f"{place} holds {shapes[0]} where the model has {shapes[1]}")
    model.load_state_dict(weights)


def _translate_config(described: dict[str, Any]) -> ModelConfig:
    activations = {"gelu_new": "tanh", "gelu_pytorch_tanh": "tanh", "gelu": "none"}
    activation = described.get("activation_function", "gelu_new")
    if activation not in activations:
        raise ConfigError("activation_function", f"{activation!r} is not supported", activations)
    sizes = {"d_model": "n_embd", "n_layers": "n_layer", "n_heads": "n_head", "vocab_size": "vocab_size"}
    missing = [theirs for theirs in sizes.values() if theirs not in described]
    if missing:
        raise ConfigError(missing[0], "is missing from config.json")
    for key, only in GPT2_ONLY.items():
        if described.get(key, only) != only:
            raise ConfigError(key, f"{described[key]!r} is not supported", [only])
    mapping = {
        **PRESETS["gpt2_124m"],
        **{ours: described[theirs] for ours, theirs in sizes.items()},
        "context_length": described.get("n_positions", 1024),
        "d_ff": described.get("n_inner"),
        "mlp": {"name": "gelu", "approximate": activations[activation]},
    }
    mapping["normalization"] = {**mapping["normalization"], "eps": described.get("layer_norm_epsilon", 1e-5)}
    return ModelConfig.parse(mapping)


def _translate_weights(theirs: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Their names and layouts as ours: linear weights are stored (in, out) and q, k and v side by side."""
    theirs = {name.removeprefix("transformer."): value for name, value in theirs.items()}
    ours = {"embedding.weight": theirs["wte.weight"], "position.table.weight": theirs["wpe.weight"]}
    for kind, name in (("weight", "gain"), ("bias", "bias")):
        ours[f"final.norm.{name}"] = theirs[f"ln_f.{kind}"]
        for layer in range(config.n_layers):
            block, source = f"stack.blocks.{layer}", f"h.{layer}"
            ours[f"{block}.attention_residual.norm.{name}"] = theirs[f"{source}.ln_1.{kind}"]
            ours[f"{block}.mlp_residual.norm.{name}"] = theirs[f"{source}.ln_2.{kind}"]
            fused = theirs[f"{source}.attn.c_attn.{kind}"].chunk(3, dim=-1)
            for part, value in zip(("query", "key", "value"), fused, strict=True):
                ours[f"{block}.attention.{part}.{kind}"] = value.T if kind == "weight" else value
            renamed = {"attn.c_proj": "attention.output", "mlp.c_fc": "mlp.hidden", "mlp.c_proj": "mlp.output"}
            for their, our in renamed.items():
                value = theirs[f"{source}.{their}.{kind}"]
                ours[f"{block}.{our}.{kind}"] = value.T if kind == "weight" else value
    return ours
