"""Files that `ablate clean` removes, and files that it never touches."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ablate.errors import GridError
from ablate.tracking.cleaning import parse_bytes, parse_keep, plan_cleaning
from ablate.tracking.curve import CurveWriter
from ablate.tracking.evaluations import snapshot_path
from ablate.tracking.folders import StudyFolder
from ablate.tracking.study_record import Status

WriteStudy = Callable[..., StudyFolder]


def removed(store: StudyFolder, keep: str = "all", budget: int | None = None) -> set[str]:
    return {str(r.path.relative_to(store.path)) for r in plan_cleaning(store, parse_keep(keep), budget)}


@pytest.mark.parametrize(
    ("keep", "gone"),
    [
        ("all", set()),
        ("best", {"10", "20"}),
        ("baseline", {"20", "21"}),
        ("none", {"10", "11", "20", "21"}),
    ],
)
def test_weights_stay_by_rule(write_study: WriteStudy, keep: str, gone: set[str]) -> None:
    assert removed(write_study(), keep) == {f"{run * 8}/model.safetensors" for run in gone}


def test_weights_along_training_go_with_those_of_their_run(write_study: WriteStudy) -> None:
    store = write_study()
    for run in store.read_study().runs:
        path = snapshot_path(store.run(run.run_id), 1)
        path.parent.mkdir()
        path.write_bytes(b"weights")
    assert removed(store) == set()
    gone = {run.run_id for run in store.read_study().runs}
    names = ("model.safetensors", "snapshots/1.safetensors")
    assert removed(store, "none") == {f"{run_id}/{name}" for run_id in gone for name in names}


def test_the_budget_takes_the_worst_weights_first_and_no_curve(write_study: WriteStudy) -> None:
    store = write_study()
    size = sum(path.stat().st_size for path in store.path.rglob("*") if path.is_file())
    assert removed(store, budget=size) == set()
    assert removed(store, budget=size - 1) == {f"{'20' * 8}/model.safetensors"}
    assert removed(store, budget=size - 1001) == {f"{run * 8}/model.safetensors" for run in ("20", "21")}
    assert len(removed(store, budget=0)) == 4


def test_leftovers_go_and_what_is_in_use_stays(write_study: WriteStudy) -> None:
    store = write_study()
    ended, unfinished, busy, _ = (store.run(run.run_id) for run in store.read_study().runs)
    for folder in (ended, unfinished, busy):
        folder.checkpoint.write_bytes(b"c")
        (folder.path / ".status.json.77-1").write_bytes(b"half")
    unfinished.write_status(Status("queued", step=1, n_steps=2))
    with CurveWriter(busy.curve):
        found = removed(store)
    names = {folder.path.name: folder for folder in (ended, unfinished, busy)}
    assert found == {
        f"{ended.path.name}/checkpoint.pt",
        f"{ended.path.name}/.status.json.77-1",
        f"{unfinished.path.name}/.status.json.77-1",
    }, names


@pytest.mark.parametrize(("text", "size"), [("1000", 1000), ("800M", 8 * 10**8), ("2.5GB", 25 * 10**8), ("1kB", 1000)])
def test_sizes(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "much", "-1G", "nanG", "infG", "1X"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(GridError, match="not a size"):
        parse_bytes(text)
    with pytest.raises(GridError, match="did you mean 'best'"):
        parse_keep("bset")
