"""The disk budget of a study that is training."""

from __future__ import annotations

from pathlib import Path

from ablate.execution.progress import Event
from ablate.execution.recovery import DiskBudget
from ablate.execution.run import Options
from ablate.tracking.curve import CurveWriter
from ablate.tracking.folders import StudyFolder
from ablate.tracking.study_record import ArmRecord, RunRecord, Status, StudyRecord

WEIGHTS = 100_000


def test_the_worst_weights_go_while_others_train(tmp_path: Path) -> None:
    store = StudyFolder(tmp_path / "s")
    arm = ArmRecord("a=1", {"a": 1}, {}, "a=1", 10, 60, 4, 100)
    runs = tuple(RunRecord(f"{seed:02}", "a=1", seed) for seed in range(3))
    store.write_study(StudyRecord("s", "?", "full", "none", (), {"a": 1}, {"a": (1,)}, {}, {}, (arm,), runs, "0"))
    for run in runs:
        folder = store.run(run.run_id)
        folder.path.mkdir()
        folder.weights.write_bytes(b"w" * WEIGHTS)
        with CurveWriter(folder.curve) as curve:
            curve.append({"step": 4, "val_loss": 3.0 - run.seed})
        folder.write_status(Status("finished", step=4, n_steps=4))
    seen: list[Event] = []
    keeper = DiskBudget(store, Options("").keep, 2 * WEIGHTS, seen.append)
    with CurveWriter(store.run("00").curve):  # the worst run, but a worker is training it
        keeper.observe(Event("started"))
        assert all(store.run(run.run_id).weights.exists() for run in runs)
        keeper.observe(Event("ended", state="finished"))
    assert [store.run(run.run_id).weights.exists() for run in runs] == [True, False, False]
    assert [event.kind for event in seen] == ["started", "ended", "notice"]
    assert "the disk budget" in seen[-1].text
    keeper.observe(Event("ended", state="finished"))  # not again immediately
    assert [event.kind for event in seen][3:] == ["ended"]
