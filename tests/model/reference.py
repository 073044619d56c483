"""A naive float64 GPT, written from the formulas alone: one sequence, one head, one map at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ablate_model import ModelConfig

Get = Callable[[str], Tensor]


@dataclass
class Site:
    """What a naive attention needs to know about where it stands."""

    config: ModelConfig
    layer: int
    get: Get  # parameters of the block, by name
    rotations: Tensor | None  # (t, k, k)
    first_values: list[Tensor]  # the values of the first layer once it has run

    @property
    def knobs(self) -> Any:
        return self.config.attention

    def linear(self, name: str, x: Tensor) -> Tensor:
        return linear(self.config, self.get, f"attention.{name}", x)


def unit(x: Tensor, dim: int = -1) -> Tensor:
    return x / x.square().sum(dim, keepdim=True).sqrt()


def rms_norm(x: Tensor, eps: float, gain: Tensor | float = 1.0) -> Tensor:
    return gain * x / (x.square().mean(-1, keepdim=True) + eps).sqrt()


def linear(config: ModelConfig, get: Get, name: str, x: Tensor) -> Tensor:
    weight = get(f"{name}.weight")
    if config.normalization.has_unit_weights_in_forward:
        weight = unit(weight, 0 if name.endswith("output") else 1)
    y = x @ weight.T
    return y + get(f"{name}.bias") if config.bias else y


# position


def rotation_matrices(config: ModelConfig, length: int) -> Tensor | None:
    """R_p with R_p[2j, 2j] = cos a, R_p[2j, 2j+1] = -sin a, and so on, a = p base^(-2j/k)."""
    if config.position.name != "rope":
        return None
    position: Any = config.position
    width = config.attention.qk_width(config)
    matrices = torch.zeros(length, width, width, dtype=torch.float64)
    for p in range(length):
        for j in range(width // 2):
            angle = p * position.base ** (-2 * j / width)
            even, odd = 2 * j, 2 * j + 1
            matrices[p, even, even] = matrices[p, odd, odd] = math.cos(angle)
            matrices[p, even, odd], matrices[p, odd, even] = -math.sin(angle), math.sin(angle)
    return matrices


# attention


def split(x: Tensor, width: int) -> list[Tensor]:
    """Heads of a (t, n * width) tensor, each (t, width)."""
    return list(x.split(width, dim=1))


def place(site: Site, heads: list[Tensor], kind: str) -> list[Tensor]:
    """Norms and positions of query ("query") or key ("key") heads."""
    knobs = site.knobs

    def normed(head: Tensor, index: int) -> Tensor:
        if knobs.qk_norm == "rms":
            return rms_norm(head, 1e-6, site.get(f"attention.qk_norm.{kind}.gain"))
        if knobs.qk_norm == "l2":
            temperature = site.get("attention.qk_norm.temperature")[index] if kind == "query" else 1.0
            return unit(head) * temperature
        return head

    def rotated(head: Tensor) -> Tensor:
        return head if site.rotations is None else torch.einsum("tij,tj->ti", site.rotations, head)

    steps = [
        (rotated(normed(h, i)) if knobs.qk_norm_place == "before_position" else normed(rotated(h), i))
        for i, h in enumerate(heads)
    ]
    if site.config.normalization.name != "ngpt":
        return steps
    n_query = knobs.query_heads(site.config)
    s = scale(site.config, site.get, "attention.query_key.s_qk", "s_qk").expand(n_query * heads[0].shape[1])
    s_heads = list(s.split(heads[0].shape[1]))
    normalization: Any = site.config.normalization
    out = [unit(h) for h in steps] if normalization.qk_norm else steps
    if n_query == knobs.key_heads(site.config):
        return [h * s_h for h, s_h in zip(out, s_heads, strict=True)]
    return [h * s_h**2 for h, s_h in zip(out, s_heads, strict=True)] if kind == "query" else out


def attention_map(site: Site, q: Tensor, k: Tensor, bias: Tensor | None = None) -> Tensor:
    """One (t, t) map: row i is the softmax over the keys that query i may see."""
    width, length = q.shape[1], q.shape[0]
    factor = 1.0 if site.knobs.qk_norm == "l2" else width**-0.5
    z = q @ k.T * (width**0.5 if site.config.normalization.name == "ngpt" else factor)
    if site.knobs.logit_softcap is not None:
        z = site.knobs.logit_softcap * torch.tanh(z / site.knobs.logit_softcap)
    if bias is not None:
        z = z + bias
    rows = []
    for i in range(length):
        first = 0 if site.knobs.window is None else max(0, i - site.knobs.window + 1)
        weights = torch.exp(z[i, first : i + 1] - z[i, first : i + 1].max())
        row = torch.zeros(length, dtype=z.dtype)
        rows.append(torch.cat((row[:first], weights / weights.sum(), row[i + 1 :])))
    return torch.stack(rows)


def values(site: Site, x: Tensor) -> list[Tensor]:
    return split(site.linear("value", x), site.config.head_dim)


def queries_keys_values(site: Site, x: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    width = site.knobs.qk_width(site.config)
    q = place(site, split(site.linear("query", x), width), "query")
    k = place(site, split(site.linear("key", x), width), "key")
    return q, k, values(site, x)


def standard(site: Site, x: Tensor) -> Tensor:
    q, k, v = queries_keys_values(site, x)
    n_rep = len(q) // len(k)
    outs = [attention_map(site, q[h], k[h // n_rep]) @ v[h // n_rep] for h in range(len(q))]
    return site.linear("output", torch.cat(outs, dim=1))


def head_norm(site: Site, out: Tensor) -> Tensor:
    if site.knobs.head_norm == "rms":
        return rms_norm(out, 1e-5, site.get("attention.head_norm.gain"))
    return unit(out) * out.shape[1] ** 0.5 if site.knobs.head_norm == "l2" else out


def differential(site: Site, x: Tensor) -> Tensor:
    q, k, v = queries_keys_values(site, x)
    n_rep = site.config.n_heads // len(v)
    init = 0.8 - 0.6 * math.exp(-0.3 * site.layer) if site.knobs.lambda_init == "depth" else site.knobs.lambda_init
    dots = [(site.get(f"attention.lambda_q{i}") * site.get(f"attention.lambda_k{i}")).sum() for i in (1, 2)]
    lam = torch.exp(dots[0]) - torch.exp(dots[1]) + init
    outs = []
    for h in range(site.config.n_heads):
        g = h // n_rep
        signal, noise = (attention_map(site, q[2 * h + m], k[2 * g + m]) for m in (0, 1))
        out = head_norm(site, (signal - lam * noise) @ v[g])
        outs.append(out * (1 - init) if site.knobs.has_output_scale else out)
    return site.linear("output", torch.cat(outs, dim=1))


ATTENTIONS: dict[str, Callable[[Site, Tensor], Tensor]] = {"standard": standard, "differential": differential}


# normalization


def scale(config: ModelConfig, get: Get, name: str, knob: str) -> Tensor:
    """A learned scale of nGPT: raw * init / scale, or its init."""
    knobs = getattr(config.normalization, knob)
    return (
        torch.tensor([knobs.init], dtype=torch.float64)
        if knobs.mode == "fixed"
        else get(f"{name}.raw") * knobs.init / knobs.scale
    )


def norm(get: Get, name: str, knobs: Any, x: Tensor) -> Tensor:
    if knobs.norm == "rmsnorm":
        return rms_norm(x, knobs.eps, get(f"{name}.gain"))
    centred = x - x.mean(-1, keepdim=True)
    return rms_norm(centred, knobs.eps, get(f"{name}.gain")) + get(f"{name}.bias")


def prenorm(config: ModelConfig, get: Get, site: str, f: Callable[[Tensor], Tensor], h: Tensor) -> Tensor:
    return h + f(norm(get, f"{site}_residual.norm", config.normalization, h))


def ngpt(config: ModelConfig, get: Get, site: str, f: Callable[[Tensor], Tensor], h: Tensor) -> Tensor:
    knobs: Any = config.normalization
    alpha = scale(config, get, f"{site}_residual.alpha", "alpha_attn" if site == "attention" else "alpha_mlp")
    alpha = alpha.abs() if knobs.alpha_sign == "abs" else alpha
    target = unit(f(h))
    if knobs.update == "riemann":
        return unit(h - alpha * (h * (h * target).sum(-1, keepdim=True) - target))
    if knobs.update == "slerp":
        angle = torch.acos((h * target).sum(-1, keepdim=True))
        return unit((torch.sin((1 - alpha) * angle) * h + torch.sin(alpha * angle) * target) / torch.sin(angle))
    return unit(h + alpha * (target - h))


NORMALIZATIONS: dict[str, Callable[..., Tensor]] = {"prenorm": prenorm, "ngpt": ngpt}


# mlp


def swiglu(hidden: Tensor) -> Tensor:
    u, v = hidden[:, : hidden.shape[1] // 2], hidden[:, hidden.shape[1] // 2 :]
    return u * v * torch.sigmoid(v)


MLPS: dict[str, Callable[[Tensor], Tensor]] = {"swiglu": swiglu}


def mlp(config: ModelConfig, get: Get, x: Tensor) -> Tensor:
    hidden = linear(config, get, "mlp.hidden", x)
    if config.normalization.name == "ngpt":
        hidden = hidden * scale(config, get, "mlp.scale.s_uv", "s_uv") * config.d_model**0.5
    return linear(config, get, "mlp.output", MLPS[config.mlp.name](hidden))


# the model


def logits(config: ModelConfig, parameters: Mapping[str, Tensor], ids_bt: Tensor) -> Tensor:
    """(b, t, v) in float64."""
    return torch.stack([_logits(config, parameters, ids_t) for ids_t in ids_bt])


def _logits(config: ModelConfig, parameters: Mapping[str, Tensor], ids_t: Tensor) -> Tensor:
    is_sphere = config.normalization.name == "ngpt"
    get = parameters.__getitem__
    has_unit_rows = config.normalization.has_unit_weights_in_forward
    table, head = (unit(get(n)) if has_unit_rows else get(n) for n in ("embedding.weight", "head.weight"))
    h = table[ids_t]
    if is_sphere and not config.normalization.has_unit_weights:
        h = unit(h)
    rotations = rotation_matrices(config, len(ids_t))
    first_values: list[Tensor] = []
    connect = NORMALIZATIONS[config.normalization.name]
    for layer in range(config.n_layers):

        def block(name: str, layer: int = layer) -> Tensor:
            return get(f"stack.blocks.{layer}.{name}")

        site = Site(config, layer, block, rotations, first_values)
        h = connect(config, block, "attention", lambda x, site=site: ATTENTIONS[config.attention.name](site, x), h)
        h = connect(config, block, "mlp", lambda x, block=block: mlp(config, block, x), h)
    if is_sphere:
        return (h @ head.T) * scale(config, get, "final.s_z", "s_z")
    return norm(get, "final.norm", config.normalization, h) @ head.T
