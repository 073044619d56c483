"""How fast an arm trains: the training loop's own steps, on random tokens, timed in windows."""

from __future__ import annotations

import gc
import platform
import statistics
import tempfile
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ablate.data import Corpus, CorpusInfo
from ablate.errors import ResourceError
from ablate.study.schema import TrainConfig
from ablate.training.components import time_components, time_kernels
from ablate.training.loop import Training, peak_memory_bytes
from ablate.training.precision import PRECISIONS, forbid_tf32
from ablate.training.timing import now, time_call
from ablate_model import ModelConfig
from ablate_model.kernels.call import BackendError

WINDOWS = 5  # the median of so many is reported
WARM_UP_STEPS = 3
MANY_STEPS = 1_000_000  # of the schedule: its end is never reached
CEILING_SIZE = {"cuda": 8192, "cpu": 1024}  # of the square matrices whose product is the ceiling
FOREIGN_BYTES = 2 << 30  # of GPU memory that is not this process's: more than an idle context takes


@dataclass(frozen=True)
class Speed:
    """One arm's figures. `step_ms` is the median of `windows_ms`, each the mean over a window's steps.

    `model_tflops` counts the arm's own matrix products, causal attention as half of the square; `ceiling_share` is by a
    large matrix product on the same device. `first_step_s` is from nothing to the end of the first optimizer step,
    `cold` with an empty compilation cache, `warm` with a full one. `components_ms` and `kernels_ms` sum up one step.
    """

    arm: str
    n_params: int
    tokens_per_step: int
    backend: str
    windows_ms: tuple[float, ...]
    step_ms: float
    tokens_per_s: float
    model_tflops: float
    ceiling_share: float
    peak_memory_bytes: int
    first_step_cold_s: float | None
    first_step_warm_s: float
    last_loss: float
    components_ms: Mapping[str, float] = field(default_factory=dict)
    kernels_ms: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class BenchReport:
    """All arms of a study on one device, and the command that measured them.

    `ceiling_tflops` is by the precision of matrix products; `failed` says which arms did not run, and why.
    An arm fails that needs more memory than there is, or names an attention backend that cannot compute it.
    """

    study: str
    command: str
    device: str
    versions: Mapping[str, str]
    threads: int
    steps_a_window: int
    ceiling_tflops: Mapping[str, float]
    arms: tuple[Speed, ...]
    failed: Mapping[str, str]


