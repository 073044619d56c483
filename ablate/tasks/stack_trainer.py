"""Training the seeds of an arm as one batch of models."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import cast

import torch

from ablate.study.schema import TrainConfig
from ablate.tasks.contract import Job, Order, Result
from ablate.tasks.loop_trainer import LoopTrainer, find_start, limit_micro_batch
from ablate.tasks.recorder import FolderRecorder
from ablate.tracking.json_files import write_json
from ablate.training.contract import Outcome
from ablate.training.device import free_memory, is_out_of_memory, keep_loaded
from ablate.training.language_model import LanguageModelling
from ablate.training.stacked import Member, train_stacked

Opened = tuple[Job, FolderRecorder]


def train_stack(trainer: LoopTrainer, runs: Sequence[Opened], orders: Sequence[Order]) -> list[Result]:
    """Train runs that differ only in their seeds, and write how each ended to its status.

    Runs that resume from another step train after the others. If the device is too small for all, two halves train
    one after the other. A run that is left over trains by itself.
    """
    results: dict[int, Result] = {}
    for job, recorder in runs:
        trainer.begin(job, recorder.folder, recorder)
    waiting = deque([list(range(len(runs)))])
    while waiting:
        group = waiting.popleft()
        if len(group) == 1:
            job, recorder = runs[group[0]]
            results[group[0]] = trainer.train(job, recorder.folder, recorder, orders[group[0]])
            continue
        stack = _Stack(trainer, [runs[index] for index in group], [orders[index] for index in group])
        try:
            outcomes = stack.train()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            outcomes = None
        if outcomes is None:
            half = len(group) // 2
            waiting.extendleft([group[half:], group[:half]])
            for index in group:
                runs[index][1].note(
                    f"out of memory with {len(group)} stacked runs: at most {len(group) - half} at once"
                )
            free_memory(torch.device(trainer.device))
            continue
        for index, outcome in zip(group, outcomes, strict=True):
            if outcome is not None and outcome.state == "finished":
                runs[index][1].drop_checkpoint()  # its weights would wait for all checkpoints of the stack
        for place, (index, outcome) in enumerate(zip(group, outcomes, strict=True)):
            if outcome is not None:
                results[index] = stack.conclude(place, outcome)
        if left := [index for index, outcome in zip(group, outcomes, strict=True) if outcome is None]:
            waiting.append(left)
        del outcomes, outcome  # their models leave the device before those of the next group come
    return [results[index] for index in range(len(runs))]


class _Stack:
    """Runs that train at once."""

    def __init__(self, trainer: LoopTrainer, runs: Sequence[Opened], orders: Sequence[Order]) -> None:
        self.trainer, self.runs, self.orders = trainer, runs, orders
        declared = TrainConfig.model_validate(runs[0][0].config["train"])
        limits = [limit for _, recorder in runs if (limit := recorder.status.micro_batch_size) is not None]
        self.settings = limit_micro_batch(declared, min(limits, default=None))

    def train(self) -> Sequence[Outcome | None]:
        """Train them, and return how each ended; None for one that resumes from another step than the first."""
        for job, recorder in self.runs:
            write_json(recorder.folder.manifest, self._describe(job), durable=False)
        members = [
            Member(job.config["seed"], recorder, order.has_cut, find_start(job))
            for (job, recorder), order in zip(self.runs, self.orders, strict=True)
        ]
        keep_loaded()
        return train_stacked(
            cast(LanguageModelling, self.trainer.open(self.runs[0][0], self.settings)),
            self.settings,
            members,
            device=self.trainer.device,
            threads=self.trainer.threads,
            should_stop=lambda: all(order.should_stop() for order in self.orders),
        )

    def conclude(self, place: int, outcome: Outcome) -> Result:
        """Write how one of them ended."""
        job, recorder = self.runs[place]
        manifest = self._describe(job)
        return self.trainer.conclude(job, recorder, outcome, self.orders[place], self.settings, manifest)

    def _describe(self, job: Job) -> dict[str, object]:
        return {**self.trainer.describe_run(job, self.settings), "stacked": len(self.runs)}
