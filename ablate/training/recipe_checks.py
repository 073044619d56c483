"""`ablate check` of an optimizer or a schedule from a user's file."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from functools import partial

import torch

from ablate.study.schema import TrainConfig
from ablate.training.optimizer import Optimizer, make_optimizer
from ablate.training.schedule import learning_rate
from ablate_model import GPT, ModelConfig
from ablate_model.contract_checks import Check, FailedError, run_check

SIZES = {"d_model": 32, "n_layers": 2, "n_heads": 4, "vocab_size": 64, "context_length": 32}
N_STEPS = 30


def check_optimizer(train: TrainConfig) -> Iterator[Check]:
    """Make every check of the training's optimizer, in order."""
    yield run_check("learning", partial(_check_learning, train))
    yield run_check("resuming", partial(_check_resuming, train))


def check_schedule(train: TrainConfig) -> Iterator[Check]:
    """Make every check of the training's schedule, in order."""
    yield run_check("rates", partial(_check_rates, train))


def _step(model: GPT, optimizer: Optimizer, train: TrainConfig, first: int, last: int) -> list[float]:
    ids_bt = torch.randint(SIZES["vocab_size"], (4, 32), generator=torch.Generator().manual_seed(0))
    losses = []
    for step in range(first, last + 1):
        optimizer.set_rate(learning_rate(step, train))
        loss = model.loss(ids_bt, ids_bt.roll(-1, 1))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        model.post_step()
        losses.append(loss.item())
    return losses


def _check_learning(train: TrainConfig) -> str:
    model = GPT(ModelConfig.parse(SIZES))
    losses = _step(model, make_optimizer(model, train), train, 1, N_STEPS)
    if not all(map(math.isfinite, losses)) or not losses[-1] < losses[0]:
        raise FailedError(f"the loss on one batch goes from {losses[0]:.3f} to {losses[-1]:.3f} in {N_STEPS} steps")
    return f"the loss on one batch falls from {losses[0]:.2f} to {losses[-1]:.2f} in {N_STEPS} steps"


def _check_resuming(train: TrainConfig) -> str:
    model, resumed = (GPT(ModelConfig.parse(SIZES), seed=seed) for seed in (0, 1))
    optimizer, again = make_optimizer(model, train), make_optimizer(resumed, train)
    _step(model, optimizer, train, 1, 3)
    resumed.load_state_dict(copy.deepcopy(model.state_dict()))
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    if _step(model, optimizer, train, 4, 6) != _step(resumed, again, train, 4, 6):
        raise FailedError("a resumed run differs: its state_dict lacks something that changes in training")
    return "from a checkpoint, training continues bit by bit"


def _check_rates(train: TrainConfig) -> str:
    rates = [learning_rate(step, train) / train.learning_rate for step in range(1, train.steps + 1)]
    peak = max(rates)
    at = f"{rates[0]:.3g} at step 1, {peak:.3g} at step {rates.index(peak) + 1}, {rates[-1]:.3g} at step {train.steps}"
    return f"factors of the peak rate: {at}"
