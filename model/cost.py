"""Parameters and FLOPs of a model in closed form, without building it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .config import ModelConfig


def count_params(config: ModelConfig) -> int:
    """Exactly the number of parameters of GPT(config)."""
    normalization, n_layers = config.normalization, config.n_layers
    attention = config.attention.num_params(config) + normalization.num_residual_params(config, "attention")
    mlp = config.mlp.num_params(config) + normalization.num_residual_params(config, "mlp")
    vocabulary = 2 * config.vocab_size * config.d_model
    outside = normalization.num_model_params(config) + config.position.num_params(config)
    return n_layers * (attention + mlp) + vocabulary + outside + config.topology.num_params(config)


def count_forward_flops(config: ModelConfig, context_length: int) -> int:
    """Matmul FLOPs of one forward pass per token, causal attention counted as half of the square."""
    attention = config.attention.flops_per_token(config, context_length)
    mlp = config.mlp.flops_per_token(config, context_length)
    head = 2 * config.vocab_size * config.d_model
    return config.n_layers * (attention + mlp) + head + config.topology.flops_per_token(config)
