"""Measure how fast arms train, with the steps of the training loop on random tokens."""

from __future__ import annotations

import platform
import statistics
import tempfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from ablate.errors import ResourceError
from ablate.study.schema import TrainConfig
from ablate.training.bench.breakdown import time_components, time_kernels
from ablate.training.bench.concurrent_runs import time_together
from ablate.training.bench.timed_run import WARM_UP_STEPS, WINDOWS, random_corpus, run_windows, start
from ablate.training.bench.timing import time_call
from ablate.training.device import peak_memory_bytes
from ablate.training.precision import PRECISIONS, forbid_tf32
from ablate_model import ModelConfig
from ablate_model.attention_backend import report_attention
from ablate_model.kernels.call import BackendError

CEILING_SIZE = {"cuda": 8192, "cpu": 1024}  # size of the square matrices whose product sets the ceiling
FOREIGN_BYTES = 2 << 30  # GPU memory of other processes: more than an idle context takes


@dataclass(frozen=True)
class Speed:
    """The speed of an arm. `step_ms` is the median of `windows_ms`, each the mean of the steps in a window.

    `model_tflops` counts the arm's own matrix products, with causal attention as half of the square. `ceiling_share`
    divides it by the rate of a large matrix product on the same device. `first_step_cold_s` and `first_step_warm_s` are
    the time until the end of the first optimizer step, with an empty and a full compilation cache. `components_ms` and
    `kernels_ms` break down one step: the rows of each add up to `step_ms`.

    `together_tokens_per_s` is the throughput of all processes that train the arm at once (`BenchReport.together`). It
    uses the median of `together_windows_ms`, the time per step until the last process has finished a window.
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
    together_windows_ms: tuple[float, ...] = ()
    together_tokens_per_s: float | None = None


@dataclass(frozen=True)
class BenchReport:
    """The speed of all arms of a study on one device, and the command that measured them.

    `ceiling_tflops` has an entry per precision. `failed` has the reason for each arm that failed: it needs too much
    memory, or its attention backend cannot compute it. An arm that fails only when several processes train it at once
    is also in `arms`. `together` is the number of those processes; 1 means that this was not measured.
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
    together: int = 1


def bench_arms(
    arms: Mapping[str, tuple[ModelConfig, TrainConfig]],
    *,
    study: str,
    command: str,
    threads: int,
    steps: int,
    is_cold: bool,
    has_profile: bool,
    together: int = 1,
    tell: Callable[[str], object] = lambda _line: None,
) -> BenchReport:
    """Measure each arm in one process, and then, if `together` is at least 2, in as many processes at once.

    `tell` is called with a line of text before each measurement. Raises `ResourceError` if other processes use the GPU.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(threads)
    forbid_tf32()
    check_alone(device)
    ceilings: dict[str, float] = {}
    speeds, failed = [], {}
    for number, (name, (model, train)) in enumerate(arms.items(), 1):
        place = f"arm {number} of {len(arms)}, {name}"
        if train.precision not in ceilings:
            precision = PRECISIONS[train.precision]
            ceilings[train.precision] = measure_ceiling(
                device, precision.autocast or precision.masters or torch.float32
            )
        try:
            with _cache(is_cold):
                tell(f"{place}: alone")
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
                if together > 1:
                    tell(f"{place}: {together} together")
                    windows_ms = time_together(together, model, train, device=device, threads=threads, steps=steps)
                    speeds[-1] = _add_together(speeds[-1], together, windows_ms)
        except (torch.OutOfMemoryError, BackendError, ResourceError) as error:
            failed[name] = str(error).splitlines()[0]
    return BenchReport(
        study, command, _name(device), _versions(), threads, steps, ceilings, tuple(speeds), failed, together
    )


def _add_together(speed: Speed, n: int, windows_ms: tuple[float, ...]) -> Speed:
    tokens_per_s = 1000 * n * speed.tokens_per_step / statistics.median(windows_ms)
    return replace(speed, together_windows_ms=windows_ms, together_tokens_per_s=tokens_per_s)


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU ({platform.machine()})"


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "torch": torch.__version__}
    if torch.version.cuda:
        found |= {"cuda": torch.version.cuda, "cudnn": str(torch.backends.cudnn.version())}  # type: ignore[no-untyped-call]
    return found


def measure_ceiling(device: torch.device, dtype: torch.dtype) -> float:
    """TFLOP/s of a large matrix product in `dtype`."""
    n = CEILING_SIZE[device.type]
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    count = 50 if device.type == "cuda" else 5
    seconds = time_call(lambda: a @ b, device, count)
    return 2 * n**3 / seconds / 1e12


def check_alone(device: torch.device) -> None:
    """Raises `ResourceError` if another process uses the GPU, because its work would change the results."""
    if device.type != "cuda":
        return
    free, total = torch.cuda.mem_get_info(device)
    foreign = total - free - torch.cuda.memory_reserved(device)
    if foreign > FOREIGN_BYTES:
        raise ResourceError(
            f"other processes hold {foreign / 2**30:.1f} GiB of {torch.cuda.get_device_name(device)}, "
            "so the benchmark would measure them too; wait for them, or choose a free GPU with CUDA_VISIBLE_DEVICES"
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
    """Train the arm for a few windows of `steps` steps; with an empty compilation cache if `is_cold`.

    Raises `torch.OutOfMemoryError` if it does not fit.
    """
    with tempfile.TemporaryDirectory(prefix="ablate-bench-") as folder:
        corpus = random_corpus(Path(folder), model, train)
        first_s = start(model, train, corpus, device)[1]
        training, warm_s = start(model, train, corpus, device)
        windows_ms = tuple(1000 * (ended - began) / steps for began, ended in run_windows(training, steps))
        peak = peak_memory_bytes(device)
        step_ms = statistics.median(windows_ms)
        tflops = training.lines.flops_per_step / step_ms / 1e9
        dtype = training.precision.autocast or torch.float32
        attention = report_attention(training.model, dtype)
        return Speed(
            arm=name,
            n_params=model.num_params(),
            tokens_per_step=training.lines.tokens_per_step,
            backend=f"{attention['backend']} ({attention['kernel']})",
            windows_ms=windows_ms,
            step_ms=step_ms,
            tokens_per_s=1000 * training.lines.tokens_per_step / step_ms,
            model_tflops=tflops,
            ceiling_share=tflops / ceiling_tflops,
            peak_memory_bytes=peak,
            first_step_cold_s=first_s if is_cold else None,
            first_step_warm_s=warm_s,
            last_loss=training.loss_sum.item() / (1 + WARM_UP_STEPS + WINDOWS * steps),
            kernels_ms=time_kernels(training, WARM_UP_STEPS + 2 + WINDOWS * steps, step_ms) if has_profile else {},
            components_ms=time_components(training, step_ms) if has_profile else {},
        )


def _cache(is_empty: bool) -> AbstractContextManager[object]:
    """Use empty caches of Inductor and Triton to time a cold start, or else the usual ones."""
    if not is_empty:
        return nullcontext()
    from torch._inductor.utils import fresh_cache

    cache: AbstractContextManager[object] = fresh_cache()
    return cache
