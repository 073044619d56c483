"""`bench_arms` on a small arm on the CPU."""

from __future__ import annotations

import atexit
import json
import os
import time
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import ClassVar

import pytest
import torch

from ablate.cli.bench_output import describe_bench, print_speeds, write_bench
from ablate.errors import ResourceError
from ablate.training.bench import arms as bench
from ablate.training.bench.arms import WINDOWS, bench_arms
from ablate.training.bench.breakdown import MAX_KERNELS, Kernel, explain_step
from ablate.training.bench.concurrent_runs import time_together
from ablate_model import ModelConfig

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
QUICK = {"threads": 1, "steps": 2, "is_cold": False, "has_profile": False}


@pytest.fixture(scope="module")
def report(make_small_arm):
    arms = {"small": make_small_arm(), "flex": make_small_arm(attention="flex")}
    settings = {**QUICK, "has_profile": True}
    return bench_arms(arms, study="small", command="ablate bench small.yaml", together=2, **settings)


@pytest.fixture(scope="module")
def make_small_arm():
    from ablate.study.schema import TrainConfig

    def make(attention: str = "auto"):
        model = ModelConfig(d_model=16, n_layers=2, n_heads=2, vocab_size=32, context_length=12, normalization="ngpt")
        settings = {"steps": 5, "batch_size": 4, "micro_batch_size": 2, "warmup_steps": 0, "weight_decay": 0.0}
        return model, TrainConfig(**settings, attention_backend=attention)

    return make


def test_figures_follow_from_the_windows(report):
    (speed,) = report.arms
    assert len(speed.windows_ms) == WINDOWS
    assert min(speed.windows_ms) <= speed.step_ms <= max(speed.windows_ms)
    assert speed.tokens_per_step == 4 * 12
    assert speed.tokens_per_s == pytest.approx(48 / speed.step_ms * 1000)
    assert speed.ceiling_share == pytest.approx(speed.model_tflops / report.ceiling_tflops["float32"])
    assert speed.backend.startswith("sdpa")
    assert 0 < speed.last_loss < 10
    assert speed.first_step_cold_s is None
    assert speed.first_step_warm_s > 0


def test_parts_sum_to_the_step(report):
    (speed,) = report.arms
    assert sum(speed.components_ms.values()) == pytest.approx(speed.step_ms)
    assert min(time for name, time in speed.components_ms.items() if name in ("attention", "MLP")) > 0


def test_kernels_gaps_and_the_profiler_explain_the_whole_step():
    """Two steps: a large kernel that another one overlaps, then more small kernels than there are rows."""
    kernels = []
    for began in (0.0, 4000.0):
        kernels += [Kernel("large", began, began + 2000), Kernel("beside", began + 1500, began + 2500)]
        kernels += [Kernel(f"small {i}", began + 2600 + 10 * i, began + 2605 + 10 * i) for i in range(MAX_KERNELS)]
    rows = explain_step(reversed(kernels), 2, profiled_ms=4.2, step_ms=4.0)
    assert sum(rows.values()) == pytest.approx(4.0)
    assert len(rows) == MAX_KERNELS + 4
    assert [rows.pop("large"), rows.pop("beside"), rows.pop("small 0")] == pytest.approx([2.0, 1.0, 0.005])
    assert dict(list(rows.items())[-4:]) == pytest.approx(
        {
            "2 launches of 2 smaller kernels": 0.01,
            "no kernel, in 26 gaps": 4.2 - 2.5 - MAX_KERNELS * 0.005,
            "kernels that run at the same time": -0.5,
            "without the profiler instead of 4.20 ms with it": -0.2,
        }
    )


def test_an_arm_that_cannot_run_fails_alone(report):
    assert report.failed == {"flex": "flex has no gradients on a CPU; use sdpa or math"}


def test_processes_at_once_count_as_one(report):
    (speed,) = report.arms
    assert report.together == 2
    assert len(speed.together_windows_ms) == WINDOWS
    assert min(speed.together_windows_ms) > 0
    assert speed.together_tokens_per_s == pytest.approx(1000 * 2 * 48 / median(speed.together_windows_ms))


