"""A naive float64 GPT, written only from the formulas: one sequence, one head, one map at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from reference_attention import ATTENTIONS, Site, rotation_matrices
from reference_parts import Get, linear, rms_norm, scale, sphere, unit
from torch import Tensor

from ablate_model import ModelConfig


def norm(get: Get, name: str, knobs: Any, x: Tensor) -> Tensor:
    if knobs.norm == "rmsnorm":
        return rms_norm(x, knobs.eps, get(f"{name}.gain"))
    centred = x - x.mean(-1, keepdim=True)
    return rms_norm(centred, knobs.eps, get(f"{name}.gain")) + get(f"{name}.bias")


def input_norm(config: ModelConfig, get: Get, site: str, h: Tensor) -> Tensor:
    return h if config.linear.name == "bitnet_b158" else norm(get, f"{site}_residual.norm", config.normalization, h)


def prenorm(config: ModelConfig, get: Get, site: str, f: Callable[[Tensor], Tensor], h: Tensor) -> Tensor:
    return h + f(input_norm(config, get, site, h))


def peri(config: ModelConfig, get: Get, site: str, f: Callable[[Tensor], Tensor], h: Tensor) -> Tensor:
    return h + norm(get, f"{site}_residual.norm_out", config.normalization, f(input_norm(config, get, site, h)))


def postnorm(config: ModelConfig, get: Get, site: str, f: Callable[[Tensor], Tensor], h: Tensor) -> Tensor:
    knobs: Any = config.normalization
    if knobs.place == "output":
        return h + norm(get, f"{site}_residual.norm", knobs, f(h))
    return norm(get, f"{site}_residual.norm", knobs, h + f(h))


def dynamic_tanh(get: Get, name: str, x: Tensor) -> Tensor:
    return get(f"{name}.gain") * torch.tanh(get(f"{name}.slope") * x) + get(f"{name}.bias")


def dyt(config: ModelConfig, get: Get, site: str, f: Callable[[Tensor], Tensor], h: Tensor) -> Tensor:
    return h + f(h if config.linear.name == "bitnet_b158" else dynamic_tanh(get, f"{site}_residual.norm", h))


def ngpt(config: ModelConfig, get: Get, site: str, f: Callable[[Tensor], Tensor], h: Tensor) -> Tensor:
    knobs: Any = config.normalization
    alpha = scale(config, get, f"{site}_residual.alpha", "alpha_attn" if site == "attention" else "alpha_mlp")
    alpha = alpha.abs() if knobs.alpha_sign == "abs" else alpha
    moved = []
    alphas = alpha.chunk(knobs.num_hyperspheres) if len(alpha) > 1 else [alpha] * knobs.num_hyperspheres
    streams, targets = (x.chunk(knobs.num_hyperspheres, -1) for x in (h, sphere(config, f(h))))
    for part, target, step in zip(streams, targets, alphas, strict=True):
        if knobs.update == "riemann":
            moved.append(part - step * (part * (part * target).sum(-1, keepdim=True) - target))
        elif knobs.update == "slerp":
            angle = torch.acos((part * target).sum(-1, keepdim=True))
            moved.append((torch.sin((1 - step) * angle) * part + torch.sin(step * angle) * target) / torch.sin(angle))
        else:
            moved.append(part + step * (target - part))
    return sphere(config, torch.cat(moved, -1))


NORMALIZATIONS: dict[str, Callable[..., Tensor]] = {
    "prenorm": prenorm,
    "peri": peri,
    "postnorm": postnorm,
    "dyt": dyt,
    "ngpt": ngpt,
}


def swiglu(hidden: Tensor) -> Tensor:
    u, v = hidden[:, : hidden.shape[1] // 2], hidden[:, hidden.shape[1] // 2 :]
    return u * v * torch.sigmoid(v)


def gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def exact_gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


MLPS: dict[str, Callable[[Tensor], Tensor]] = {
    "swiglu": swiglu,
    "gelu": gelu,
    "exact_gelu": exact_gelu,
    "relu2": lambda x: torch.where(x > 0, x * x, torch.zeros_like(x)),
}


def simba(config: ModelConfig, get: Get, x: Tensor) -> Tensor:
    knobs: Any = config.mlp
    if knobs.input_shift is not None:
        x = unit(torch.cat((x, torch.full((len(x), 1), knobs.input_shift, dtype=x.dtype)), dim=1))
    features = linear(config, get, "mlp.hidden", x) * get("mlp.scaler")
    return linear(config, get, "mlp.output", torch.where(features > 0, features, 0.0) + 1e-8, axis=1)


def mlp(config: ModelConfig, get: Get, x: Tensor) -> Tensor:
    if config.mlp.name == "simba":
        return simba(config, get, x)
    hidden = linear(config, get, "mlp.hidden", x)
    knobs: Any = config.normalization
    if knobs.name == "ngpt":
        s = scale(config, get, "mlp.scale.s_uv", "s_uv")
        if knobs.s_gate is not None:
            gates = scale(config, get, "mlp.scale.s_gate", "s_gate")
            s = torch.cat((s.expand(config.d_ff), gates.expand(config.d_ff)))
        hidden = hidden * s * config.d_model**0.5 / knobs.num_hyperspheres
    name = "exact_gelu" if getattr(config.mlp, "approximate", "tanh") == "none" else config.mlp.name
    return linear(config, get, "mlp.output", MLPS[name](hidden))


# the model


def logits(config: ModelConfig, parameters: Mapping[str, Tensor], ids_bt: Tensor) -> Tensor:
    """(b, t, v) in float64."""
    return torch.stack([_logits(config, parameters, ids_t) for ids_t in ids_bt])


def _logits(config: ModelConfig, parameters: Mapping[str, Tensor], ids_t: Tensor) -> Tensor:
    get = parameters.__getitem__
    return read_out(config, get, stack(config, get, enter(config, get, ids_t)))


def rows(config: ModelConfig, get: Get, name: str) -> Tensor:
    return sphere(config, get(name)) if config.normalization.has_unit_weights_in_forward else get(name)


def enter(config: ModelConfig, get: Get, ids_t: Tensor, place: str = "", embedding: str = "embedding") -> Tensor:
    """The stream before the first block."""
    return enter_vectors(config, get, rows(config, get, f"{embedding}.weight")[ids_t], place)


def enter_vectors(config: ModelConfig, get: Get, h: Tensor, place: str = "") -> Tensor:
    is_sphere, length = config.normalization.name == "ngpt", len(h)
    position: Any = config.position
    if position.name == "learned":
        h = h + rows(config, get, f"{place}position.table.weight")[:length]
    if position.name == "sinusoidal":
        waves = torch.zeros(length, config.d_model, dtype=torch.float64)
        for p in range(length):
            for i in range(config.d_model):
                angle = p / position.base ** (2 * (i // 2) / config.d_model)
                waves[p, i] = math.cos(angle) if i % 2 else math.sin(angle)
        h = h * position.embedding_scale + (sphere(config, waves) if is_sphere else waves)
    if is_sphere and (position.name in ("learned", "sinusoidal") or not config.normalization.has_unit_weights):
        h = sphere(config, h)
    if getattr(config.normalization, "has_embedding_scale", False):
        h = h * get(f"{place}input.factor")
    return h


def final_norm(config: ModelConfig, get: Get, name: str, h: Tensor) -> Tensor:
    """What happens before a head, or at the end of an encoder."""
    if config.normalization.name == "ngpt" or getattr(config.normalization, "place", None) == "sum":
        return h
    if config.normalization.name == "dyt":
        return dynamic_tanh(get, f"{name}.norm", h)
    return norm(get, f"{name}.norm", config.normalization, h)


def read_out(config: ModelConfig, get: Get, h: Tensor) -> Tensor:
    head = rows(config, get, "embedding.weight" if config.tie_embeddings else "head.weight")
    z = final_norm(config, get, "final", h) @ head.T
    normalization: Any = config.normalization
    if normalization.name == "ngpt":
        z = z * scale(config, get, "final.s_z", "s_z") / normalization.num_hyperspheres
    return z if config.logit_softcap is None else config.logit_softcap * torch.tanh(z / config.logit_softcap)


def stack(config: ModelConfig, get: Get, h: Tensor) -> Tensor:
    """All blocks, in one path or in two."""
    if config.topology.name == "sequential":
        return path(config, get, range(config.n_layers), h, h)
    is_sphere, half = config.normalization.name == "ngpt", config.n_layers // 2
    if config.topology.name in ("linear_gpt", "conv_gpt"):
        knobs: Any = config.topology
        for number, stage in enumerate(config.topology.stages(config)):
            first = number * knobs.blocks_per_stage
            h = path(stage, get, range(stage.n_layers), h, h, offset=first)  # type: ignore[arg-type]
            if first + knobs.blocks_per_stage <= config.n_layers:
                weight = rows(config, get, f"stack.narrowings.{number}.weight")
                h = h @ weight.T + get(f"stack.narrowings.{number}.bias")
                h = sphere(config, h) if is_sphere else h
        return h
    ends = []
    for i, layers in enumerate((range(half), range(half, config.n_layers))):
        weight = get(f"stack.entries.{i}.weight")
        weight = sphere(config, weight) if config.normalization.has_unit_weights_in_forward else weight
        x = h @ weight.T + get(f"stack.entries.{i}.bias")
        ends.append(path(config, get, layers, sphere(config, x) if is_sphere else x, h))
    share = torch.sigmoid(get("stack.mix"))
    mixed = share * ends[0] + (1 - share) * ends[1]
    return sphere(config, mixed) if is_sphere else mixed


@dataclass(frozen=True)
class Crossing:
    """What a decoder reads: the encoder's output (s, d), and which of its tokens are not padding."""

    config: ModelConfig
    memory: Tensor
    seen: Tensor


