"""The training loop."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from contextlib import nullcontext
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from ablate.study.schema import TrainConfig
from ablate.training.checkpoint import Progress, capture_state, restore_state
from ablate.training.compilation import compile_blocks
from ablate.training.contract import Batch, Outcome, Recorder, TrainingTask
from ablate.training.device import (
    default_generator,
    free_memory,
    now,
    peak_memory_bytes,
    prepare_process,
    set_deterministic,
    to_device,
)
from ablate.training.evaluation import Evaluation
from ablate.training.lines import Lines
from ablate.training.optimizer import clip_coefficient, make_optimizer
from ablate.training.parallel import Alone, Group
from ablate.training.precision import PRECISIONS
from ablate.training.schedule import learning_rate
from ablate.training.start import StartWeights
from ablate.training.step_graph import EAGER_STEPS, StepGraph, compute_aside
from ablate_model.attention_backend import choose_backend
from ablate_model.gpt import HeadedModel


def train(
    task: TrainingTask,
    train: TrainConfig,
    seed: int,
    recorder: Recorder,
    *,
    device: str,
    threads: int,
    should_stop: Callable[[], bool],
    group: Group | None = None,
    start: StartWeights | None = None,
) -> Outcome:
    """Train a model, or resume from the recorder's checkpoint. On the CPU, or with `deterministic` on a GPU, a resumed
    run is bit-for-bit the same.

    With a `group`, each of its processes calls this function and trains its share of the rows of every batch. The batch
    size does not change. Only the recorder of rank 0 is used. With a `start`, a run that has no checkpoint begins with
    those weights.

    A line of the curve has step (finished optimizer steps, from 1), tokens, flops, wall_s (without evaluation,
    checkpoints and compilation), train_loss (nats, the mean since the previous line), learning_rate and grad_norm (of
    this step, before clipping) and tokens_per_s (since the previous line). Every `eval_every` steps and at the end, it
    also has the metrics of the task and the model's diagnostics.

    Raises `ValueError` if warmup_steps, weight_decay or compile are not resolved, `DataError` if the shards are
    missing, `torch.OutOfMemoryError` if the device is too small, and `RuntimeError` if an operation cannot be
    deterministic.
    """
    prepare_process(train, device, threads)
    training = Training(task, train, seed, recorder, torch.device(device), group, start)
    return training.run(should_stop)


class Training:
    """The model, optimizer and data of a run, and its steps, for `train` and for benchmarks.

    It waits for the device only when a line of the curve or a checkpoint is due.
    """

    row_dim: ClassVar[int] = 0  # of the tensors of a batch

    def __init__(
        self,
        task: TrainingTask,
        train: TrainConfig,
        seed: int,
        recorder: Recorder,
        device: torch.device,
        group: Group | None = None,
        start: StartWeights | None = None,
    ) -> None:
        if train.compile == "auto":
            raise ValueError("compile must be resolved before training")
        set_deterministic(train.deterministic)
        self.task, self.train, self.seed, self.recorder, self.device = task, train, seed, recorder, device
        self.group = group = group or Alone()
        self.n_rows = train.batch_size // group.size
        self.micro_batch_size = min(train.sequences_at_once, self.n_rows)
        self.lines = Lines(task, train)
        self.precision = PRECISIONS[train.precision]
        self.is_graphed = train.cuda_graph and device.type == "cuda"
        self.graph: StepGraph | None = None
        self.n_eager, self.capture_s = 0, 0.0
        self.generator = default_generator(device)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)  # earlier runs of this process do not count
        self.build(start)

    def build(self, start: StartWeights | None) -> None:
        """Build what is trained: the model, its optimizer, its loss and its evaluation."""
        task, train, device, group = self.task, self.train, self.device, self.group
        self.model = self.build_model(self.seed, start)
        self.parameters = list(self.model.parameters())
        self.optimizer = make_optimizer(self.model, train)
        state = group.share(self.recorder.load)
        self.progress = Progress() if state is None else restore_state(state, self.model, self.optimizer)
        self.loss_sum = torch.tensor(self.progress.loss_sum, dtype=torch.float64, device=device)
        self.grad_norm = torch.zeros((), device=device)
        if train.attention_backend == "fastest":
            choose_backend(self.model, self.micro_batch_size, self.precision.autocast or torch.float32)
        if train.recompute:
            self.model.recompute_blocks()
        if train.compile:
            compile_blocks(self.model, train)
        group.equalize(list(self.model.state_dict().values()))
        self.loss: Callable[..., Tensor] = partial(task.loss, self.model)
        self.evaluation = Evaluation(task, self.model, self.precision, device, group, is_graphed=self.is_graphed)

    def build_model(self, seed: int, start: StartWeights | None) -> HeadedModel:
        """Build a model on the device, with its initial weights or those that it starts from."""
        model = self.precision.build(self.task.model, self.train.attention_backend, seed)
        if start is not None:
            start.load_into(model)
        return model.to(self.device)

    @property
    def n_micro(self) -> int:
        """Micro-batches per step."""
        return self.n_rows // self.micro_batch_size

    def run(self, should_stop: Callable[[], bool]) -> Outcome:
        progress, train = self.progress, self.train
        if train.compile or train.micro_batch_size == "auto" or self.device.type == "cuda":
            self.warm_up()
        self.group.agree(wish=False)  # the clock starts once every process has compiled
        started = now(self.device)
        while progress.step < train.steps:
            progress.step += 1
            self.step(progress.step)
            self.recorder.beat(progress.step)
            is_last = progress.step == train.steps
            is_evaluation = is_last or progress.step % train.eval_every == 0 or self.task.ends_phase(progress.step)
            is_line = is_evaluation or progress.step % train.log_every == 0
            is_stop = not is_last and self.group.agree(should_stop())
            is_checkpoint = is_stop or (not is_last and self.is_checkpoint_due(progress.step))
            keeps_weights = not is_last and self.recorder.wants_weights(progress.step)
            if not (is_line or is_checkpoint or keeps_weights):
                continue
            progress.wall_s += now(self.device) - started - self.capture_s
            self.capture_s = 0.0
            if is_line and not self.write_line(is_evaluation):
                return self._end("diverged")
            if keeps_weights:
                self.keep_weights()
            if is_checkpoint:
                self.save()
            if is_stop:
                return self._end("stopped")
            started = now(self.device)
        return self._end("finished")

    def step(self, step: int) -> None:
        """Optimizer step number `step`, from 1."""
        # Dropout depends only on seed, step and rank, so a checkpoint needs no generator state.
        stream = (self.seed << 32) + step * self.group.size + self.group.rank
        self.generator.manual_seed(stream & 0x7FFF_FFFF_FFFF_FFFF)
        batch = to_device(self.draw(step), self.device)
        self.optimizer.set_rate(learning_rate(step, self.train))
        if self.is_graphed:
            self._launch(*batch)
        else:
            self.compute(*batch)

    def draw(self, step: int, n_rows: int | None = None) -> Batch:
        """Return the rows of this process for a step, or some other number of rows."""
        if n_rows is not None:
            return self.task.batch(self.seed, step, n_rows)
        own = slice(self.group.rank * self.n_rows, (self.group.rank + 1) * self.n_rows)
        return tuple(array[own] for array in self.task.batch(self.seed, step, self.train.batch_size))

    def _launch(self, *batch: Tensor) -> None:
        """Launch the first steps kernel by kernel, and the others as one graph."""
        if self.n_eager < EAGER_STEPS:
            self.n_eager += 1
            compute_aside(self.compute, *batch)
            return
        if self.graph is None:
            started = now(self.device)
            self.graph = StepGraph(self.compute, *batch)
            self.capture_s += now(self.device) - started
        self.graph(*batch)

    def compute(self, *batch: Tensor) -> None:
        """Compute loss, gradients and update for a batch, without waiting for the device."""
        micro_batches = zip(*(part.chunk(self.n_micro, self.row_dim) for part in batch), strict=True)
        for index, rows in enumerate(micro_batches):
            with self.precision.context(self.device):
                loss = self.loss(*rows) / self.n_micro
            is_last = index + 1 == self.n_micro
            with self.group.sum_gradients(self.parameters) if is_last else nullcontext():
                # the sum over the group is then the mean
                loss.backward(torch.full_like(loss, 1 / self.group.size))  # type: ignore[no-untyped-call]
            self.model.forget_penalties()
            self.loss_sum += loss.detach()
        self.update()

    def update(self) -> None:
        """Clip the gradients, update the parameters, reset the gradients, and normalize nGPT's weights.

        A graph uses fused kernels that pass over most weights once or twice. Without a graph, their launches would be
        slower than torch's own kernels.
        """
        self.grad_norm = get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        stepped: AbstractSet[Tensor] = frozenset()
        if self.is_graphed:
            clip = clip_coefficient(self.grad_norm, self.train.grad_clip)
            stepped = self.optimizer.step_matrices(clip, self.model.unit_axes())
        if self.train.grad_clip:
            clip_grads_with_norm_(self.parameters, self.train.grad_clip, self.grad_norm)
        self.optimizer.step()
        self.model.post_step(stepped)

    def write_line(self, is_evaluation: bool) -> bool:
        """Write a line of the curve, and return whether the losses and metrics are finite."""
        train_loss = self._gather_loss()
        measured = self._evaluate() if is_evaluation else {}
        diagnostics = self.model.diagnostics() if is_evaluation else {}
        is_finite = self.lines.log(
            self.recorder, self.progress, train_loss, self.grad_norm.item(), measured, diagnostics
        )
        self.loss_sum.zero_()
        return is_finite

    def is_checkpoint_due(self, step: int) -> bool:
        return step % self.train.checkpoint_every == 0

    def keep_weights(self) -> None:
        self.recorder.keep_weights(self.progress.step, self.model.state_dict())

    def save(self) -> None:
        self.progress.loss_sum = self._gather_loss()
        self.recorder.save(capture_state(self.progress, self.model, self.optimizer.state_dict()))

    def _gather_loss(self) -> float:
        """Replace `loss_sum` by its mean over the group, as after a resume, and return it."""
        self.loss_sum.copy_(
            self.group.sum(self.loss_sum) / self.group.size
        )  # in place, because a graph adds to this tensor
        return self.loss_sum.item()

    def _evaluate(self) -> dict[str, float]:
        step = self.progress.step
        return self.evaluation.measure(self.seed, step, lambda: self.recorder.beat(step))[0]

    def warm_up(self) -> None:
        """Compile, load the device's libraries and find the micro-batch size before the clock starts."""
        while True:
            try:
                self._try_micro_batch()
                return
            except torch.OutOfMemoryError:
                size = self.train.model_copy(update={"micro_batch_size": self.micro_batch_size}).smaller_micro_batch()
                if self.train.micro_batch_size != "auto" or size is None or self.group.size > 1:
                    raise
            self.micro_batch_size = size
            self._forget_gradients()
            free_memory(self.device)

    def _try_micro_batch(self) -> None:
        """Compute the gradients of one micro-batch, with room for the optimizer's two moments."""
        has_moments = any(part.state for part in self.optimizer.parts)
        moments = [torch.empty_like(p) for p in self.parameters for _ in range(0 if has_moments else 2)]
        batch = self.draw(1, self.micro_batch_size)
        with self.precision.context(self.device):
            loss = self.loss(*to_device(batch, self.device))
        loss.backward(torch.ones_like(loss))  # type: ignore[no-untyped-call]
        self.model.forget_penalties()
        del moments
        self._forget_gradients()

    def _forget_gradients(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    def _end(self, state: Literal["finished", "diverged", "stopped"]) -> Outcome:
        return Outcome(
            state,
            self.progress.step,
            self.progress.wall_s,
            peak_memory_bytes(self.device),
            self.model,
            self.micro_batch_size,
        )
