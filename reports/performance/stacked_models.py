"""Several GPTs of one size trained as one: what a step of 1, 2, 4, ... models costs, each with its own batch.

    python reports/performance/stacked_models.py [--grid GRID] [--sizes 1 2 4 8 16] [--steps 50]

A prototype, apart from the training loop: pre-norm blocks with standard attention, SwiGLU and RoPE alone, a constant
learning rate, random tokens. It first checks on the CPU that losses and gradients are those of `ablate_model.GPT`.
Tensors carry their shape as a suffix: n model, b batch, t position, r = b * t, d d_model, h head, k head_dim, v vocab.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
import yaml
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_, get_total_norm

from ablate.recipes.optimizers.adamw import make_adamw
from ablate.study.schema import TrainConfig
from ablate.training.bench.timing import time_call
from ablate.training.compilation import silence_compiler
from ablate.training.device import free_memory
from ablate.training.optimizer import common_settings
from ablate.training.precision import PRECISIONS, forbid_tf32
from ablate.training.step_graph import EAGER_STEPS, StepGraph, compute_aside
from ablate_model import GPT, ModelConfig
from ablate_model.kernels.attention import attention
from ablate_model.numerics import rms, upcast
from ablate_model.position.rope import rotate_pairs

GRID = Path(__file__).parents[2] / "experiments" / "speed-10m.yaml"
BYTES = 256  # the vocabulary of a grid whose tokenizer is `bytes`
TOLERANCE = 1e-12  # of float64: sums in another order
CHECKED = ModelConfig(d_model=24, n_layers=2, n_heads=2, vocab_size=17, context_length=12)


def stack(named: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """(n, in, out) of every (out, in) matrix; (n, v, d) of the embedding, (n, d) of a gain."""
    stacked = {name: torch.stack([one[name].detach() for one in named]) for name in named[0]}
    is_product = {name: x.dim() == 3 and name != "embedding.weight" for name, x in stacked.items()}
    return {name: x.mT.contiguous() if is_product[name] else x for name, x in stacked.items()}


class StackedGPT:
    """The `models`, pre-norm GPTs of one config, with every parameter of the same name in one tensor."""

    def __init__(self, models: Sequence[GPT], device: torch.device) -> None:
        self.config, self.size = models[0].config, len(models)
        start = stack([dict(model.named_parameters()) for model in models])
        self.weights = {name: nn.Parameter(x.to(device)) for name, x in start.items()}
        dtype = torch.promote_types(self.weights["embedding.weight"].dtype, torch.float32)
        self.tables = models[0].position.tables(0, self.config.context_length, device, dtype)
        self.first_rows_n11 = self.config.vocab_size * torch.arange(self.size, device=device)[:, None, None]
        self.block, self.end = self.apply_block, self.apply_end

    def compile(self) -> None:
        self.block = torch.compile(self.apply_block, dynamic=False, fullgraph=True)
        self.end = torch.compile(self.apply_end, dynamic=False, fullgraph=True)

    def losses(self, ids_nbt: Tensor, targets_nbt: Tensor) -> Tensor:
        """Mean cross-entropy (nats) of each model: (n,)."""
        embedding_vd = self.weights["embedding.weight"].flatten(0, 1)
        h_nrd = F.embedding(ids_nbt + self.first_rows_n11, embedding_vd).flatten(1, 2)
        for layer in range(self.config.n_layers):
            prefix = f"stack.blocks.{layer}."
            own = {name.removeprefix(prefix): w for name, w in self.weights.items() if name.startswith(prefix)}
            h_nrd = self.block(h_nrd, own)
        return self.end(h_nrd, self.weights["final.norm.gain"], self.weights["head.weight"], targets_nbt)

    def apply_block(self, h_nrd: Tensor, own: Mapping[str, Tensor]) -> Tensor:
        x_nrd = self.norm(h_nrd, own["attention_residual.norm.gain"])
        q, k, v = (
            self.split_heads(torch.bmm(x_nrd, own[f"attention.{name}.weight"])) for name in ("query", "key", "value")
        )
        q, k = (rotate_pairs(x, self.tables).to(v.dtype) for x in (q, k))
        mixed_nrd = attention(q, k, v).reshape(h_nrd.shape)
        h_nrd = h_nrd + torch.bmm(mixed_nrd, own["attention.output.weight"])
        x_nrd = self.norm(h_nrd, own["mlp_residual.norm.gain"])
        value, gate = torch.bmm(x_nrd, own["mlp.hidden.weight"]).chunk(2, dim=-1)
        return h_nrd + torch.bmm(value * F.silu(gate), own["mlp.output.weight"])

    def apply_end(self, h_nrd: Tensor, gain_nd: Tensor, head_ndv: Tensor, targets_nbt: Tensor) -> Tensor:
        logits_nrv = upcast(torch.bmm(self.norm(h_nrd, gain_nd), head_ndv))
        losses = F.cross_entropy(logits_nrv.flatten(0, 1), targets_nbt.flatten(), reduction="none")
        return losses.view(self.size, -1).mean(1)

    def norm(self, x_nrd: Tensor, gain_nd: Tensor) -> Tensor:
        return rms(x_nrd, self.config.normalization.eps) * gain_nd[:, None]

    def split_heads(self, x_nrd: Tensor) -> Tensor:
        """The batches of all models side by side: (n * b, t, h, k)."""
        return x_nrd.reshape(-1, self.config.context_length, self.config.n_heads, self.config.head_dim)

    def clip(self, limit: float) -> None:
        """Each model's gradients to a norm of at most `limit`."""
        for model in range(self.size):
            gradients = [w.grad[model] for w in self.weights.values()]
            scale = (limit / (get_total_norm(gradients) + 1e-6)).clamp(max=1.0)
            torch._foreach_mul_(gradients, scale)


