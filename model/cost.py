"""Parameters and FLOPs of a model in closed form, without building it."""

from __future__ import annotations

from .contracts import Architecture


def count_params(config: Architecture) -> int:
    """Return the exact number of parameters of GPT(config)."""
    end = config.topology.end(config)
    vocabulary = config.vocab_size * (config.d_model + (0 if config.tie_embeddings else end.d_model))
    outside = config.normalization.num_model_params(end) + config.position.num_params(config)
    return count_block_params(config) + vocabulary + outside


def count_block_params(config: Architecture) -> int:
    """Return the parameters of all blocks and of the topology that joins them."""
    stages = config.topology.stages(config)
    if stages:
        return sum(map(count_block_params, stages)) + config.topology.num_params(config)
    normalization = config.normalization
    layers = config.attention.model_params(config) + config.mlp.model_params(config)
    n_attention, n_mlp, n_blocks = (config.count_kept(part) for part in ("attention", "mlp", "block"))
    shortcuts = 2 * n_blocks if config.embedding_shortcut else 0
    mixes = n_attention - len(config.topology.paths(config.n_layers)) if config.value_residual == "learned" else 0
    layers += n_attention * normalization.num_residual_params(config, "attention")
    layers += n_mlp * normalization.num_residual_params(config, "mlp")
    return layers + config.topology.num_params(config) + shortcuts + mixes


def count_forward_flops(config: Architecture, context_length: int) -> int:
    """Return the matmul FLOPs of one forward pass per token; causal attention counts as half of the square."""
    return count_block_flops(config, context_length) + 2 * config.vocab_size * config.topology.end(config).d_model


def count_block_flops(config: Architecture, context_length: int) -> int:
    """Return the matmul FLOPs of all blocks and of the topology that joins them, per token."""
    stages = config.topology.stages(config)
    if stages:
        blocks = sum(count_block_flops(stage, context_length) for stage in stages)
        return blocks + config.topology.flops_per_token(config)
    if config.is_causal:
        attention = config.attention.model_flops_per_token(config, context_length)
    else:
        attention = config.count_kept("attention") * sum(config.attention.flops_across(config, context_length))
    mlp = config.mlp.model_flops_per_token(config, context_length)
    return attention + mlp + config.topology.flops_per_token(config)
