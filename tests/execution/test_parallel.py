"""Runs trained by several processes together have the same curve, whatever happens to one of the processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import faulty
import pytest
from groups import train_in_a_group

from ablate.execution.progress import Event

pytestmark = [pytest.mark.timeout(240), pytest.mark.usefixtures("ray_cluster")]

# Two processes sum a batch in a different order. After a dozen float64 steps, at most the 14th digit differs.
ROUNDING_64 = 1e-12
# Covers nGPT's projections after each step, Muon's matrices, and two micro-batches per process.
STUDY: Mapping[str, Any] = {
    "matrix": {"attention": ["standard", "differential"]},
    "model": {"d_model": 16, "n_layers": 1, "n_heads": 2, "context_length": 16, "normalization": "ngpt"},
    "train": {
        "steps": 12,
        "batch_size": 8,
        "micro_batch_size": 2,
        "eval_every": 4,
        "eval_tokens": 20000,
        "log_every": 3,
    }
    | {"checkpoint_every": 4, "optimizer": "muon", "precision": "float64"},
}


@pytest.fixture
def bench(make_bench):
    return make_bench(**STUDY)


@pytest.fixture(scope="module")
def undisturbed(make_bench) -> Mapping[str, Sequence[Mapping[str, Any]]]:
    bench = make_bench(**STUDY)
    assert bench.train(processes=2).exit_code == 0
    return bench.curves()


def test_the_curve_equals_that_of_one_process(bench, undisturbed) -> None:
    bench.finish()
    for name, single in bench.curves().items():
        for expected, found in zip(single, undisturbed[name], strict=True):
            assert found == pytest.approx(expected, rel=ROUNDING_64)


@pytest.mark.slow
def test_gradients_are_summed_in_several_buckets(tmp_path: Path) -> None:
    alone, together = train_in_a_group(tmp_path, "cpu")["untied"]
    for expected, found in zip(alone, together, strict=True):
        assert found == pytest.approx(expected, rel=ROUNDING_64)


@pytest.mark.slow
def test_one_of_a_group_dies_and_another_has_no_room(bench, undisturbed) -> None:
    assert bench.train(processes=2, worker_class=faulty.LosingWorker).states == {"finished": 2}
    assert "its worker died" in bench.texts()
    assert "out of memory, 1 sequences at once" in bench.texts()
    curves = bench.curves()
    assert curves["attention=standard,0"] == undisturbed["attention=standard,0"]
    last = curves["attention=differential,0"][-1]
    assert last == pytest.approx(undisturbed["attention=differential,0"][-1], rel=ROUNDING_64)
    assert not list(bench.store.path.glob(".meeting-*"))


@pytest.mark.slow
def test_a_group_stops_and_one_of_it_hangs(bench, undisturbed, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(event: Event) -> None:
        if event.kind == "progress":
            bench.store.request_stop()

    assert bench.train(processes=2, observe=stop, worker_class=faulty.SlowWorker).exit_code == 130
    assert bench.train_while_one_hangs(monkeypatch, processes=2).exit_code == 0
    assert "no sign of life for 600 s" in bench.texts()
    assert bench.curves() == undisturbed
