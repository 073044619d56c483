"""Several runs of one arm, with different seeds, trained as one batch of models.

Tensors carry their shape as a suffix: n run, b row, t position.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, cast

import numpy as np
import torch
from torch import Tensor

from ablate.study.schema import TrainConfig
from ablate.training.checkpoint import Progress, capture_state
from ablate.training.compilation import compile_stacked
from ablate.training.contract import Batch, Outcome, Recorder
from ablate.training.device import peak_memory_bytes, prepare_process
from ablate.training.evaluation import Evaluation
from ablate.training.language_model import LanguageModelling
from ablate.training.loop import Training
from ablate.training.optimizer import clip_coefficient, make_optimizer
from ablate.training.start import StartWeights
from ablate_model import ModelConfig
from ablate_model.gpt import GPT, HeadedModel
from ablate_model.stacked import StackedModel

SHARED = "step"  # what AdamW keeps once per parameter, and not for each of its numbers


@dataclass
class Member:
    """One of the runs: its seed, its records, and whether it has to leave. The training fills in the rest."""

    seed: int
    recorder: Recorder
    should_leave: Callable[[], bool] = lambda: False
    start: StartWeights | None = None
    progress: Progress = field(default_factory=Progress)
    wall_before_s: float = 0.0  # of earlier workers
    state: Literal["finished", "diverged", "stopped"] | None = None  # None while it trains


def train_stacked(
    task: LanguageModelling,
    train: TrainConfig,
    members: Sequence[Member],
    *,
    device: str,
    threads: int,
    should_stop: Callable[[], bool],
) -> list[Outcome | None]:
    """Train runs that differ only in their seeds, as `train` does each of them, and return how each ended.

    Each has its own batches, curve and checkpoints, and the numbers of a run by itself up to rounding. One that
    diverges ends by itself, and so does one that should leave, at its next line. A line's wall_s is the time of all
    together. Runs that resume from another step than the first are left for another call: None.

    Raises the errors of `train`, and `ValueError` for a model that cannot be stacked.
    """
    prepare_process(train, device, threads)
    training = StackedTraining(task, train, members, torch.device(device))
    return training.run_all(should_stop)


class StackedTraining(Training):
    """The models, optimizer and data of several runs, and their steps."""

    row_dim: ClassVar[int] = 1

    def __init__(
        self, task: LanguageModelling, train: TrainConfig, members: Sequence[Member], device: torch.device
    ) -> None:
        self.members = list(members)
        self._asked = list(members)
        train = train.model_copy(update={"attention_backend": _choose_backend(task.model, train.attention_backend)})
        super().__init__(task, train, members[0].seed, members[0].recorder, device)

    def build(self, start: StartWeights | None) -> None:  # noqa: ARG002 - each run has its own
        models, states = self._load()
        self.stacked, self.model = StackedModel(models), models[0]
        self.parameters = list(self.stacked.parameters())
        self.optimizer = make_optimizer(cast(HeadedModel, self.stacked), self.train)
        if states:
            self.optimizer.load_state_dict(stack_states(states))
        self.progress = Progress(self.members[0].progress.step)
        sums = [member.progress.loss_sum for member in self.members]
        self.loss_sum = torch.tensor(sums, dtype=torch.float64, device=self.device)
        self.grad_norm = torch.zeros(len(sums), device=self.device)
        if self.train.compile:
            compile_stacked(self.stacked, self.train)
        self.loss = self.stacked.losses
        self.evaluation = Evaluation(
            self.task,
            _Evaluated(self.stacked, self.micro_batch_size, with_gradients=self.train.compile is True),
            self.precision,
            self.device,
            self.group,
            is_graphed=self.is_graphed,
            n_models=len(models),
        )

    def _load(self) -> tuple[list[GPT], list[list[dict[str, Any]]]]:
        """Build the models of the runs that are at the same step as the first, with the states of their optimizers."""
        models: list[GPT] = []
        states: list[list[dict[str, Any]]] = []
        joined: list[Member] = []
        for member in self._asked:
            state = member.recorder.load()
            progress = Progress() if state is None else Progress(**state["progress"])
            if joined and progress.step != joined[0].progress.step:
                continue
            model = self.build_model(member.seed, member.start)
            if state is not None:
                model.load_state_dict(state["model"])
                states.append(state["optimizer"])
            member.progress, member.wall_before_s = progress, progress.wall_s
            joined.append(member)
            models.append(cast(GPT, model))
        self.members = joined
        return models, states

    def run_all(self, should_stop: Callable[[], bool]) -> list[Outcome | None]:
        """Train the runs to their ends, and return how each of those that were asked for ended."""

        def look() -> bool:
            self._beat()
            return should_stop()

        last = self.run(look).state
        for member in self.members:
            member.state = member.state or last
        peak = peak_memory_bytes(self.device)
        outcomes = {
            member.seed: Outcome(
                member.state or last, member.progress.step, member.progress.wall_s, peak, model, self.micro_batch_size
            )
            for member, model in zip(self.members, self.stacked.models, strict=True)
        }
        return [outcomes.get(member.seed) for member in self._asked]

    def draw(self, step: int, n_rows: int | None = None) -> Batch:
        rows = self.train.batch_size if n_rows is None else n_rows
        batches = [self.task.batch(member.seed, step, rows) for member in self.members]
        return tuple(np.stack(parts) for parts in zip(*batches, strict=True))

    def update(self) -> None:
        """Clip the gradients of each model, update all parameters, and normalize nGPT's weights."""
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        self.grad_norm = norms_of_models(gradients)
        if self.train.grad_clip:
            clip_n = clip_coefficient(self.grad_norm, self.train.grad_clip)
            for gradient in gradients:
                gradient.mul_(clip_n.view(-1, *[1] * (gradient.dim() - 1)))
        self.optimizer.step()
        self.stacked.post_step()

    def write_line(self, is_evaluation: bool) -> bool:
        """Write a line of each curve, and return whether a run is left that has not diverged."""
        sums, norms = self._gather_losses(), self.grad_norm.tolist()
        measured = self._evaluate_all() if is_evaluation else [{} for _ in self.members]
        for index, member in self._training():
            self._move(member)
            model = self.stacked.models[index]
            diagnostics = model.diagnostics() if is_evaluation else {}
            found = sums[index], norms[index], measured[index], diagnostics
            if not self.lines.log(member.recorder, member.progress, *found):
                member.state = "diverged"
        self.loss_sum.zero_()
        for index, member in self._training():
            if member.should_leave() and member.progress.step < self.train.steps:
                self._save_member(index, 0.0)
                member.state = "stopped"
        return any(True for _ in self._training())

    def is_checkpoint_due(self, step: int) -> bool:
        """A stack has many checkpoints, so it leaves one out rather than wait for a disk that is slower."""
        is_due = super().is_checkpoint_due(step)
        return is_due and not any(member.recorder.is_writing() for member in self.members)

    def keep_weights(self) -> None:
        for index, member in self._training():
            member.recorder.keep_weights(self.progress.step, self.stacked.models[index].state_dict())

    def save(self) -> None:
        sums = self._gather_losses()
        for index, _ in self._training():
            self._save_member(index, sums[index])

    def _save_member(self, index: int, loss_sum: float) -> None:
        """Save what a run by itself would, so that it can resume by itself or in another stack."""
        member = self.members[index]
        self._move(member)
        member.progress.loss_sum = loss_sum
        optimizer = unstack_state(self.optimizer.state_dict(), index)
        member.recorder.save(capture_state(member.progress, self.stacked.models[index], optimizer))

    def _beat(self) -> None:
        for member in self.members:  # those that have ended, too, because their worker is alive
            member.recorder.beat(self.progress.step if member.state is None else member.progress.step)

    def _move(self, member: Member) -> None:
        member.progress.step = self.progress.step
        member.progress.wall_s = member.wall_before_s + self.progress.wall_s

    def _training(self) -> list[tuple[int, Member]]:
        return [(index, member) for index, member in enumerate(self.members) if member.state is None]

    def _gather_losses(self) -> list[float]:
        sums: list[float] = self.loss_sum.tolist()
        return sums

    def _evaluate_all(self) -> list[dict[str, float]]:
        return self.evaluation.measure(self.seed, self.progress.step, self._beat)


