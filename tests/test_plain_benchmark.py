"""The plain networks that benchmarks compare with are the same networks as ablate's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ablate.study.schema import TrainConfig
from ablate.training.bench.timed_run import random_corpus
from ablate_model import ModelConfig
from ablate_model.gpt import GPT
from benchmarks.plain import measure, start_ours, start_plain
from benchmarks.plain_networks import PlainNetwork

SHAPE = {"d_model": 32, "n_layers": 2, "n_heads": 4, "vocab_size": 50, "context_length": 16}
HIDDEN = "stack.blocks.1.mlp.hidden.weight"


@pytest.mark.parametrize("normalization", ["prenorm", "ngpt"])
def test_the_plain_network_computes_the_same_loss_and_gradients(normalization: str) -> None:
    config = ModelConfig.parse({**SHAPE, "normalization": normalization})
    ours, plain = GPT(config, seed=3), PlainNetwork(config, normalization)
    with torch.no_grad():
        for weight in ours.parameters():
            if weight.ndim == 1:  # a gain or scale; nGPT's matrices have to stay normalized
                weight.mul_(torch.rand_like(weight) + 0.5)
    plain.copy_weights(ours.state_dict())
    ids = torch.randint(50, (3, 17), generator=torch.Generator().manual_seed(0))
    losses = ours.loss(ids[:, :-1], ids[:, 1:]), plain(ids[:, :-1], ids[:, 1:])
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=1e-6)
    for loss in losses:
        loss.backward()
    gradients = plain.get_parameter("blocks.1.up.weight").grad, ours.get_parameter(HIDDEN).grad
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-6)


def test_contestants_train_the_same_number_of_steps_in_turn(tmp_path: Path) -> None:
    config, train = ModelConfig.parse(SHAPE), TrainConfig(steps=10, batch_size=2, warmup_steps=0, weight_decay=0.0)
    train = train.model_copy(update={"compile": False})
    corpus, device = random_corpus(tmp_path, config, train), torch.device("cpu")
    starts = {"plain": start_plain, "ablate": start_ours}
    steps = {name: start(config, "ngpt", train, corpus, device) for name, start in starts.items()}
    seconds = measure(steps, device, rounds=2, steps=1)
    assert {name: len(taken) for name, taken in seconds.items()} == {"plain": 2, "ablate": 2}
    assert all(0 < taken < 10 for rounds in seconds.values() for taken in rounds)
