"""Compare the speed of seeds that train as one batch of models (`resources: {stack: seeds}`) with that of one run."""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import yaml

from ablate.data import Corpus
from ablate.study.schema import TrainConfig
from ablate.training.bench.timed_run import MANY_STEPS, Nowhere, random_corpus, run_windows
from ablate.training.device import free_memory, now
from ablate.training.language_model import LanguageModelling
from ablate.training.loop import Training
from ablate.training.precision import forbid_tf32
from ablate.training.stacked import Member, StackedTraining
from ablate_model import ModelConfig

GRID = Path(__file__).parents[1] / "experiments" / "speed-10m.yaml"
ON_CPU = ("d_model=64", "n_layers=2", "n_heads=4", "context_length=64"), ("batch_size=8", "precision=float32")
BYTES = 256  # the vocabulary of a grid whose tokenizer is `bytes`


@dataclass(frozen=True)
class Speed:
    """`size` runs at once (1: the usual loop): seconds per step of all, tokens per second of all, seconds before the
    first step, and peak bytes on a GPU."""

    size: int
    step_s: float
    tokens_per_s: float
    start_s: float
    peak_bytes: int


def measure_speed(
    model: ModelConfig, train: TrainConfig, corpus: Corpus, size: int, device: torch.device, steps: int
) -> Speed:
    """Time steps of `size` runs on random tokens."""
    free_memory(device)
    forbid_tf32()
    started = now(device)
    task = LanguageModelling(model, corpus, train.eval_tokens)
    train = train.model_copy(update={"steps": MANY_STEPS})
    training: Training
    if size == 1:
        training = Training(task, train, 0, Nowhere(), device)
    else:
        training = StackedTraining(task, train, [Member(seed, Nowhere()) for seed in range(size)], device)
    training.warm_up()
    training.step(1)
    start_s = now(device) - started
    step_s = statistics.median(end - began for began, end in run_windows(training, steps)) / steps
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    return Speed(size, step_s, size * train.batch_size * model.context_length / step_s, start_s, peak)


def read_settings(grid: Path, normalization: str, compiles: bool, on_gpu: bool) -> tuple[ModelConfig, TrainConfig]:
    """The model and training of a grid, with a normalization; a smaller model on a CPU."""
    declared = yaml.safe_load(grid.read_text())
    sections = [declared["model"], declared["train"]]
    if not on_gpu:
        for section, changes in zip(sections, ON_CPU, strict=True):
            section.update(yaml.safe_load("\n".join(change.replace("=", ": ") for change in changes)))
    model = ModelConfig.parse({"vocab_size": BYTES, **sections[0], "normalization": normalization})
    recipe = {"weight_decay": model.normalization.recipe()["weight_decay"], "warmup_steps": 0}
    return model, TrainConfig(**{**recipe, **sections[1], "compile": compiles, "cuda_graph": on_gpu})


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stack", description=__doc__)
    parser.add_argument("--grid", type=Path, default=GRID, help="its model and train sections; a tokenizer of bytes")
    parser.add_argument("--normalization", nargs="+", default=["prenorm", "ngpt"])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 4, 16], help="how many runs at once")
    parser.add_argument("--steps", type=int, default=20, help="in each of five windows, of which the median counts")
    parser.add_argument("--threads", type=int, default=1, help="of a CPU")
    parser.add_argument("--eager", action="store_true", help="do not compile")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found: dict[str, Sequence[Speed]] = {}
    for normalization in options.normalization:
        model, train = read_settings(options.grid, normalization, not options.eager, device.type == "cuda")
        with tempfile.TemporaryDirectory(prefix="ablate-bench-") as folder:
            corpus = random_corpus(Path(folder), model, train)
            found[normalization] = [
                measure_speed(model, train, corpus, size, device, options.steps) for size in options.sizes
            ]
        if not options.json:
            print_table(normalization, model.num_params(), found[normalization])
    if options.json:
        print(json.dumps({name: [asdict(speed) for speed in speeds] for name, speeds in found.items()}))


def print_table(normalization: str, n_params: int, speeds: Sequence[Speed]) -> None:
    print(f"{normalization}, {n_params:,} parameters per run")
    print("runs  ms per step  tokens/s of all  times the first  s to the first step   GiB")
    for speed in speeds:
        ratio = speed.tokens_per_s / speeds[0].tokens_per_s
        figures = f"{1000 * speed.step_s:11.2f}  {speed.tokens_per_s:15,.0f}  {ratio:15.2f}  {speed.start_s:19.1f}"
        print(f"{speed.size:4}  {figures}  {speed.peak_bytes / 2**30:4.1f}", flush=True)


if __name__ == "__main__":
    main()
