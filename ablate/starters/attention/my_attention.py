"""Your own attention: a plain torch module. ablate checks that no output looks ahead before anything trains."""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F


class MyAttention(nn.Module):
    """Causal attention in which a token sees only the last `window` tokens."""

    # ablate passes the sizes that you ask for by name: d_model, n_heads, layer, n_layers, context_length. Every other
    # argument needs a default and is a knob, which a grid or a search can set.
    def __init__(self, d_model: int, n_heads: int, window: int = 16) -> None:
        super().__init__()
        self.n_heads, self.window = n_heads, window
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.out = nn.Linear(d_model, d_model, bias=False)

    # x and the result: (batch, tokens, d_model). `rotate` applies the model's positional encoding to queries and keys,
    # which are (batch, tokens, heads, width). Leave it out if your attention has positions of its own.
    def forward(self, x: torch.Tensor, rotate: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        b, t, d = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.n_heads, d // self.n_heads).unbind(2)
        q, k, v = (heads.transpose(1, 2) for heads in (rotate(q).to(v), rotate(k).to(v), v))
        position = torch.arange(t, device=x.device)
        distance = position[:, None] - position
        visible = (distance >= 0) & (distance < self.window)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=visible)
        return self.out(mixed.transpose(1, 2).reshape(b, t, d))
