"""Tasks on a CUDA device: the same curves as on the CPU, with and without a graph."""

from __future__ import annotations

import pytest
import torch
from test_tasks import TASKS, open_task

from ablate.training.loop import train

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

ROUNDING_32 = 1e-4
"""Relative, after a dozen float32 steps: other kernels round elsewhere (6e-8 each), amplified by training."""

ROUNDING_16 = 2e-2
"""The same in bfloat16."""


@pytest.fixture
def losses(new_recording, make_train_config):
    def run(name, device, **settings):
        if name == "digits":
            pytest.importorskip("sklearn")
        task, model = TASKS[name]
        recording = new_recording()
        config = make_train_config(steps=8, eval_every=4, log_every=2, **settings)
        train(
            open_task(task, {**model, "dropout": 0.0}),
            config,
            3,
            recording,
            device=device,
            threads=1,
            should_stop=lambda: False,
        )
        return [line[key] for line in recording.curve() for key in ("train_loss", "val_loss") if key in line]

    return run


@pytest.mark.parametrize("name", TASKS)
def test_the_gpu_trains_a_task_as_the_cpu_does(losses, name):
    assert losses(name, "cuda") == pytest.approx(losses(name, "cpu"), rel=ROUNDING_32)


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("settings", [{}, {"compile": True, "precision": "bfloat16", "micro_batch_size": 2}], ids=str)
def test_a_task_can_be_captured_in_a_graph(losses, name, settings):
    one_by_one, graphed = losses(name, "cuda", **settings), losses(name, "cuda", **settings, cuda_graph=True)
    assert graphed == pytest.approx(one_by_one, rel=ROUNDING_16 if settings else ROUNDING_32)
