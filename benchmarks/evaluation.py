"""Time multiple choice against EleutherAI's harness with its own model, and needles in a long context."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ablate.data import Tokenizer, load_tokenizer
from ablate.evaluation.base import Subject
from ablate.evaluation.choice_items import Item, read_items
from ablate.evaluation.language_model import generator
from ablate.evaluation.multiple_choice import score_items
from ablate.evaluation.needle import Needle
from ablate.study.data_schema import DataConfig
from ablate_model import GPT, load_gpt2

N_TOKENS = 50_257  # of GPT-2's vocabulary
WEIGHT_STD = 0.02
TOLERANCE = 1e-3  # nats, between kernels of different batches on a GPU


@dataclass(frozen=True)
class ChoiceResult:
    """Items per minute of both, and the largest difference of a log-likelihood (nats). None where the harness' model
    cannot run."""

    n_items: int
    ablate_per_minute: float
    harness_per_minute: float | None
    difference: float | None


@dataclass(frozen=True)
class NeedleResult:
    """Seconds for all cells, depths and samples."""

    length: int
    n_sequences: int
    seconds: float


def write_gpt2(folder: Path, size: dict[str, int], length: int, seed: int = 0) -> None:
    """Write a GPT-2 of random weights as Hugging Face's folder has it."""
    from safetensors.torch import save_file

    d, draw = size["d_model"], torch.Generator().manual_seed(seed)
    described = {"n_embd": d, "n_layer": size["n_layers"], "n_head": size["n_heads"], "n_positions": length}
    config = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "vocab_size": N_TOKENS, **described}
    shapes: dict[str, tuple[int, ...]] = {"wte.weight": (N_TOKENS, d), "wpe.weight": (length, d)}
    matrices = {"attn.c_attn": (d, 3 * d), "attn.c_proj": (d, d), "mlp.c_fc": (d, 4 * d), "mlp.c_proj": (4 * d, d)}
    for layer in range(size["n_layers"]):
        shapes |= {f"h.{layer}.{name}.weight": shape for name, shape in matrices.items()}
        shapes |= {f"h.{layer}.{name}.bias": shape[-1:] for name, shape in matrices.items()}
    weights = {name: WEIGHT_STD * torch.randn(shape, generator=draw) for name, shape in shapes.items()}
    for norm in ("ln_f", *(f"h.{layer}.{name}" for layer in range(size["n_layers"]) for name in ("ln_1", "ln_2"))):
        weights |= {f"{norm}.weight": torch.ones(d), f"{norm}.bias": torch.zeros(d)}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(
        {f"transformer.{name}": value for name, value in weights.items()},
        folder / "model.safetensors",
        {"format": "pt"},
    )


def make_items(n: int) -> list[Item]:
    """Items of made-up words, about as long as HellaSwag's: 60 words and four endings of 20."""
    draw = generator(2)
    words = ["".join(draw.choice(list("abcdefghijklmnoprstuw"), draw.integers(2, 8))) for _ in range(3_000)]

    def write(low: int, high: int) -> str:
        return " ".join(words[i] for i in draw.integers(0, len(words), draw.integers(low, high)))

    found = []
    for _ in range(n):
        choices = tuple(write(12, 28) for _ in range(4))
        found.append(Item((write(30, 90),) * 4, tuple(f" {choice}" for choice in choices), choices, 0))
    return found


