"""Small models for the contract tests: every registered variant with its defaults, and with other knobs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from ablate_model import GPT, ModelConfig
from ablate_model.config import TABLES
from ablate_model.parameters import SpecModel

M = TypeVar("M", bound=SpecModel)
SIZES = {"d_model": 24, "n_layers": 2, "n_heads": 4, "vocab_size": 11, "context_length": 8, "d_ff": 20}

KNOBS: dict[str, list[dict[str, Any]]] = {
    "attention": [
        {"name": "standard", "n_kv_heads": 2},
        {"name": "standard", "n_kv_heads": 1, "window": 3},
        {"name": "standard", "qk_norm": "rms"},
        {"name": "standard", "qk_norm": "l2", "qk_norm_place": "after_position", "logit_softcap": 2.0},
        {"name": "differential", "n_kv_heads": 2, "qk_head_dim": 6},
        {"name": "differential", "lambda_init": 0.5, "head_norm": "none", "window": 4},
        {"name": "differential", "n_noise_heads": 2, "qk_head_dim": 2},
        {"name": "differential_v2", "n_kv_heads": 2},
        {"name": "differential_v2", "lambda_gate": "one"},
        {
            "name": "linear_ensemble",
            "num_maps": 2,
            "n_kv_heads": 2,
            "scope": "head",
            "map_weight": "free",
            "map_init": "differential",
        },
        {"name": "linear_ensemble", "width": "full", "scope": "token", "map_weight": "softmax", "map_init": "uniform"},
        {"name": "linear_ensemble", "num_maps": 2, "map_init": "uniform", "head_norm": "none"},
        {"name": "selective", "n_kv_heads": 2, "window": 5},
        {"name": "gated", "gate": "headwise", "n_kv_heads": 2},
        {"name": "sink", "sink": "off_by_one", "n_kv_heads": 2, "logit_softcap": 3.0},
        {"name": "sink", "window": 3},
        {"name": "forgetting", "n_kv_heads": 2, "bias_init": 2.0, "window": 5},
        {"name": "exclusive", "fraction": "learned", "n_kv_heads": 2},
    ],
    "normalization": [
        {"name": "prenorm", "norm": "layernorm"},
        {"name": "peri", "norm": "layernorm"},
        {"name": "postnorm", "place": "output"},
        {"name": "dyt", "has_embedding_scale": False},
        {"name": "ngpt", "update": "slerp", "alpha_sign": "free", "normalize_weights": "parametrize"},
        {"name": "ngpt", "update": "riemann", "qk_norm": False, "normalize_weights": "off"},
        {
            "name": "ngpt",
            "alpha_attn": {"mode": "scalar", "init": "1/n_layers"},
            "alpha_mlp": {"mode": "fixed", "init": 0.1},
            "s_qk": {"mode": "scalar", "init": 0.5},
            "s_uv": {"mode": "fixed"},
            "s_z": {"mode": "scalar", "init": "sqrt(d_model)", "scale": 1.0},
            "normalize_weights": "both",
        },
        {"name": "ngpt", "num_hyperspheres": 4, "normalize_weights": "both", "s_gate": {"init": 0.5}},
        {"name": "ngpt", "num_hyperspheres": 2, "update": "riemann", "normalize_weights": "off"},
        {"name": "ngpt", "norm_eps": 0.1, "normalize_weights": "parametrize", "s_gate": {"mode": "scalar"}},
        {
            "name": "ngpt",
            "alpha_attn": {"init": [0.1, 0.3]},
            "alpha_mlp": {"init": [0.2, "1/n_layers"], "scale": [1.0, 0.5], "mode": "scalar"},
            "s_qk": {"init": [1.5, 0.5]},
            "s_uv": {"init": [1.0, 2.0], "mode": "fixed"},
        },
    ],
}


KNOBS["mlp"] = [{"name": "gelu", "approximate": "none"}, {"name": "simba", "scaler_init": 0.7, "input_shift": 3.0}]

KNOBS["topology"] = [{"name": "linear_gpt", "blocks_per_stage": 10_000}]

OTHERS: list[dict[str, Any]] = [
    {"tie_embeddings": True},
    {"logit_softcap": 0.5},
    {"bias": True},
    {"value_residual": "half"},
    {"value_residual": "learned", "attention": {"name": "linear_ensemble", "n_kv_heads": 2}},
    {"embedding_shortcut": True, "tie_embeddings": True},
    {"dropped": ["attention/1", "mlp/0"], "embedding_shortcut": True},
    {"dropped": ["mlp/1", "attention/1"], "embedding_shortcut": True},
    {"topology": {"name": "conv_gpt", "blocks_per_stage": 1}, "n_layers": 3, "n_heads": 1, "d_ff": 16},
    {"topology": "linear_gpt", "n_layers": 3, "attention": "differential", "dropped": ["mlp/2"], "n_heads": 3},
    {"topology": "parallel_gpt", "n_layers": 4, "value_residual": "learned", "embedding_shortcut": True},
]
"""Settings outside the tables."""


def variants(axis: str) -> list[Mapping[str, Any]]:
    """Every registered variant of an axis with default knobs, then the cases above."""
    return [{"name": name} for name in TABLES[axis]] + KNOBS.get(axis, [])


def label(component: Mapping[str, Any]) -> str:
    """A test id: name[knob=value,...]."""
    knobs = ",".join(
        f"{key}={value}" for key, value in component.items() if key != "name" and not isinstance(value, dict)
    )
    return f"{component['name']}[{knobs}]" if len(component) > 1 else component["name"]


def tiny(**settings: Any) -> ModelConfig:
    """A model of 16 features, two layers and eleven tokens."""
    return ModelConfig(**{**SIZES, "bias": _needs_bias(settings), **settings})


def _needs_bias(settings: Mapping[str, Any]) -> bool:
    """Turn on the model's `bias`, so that layer norms are tested with biases."""
    normalization = settings.get("normalization")
    return isinstance(normalization, Mapping) and normalization.get("norm") == "layernorm"