def path(
    config: ModelConfig,
    get: Get,
    layers: range,
    h: Tensor,
    embedding: Tensor,
    name: str = "stack",
    seen: Tensor | None = None,
    crossing: Crossing | None = None,
    offset: int = 0,
) -> Tensor:
    rotations = rotation_matrices(config, len(h))
    first_values: list[Tensor] = []
    blocks = f"{name}.blocks"
    connect = NORMALIZATIONS[config.normalization.name]
    is_sphere = config.normalization.name == "ngpt"
    source = sphere(config, embedding) if is_sphere else rms_norm(embedding, 1e-6)
    whole = config
    for depth, layer in enumerate(layers):
        depth += offset
        config = whole.at(depth)

        def block(name: str, layer: int = layer) -> Tensor:
            return get(f"{blocks}.{layer + offset}.{name}")

        if config.embedding_shortcut and not {f"attention/{layer}", f"mlp/{layer}"} <= set(config.dropped):
            h = block("shortcut")[0] * h + block("shortcut")[1] * source
            h = sphere(config, h) if is_sphere else h
        site = Site(config, depth, block, rotations, first_values, config.is_causal, seen)
        if f"attention/{layer}" not in config.dropped:
            h = connect(config, block, "attention", lambda x, site=site: ATTENTIONS[whole.attention.name](site, x), h)
        if crossing is not None:

            def cross(name: str, block: Get = block) -> Tensor:
                return block(name.replace("attention", "cross", 1))

            site = Site(crossing.config.at(depth), depth, cross, None, [], False, crossing.seen, crossing.memory)
            attend = ATTENTIONS[crossing.config.attention.name]
            h = connect(crossing.config.at(depth), cross, "attention", lambda x, site=site, f=attend: f(site, x), h)
        if f"mlp/{layer}" not in config.dropped:
            h = connect(config, block, "mlp", lambda x, c=config, block=block: mlp(c, block, x), h)
    return h
