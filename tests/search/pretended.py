"""Runs that end without training, to test asking and telling separately."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ablate.execution.jobs import find_unfinished
from ablate.plan import Run
from ablate.search.problem import Problem
from ablate.search.trials import Trials
from ablate.tracking.curve import CurveWriter
from ablate.tracking.folders import StudyFolder
from ablate.tracking.study_record import State, Status

RATE = "train.learning_rate"
ALPHA = "model.normalization.alpha_attn.init"

Pose = Callable[..., Problem]
Turn = Callable[[float], dict[str, float]]


def as_loss(loss: float) -> dict[str, float]:
    return {"val_loss": loss}


def as_score(loss: float) -> dict[str, float]:
    """A metric of which higher is better."""
    return {"score": -loss}


def quadratic(run: Run) -> float:
    """A loss with its optimum at a learning rate of 1e-2 and, if the arm has one, an alpha of 0.1."""
    loss = math.log10(run.arm.train.learning_rate / 1e-2) ** 2
    alpha = run.arm.axes.get(ALPHA)
    return 1 + loss + (math.log10(alpha / 0.1) ** 2 if alpha else 0.0) + 1e-3 * run.seed


def end_run(
    store: StudyFolder, run: Run, loss: float, state: State = "finished", step: int | None = None, turn: Turn = as_loss
) -> None:
    """Write the files of an ended run: a falling curve with three evaluations, and its status.

    `turn` gives the metrics that are logged for a loss.
    """
    folder = store.run(run.run_id)
    folder.path.mkdir(parents=True, exist_ok=True)
    n_steps = run.arm.train.steps
    with CurveWriter(folder.curve) as curve:
        curve.rewind(0, 0)
        for part in (1, 2, 3):
            at = part * n_steps // 3
            if at <= (step or n_steps):
                value = math.nan if state == "diverged" and part == 3 else loss + 3 - part
                curve.append({"step": at, "tokens": at * 64, "wall_s": 0.1 * part, **turn(value)})
        extent = (curve.n_bytes, curve.crc32)
    folder.write_status(Status(state, step=step or n_steps, n_steps=n_steps, took_s=0.3, curve=extent))


def train(
    trials: Trials,
    loss: Callable[[Run], float] = quadratic,
    limit: int = 10_000,
    together: int = 1,
    turn: Turn = as_loss,
) -> Sequence[Run]:
    """Stand in for the driver: end up to `limit` runs, `together` at a time, and return them. Failed ones stay open."""
    ended: list[Run] = []
    left = find_unfinished(trials.plan, trials.store, keeps_cut=trials.keeps_cut)
    waiting = [run for run in left if trials.store.run(run.run_id).read_status().state != "failed"]
    while len(ended) < limit:
        while len(waiting) < together:
            new = trials.draw()
            if not new:
                break
            waiting += new
        if not waiting:
            break
        run = waiting.pop(0)
        end_run(trials.store, run, loss(run), step=trials.pause_step(run), turn=turn)
        trials.tell(run, "finished")
        ended.append(run)
    return ended
