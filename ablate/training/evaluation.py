"""The evaluations of a run while it trains.

Tensors carry their shape as a suffix: s sum, n model.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from ablate.training.contract import TrainingTask
from ablate.training.device import to_device
from ablate.training.parallel import Group
from ablate.training.precision import Precision
from ablate.training.step_graph import StepGraph

KEPT_BYTES = 2**28  # validation batches up to this size stay on the device between evaluations

GRAPHED_FLOPS = 1e12
"""Forward passes below this run as a graph: about 2 ms on an H200, less than launching them one by one takes."""

Tensors = tuple[Tensor, ...]


class Evaluation:
    """Measures the metrics of a task. Sums stay on the device until the end, and batches from one time to the next.

    With `is_graphed`, batches of the same shape are measured by one CUDA graph if the task allows it. The processes of
    a group take turns with the batches. Where `model` stands for `n_models`, the task measures all of them at once.
    """

    def __init__(
        self,
        task: TrainingTask,
        model: Any,
        precision: Precision,
        device: torch.device,
        group: Group,
        *,
        is_graphed: bool,
        n_models: int = 1,
    ) -> None:
        self.task, self.model, self.precision, self.device, self.group = task, model, precision, device, group
        self.is_graphed = is_graphed and task.measures_on_device
        self.sums_sn = torch.zeros(task.n_sums, n_models, dtype=torch.float64, device=device)
        self._kept: dict[Hashable, list[Tensors]] = {}  # of one evaluation, by the task's `validation_key`
        self._seen: set[torch.Size] = set()
        self._graphs: dict[torch.Size, StepGraph] = {}

    @torch.no_grad()
    def measure(self, seed: int, step: int, beat: Callable[[], object]) -> list[dict[str, float]]:
        """Return the metrics of each model after a step. `beat` is called after each batch."""
        self.model.eval()
        self.sums_sn.zero_()
        for batch in self._batches(seed, step):
            self._launch(*batch)
            beat()
        self.model.train()
        return [self.task.conclude(sums) for sums in self.group.sum(self.sums_sn).T.tolist()]

    def _batches(self, seed: int, step: int) -> Iterator[Tensors]:
        key = self.task.validation_key(step)
        if key in self._kept:
            yield from self._kept[key]
            return
        self._kept.clear()  # frees the memory first
        batches: list[Tensors] = []
        n_bytes = 0
        for batch in islice(self.task.validation_batches(seed, step), self.group.rank, None, self.group.size):
            tensors = to_device(batch, self.device)
            n_bytes += sum(tensor.nbytes for tensor in tensors)
            if n_bytes <= KEPT_BYTES:
                batches.append(tensors)
            yield tensors
        if key is not None and n_bytes <= KEPT_BYTES:
            self._kept[key] = batches

    def _launch(self, *batch: Tensor) -> None:
        """Measure the first batch of a shape kernel by kernel, and the others as one graph."""
        shape = batch[0].shape
        forward_flops = shape[0] * self.task.tokens_per_row * self.task.model.flops_per_token() / 3
        if not self.is_graphed or shape not in self._seen or forward_flops > GRAPHED_FLOPS:
            self._seen.add(shape)
            self._add(*batch)
            return
        if shape not in self._graphs:
            self._graphs[shape] = StepGraph(self._add, *batch)
        self._graphs[shape](*batch)

    def _add(self, *batch: Tensor) -> None:
        with self.precision.context(self.device):
            self.sums_sn += self.task.measure(self.model, *batch).view_as(self.sums_sn)
