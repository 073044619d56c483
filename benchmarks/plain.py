"""Compare the speed of training with that of the same networks in plain PyTorch, with their steps interleaved.

The plain networks are written as nanoGPT and NVIDIA/ngpt write theirs: torch's own modules, one product for queries,
keys and values, float32 logits, and a loop of forward pass, backward pass, clipping and AdamW. Plain nGPT normalizes
its matrices one by one after each step.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import nn

from ablate.data import Corpus
from ablate.study.schema import TrainConfig
from ablate.training.bench.timed_run import MANY_STEPS, Nowhere, random_corpus
from ablate.training.device import now, prepare_process
from ablate.training.language_model import LanguageModelling
from ablate.training.loop import Training
from ablate_model import ModelConfig
from benchmarks.history import ROOT, add_record_option, append_figures
from benchmarks.plain_networks import PlainNetwork

NORMALIZATIONS = ("prenorm", "ngpt")
GRID = ROOT / "experiments" / "speed-10m.yaml"
BASE = "plain prenorm"
ON_CPU: Mapping[str, Mapping[str, Any]] = {  # the shape that nanoGPT's README proposes for a CPU
    "model": {"d_model": 128, "n_layers": 4, "n_heads": 4, "context_length": 64},
    "train": {"batch_size": 12},
}
BYTES = 256  # the vocabulary of a grid that names none

Step = Callable[[], None]


def start_plain(
    config: ModelConfig, normalization: str, train: TrainConfig, corpus: Corpus, device: torch.device
) -> Step:
    """Build a plain network. Returns a function that trains it for a step."""
    network = PlainNetwork(config, normalization).to(device)
    parameters = list(network.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.0, fused=device.type == "cuda")
    forward = torch.compile(network) if train.compile else network
    tokens = np.memmap(corpus.train_path, dtype=corpus.dtype, mode="r")
    draw = np.random.default_rng(0)
    bf16 = torch.autocast(device.type, torch.bfloat16) if train.precision == "bfloat16" else nullcontext()

    def step() -> None:
        starts = draw.integers(len(tokens) - config.context_length - 1, size=train.batch_size)
        rows = np.stack([tokens[at : at + config.context_length + 1] for at in starts]).astype(np.int64)
        batch = torch.from_numpy(rows)
        if device.type == "cuda":
            batch = batch.pin_memory().to(device, non_blocking=True)
        with bf16:
            loss = forward(batch[:, :-1], batch[:, 1:])
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if normalization == "ngpt":
            network.normalize()

    return step


def start_ours(
    config: ModelConfig, normalization: str, train: TrainConfig, corpus: Corpus, device: torch.device
) -> Step:
    """Start a run of ablate's loop. Returns a function that trains it for a step."""
    model = ModelConfig.parse({**config.to_dict(), "normalization": normalization})
    training = Training(LanguageModelling(model, corpus, train.eval_tokens), train, 0, Nowhere(), device)
    training.warm_up()
    steps = itertools.count(1)
    return lambda: training.step(next(steps))


def measure(contestants: Mapping[str, Step], device: torch.device, rounds: int, steps: int) -> dict[str, list[float]]:
    """Seconds per step of each contestant in each round. In a round, all train a window of steps, one after another."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for step in contestants.values():
        for _ in range(4):  # compiles, and captures graphs
            step()
    for turn in range(rounds):
        names = list(contestants)
        for name in names if turn % 2 == 0 else reversed(names):
            began = now(device)
            for _ in range(steps):
                contestants[name]()
            seconds[name].append((now(device) - began) / steps)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plain", description=__doc__)
    parser.add_argument("--grid", type=Path, default=GRID, help="its model and train, on a GPU")
    parser.add_argument("--modes", nargs="+", choices=("eager", "compiled"), default=["eager", "compiled"])
    parser.add_argument("--backend", default="auto", help="ablate's attention backend")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=10, help="per contestant and round")
    add_record_option(parser)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    sections = ON_CPU if device.type == "cpu" else yaml.safe_load(options.grid.read_text())
    config = ModelConfig.parse({"vocab_size": BYTES, **sections["model"]})
    fixed = {"warmup_steps": 0, "weight_decay": 0.0, "steps": MANY_STEPS, "attention_backend": options.backend}
    contestants: dict[str, Step] = {}
    with tempfile.TemporaryDirectory(prefix="ablate-bench-") as folder:
        settings = TrainConfig(**{**sections["train"], **fixed})
        corpus = random_corpus(Path(folder), config, settings)
        for mode in options.modes:
            is_compiled = mode == "compiled"
            graphed = {"compile": is_compiled, "cuda_graph": is_compiled and device.type == "cuda"}
            train = settings.model_copy(update=graphed)
            prepare_process(train, str(device), torch.get_num_threads())
            for normalization in NORMALIZATIONS:
                for kind, start in (("plain", start_plain), ("ablate", start_ours)):
                    step = start(config, normalization, train, corpus, device)
                    contestants[f"{kind} {normalization}, {mode}"] = step
        seconds = measure(contestants, device, options.rounds, options.steps)
    n_tokens = settings.batch_size * config.context_length
    print(f"{config.num_params():,} parameters (prenorm), {n_tokens:,} tokens per step, {options.rounds} rounds")
    print(f"ms per step  tokens/s  times {BASE} of the same mode [least, most of a round]")
    figures: dict[str, float] = {}
    for name, taken in seconds.items():
        base = seconds[f"{BASE}, {name.split(', ')[1]}"]
        ratios = [base_s / own_s for base_s, own_s in zip(base, taken, strict=True)]
        step_s, ratio = statistics.median(taken), statistics.median(ratios)
        spread = f"[{min(ratios):.2f}, {max(ratios):.2f}]"
        print(f"{1000 * step_s:11.2f}  {n_tokens / step_s:10,.0f}  {ratio:5.2f} {spread}  {name}", flush=True)
        figures |= {f"{name}, step_s": step_s, f"{name}, ratio": ratio}
    if options.record:
        append_figures("plain", figures)


if __name__ == "__main__":
    main()