def measure_difference(size: int = 2) -> float:
    """The largest difference of losses and gradients, clipped and not, from `size` models on their own, in float64."""
    generator = torch.Generator().manual_seed(0)
    models = [GPT(CHECKED).double() for _ in range(size)]
    for parameter in (parameter for model in models for parameter in model.parameters()):
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    stacked = StackedGPT(models, torch.device("cpu"))
    ids, targets = torch.randint(CHECKED.vocab_size, (2, size, 3, CHECKED.context_length), generator=generator)
    losses = stacked.losses(ids, targets)
    expected = torch.stack([model.loss(*own) for model, *own in zip(models, ids, targets, strict=True)])
    losses.sum().backward()
    expected.sum().backward()
    largest = (losses - expected).abs().max().item()
    for limit in (float("inf"), 0.1):
        stacked.clip(limit)
        for model in models:
            clip_grad_norm_(model.parameters(), limit)
        gradients = stack([{name: p.grad for name, p in model.named_parameters()} for model in models])
        differences = [(stacked.weights[name].grad - gradient).abs().max() for name, gradient in gradients.items()]
        largest = max(largest, torch.stack(differences).max().item())
    return largest


def time_step(config: ModelConfig, train: TrainConfig, size: int, device: torch.device, steps: int) -> float:
    """Seconds of an optimizer step of `size` models."""
    free_memory(device)
    torch.compiler.reset()
    stacked = StackedGPT([GPT(config, seed=seed) for seed in range(size)], device)
    if train.compile:
        stacked.compile()
    decays = {3: config.recipe()["weight_decay"], 2: 0.0}  # of matrices, and of gains
    groups = [
        {"params": [w for w in stacked.weights.values() if w.dim() == dim], "weight_decay": decay}
        for dim, decay in decays.items()
    ]
    resolved = train.model_copy(update={"weight_decay": decays[3]})  # the groups have their own
    optimizer = make_adamw(groups, common_settings(resolved, device))

    def compute(ids_nbt: Tensor, targets_nbt: Tensor) -> None:
        with PRECISIONS[train.precision].context(device):
            losses = stacked.losses(ids_nbt, targets_nbt)
        losses.sum().backward()
        if train.grad_clip:
            stacked.clip(train.grad_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    shape = (2, size, train.batch_size, config.context_length)
    draw = functools.partial(torch.randint, config.vocab_size, shape, device=device)
    launch: Callable[[Tensor, Tensor], None] = compute
    if device.type == "cuda":
        for _ in range(EAGER_STEPS):
            compute_aside(compute, *draw())
        launch = StepGraph(compute, *draw())
    return time_call(lambda: launch(*draw()), device, steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--grid", type=Path, default=GRID, help="its model and train sections; a tokenizer of bytes")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 2, 4, 8, 16], help="how many models")
    parser.add_argument("--steps", type=int, default=50, help="in each of the windows, of which the median counts")
    options = parser.parse_args()
    difference = measure_difference()
    print(f"2 stacked models differ from 2 models by {difference:.1e} in losses and gradients (float64, CPU)")
    if not difference < TOLERANCE:
        raise SystemExit(f"that is more than rounding ({TOLERANCE:.0e})")
    grid = yaml.safe_load(options.grid.read_text())
    config = ModelConfig(vocab_size=BYTES, **grid["model"])
    train = TrainConfig(**grid["train"], cuda_graph=True)
    forbid_tf32()
    silence_compiler()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}; {config.num_params():,} parameters a model")
    print("models  ms a step  tokens/s in all  x the first")
    first = None
    for size in options.sizes:
        seconds = time_step(config, train, size, device, options.steps)
        tokens_per_s = size * train.batch_size * config.context_length / seconds
        first = first or tokens_per_s
        print(f"{size:6}  {1000 * seconds:9.2f}  {tokens_per_s:15,.0f}  {tokens_per_s / first:11.2f}", flush=True)


if __name__ == "__main__":
    main()