def is_refused(attention: Mapping[str, Any], normalization: Mapping[str, Any]) -> bool:
    """True for the one pair that a config refuses: a second norm of queries and keys inside nGPT."""
    return "qk_norm" in attention and normalization["name"] == "ngpt"


def settings() -> Iterator[dict[str, Any]]:
    """The cases of the contract tests: all pairs, then other axes and settings under pre-norm and nGPT."""
    for attention, normalization in pairs():
        yield {"attention": attention, "normalization": normalization}
    others = [
        {axis: case} for axis in TABLES if axis not in ("attention", "normalization") for case in variants(axis)[1:]
    ]
    for case in others + OTHERS:
        for name in ("prenorm", "ngpt"):
            yield {**case, "normalization": {"name": name}}


def describe(case: Mapping[str, Any]) -> str:
    """A test id."""
    return "-".join(label(value) if isinstance(value, Mapping) else f"{key}={value}" for key, value in case.items())


def kinds() -> list[dict[str, str]]:
    """Every attention under pre-norm and nGPT, and the other axes' variants."""
    found = [{"attention": a, "normalization": n} for a in TABLES["attention"] for n in ("prenorm", "ngpt")]
    return found + [{axis: name} for axis in TABLES if axis != "attention" for name in list(TABLES[axis])[1:]]


def pairs() -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Every attention with every normalization. Cases with knobs meet only some variants of the other axis."""
    for attention in variants("attention"):
        for normalization in variants("normalization"):
            has_few_knobs = len(attention) == 1 and len(normalization) == 1
            is_plain = len(normalization) == 1 and normalization["name"] in ("prenorm", "ngpt")
            is_standard = len(attention) == 1 and attention["name"] in ("standard", "differential")
            if (has_few_knobs or is_plain or is_standard) and not is_refused(attention, normalization):
                yield attention, normalization


def scrambled(config: ModelConfig, dtype: torch.dtype = torch.float64, backend: str = "auto") -> GPT:
    """A model with all parameters, even constant ones, moved away from their initial values."""
    return scrambled_model(GPT(config, backend=backend), dtype)


def scrambled_model(model: M, dtype: torch.dtype = torch.float64) -> M:
    model = model.to(dtype)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    model.post_step()
    return model


def tokens(length: int = 7, batch: int = 2, vocab_size: int = SIZES["vocab_size"]) -> Tensor:
    return torch.randint(vocab_size, (batch, length), generator=torch.Generator().manual_seed(3))
