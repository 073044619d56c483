"""Traps of the logs of W&B, TensorBoard and Hugging Face: one message, or a note beside the right number."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from log_writers import make_runs, to_tensorboard, to_trainer_state, to_wandb, write_csv
from made_up_logs import read, rows_of

from ablate.errors import RecordError, ResourceError

# W&B


def test_wandbs_table_of_runs_has_no_curves(tmp_path: Path) -> None:
    to_wandb(make_runs(), tmp_path)
    with pytest.raises(RecordError, match="W&B's table of runs: it has their last values and no curves"):
        read(tmp_path / "wandb_export_3.csv")
    write_csv(tmp_path / "only_states.csv", [{"Name": "a", "State": "finished", "lr": 0.1, "val_loss": 1.0}])
    with pytest.raises(RecordError, match="W&B's table of runs"):
        read(tmp_path / "only_states.csv")
    charts = [tmp_path / f"wandb_export_{n}.csv" for n in (1, 2)]
    assert {run.arm for run in read(*charts).runs} == {"run gpt", "run fast", "run new"}


def test_wandbs_charts_over_time_and_of_groups(tmp_path: Path) -> None:
    def chart(x: str, ends: Mapping[str, float], steps: bool = False) -> Path:
        rows = []
        for index, row in enumerate(rows_of("gpt", 0)):
            cells: dict[str, Any] = {x: index * 1.5}
            for run in ("Group: a - b", "attention: linear"):
                cells |= {f"{run} - val/loss{end}": row["val_loss"] + by for end, by in ends.items()}
                cells |= {f"{run} - _step{end}": row["step"] for end in ends} if steps else {}
            rows.append(cells)
        return write_csv(tmp_path / "chart.csv", rows)

    grouped = {"": 0.0, "__MIN": -0.1, "__MAX": 0.1}
    with pytest.raises(RecordError, match=r"its x axis is 'Relative Time \(Process\)', which does not count steps"):
        read(chart("Relative Time (Process)", grouped))
    results = read(chart("Relative Time (Process)", grouped, steps=True))
    assert {run.arm for run in results.runs} == {"a - b", "attention: linear"}
    assert [run.last_step for run in results.runs] == [2000, 2000]
    assert any("a group of runs, of which W&B exports only the mean" in caveat for caveat in results.record.caveats)


# TensorBoard


def test_tensorboard_without_its_package_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "events.out.tfevents.1.host"
    path.write_bytes(
        b"\x18\0\0\0\0\0\0\0\xa3\x7fK\x22\x09\0\0\xc0\xd6\x0f\x92\xd7A\x1a\x0dbrain.Event:2\xec\xb4\xa2\xa6"
    )
    monkeypatch.setitem(sys.modules, "tensorboard.backend.event_processing.event_file_loader", None)
    with pytest.raises(ResourceError, match=r"pip install 'ablate-studies\[tensorboard\]'"):
        read(tmp_path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_restarts_and_crashed_writers(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs the extra ablate-studies[tensorboard]")
    from torch.utils.tensorboard import SummaryWriter

    folder = tmp_path / "logs" / "gpt-seed0"
    with SummaryWriter(str(folder)) as writer:
        for step in range(0, 1200, 100):
            writer.add_scalar("val_loss", 9 if step >= 900 else 5 - step / 1000, step)
    with SummaryWriter(str(folder), purge_step=900, filename_suffix=".again") as writer:
        for step in range(1000, 2001, 200):  # not the steps that it undid
            writer.add_scalar("val_loss", 5 - step / 1000, step)
    again = next(folder.glob("*.again"))
    again.write_bytes(again.read_bytes()[:-10])
    (run,) = read(tmp_path / "logs").runs
    assert run.evaluation_loss.max() == 5
    assert [int(step) for step in run.columns["step"]][-6:] == [700, 800, 1000, 1200, 1400, 1600, 1800][-6:]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_of_two_logs_of_one_run_one_is_read(tmp_path: Path) -> None:
    to_trainer_state(make_runs(), tmp_path / "logs")
    to_tensorboard(make_runs()[:1], tmp_path / "logs")
    write_csv(tmp_path / "logs" / "gpt-seed0" / "notes.csv", rows_of("gpt", 0))
    results = read(tmp_path / "logs")
    assert len(results.runs) == 9
    assert any("left out, because its folder has Hugging Face's" in caveat for caveat in results.record.caveats)


# Hugging Face


def test_the_trainers_evaluation_of_its_best_checkpoint_does_not_count(tmp_path: Path) -> None:
    to_trainer_state(make_runs(), tmp_path / "logs")
    path = tmp_path / "logs" / "gpt-seed0" / "trainer_state.json"
    state = json.loads(path.read_text())
    state["log_history"].append({"step": 160, "eval_loss": 0.5})
    path.write_text(json.dumps(state))
    results = read(tmp_path / "logs")
    assert min(run.evaluation_loss.min() for run in results.runs) > 1
    assert any("they may be of the best checkpoint" in caveat for caveat in results.record.caveats)


def test_a_trainer_that_was_stopped_did_not_finish(tmp_path: Path) -> None:
    to_trainer_state(make_runs(), tmp_path / "logs")
    folder = tmp_path / "logs" / "fast-seed1"
    for name in ("trainer_state.json", "checkpoint-160/trainer_state.json"):
        (folder / name).unlink()
    (folder / "training_args.bin").write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    results = read(tmp_path / "logs")
    run = next(run for run in results.runs if (run.arm, run.seed) == ("fast", 1))
    assert run.state == "failed" and "stopped at step 40 of 160 steps" in run.status.error
    (folder / "checkpoint-40" / "trainer_state.json").write_text('{"log_history": [')
    with pytest.raises(RecordError, match=r"trainer_state.json: this file is damaged"):
        read(tmp_path / "logs")