def compare_choices(
    folder: Path,
    tokenizer: Tokenizer,
    vocabulary: Path,
    items: Sequence[Item],
    n_harness: int,
    device: str,
    batch_size: str,
) -> ChoiceResult:
    """Score all items with ablate, and the first ones with the harness' `hf` model if lm_eval and transformers are
    installed."""
    model = load_gpt2(folder).to(device).eval()
    limit = model.config.context_length
    score_items(model, torch.device(device), tokenizer, items[:64], limit)  # kernels are chosen at the first call
    start = _now(device)
    ours = score_items(model, torch.device(device), tokenizer, items, limit)
    seconds = _now(device) - start
    per_minute = 60 * len(items) / seconds
    _tell(f"ablate: {len(items):,} items in {seconds:.1f} s")
    items = items[:n_harness]
    if not all(importlib.util.find_spec(name) for name in ("lm_eval", "transformers")):
        return ChoiceResult(len(ours), per_minute, None, None)
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM
    from transformers import GPT2LMHeadModel, GPT2Tokenizer

    words = GPT2Tokenizer(vocab=str(vocabulary / "encoder.json"), merges=str(vocabulary / "vocab.bpe"))
    theirs = HFLM(
        pretrained=GPT2LMHeadModel.from_pretrained(folder),
        tokenizer=words,
        device=device,
        batch_size=batch_size,
        dtype="float32",
    )
    pairs = [pair for item in items for pair in zip(item.contexts, item.continuations, strict=True)]
    requests = [Instance("loglikelihood", {}, pair, index) for index, pair in enumerate(pairs)]
    theirs.loglikelihood(requests[:256], disable_tqdm=True)
    start = _now(device)
    expected = theirs.loglikelihood(requests, disable_tqdm=True)
    harness = _now(device) - start
    _tell(f"harness: {len(items):,} items in {harness:.1f} s")
    scores = [score.log_likelihood for group in ours[:n_harness] if group is not None for score in group]
    difference = max(abs(own - their[0]) for own, their in zip(scores, expected, strict=True))
    return ChoiceResult(len(ours), per_minute, 60 * len(items) / harness, difference)


def time_needles(model: GPT, tokenizer: Tokenizer, length: int, samples: int, device: str) -> NeedleResult:
    """Run needles in words at full length."""
    evaluation = Needle(form="text", samples=samples, length=length)
    subject = Subject(model.to(device).eval(), torch.device(device), length, tokenizer)
    list(Needle(form="text", samples=1, length=length, cells=((1, 1),), depths=(0.5,)).evaluate(subject))
    start = _now(device)
    rows = list(evaluation.evaluate(subject))
    seconds = _now(device) - start
    _tell(f"needles: {seconds:.1f} s")
    assert all(row.n for row in rows)
    return NeedleResult(length, samples * len(evaluation.cells) * len(evaluation.depths), seconds)


def _tell(text: str) -> None:
    """Print a result as soon as it is known."""
    print(text, file=sys.stderr, flush=True)


def _now(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluation", description=__doc__)
    parser.add_argument("--vocabulary", type=Path, required=True, help="folder with GPT-2's encoder.json and vocab.bpe")
    parser.add_argument("--items", type=int, default=10_000, help="items of made-up words")
    parser.add_argument("--harness-items", type=int, default=2_000, help="how many of them the harness scores")
    parser.add_argument("--path", type=Path, help="JSON Lines with items to take instead")
    parser.add_argument("--length", type=int, default=4096, help="tokens per needle sequence")
    parser.add_argument("--samples", type=int, default=50, help="needle sequences per cell and depth")
    parser.add_argument("--layers", type=int, default=12, help="layers of both models; the default is GPT-2's")
    parser.add_argument("--width", type=int, default=768, help="width of both models; the default is GPT-2's")
    parser.add_argument("--batch-size", default="64", help="of the harness: a number, or auto")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    asked = parser.parse_args()
    name = torch.cuda.get_device_name() if asked.device == "cuda" else "CPU"
    size = {"d_model": asked.width, "n_layers": asked.layers, "n_heads": max(asked.width // 64, 1)}
    data = DataConfig.model_validate(
        {"source": "text", "path": "x", "tokenizer": "gpt2", "tokenizer_path": str(asked.vocabulary)}
    )
    tokenizer = load_tokenizer(data, Path())
    items = make_items(asked.items)
    if asked.path is not None:
        items = [item for _, found in read_items(asked.path, (), asked.items) for item in found]
    with tempfile.TemporaryDirectory() as folder:
        write_gpt2(Path(folder), size, asked.length)
        needles = time_needles(load_gpt2(folder), tokenizer, asked.length, asked.samples, asked.device)
        write_gpt2(Path(folder), size, 1024)
        choices = compare_choices(
            Path(folder), tokenizer, asked.vocabulary, items, asked.harness_items, asked.device, asked.batch_size
        )
    result: dict[str, Any] = {"device": name, "size": size, "choices": asdict(choices), "needles": asdict(needles)}
    print(json.dumps(result, indent=2))
    if choices.difference is not None and choices.difference > TOLERANCE:
        raise SystemExit(f"log-likelihoods differ by {choices.difference:g} nats")


if __name__ == "__main__":
    main()