def bench_arms(
    arms: Mapping[str, tuple[ModelConfig, TrainConfig]],
    *,
    study: str,
    command: str,
    threads: int,
    steps: int,
    is_cold: bool,
    has_profile: bool,
) -> BenchReport:
    """Measure one arm after the other. Raises `ResourceError` where other work holds the GPU's memory."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(threads)
    forbid_tf32()
    check_alone(device)
    ceilings: dict[str, float] = {}
    speeds, failed = [], {}
    for name, (model, train) in arms.items():
        if train.precision not in ceilings:
            precision = PRECISIONS[train.precision]
            ceilings[train.precision] = measure_ceiling(
                device, precision.autocast or precision.masters or torch.float32
            )
        try:
            speeds.append(
                bench_arm(
                    name,
                    model,
                    train,
                    device=device,
                    ceiling_tflops=ceilings[train.precision],
                    steps=steps,
                    is_cold=is_cold,
                    has_profile=has_profile,
                )
            )
        except (torch.OutOfMemoryError, BackendError) as error:
            failed[name] = str(error).splitlines()[0]
    return BenchReport(study, command, _name(device), _versions(), threads, steps, ceilings, tuple(speeds), failed)


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU ({platform.machine()})"


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "torch": torch.__version__}
    if torch.version.cuda:
        found |= {"cuda": torch.version.cuda, "cudnn": str(torch.backends.cudnn.version())}  # type: ignore[no-untyped-call]
    return found


class _Nowhere:
    """A recorder that keeps nothing."""

    def log(self, record: Mapping[str, Any]) -> None: ...

    def save(self, state: dict[str, Any]) -> None: ...

    def load(self) -> dict[str, Any] | None:
        return None

    def beat(self, step: int) -> None: ...


def measure_ceiling(device: torch.device, dtype: torch.dtype) -> float:
    """TFLOP/s of a large matrix product in `dtype`."""
    n = CEILING_SIZE[device.type]
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    count = 50 if device.type == "cuda" else 5
    seconds = time_call(lambda: a @ b, device, count)
    return 2 * n**3 / seconds / 1e12


def check_alone(device: torch.device) -> None:
    """Raises `ResourceError` where another process holds memory of the GPU: its work would be measured too."""
    if device.type != "cuda":
        return
    free, total = torch.cuda.mem_get_info(device)
    foreign = total - free - torch.cuda.memory_reserved(device)
    if foreign > FOREIGN_BYTES:
        raise ResourceError(
            f"other work holds {foreign / 2**30:.1f} GiB of {torch.cuda.get_device_name(device)}: "
            "a benchmark beside it would measure both; wait for it, or choose a free GPU by CUDA_VISIBLE_DEVICES"
        )


def bench_arm(
    name: str,
    model: ModelConfig,
    train: TrainConfig,
    *,
    device: torch.device,
    ceiling_tflops: float,
    steps: int,
    is_cold: bool,
    has_profile: bool,
) -> Speed:
    """Train the arm for a few windows of `steps` steps. Raises `torch.OutOfMemoryError` where it does not fit."""
    train = train.model_copy(update={"steps": MANY_STEPS})
    with tempfile.TemporaryDirectory(prefix="ablate-bench-") as folder, _cache(is_cold):
        corpus = _random_corpus(Path(folder), model.vocab_size, train.batch_size * model.context_length)
        first_s = _start(model, train, corpus, device)[1]
        training, warm_s = _start(model, train, corpus, device)
        for step in range(WARM_UP_STEPS):
            training.step(step + 2)
        windows_ms = []
        for window in range(WINDOWS):
            started = now(training.device)
            for step in range(steps):
                training.step(WARM_UP_STEPS + 2 + window * steps + step)
            windows_ms.append(1000 * (now(training.device) - started) / steps)
        peak = peak_memory_bytes(device)
        step_ms = statistics.median(windows_ms)
        tflops = training.flops_per_step / step_ms / 1e9
        dtype = training.precision.autocast or torch.float32
        attention = training.model.report_attention(dtype)
        return Speed(
            arm=name,
            n_params=model.num_params(),
            tokens_per_step=training.tokens_per_step,
            backend=f"{attention['backend']} ({attention['kernel']})",
            windows_ms=tuple(windows_ms),
            step_ms=step_ms,
            tokens_per_s=1000 * training.tokens_per_step / step_ms,
            model_tflops=tflops,
            ceiling_share=tflops / ceiling_tflops,
            peak_memory_bytes=peak,
            first_step_cold_s=first_s if is_cold else None,
            first_step_warm_s=warm_s,
            last_loss=training.loss_sum.item() / (1 + WARM_UP_STEPS + WINDOWS * steps),
            kernels_ms=time_kernels(training, WARM_UP_STEPS + 2 + WINDOWS * steps) if has_profile else {},
            components_ms=time_components(training, step_ms) if has_profile else {},
        )


def _start(model: ModelConfig, train: TrainConfig, corpus: Corpus, device: torch.device) -> tuple[Training, float]:
    """A run after its first step, and how long that took."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    started = now(device)
    training = Training(model, train, 0, corpus, _Nowhere(), device)
    training.warm_up()
    training.step(1)
    return training, now(training.device) - started


def _cache(is_empty: bool) -> AbstractContextManager[object]:
    """Inductor's and Triton's caches, empty ones where the cold start is to be timed."""
    if not is_empty:
        return nullcontext()
    from torch._inductor.utils import fresh_cache

    cache: AbstractContextManager[object] = fresh_cache()
    return cache


def _random_corpus(folder: Path, vocab_size: int, tokens_per_step: int) -> Corpus:
    n = 4 * tokens_per_step
    tokens = np.random.default_rng(0).integers(vocab_size, size=n, dtype=np.uint32)
    for split in ("train", "validation"):
        tokens.tofile(folder / f"{split}.bin")
    info = CorpusInfo("random", n, n, vocab_size)
    return Corpus(info, folder / "train.bin", folder / "validation.bin", "<u4")
