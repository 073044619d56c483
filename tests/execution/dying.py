"""A process that trains one run, dies at each call to the disk in turn, and resumes: a script of its own, because it
forks before torch has started threads.

usage: dying.py GRID FOLDER FIRST EVERY

Prints one JSON object per death: the number of the call, how the process ended, and what the resumed run left.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ablate.data import Corpus, describe, prepare
from ablate.execution.jobs import make_job
from ablate.execution.worker import RunWorker
from ablate.plan import Plan, build_plan
from ablate.study import load_study
from ablate.tracking.curve import read_curve
from in_process import ONE_CPU

TIMES = ("wall_s", "tokens_per_s")
DEAD = 9


def die_at(number: int) -> None:
    """Let this process die before its call number `number` that syncs, renames or removes a file, in any thread."""
    count = iter(range(1, 1_000_000))

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def dying(*arguments: Any, **options: Any) -> Any:
            if next(count) == number:
                os._exit(DEAD)
            return call(*arguments, **options)

        return dying

    os.fsync = counted(os.fsync)
    Path.replace, Path.unlink = counted(Path.replace), counted(Path.unlink)  # type: ignore[method-assign]


def in_child(call: Callable[[], object]) -> int:
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    try:
        call()
        os._exit(0)
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
    finally:
        os._exit(1)


def train(plan: Plan, corpus: Corpus, folder: Path, number: int | None = None) -> None:
    if number is not None:
        die_at(number)
    worker = RunWorker(folder, corpus, ONE_CPU)
    result = worker.train(make_job(plan, plan.runs[-1], ONE_CPU, {}))
    assert result == "finished", worker.store.run(plan.runs[-1].run_id).read_status().error


def look(plan: Plan, folder: Path) -> Sequence[object]:
    """Everything that a run left, without times."""
    run = folder / plan.runs[-1].run_id
    curve = [{k: v for k, v in line.items() if k not in TIMES} for line in read_curve(run / "curve.jsonl")]
    weights = hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()
    # a death just before the last checkpoint is removed leaves it
    left = sorted({path.name for path in run.iterdir() if not path.name.startswith(".")} - {"checkpoint.pt"})
    return [curve, weights, left, json.loads((run / "status.json").read_text())["state"]]


def main() -> None:
    grid, folder, first, every = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    study = load_study(grid)
    plan = build_plan(study, describe(study.data, grid.parent))
    corpus = prepare(study.data, grid.parent, folder / "shards")
    assert in_child(lambda: train(plan, corpus, folder / "whole")) == 0
    expected = look(plan, folder / "whole")
    ended, number = DEAD, first
    while ended == DEAD:
        place = folder / f"dies-{number}"
        ended = in_child(lambda: train(plan, corpus, place, number))  # noqa: B023 - called at once
        again = in_child(lambda: train(plan, corpus, place))  # noqa: B023
        same = again == 0 and look(plan, place) == expected
        print(json.dumps({"number": number, "ended": ended, "again": again, "same": same}), flush=True)
        number += every


if __name__ == "__main__":
    main()
