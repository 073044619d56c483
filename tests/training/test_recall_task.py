"""The task of associative recall: its sequences, its loss and its metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ablate.tasks.recall import IGNORED, Recall, RecallTraining
from ablate.tasks.task import read_task
from ablate_model import ConfigError, ModelConfig

CONFIG = ModelConfig(d_model=16, n_layers=1, n_heads=2, vocab_size=64, context_length=36)
TASK = Recall(pairs=(1, 2, 8), n_validation=20)


class Oracle:
    """Looks up each key in the sequence, as a model that recalls perfectly would. `sure` is the logit of the answer."""

    def __init__(self, sure: float) -> None:
        self.sure = sure

    def encode(self, ids_bt: Tensor) -> Tensor:
        before_btt = torch.ones(ids_bt.shape[1], ids_bt.shape[1]).tril(-1).bool()
        is_same_btt = (ids_bt[:, :, None] == ids_bt[:, None, :]) & before_btt
        first_bt = is_same_btt.float().argmax(-1)  # where the key stood among the pairs
        answer_bt = ids_bt.gather(1, first_bt + 1)
        return torch.nn.functional.one_hot(answer_bt, 64).float() * self.sure

    def form_logits(self, h_bnd: Tensor) -> Tensor:
        return h_bnd

    def add_penalties(self, loss: Tensor) -> Tensor:
        return loss


def measure(model: Any) -> dict[str, float]:
    training = RecallTraining(TASK, CONFIG)
    sums = sum(training.measure(model, *map(torch.from_numpy, batch)) for batch in training.validation_batches(0, 1))
    return training.conclude(torch.as_tensor(sums).tolist())


def test_a_model_that_looks_up_keys_is_right_and_one_that_guesses_is_at_chance() -> None:
    perfect = measure(Oracle(100.0))
    assert {name: value for name, value in perfect.items() if "accuracy" in name} == dict.fromkeys(
        ("val_accuracy", "val_accuracy_1_pairs", "val_accuracy_2_pairs", "val_accuracy_8_pairs"), 1.0
    )
    assert perfect["val_loss"] < 1e-6
    assert perfect.keys() == TASK.metrics.keys()
    assert measure(Oracle(0.0))["val_loss"] == pytest.approx(np.log(64))


def test_batches_are_a_function_of_seed_and_step_with_each_number_of_pairs() -> None:
    training = RecallTraining(TASK, CONFIG)
    one, again, later, other = (training.batch(*key, 9) for key in ((0, 1), (0, 1), (0, 2), (1, 1)))
    assert all(map(np.array_equal, one, again))
    assert not np.array_equal(one[0], later[0])
    assert not np.array_equal(one[0], other[0])
    ids, queries, answers, kinds = one
    assert ids.shape == (9, 36)
    assert sorted((answers != IGNORED).sum(1)) == [1, 1, 1, 2, 2, 2, 8, 8, 8]
    for row in range(9):
        known = dict(zip(ids[row, 0 : 2 * TASK.pairs[kinds[row]] : 2], ids[row, 1::2], strict=False))
        asked = answers[row] != IGNORED
        assert [known[ids[row, place]] for place in queries[row, asked]] == answers[row, asked].tolist()


def test_the_loss_of_a_batch_is_the_mean_of_its_parts() -> None:
    training = RecallTraining(TASK, CONFIG)
    batch = tuple(map(torch.from_numpy, training.batch(0, 1, 8)))
    model = Oracle(1.0)
    parts = [training.loss(model, *(part[i : i + 2] for part in batch)) for i in range(0, 8, 2)]
    assert training.loss(model, *batch).item() == pytest.approx(torch.stack(parts).mean().item())


def test_impossible_settings_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="32 pairs need as many keys"):
        read_task({"name": "recall", "pairs": [32]})
    with pytest.raises(ConfigError, match="different numbers"):
        read_task({"name": "recall", "pairs": [2, 2]})
    data = TASK.describe(Path())
    with pytest.raises(ConfigError, match="8 pairs need 31 tokens"):
        TASK.check_model(ModelConfig(d_model=16, n_layers=1, n_heads=2, vocab_size=64, context_length=30), data)
    assert data.hash != Recall(pairs=(2, 8)).describe(Path()).hash
    assert data.hash == Recall(pairs=(1, 2, 8), n_validation=30).describe(Path()).hash
    assert data.validation != Recall(pairs=(1, 2, 8), n_validation=30).describe(Path()).validation
