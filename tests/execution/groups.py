"""A few small runs that two processes train together, and one of them by itself, on the CPU or two GPUs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from ablate.study.schema import TrainConfig
from ablate.training import parallel
from ablate.training.bench.timed_run import Nowhere, random_corpus
from ablate.training.language_model import LanguageModelling
from ablate.training.loop import train
from ablate.training.parallel import Alone, DataParallel, Group, stay_on_loopback
from ablate_model import ModelConfig

SIZE = 2
PATIENCE_S = 120.0
Lines = list[dict[str, Any]]
DATA = {"vocab_size": 32, "context_length": 64}
SMALL = {**DATA, "d_model": 32, "n_layers": 2, "n_heads": 2}
WIDE = {**DATA, "d_model": 64, "n_layers": 2, "n_heads": 4}
TRAIN = {"steps": 12, "batch_size": 8, "learning_rate": 0.01, "warmup_steps": 2, "weight_decay": 0.1, "grad_clip": 0.3}
TRAIN |= {"log_every": 3, "eval_every": 5, "eval_tokens": 512}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "one by one": (SMALL, {}),
    "untied": ({**SMALL, "tie_embeddings": False}, {"precision": "float64", "micro_batch_size": 1}),
    "graph": ({**SMALL, "normalization": "ngpt"}, {"cuda_graph": True, "micro_batch_size": 2}),
}
# Micro-batches of the same size are compiled once for one process and for two.
IN_BFLOAT16: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "compiled graph": (WIDE, {"cuda_graph": True, "compile": True, "micro_batch_size": 4}),
    "deterministic graph": (WIDE, {"cuda_graph": True, "deterministic": True}),
}


class Curve(Nowhere):
    """A recorder that only keeps lines, without values that depend on the clock."""

    def __init__(self) -> None:
        self.lines: Lines = []

    def log(self, record: Any) -> None:
        self.lines.append({k: v for k, v in record.items() if k not in ("wall_s", "tokens_per_s")})


def train_once(model: dict[str, Any], settings: dict[str, Any], group: Group, folder: Path, device: str) -> Lines:
    config, chosen = ModelConfig.parse(model), TrainConfig(**{**TRAIN, **settings})
    task = LanguageModelling(config, random_corpus(folder, config, chosen), chosen.eval_tokens)
    recorder = Curve()
    train(task, chosen, 0, recorder, device=device, threads=1, should_stop=lambda: False, group=group)
    return recorder.lines


def train_in_a_group(folder: Path, device: str) -> Mapping[str, tuple[Lines, Lines]]:
    """Return the curves of one process and those of two, by the name of the case."""
    command = [sys.executable, __file__, str(folder), device]
    members = [
        subprocess.Popen([*command, str(rank)], env={**os.environ, "CUDA_VISIBLE_DEVICES": str(rank)})
        for rank in range(SIZE)
    ]
    try:
        assert [member.wait(PATIENCE_S) for member in members] == [0] * SIZE
    finally:
        for member in members:
            member.kill()
    found: Mapping[str, tuple[Lines, Lines]] = json.loads((folder / "curves.json").read_text())
    return found


def main() -> None:
    folder, device, rank = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    stay_on_loopback()
    parallel.BUCKET_BYTES = 4096  # several buckets
    store = dist.FileStore(str(folder / "meeting"), SIZE)  # type: ignore[attr-defined]
    group = DataParallel(rank, SIZE, store, torch.device(device))
    own = folder / str(rank)
    own.mkdir()
    found = {}
    fast = {name: (model, {**settings, "precision": "bfloat16"}) for name, (model, settings) in IN_BFLOAT16.items()}
    for name, (model, settings) in (CASES | fast if device == "cuda" else CASES).items():
        together = train_once(model, settings, group, own, device)
        if rank == 0:
            found[name] = train_once(model, settings, Alone(), own, device), together
        group.agree(wish=False)
    if rank == 0:
        (folder / "curves.json").write_text(json.dumps(found))
    sys.stdout.flush()
    os._exit(0)  # NCCL's own end waits for graphs that still hold its communicator


if __name__ == "__main__":
    main()
