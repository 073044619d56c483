"""GPT and nGPT in plain PyTorch: torch's own modules, one operation per line."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ablate_model import ModelConfig


def unit(x: Tensor, dim: int = -1) -> Tensor:
    return F.normalize(x, dim=dim)


class PlainScale(nn.Module):
    """A vector that starts at `init`, and whose parameter starts at `scale`."""

    def __init__(self, size: int, init: float, scale: float) -> None:
        super().__init__()
        self.ratio = init / scale
        self.raw = nn.Parameter(torch.full((size,), scale))

    def forward(self) -> Tensor:
        return self.raw * self.ratio


class PlainBlock(nn.Module):
    """Attention and MLP, with pre-norm or as in nGPT."""

    def __init__(self, config: ModelConfig, normalization: str) -> None:
        super().__init__()
        d = config.d_model
        self.n_heads, self.is_ngpt = config.n_heads, normalization == "ngpt"
        self.qkv, self.out = nn.Linear(d, 3 * d, bias=False), nn.Linear(d, d, bias=False)
        self.up, self.down = nn.Linear(d, 2 * config.d_ff, bias=False), nn.Linear(config.d_ff, d, bias=False)
        if self.is_ngpt:
            self.s_qk, self.s_uv = PlainScale(d, 1.0, d**-0.5), PlainScale(2 * config.d_ff, 1.0, 1.0)
            self.alphas = nn.ModuleList(PlainScale(d, 0.05, d**-0.5) for _ in range(2))
        else:
            self.norms = nn.ModuleList(nn.RMSNorm(d, eps=1e-6) for _ in range(2))

    def forward(self, h: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        for place, branch in enumerate((self.attend, self.mix)):
            if self.is_ngpt:
                target, alpha = unit(branch(h, cos, sin)), self.alphas[place]().abs()
                h = unit(unit(h) + alpha * (target - unit(h)))
            else:
                h = h + branch(self.norms[place](h), cos, sin)
        return h

    def attend(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        b, t, d = x.shape
        q, k, v = (
            part.view(b, t, self.n_heads, d // self.n_heads).transpose(1, 2) for part in self.qkv(x).chunk(3, -1)
        )
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        scale = None
        if self.is_ngpt:
            s = self.s_qk().view(self.n_heads, 1, -1)
            q, k, scale = s * unit(q), s * unit(k), math.sqrt(q.shape[-1])
        y = F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v, is_causal=True, scale=scale)
        out: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return out

    def mix(self, x: Tensor, _cos: Tensor, _sin: Tensor) -> Tensor:
        uv = self.up(x)
        if self.is_ngpt:
            uv = uv * (self.s_uv() * math.sqrt(x.shape[-1]))
        u, v = uv.chunk(2, -1)
        out: Tensor = self.down(u * F.silu(v))
        return out


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.reshape(*x.shape[:-1], -1, 2).unbind(-1)
    return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2)


class PlainNetwork(nn.Module):
    """GPT or nGPT with rotary positions and SwiGLU."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: ModelConfig, normalization: str) -> None:
        super().__init__()
        d, width = config.d_model, config.d_model // config.n_heads
        self.embedding = nn.Embedding(config.vocab_size, d)
        self.blocks = nn.ModuleList(PlainBlock(config, normalization) for _ in range(config.n_layers))
        self.norm = nn.RMSNorm(d, eps=1e-6) if normalization == "prenorm" else nn.Identity()
        self.head = nn.Linear(d, config.vocab_size, bias=False)
        self.s_z = PlainScale(config.vocab_size, 1.0, d**-0.5) if normalization == "ngpt" else None
        frequencies = 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
        angles = torch.outer(torch.arange(config.context_length, dtype=torch.float64), frequencies)
        self.register_buffer("cos", angles.cos().float(), persistent=False)
        self.register_buffer("sin", angles.sin().float(), persistent=False)

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        h = self.embedding(ids)
        for block in self.blocks:
            h = block(h, self.cos, self.sin)
        logits = self.head(self.norm(h)).float()
        if self.s_z is not None:
            logits = logits * self.s_z()
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    @torch.no_grad()
    def normalize(self) -> None:
        for weight in (self.embedding.weight, self.head.weight):
            weight.copy_(unit(weight))
        for block in self.blocks:
            for name, dim in (("qkv", 1), ("out", 0), ("up", 1), ("down", 0)):
                weight = block.get_parameter(f"{name}.weight")
                weight.copy_(unit(weight, dim))

    @torch.no_grad()
    def copy_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Take the weights of ablate's network of the same shape, by the names of its state dict."""
        named: dict[str, Tensor] = {
            "embedding.weight": weights["embedding.weight"],
            "head.weight": weights["head.weight"],
        }
        if self.s_z is None:
            named["norm.weight"] = weights["final.norm.gain"]
        else:
            named["s_z.raw"] = weights["final.s_z.raw"]
        for place in range(len(self.blocks)):
            ours, plain = f"stack.blocks.{place}", f"blocks.{place}"
            parts = [weights[f"{ours}.attention.{part}.weight"] for part in ("query", "key", "value")]
            named[f"{plain}.qkv.weight"] = torch.cat(parts)
            named[f"{plain}.out.weight"] = weights[f"{ours}.attention.output.weight"]
            named[f"{plain}.up.weight"] = weights[f"{ours}.mlp.hidden.weight"]
            named[f"{plain}.down.weight"] = weights[f"{ours}.mlp.output.weight"]
            residuals = [f"{ours}.{branch}_residual" for branch in ("attention", "mlp")]
            if self.s_z is None:
                named |= {f"{plain}.norms.{n}.weight": weights[f"{name}.norm.gain"] for n, name in enumerate(residuals)}
            else:
                named |= {f"{plain}.alphas.{n}.raw": weights[f"{name}.alpha.raw"] for n, name in enumerate(residuals)}
                named[f"{plain}.s_qk.raw"] = weights[f"{ours}.attention.query_key.s_qk.raw"]
                named[f"{plain}.s_uv.raw"] = weights[f"{ours}.mlp.scale.s_uv.raw"]
        self.load_state_dict(named)
