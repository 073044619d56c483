"""Published configurations by name, as mappings for ModelConfig.parse."""

from __future__ import annotations

from typing import Any

_NGPT_CODE = {"d_model": 1024, "n_layers": 24, "vocab_size": 50304}
_NGPT_PAPER = {"vocab_size": 32000, "context_length": 4096}


def _launcher(n_heads: int, attention: Any, normalization: str, context_length: int) -> dict[str, Any]:
    """Make a configuration of the public nGPT launcher, or of the hybrids that copied it."""
    sizes = {**_NGPT_CODE, "n_heads": n_heads, "context_length": context_length}
    return {**sizes, "attention": attention, "normalization": normalization}


def _ensemble(num_maps: int) -> dict[str, Any]:
    return {"name": "linear_ensemble", "num_maps": num_maps}


PRESETS: dict[str, dict[str, Any]] = {
    # Radford et al., 2019
    "gpt2_124m": {
        "d_model": 768,
        "n_layers": 12,
        "n_heads": 12,
        "vocab_size": 50257,
        "context_length": 1024,
        "normalization": {"name": "prenorm", "norm": "layernorm", "eps": 1e-5},
        "mlp": "gelu",
        "position": "learned",
        "bias": True,
        "tie_embeddings": True,
    },
    # nGPT, arXiv 2410.01131, tables 2 and 3
    "gpt_0.5b": {"d_model": 1024, "n_layers": 24, "n_heads": 16, **_NGPT_PAPER},
    "ngpt_0.5b": {"d_model": 1024, "n_layers": 24, "n_heads": 16, "normalization": "ngpt", **_NGPT_PAPER},
    "gpt_1b": {"d_model": 1280, "n_layers": 36, "n_heads": 20, **_NGPT_PAPER},
    "ngpt_1b": {"d_model": 1280, "n_layers": 36, "n_heads": 20, "normalization": "ngpt", **_NGPT_PAPER},
    # NVIDIA/ngpt's launcher, with true RoPE
    "gpt_1kctx": _launcher(16, "standard", "prenorm", 1024),
    "gpt_4kctx": _launcher(16, "standard", "prenorm", 4096),
    "ngpt_1kctx": _launcher(16, "standard", "ngpt", 1024),
    "ngpt_4kctx": _launcher(16, "standard", "ngpt", 4096),
    # himbostradamus/differential-nGPT, corrected so that it runs
    "diff_ngpt_1kctx": _launcher(8, "differential", "ngpt", 1024),
    "diff_ngpt_4kctx": _launcher(8, "differential", "ngpt", 4096),
    "diff_transformer_1kctx": _launcher(8, "differential", "prenorm", 1024),
    "diff_transformer_4kctx": _launcher(8, "differential", "prenorm", 4096),
    # himbostradamus/linearensemble-nGPT, corrected so that it runs: maps of 42 features, or 24 with five maps
    "let_ngpt_1kctx": _launcher(8, _ensemble(3), "ngpt", 1024),
    "let_ngpt_4kctx": _launcher(8, _ensemble(3), "ngpt", 4096),
    "let_ngpt_1kctx_maps5": _launcher(8, _ensemble(5), "ngpt", 1024),
    "let_transformer_1kctx": _launcher(8, _ensemble(3), "prenorm", 1024),
    "let_transformer_4kctx": _launcher(8, _ensemble(3), "prenorm", 4096),
    # Differential Transformer, arXiv 2410.05258, section 3.1
    "diff_transformer_3b": {
        "d_model": 3072,
        "n_layers": 28,
        "n_heads": 12,
        "d_ff": 8192,
        "vocab_size": 100288,
        "context_length": 4096,
        "attention": "differential",
    },
}
