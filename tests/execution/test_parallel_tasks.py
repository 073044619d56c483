"""Runs of tasks that several processes train together, and resume, have the curve of one process."""

from __future__ import annotations

from typing import Any

import pytest

from ablate.execution.progress import Event

pytestmark = [pytest.mark.timeout(240), pytest.mark.usefixtures("ray_cluster"), pytest.mark.slow]

ROUNDING_64 = 1e-12
"""Two processes sum a batch in another order. After a dozen float64 steps, at most the 14th digit differs."""

SIZES = {"d_model": 16, "n_layers": 1, "n_heads": 2}
TASKS: dict[str, dict[str, Any]] = {
    "pairs": {
        "task": {"name": "sequence_to_sequence", "source": "sort", "longest": 5, "shortest": 1, "eval_pairs": 600},
        "model": {**SIZES, "cross_attention": "differential"},
    },
    "digits": {"task": {"name": "images", "crop": 1}, "model": {**SIZES, "patch_size": 4, "normalization": "ngpt"}},
}


TRAIN = {"steps": 12, "batch_size": 8, "micro_batch_size": 2, "eval_every": 4, "checkpoint_every": 4}
STUDY = {"data": None, "baseline": None, "train": {**TRAIN, "precision": "float64"}}


@pytest.mark.parametrize("name", TASKS)
def test_two_processes_that_stop_in_between_train_as_one_does(make_bench, name: str) -> None:
    matrix = {"train.learning_rate": [0.001, 0.003]}
    single, together = (make_bench(**STUDY, **TASKS[name], matrix=matrix) for _ in range(2))
    single.finish()

    def stop(event: Event) -> None:
        if event.kind == "progress":
            together.store.request_stop()

    assert together.train(processes=2, observe=stop).exit_code == 130
    assert together.train(processes=2).exit_code == 0
    for arm, curve in single.curves().items():
        assert len(curve) >= 3
        for expected, found in zip(curve, together.curves()[arm], strict=True):
            assert found == pytest.approx(expected, rel=ROUNDING_64)
