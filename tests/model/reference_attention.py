"""Naive attentions: one sequence, one head, one map at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from reference_parts import Get, linear, rms_norm, scale, sphere, unit
from torch import Tensor

from ablate_model import ModelConfig


@dataclass
class Site:
    """What a naive attention needs to know about its block."""

    config: ModelConfig
    layer: int
    get: Get  # parameters of the block, by name
    rotations: Tensor | None  # (t, k, k)
    first_values: list[Tensor]  # the values of the first layer once it has run
    is_causal: bool = True
    seen: Tensor | None = None  # (s,), False for keys that are padding
    memory: Tensor | None = None  # (s, d), where keys and values come from instead of the layer's input

    @property
    def knobs(self) -> Any:
        return self.config.attention

    def linear(self, name: str, x: Tensor) -> Tensor:
        return linear(self.config, self.get, f"attention.{name}", x)


def rotation_matrices(config: ModelConfig, length: int) -> Tensor | None:
    """R_p with R_p[2j, 2j] = cos a, R_p[2j, 2j+1] = -sin a, and so on, a = p base^(-2j/k)."""
    if config.position.name not in ("rope", "ngpt_reference"):
        return None
    position: Any = config.position
    width = config.attention.qk_width(config)
    matrices = torch.zeros(length, width, width, dtype=torch.float64)
    if position.name == "ngpt_reference":
        for p in range(length):
            table = [f(p * 10000.0 ** (-2 * j / width)) for j in range(width // 2) for f in (math.sin, math.cos)]
            for j in range(width // 2):
                matrices[p, 2 * j, 2 * j + 1] = -table[width // 2 + j]
                matrices[p, 2 * j + 1, 2 * j] = table[j]
        return matrices
    for p in range(length):
        for j in range(width // 2):
            angle = p * position.base ** (-2 * j / width)
            even, odd = 2 * j, 2 * j + 1
            matrices[p, even, even] = matrices[p, odd, odd] = math.cos(angle)
            matrices[p, even, odd], matrices[p, odd, even] = -math.sin(angle), math.sin(angle)
    return matrices


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
    out = [sphere(site.config, h, n=1) for h in steps] if normalization.qk_norm else steps
    if n_query == knobs.key_heads(site.config):
        return [h * s_h for h, s_h in zip(out, s_heads, strict=True)]
    return [h * s_h**2 for h, s_h in zip(out, s_heads, strict=True)] if kind == "query" else out


def logit_scale(site: Site, width: int) -> float:
    if site.config.normalization.name == "ngpt":
        return math.sqrt(width)
    return 1.0 if site.knobs.qk_norm == "l2" else 1 / math.sqrt(width)


def attention_map(site: Site, q: Tensor, k: Tensor, bias: Tensor | None = None, sink: Tensor | None = None) -> Tensor:
    """One (t, s) map: row i is the softmax over the keys that query i may see, and 0 if it sees none."""
    width, length = q.shape[1], q.shape[0]
    z = q @ k.T * logit_scale(site, width)
    if site.knobs.logit_softcap is not None:
        z = site.knobs.logit_softcap * torch.tanh(z / site.knobs.logit_softcap)
    if bias is not None:
        z = z + bias
    rows = []
    for i in range(length):
        first = 0 if site.knobs.window is None else max(0, i - site.knobs.window + 1)
        end = i + 1 if site.is_causal else len(k)
        visible = [j for j in range(first, end) if site.seen is None or site.seen[j]]
        row = torch.zeros(len(k), dtype=z.dtype)
        if visible:
            weights = torch.exp(z[i, visible])
            total = weights.sum() if sink is None else weights.sum() + torch.exp(sink)
            row = row.index_copy(0, torch.tensor(visible), weights / total)
        rows.append(row)
    return torch.stack(rows)


def values(site: Site, x: Tensor) -> list[Tensor]:
    own = split(site.linear("value", x), site.config.head_dim)
    if site.config.value_residual == "none":
        return own
    if not site.first_values:
        site.first_values.extend(own)
        return own
    mix = site.get("attention.value_mix") if site.config.value_residual == "learned" else 0.5
    return [(1 - mix) * v + mix * first for v, first in zip(own, site.first_values, strict=True)]


def queries_keys_values(site: Site, x: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    width = site.knobs.qk_width(site.config)
    q = place(site, split(site.linear("query", x), width), "query")
    source = x if site.memory is None else site.memory
    k = place(site, split(site.linear("key", source), width), "key")
    return q, k, values(site, source)


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
    n_rep, n_heads = site.config.n_heads // len(v), site.config.n_heads
    r = n_heads // (site.knobs.n_noise_heads or n_heads)  # signal maps that share a noise map
    init = 0.8 - 0.6 * math.exp(-0.3 * site.layer) if site.knobs.lambda_init == "depth" else site.knobs.lambda_init
    dots = [(site.get(f"attention.lambda_q{i}") * site.get(f"attention.lambda_k{i}")).sum() for i in (1, 2)]
    lam = torch.exp(dots[0]) - torch.exp(dots[1]) + init
    outs = []
    for h in range(n_heads):
        g = h // n_rep
        group, member = (h // r) * (r + 1), h % r  # every group: r signals, then their noise
        key_group = group if r > 1 else 2 * g
        signal = attention_map(site, q[group + member], k[key_group + member])
        noise = attention_map(site, q[group + r], k[key_group + r])
        out = head_norm(site, (signal - lam * noise) @ v[g])
        outs.append(out * (1 - init) if site.knobs.has_output_scale else out)
    return site.linear("output", torch.cat(outs, dim=1))


def differential_v2(site: Site, x: Tensor) -> Tensor:
    q, k, v = queries_keys_values(site, x)
    group = len(q) // len(k)
    gate = torch.ones(len(x), site.config.n_heads, dtype=x.dtype)
    if site.knobs.lambda_gate != "one":
        gate = x @ site.get("attention.gate.weight").T
    gate = torch.sigmoid(gate) if site.knobs.lambda_gate == "sigmoid" else gate
    outs = []
    for h in range(site.config.n_heads):
        pair = [attention_map(site, q[j], k[j // group]) @ v[j // group] for j in (2 * h, 2 * h + 1)]
        outs.append(pair[0] - gate[:, h : h + 1] * pair[1])
    return site.linear("output", torch.cat(outs, dim=1))


def linear_ensemble(site: Site, x: Tensor) -> Tensor:
    q, k, v = queries_keys_values(site, x)
    n_maps, n_heads = site.knobs.num_maps, site.config.n_heads
    n_rep = n_heads // len(v)
    raw = site.get("attention.map_raw").reshape(-1, n_maps).expand(n_heads, n_maps)
    outs = []
    for h in range(n_heads):
        r = raw[h].expand(len(x), n_maps)
        if site.knobs.scope == "token":
            r = r + x @ site.get("attention.gate.weight")[h * n_maps : (h + 1) * n_maps].T
        w = {"tanh": torch.tanh(r), "softmax": torch.softmax(r, -1), "free": r}[site.knobs.map_weight]
        w = w * site.get("attention.map_gain") if site.knobs.learns_gain(site.config) else w
        maps = [attention_map(site, q[h * n_maps + m], k[(h // n_rep) * n_maps + m]) for m in range(n_maps)]
        combined = sum((w[:, m : m + 1] * maps[m] for m in range(1, n_maps)), w[:, :1] * maps[0])
        outs.append(head_norm(site, combined @ v[h // n_rep]))
    return site.linear("output", torch.cat(outs, dim=1))


def selective(site: Site, x: Tensor) -> Tensor:
    q, k, v = queries_keys_values(site, x)
    length, n_rep = len(x), len(q) // len(k)
    z = q[0] @ k[0].T * logit_scale(site, q[0].shape[1])
    hidden = [
        [sum((torch.relu(z[m, j]) for m in range(i) if 0 < j < m), z.new_zeros(())) for j in range(length)]
        for i in range(length)
    ]
    bias = -torch.stack([torch.stack(row) for row in hidden])
    outs = [attention_map(site, q[h], k[h // n_rep], bias) @ v[h // n_rep] for h in range(len(q))]
    return site.linear("output", torch.cat(outs, dim=1))


def gated(site: Site, x: Tensor) -> Tensor:
    q, k, v = queries_keys_values(site, x)
    n_rep = len(q) // len(k)
    gate = torch.sigmoid(x @ site.get("attention.gate.weight").T).split(
        site.get("attention.gate.weight").shape[0] // len(q), 1
    )
    outs = [gate[h] * (attention_map(site, q[h], k[h // n_rep]) @ v[h // n_rep]) for h in range(len(q))]
    return site.linear("output", torch.cat(outs, dim=1))


def sink(site: Site, x: Tensor) -> Tensor:
    q, k, v = queries_keys_values(site, x)
    n_rep = len(q) // len(k)
    is_learned = site.knobs.sink == "learned"
    outs = []
    for h in range(len(q)):
        s = site.get("attention.sink")[h] if is_learned else torch.zeros((), dtype=x.dtype)
        outs.append(attention_map(site, q[h], k[h // n_rep], sink=s) @ v[h // n_rep])
    return site.linear("output", torch.cat(outs, dim=1))


def forgetting(site: Site, x: Tensor) -> Tensor:
    q, k, v = queries_keys_values(site, x)
    n_rep, length = len(q) // len(k), len(x)
    log_keep = torch.log(torch.sigmoid(x @ site.get("attention.gate.weight").T + site.get("attention.gate.bias")))
    outs = []
    for h in range(len(q)):
        rows = [[log_keep[j + 1 : i + 1, h].sum() for j in range(length)] for i in range(length)]
        bias = torch.stack([torch.stack(row) for row in rows])
        outs.append(attention_map(site, q[h], k[h // n_rep], bias) @ v[h // n_rep])
    return site.linear("output", torch.cat(outs, dim=1))


def exclusive(site: Site, x: Tensor) -> Tensor:
    q, k, v = queries_keys_values(site, x)
    n_rep = len(q) // len(k)
    outs = []
    for h in range(len(q)):
        y, own = attention_map(site, q[h], k[h // n_rep]) @ v[h // n_rep], v[h // n_rep]
        share = (y * own).sum(1, keepdim=True) / own.square().sum(1, keepdim=True)
        fraction = torch.tanh(site.get("attention.fraction")[h]) if site.knobs.fraction == "learned" else 1.0
        outs.append(y - fraction * share * own)
    return site.linear("output", torch.cat(outs, dim=1))


ATTENTIONS: dict[str, Callable[[Site, Tensor], Tensor]] = {
    "standard": standard,
    "differential": differential,
    "differential_v2": differential_v2,
    "linear_ensemble": linear_ensemble,
    "selective": selective,
    "gated": gated,
    "sink": sink,
    "forgetting": forgetting,
    "exclusive": exclusive,
}
