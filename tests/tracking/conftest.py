"""Studies as files, without any training."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from ablate.tracking.curve import CurveWriter
from ablate.tracking.folders import StudyFolder
from ablate.tracking.json_files import write_json
from ablate.tracking.study_record import ArmRecord, RunRecord, Status, StudyRecord

ARMS = ("a=1", "a=2")


def weights(n_bytes: int = 1000, shape: Sequence[int] = (2,)) -> bytes:
    """Write a file of this length with one tensor of zeros, `w`."""
    size = 4 * math.prod(shape)
    header = json.dumps({"w": {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}}).encode()
    header = header.ljust(n_bytes - 8 - size)
    return struct.pack("<Q", len(header)) + header + bytes(size)


@pytest.fixture
def write_study(tmp_path: Path) -> Callable[..., StudyFolder]:
    """A function that writes a study of two arms with finished runs of these seeds. Later seeds have a lower loss."""

    def write(
        folder: str = "one",
        seeds: Sequence[int] = (0, 1),
        data: str = "c0ffee",
        shift: float = 0.0,
        settings: str = "s",
    ) -> StudyFolder:
        store = StudyFolder(tmp_path / folder / "s")
        arms = tuple(
            ArmRecord(arm, {"a": int(arm[-1])}, {}, "a=1", 10, 60, 2, 100, (), f"{settings}{arm}") for arm in ARMS
        )
        runs = tuple(RunRecord(f"{arm[-1]}{seed}" * 8, arm, seed) for seed in seeds for arm in ARMS)
        axes = {"a": (1, 2)}
        store.write_study(
            StudyRecord("s", "?", "full", "none", (), {"a": 1}, axes, {"hash": data}, {"steps": 2}, arms, runs, "0")
        )
        for run in runs:
            target = store.run(run.run_id)
            target.path.mkdir()
            write_json(target.config, {"seed": run.seed})
            write_json(target.manifest, {"arm": run.arm})
            target.weights.write_bytes(weights())
            with CurveWriter(target.curve) as curve:
                curve.append({"step": 2, "val_loss": int(run.arm[-1]) - 0.1 * run.seed + shift})
                mark = curve.n_bytes, curve.crc32
            target.write_status(Status("finished", step=2, n_steps=2, curve=mark))
        return store

    return write