class _Evaluated:
    """Stacked models on a validation batch that all of them share, since its windows do not depend on the seed.

    They take `n_rows` rows at a time, as in training, so an evaluation needs no more memory. `with_gradients`, it
    calls the code that was compiled for training, and compiles none of its own.
    """

    def __init__(self, stacked: StackedModel, n_rows: int, *, with_gradients: bool) -> None:
        self.stacked, self.n_rows, self.with_gradients = stacked, n_rows, with_gradients

    def train(self) -> None:
        """Do nothing: models with another behavior in evaluations, as by dropout, cannot be stacked."""

    eval = train

    def loss(self, *batch: Tensor) -> Tensor:
        """Compute the mean cross-entropy (nats) of each model on the rows of (ids_bt, targets_bt): (n,)."""
        parts = []
        for rows in zip(*(torch.split(part, self.n_rows) for part in batch), strict=True):
            with torch.set_grad_enabled(self.with_gradients):
                losses_n = self.stacked.losses(*(part.repeat(len(self.stacked.models), 1, 1) for part in rows))
            parts.append(losses_n.detach() * len(rows[0]))
        return torch.stack(parts).sum(0) / len(batch[0])


def _choose_backend(model: ModelConfig, backend: str) -> str:
    """Name what `auto` means within `vmap`, where flex cannot compile itself."""
    if backend != "auto":
        return backend
    if getattr(model.attention, "logit_softcap", None) is not None:
        return "math"
    return "auto" if getattr(model.attention, "window", None) is None else "sdpa"


def norms_of_models(gradients: Sequence[Tensor]) -> Tensor:
    """The norm of all gradients of each model: (n,)."""
    parts = [torch.linalg.vector_norm(gradient.flatten(1), dim=1) for gradient in gradients]
    norms_n: Tensor = torch.linalg.vector_norm(torch.stack(parts), dim=0)
    return norms_n


def stack_states(states: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Join the states of the optimizers of several runs, whose steps are equal."""
    joined = []
    for parts in zip(*states, strict=True):
        named = {
            index: {
                key: value if key == SHARED else torch.stack([part["state"][index][key] for part in parts])
                for key, value in of_parameter.items()
            }
            for index, of_parameter in parts[0]["state"].items()
        }
        joined.append({**parts[0], "state": named})
    return joined


def unstack_state(states: Sequence[dict[str, Any]], index: int) -> list[dict[str, Any]]:
    """Return the state of the optimizer of one run. It shares the tensors of the stack."""
    return [
        {
            **part,
            "state": {
                place: {key: value if key == SHARED else value[index] for key, value in of_parameter.items()}
                for place, of_parameter in part["state"].items()
            },
        }
        for part in states
    ]
