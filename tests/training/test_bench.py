"""`bench_arms`: what it says of a small arm on the CPU."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from ablate.bench_page import describe_bench, write_bench
from ablate.errors import ResourceError
from ablate.training import bench
from ablate.training.bench import WINDOWS, bench_arms

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def report(make_small_arm):
    arms = {"small": make_small_arm(), "flex": make_small_arm(attention="flex")}
    return bench_arms(
        arms, study="small", command="ablate bench small.yaml", threads=1, steps=2, is_cold=False, has_profile=True
    )


@pytest.fixture(scope="module")
def make_small_arm():
    from ablate.study.schema import TrainConfig
    from ablate_model import ModelConfig

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


def test_an_arm_that_cannot_run_fails_alone(report):
    assert report.failed == {"flex": "flex has no gradients on a CPU; use sdpa or math"}


def test_other_work_on_the_gpu_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (10 << 30, 80 << 30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _device: 1 << 30)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "a GPU")
    with pytest.raises(ResourceError, match=r"other work holds 69\.0 GiB of a GPU"):
        bench.check_alone(torch.device("cuda"))


def test_the_page_is_made_from_the_json(report, tmp_path):
    write_bench(asdict(report), tmp_path)
    page = (tmp_path / "small.md").read_text()
    assert page == describe_bench(json.loads((tmp_path / "small.json").read_text()))
    (speed,) = report.arms
    assert f"| small | {speed.n_params / 1000:.3g}k |" in page
    assert f"| {speed.components_ms['attention']:.2f} | `attention` |" in page
    assert "flex failed: flex has no gradients on a CPU" in page


@pytest.mark.parametrize("path", sorted((ROOT / "reports" / "performance").glob("*.json")), ids=lambda path: path.stem)
def test_published_pages_are_those_of_their_json(path):
    assert path.with_suffix(".md").read_text() == describe_bench(json.loads(path.read_text()))
