"""`train.deterministic`: what it sets, refuses and changes. Bit-equal reruns on a GPU are in test_loop_gpu.py."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from ablate.plan.identity import arm_identity
from ablate.training.device import set_deterministic
from ablate_model import ModelConfig
from ablate_model.kernels import flex
from ablate_model.kernels.call import BackendError
from ablate_model.kernels.functional import attention

MakeTrainConfig = Callable[..., Any]


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    yield
    set_deterministic(False)


def test_each_run_sets_the_mode_that_it_asks_for(run: Any, model_config: Any, make_train_config: Any) -> None:
    _, usual = run(model_config, make_train_config())
    assert not torch.are_deterministic_algorithms_enabled() and "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    _, first = run(model_config, make_train_config(deterministic=True))
    assert torch.are_deterministic_algorithms_enabled() and os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert first.curve() == usual.curve()  # a CPU adds up in one order anyway
    run(model_config, make_train_config())
    assert not torch.are_deterministic_algorithms_enabled()


def test_only_deterministic_runs_have_new_ids(model_config: ModelConfig, make_train_config: MakeTrainConfig) -> None:
    absent, off, on = (
        arm_identity(model_config, make_train_config(**settings), "hash")
        for settings in ({}, {"deterministic": False}, {"deterministic": True})
    )
    assert absent == off != on
    assert "deterministic" not in absent and '"deterministic":true' in on


@pytest.mark.parametrize("settings", [{"attention_backend": "fastest"}, {"micro_batch_size": "auto"}], ids=str)
def test_choices_that_depend_on_the_moment_are_refused(
    make_train_config: MakeTrainConfig, settings: dict[str, str]
) -> None:
    make_train_config(**settings)
    with pytest.raises(ValidationError, match=f"deterministic: {next(iter(settings))}.*round"):
        make_train_config(deterministic=True, **settings)


def test_flex_refuses_a_learned_bias_whose_gradients_it_adds_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flex, "flex_attention", lambda q, _k, _v, **_: q)  # torch's has no gradients on a CPU
    q = torch.randn(1, 3, 2, 4)
    bias = torch.zeros(1, 2, 3, 3)
    attention(q, q, q, bias=bias, backend="flex", deterministic=True)
    attention(q, q, q, bias=bias.requires_grad_(), backend="flex")
    with pytest.raises(BackendError, match="reruns would differ; use sdpa or math"):
        attention(q, q, q, bias=bias, backend="flex", deterministic=True)


def test_no_kernel_of_ours_adds_atomically() -> None:
    files = sorted((Path(flex.__file__).parent / "fused").glob("*.py"))
    assert len(files) > 5
    assert [file.name for file in files if "atomic" in file.read_text() or "autotune" in file.read_text()] == []
