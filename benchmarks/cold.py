"""Time the first steps of runs that have to compile: with empty and with full caches, and what they spend it on."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from ablate.execution.placement import Placement
from ablate.study.schema import TrainConfig
from ablate.training.bench.timed_run import Nowhere, random_corpus
from ablate.training.device import now, prepare_process
from ablate.training.language_model import LanguageModelling
from ablate.training.loop import Training
from ablate_model import ModelConfig
from benchmarks.gaps import ROOT, checked_out, import_from

SIZES: Mapping[str, Mapping[str, Any]] = {
    "10m": {"d_model": 320, "n_layers": 6, "n_heads": 5, "vocab_size": 256, "context_length": 256},
    "304m": {"d_model": 1024, "n_layers": 12, "n_heads": 16, "vocab_size": 50304, "context_length": 1024},
    "tiny": {"d_model": 64, "n_layers": 2, "n_heads": 4, "vocab_size": 256, "context_length": 64},
}
PROCESSES = ("prenorm-10m,ngpt-10m", "ngpt-304m")
PROCESSES_ON_CPU = ("prenorm-tiny,ngpt-tiny",)
STAGES = ("build", "first micro-batch", "step 1", "step 2", "evaluation")
SHOWN_S = 0.1  # parts of the compiler that take longer have a row

Found = dict[str, float]


def measure_start(arm: str, backend: str, folder: Path) -> tuple[Found, Found]:
    """Start a run of an arm such as "ngpt-10m".

    Returns the seconds of its stages, and those of the compiler's parts up to the first step; parts contain others.
    """
    import torch._dynamo.utils

    normalization, _, size = arm.partition("-")
    model = ModelConfig.parse({**SIZES[size], "normalization": normalization})
    device, n_rows = ("cuda", 16) if torch.cuda.is_available() else ("cpu", 4)
    train = TrainConfig(
        steps=100,
        batch_size=n_rows,
        warmup_steps=0,
        weight_decay=0.0,
        precision="bfloat16" if device == "cuda" else "float32",
        compile=True,
        cuda_graph=device == "cuda",
        attention_backend=backend,  # type: ignore[arg-type]
        eval_tokens=n_rows * model.context_length,
    )
    parts = torch._dynamo.utils.compilation_time_metrics
    parts.clear()
    corpus = random_corpus(folder, model, train, train.eval_tokens + model.context_length)
    moments = [time.perf_counter()]

    def mark() -> None:
        moments.append(now(torch.device(device)))

    prepare_process(train, device, 1)
    training = Training(LanguageModelling(model, corpus, train.eval_tokens), train, 0, Nowhere(), torch.device(device))
    mark()
    training.warm_up()
    mark()
    training.step(1)
    mark()
    taken = {name: sum(seconds) for name, seconds in parts.items()}
    training.step(2)
    mark()
    training.evaluation.measure(0, 2, lambda: None)
    mark()
    stages = {stage: end - start for stage, (start, end) in zip(STAGES, pairwise(moments), strict=True)}
    return stages, taken


def measure_process(arms: str, backend: str, caches: Path, source: Path) -> list[tuple[Found, Found]]:
    """Start runs of the arms one after another in a new process, which keeps its caches in a folder."""
    with import_from(source) as environment:
        environment |= {
            "TORCHINDUCTOR_CACHE_DIR": str(caches / "inductor"),
            "TRITON_CACHE_DIR": str(caches / "triton"),
            "XDG_CACHE_HOME": str(caches),
            "TORCHINDUCTOR_COMPILE_THREADS": str(Placement(1, 1.0, 1).count_compilers(os.cpu_count() or 1)),
        }
        command = [sys.executable, str(Path(__file__).resolve()), "--child", arms, "--backend", backend]
        result = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    found: list[tuple[Found, Found]] = json.loads(result.stdout.splitlines()[-1])
    return found


def describe_start(stages: Found, parts: Found) -> str:
    """The seconds of each stage, and below them those of the compiler's parts."""
    first_s = stages["build"] + stages["first micro-batch"] + stages["step 1"]
    head = ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in stages.items())
    shown = sorted((part for part in parts.items() if part[1] >= SHOWN_S), key=lambda part: -part[1])
    return "\n".join([f"first step {first_s:.2f} s: {head}", *(f"  {took:8.2f}  {name}" for name, took in shown)])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cold", description=__doc__)
    parser.add_argument("arms", nargs="*", help="NORMALIZATION-SIZE,..., those of one process; SIZE: 10m, 304m or tiny")
    parser.add_argument("--backend", default="auto", help="the attention backend")
    parser.add_argument("--against", metavar="REVISION", help="also measure a git revision, or another checkout")
    parser.add_argument("--child", metavar="ARMS", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        with tempfile.TemporaryDirectory(prefix="ablate-bench-") as folder:
            starts = [measure_start(arm, options.backend, Path(folder)) for arm in options.child.split(",")]
        print(json.dumps(starts), flush=True)
        os._exit(0)  # without waiting for the compilers
    with checked_out(options.against or str(ROOT), "ablate", "model") as other:
        for arms in options.arms or (PROCESSES if torch.cuda.is_available() else PROCESSES_ON_CPU):
            for source in dict.fromkeys((ROOT, other)):
                with tempfile.TemporaryDirectory(prefix="ablate-bench-") as caches:
                    for state in ("empty", "full"):
                        starts = measure_process(arms, options.backend, Path(caches), source)
                        for arm, start in zip(arms.split(","), starts, strict=True):
                            print(f"\n{arm}, {state} caches, code of {source}: {describe_start(*start)}", flush=True)


if __name__ == "__main__":
    main()
