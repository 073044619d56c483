"""Studies of programs: what a made-up study leaves if only steps, seconds and some metrics are known."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace

from ablate.metrics import Direction
from ablate.tracking.folders import StudyFolder
from ablate.tracking.json_files import write_json

Turn = Callable[[float], float]


def forget_all_but(store: StudyFolder, metrics: Mapping[str, Direction], turns: Mapping[str, Turn]) -> None:
    """Rewrite a study as one of a program that logs each metric as a function of the loss, and no cost but seconds."""
    record = store.read_study()
    unknown = {"n_params": None, "flops_per_token": None, "n_tokens": None, "n_steps": 0}
    arms = tuple(replace(arm, **unknown) for arm in record.arms)
    store.write_study(replace(record, arms=arms, metrics=metrics, data={}, train={}))
    for run in record.runs:
        folder = store.run(run.run_id)
        lines = [
            {"step": line["step"], "wall_s": line["wall_s"]}
            | {name: turn(line["val_loss"]) for name, turn in turns.items()}
            for line in map(json.loads, folder.curve.read_text().splitlines())
            if line["val_loss"] is not None
        ]
        folder.curve.write_text("".join(json.dumps(line) + "\n" for line in lines))
        write_json(folder.config, {"seed": run.seed})
        write_json(folder.manifest, {"device": {"kind": "cpu", "name": "one"}, "threads": 1, "shared_by": 1})
