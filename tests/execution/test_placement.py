"""How many runs train at the same time, and which resources are refused."""

from __future__ import annotations

import pytest

from ablate.errors import ResourceError
from ablate.execution.placement import Placement, place
from ablate.study import Resources

TWO_CORES = [{"CPU": 2.0}]
TWO_GPUS = [{"CPU": 16.0, "GPU": 2.0}]
TWO_NODES = [{"CPU": 8.0, "GPU": 3.0}, {"CPU": 8.0, "GPU": 3.0}]


@pytest.mark.parametrize(
    ("resources", "available", "workers", "n_runs", "expected"),
    [
        ({}, TWO_CORES, None, 8, (1, 0.0, 2)),
        ({}, TWO_CORES, 1, 8, (1, 0.0, 1)),
        ({}, TWO_CORES, None, 1, (1, 0.0, 1)),
        ({"cpus": 2}, TWO_CORES, None, 8, (2, 0.0, 1)),
        ({}, TWO_GPUS, None, 8, (1, 1.0, 2)),
        ({"gpus": 0.25}, TWO_GPUS, None, 20, (1, 0.25, 8)),
        ({"gpus": 0.3, "cpus": 2}, TWO_GPUS, None, 20, (2, 0.3, 6)),
        ({"gpus": 0}, TWO_GPUS, None, 20, (1, 0.0, 16)),
        ({"cpus": 4}, TWO_GPUS, None, 20, (4, 0.0, 4)),
        ({"gpus": 2}, TWO_GPUS, None, 20, (1, 1.0, 1, 2)),
        ({"gpus": 4}, TWO_NODES, None, 20, (1, 1.0, 1, 4)),
        ({"processes": 3}, TWO_NODES, None, 20, (1, 1.0, 2, 3)),
        ({"processes": 2, "gpus": 0}, TWO_CORES, None, 20, (1, 0.0, 1, 2)),
        ({"cpus": 5}, TWO_NODES, None, 20, (5, 0.0, 2)),
    ],
)
def test_lanes(
    resources: dict[str, float],
    available: list[dict[str, float]],
    workers: int | None,
    n_runs: int,
    expected: tuple[float, ...],
) -> None:
    assert place(Resources(**resources), available, workers, n_runs) == Placement(*expected)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("resources", "available", "workers", "words"),
    [
        ({"gpus": 1}, TWO_CORES, None, "0 GPU"),
        ({"cpus": 3}, TWO_CORES, None, "2 CPU"),
        ({}, TWO_CORES, 3, "enough for 2 workers"),
        ({"gpus": 0.5}, TWO_GPUS, 5, "enough for 4 workers"),
        (
            {"gpus": 4},
            TWO_GPUS,
            None,
            "4 processes of 1 CPU and 1 GPU each cannot be placed: there are 16 CPU and 2 GPU",
        ),
        ({"cpus": 9}, TWO_NODES, None, "8 CPU and 3 GPU on each of 2 nodes"),
        ({"processes": 3, "gpus": 0}, TWO_CORES, None, "grid.yaml:7: resources: a run that takes 3 processes"),
    ],
)
def test_what_cannot_be_placed_is_refused_with_what_there_is(
    resources: dict[str, float], available: list[dict[str, float]], workers: int | None, words: str
) -> None:
    with pytest.raises(ResourceError, match=words):
        place(Resources(**resources), available, workers, 8, "grid.yaml:7: resources")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("cpus", "gpus", "n_cores", "expected"),
    [(1, 0.0, 64, 1), (4, 0.0, 64, 4), (1, 0.25, 16, 4), (1, 0.25, 128, 8), (1, 0.1, 4, 1), (1, 1.0, 128, 32)],
)
def test_workers_that_share_a_machine_share_its_cores_to_compile(
    cpus: int, gpus: float, n_cores: int, expected: int
) -> None:
    assert Placement(cpus, gpus, 1).count_compilers(n_cores) == expected


def test_a_program_has_all_gpus_of_its_run_in_one_process() -> None:
    node = {"CPU": 16.0, "GPU": 4.0}
    placed = place(Resources(gpus=2, cpus=3, processes=1), [node, {"CPU": 16.0, "GPU": 1.0}], None, 10)
    assert (placed.slots, placed.processes, placed.gpus, placed.gpus_of_run) == (2, 1, 2.0, 2.0)