@pytest.mark.slow
def test_an_error_of_one_of_several_processes_is_the_reason(make_small_arm):
    with pytest.raises(ResourceError, match=r"^2 together: \S*BackendError: flex has no gradients on a CPU"):
        time_together(2, *make_small_arm(attention="flex"), device=CPU, threads=1, steps=1)


class Mortal(ModelConfig):
    """A config that kills the first process that receives it."""

    mark: ClassVar[Path]

    def __reduce__(self):
        return _die_first, (self.mark, self.to_dict())


def _die_first(mark: Path, settings):
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return ModelConfig.parse(settings)
    return os._exit(1)


@pytest.mark.slow
def test_processes_do_not_wait_for_one_that_died(make_small_arm, tmp_path, monkeypatch):
    model, train = make_small_arm()
    monkeypatch.setattr(Mortal, "mark", tmp_path / "mark", raising=False)
    with pytest.raises(ResourceError, match=r"^2 together: process . terminated with exit code 1$"):
        time_together(2, Mortal.parse(model.to_dict()), train, device=CPU, threads=1, steps=1)


class Lingering(ModelConfig):
    """A config that makes each process that receives it take minutes to exit, as a pool of compilers may."""

    def __reduce__(self):
        return _linger, (self.to_dict(),)


def _linger(settings):
    atexit.register(time.sleep, 600)
    return ModelConfig.parse(settings)


@pytest.mark.timeout(120)
@pytest.mark.slow
def test_processes_that_do_not_come_to_their_end_are_not_waited_for(make_small_arm):
    model, train = make_small_arm()
    settings = {"device": CPU, "threads": 1, "steps": 1}
    assert len(time_together(2, Lingering.parse(model.to_dict()), train, **settings)) == WINDOWS


def test_each_measurement_is_told_before_it_begins(make_small_arm, monkeypatch):
    told = []
    monkeypatch.setattr(bench, "time_together", lambda *_, **__: told.append("processes") or (1.0,))
    arms = {"first": make_small_arm(), "flex": make_small_arm(attention="flex")}
    bench_arms(arms, study="small", command="", together=3, tell=told.append, **QUICK)
    together = ["arm 1 of 2, first: 3 together", "processes"]
    assert told == ["arm 1 of 2, first: alone", *together, "arm 2 of 2, flex: alone"]


def test_an_arm_that_fails_only_together_keeps_its_figures(make_small_arm, monkeypatch, capsys):
    def fail(*_, **__):
        raise ResourceError("2 together: out of memory")

    monkeypatch.setattr(bench, "time_together", fail)
    report = bench_arms({"small": make_small_arm()}, study="small", command="", together=2, **QUICK)
    (speed,) = report.arms
    assert speed.tokens_per_s > 0
    assert speed.together_tokens_per_s is None
    assert report.failed == {"small": "2 together: out of memory"}
    page = describe_bench(asdict(report))
    assert page.endswith(f"| {speed.backend} |  |  |\n\nsmall failed: 2 together: out of memory\n")
    print_speeds(report)
    assert "failed: small: 2 together: out of memory" in capsys.readouterr().out


def test_other_work_on_the_gpu_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (10 << 30, 80 << 30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _device: 1 << 30)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "a GPU")
    with pytest.raises(ResourceError, match=r"69\.0 GiB of a GPU"):
        bench.check_alone(torch.device("cuda"))


def test_the_page_is_made_from_the_json(report, tmp_path):
    write_bench(asdict(report), tmp_path)
    page = (tmp_path / "small.md").read_text()
    assert page == describe_bench(json.loads((tmp_path / "small.json").read_text()))
    (speed,) = report.arms
    assert f"| small | {speed.n_params / 1000:.3g}k |" in page
    assert "| attention | 2 together, tokens/s | x one process |" in page
    assert f" {speed.together_tokens_per_s / speed.tokens_per_s:.2f} |\n" in page
    assert f"| {speed.components_ms['attention']:.2f} | `attention` |" in page
    assert "flex failed: flex has no gradients on a CPU" in page


@pytest.mark.parametrize("path", sorted((ROOT / "reports" / "performance").glob("*.json")), ids=lambda path: path.stem)
def test_published_pages_are_those_of_their_json(path):
    assert path.with_suffix(".md").read_text() == describe_bench(json.loads(path.read_text()))
