"""Parameters and FLOPs of a model in closed form, without building it."""

from __future__ import annotations

from .contracts import Architecture


def count_params(config: Architecture) -> int:
    """Return the exact number of parameters of GPT(config)."""
    normalization = config.normalization
    attention = config.attention.num_params(config) + normalization.num_residual_params(config, "attention")
    mlp = config.mlp.num_params(config) + normalization.num_residual_params(config, "mlp")
    vocabulary = (1 if config.tie_embeddings else 2) * config.vocab_size * config.d_model
    outside = normalization.num_model_params(config) + config.position.num_params(config)
    outside += config.topology.num_params(config)
    n_attention, n_mlp, n_blocks = (config.count_kept(part) for part in ("attention", "mlp", "block"))
    shortcuts = 2 * n_blocks if config.embedding_shortcut else 0
    mixes = n_attention - len(config.topology.paths(config.n_layers)) if config.value_residual == "learned" else 0
    return n_attention * attention + n_mlp * mlp + vocabulary + outside + shortcuts + mixes


def count_forward_flops(config: Architecture, context_length: int) -> int:
    """Return the matmul FLOPs of one forward pass per token; causal attention counts as half of the square."""
    attention = config.count_kept("attention") * config.attention.flops_per_token(config, context_length)
    mlp = config.count_kept("mlp") * config.mlp.flops_per_token(config, context_length)
    head = 2 * config.vocab_size * config.d_model
    return attention + mlp + head + config.topology.flops_per_token(config)
