"""The loop on a CUDA device."""

from __future__ import annotations

import pytest
import torch

from ablate.training import optimizer
from ablate.training.device import free_memory, set_deterministic
from ablate.training.language_model import LanguageModelling
from ablate.training.loop import train
from ablate_model import ModelConfig
from ablate_model.attention import TABLE
from ablate_model.numerics import HAS_TRITON

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

ROUNDING_32 = 1e-4
"""Relative, after a dozen float32 steps: other kernels round elsewhere (6e-8 each), amplified by training."""

ROUNDING_16 = 2e-2
"""The same in bfloat16, as for a resumed run: atomics sum in any order."""

FAST_DRIFT = 1e-2
"""Nats, over 300 steps: bfloat16 products alone drift by at most 6e-4 on a CPU; fusion rounds elsewhere once more."""


@pytest.fixture
def run_on_gpu(corpus, new_recording):
    def run_once(model_config, train_config, recording=None, should_stop=lambda: False):
        recording = recording or new_recording()
        task = LanguageModelling(model_config, corpus, train_config.eval_tokens)
        outcome = train(task, train_config, 0, recording, device="cuda", threads=1, should_stop=should_stop)
        return outcome, recording

    return run_once


# flex is compiled although the run is not, so torch's warnings are not silenced
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor", "ignore:TensorFloat32 tensor cores")
@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("attention", ["standard", {"name": "standard", "window": 3}, "forgetting"], ids=str)
def test_the_gpu_trains_as_the_cpu_does(run, run_on_gpu, model_config, make_train_config, attention, precision):
    model_config = type(model_config).parse({**model_config.to_dict(), "attention": attention})
    _, on_cpu = run(model_config, make_train_config(precision=precision))
    free_memory(torch.device("cuda"))
    held = torch.cuda.memory_allocated()  # because of memory that other tests keep
    outcome, on_gpu = run_on_gpu(model_config, make_train_config(precision=precision))
    for one, other in zip(on_cpu.curve(), on_gpu.curve(), strict=True):
        assert one == pytest.approx(other, rel=ROUNDING_32)
    assert next(outcome.model.parameters()).is_cuda
    assert 0 < outcome.peak_memory_bytes - held < 1 << 30


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_resumed_run_goes_on_where_it_was(run_on_gpu, model_config, make_train_config, optimizer):
    config = make_train_config(optimizer=optimizer, precision="bfloat16", micro_batch_size=2)
    _, undisturbed = run_on_gpu(model_config, config)
    stops = iter([False] * 4 + [True])
    stopped, recording = run_on_gpu(model_config, config, should_stop=lambda: next(stops))
    assert (stopped.state, stopped.step) == ("stopped", 5)
    run_on_gpu(model_config, config, recording=recording)
    assert [line["step"] for line in recording.lines] == [line["step"] for line in undisturbed.lines]
    assert recording.lines[-1]["val_loss"] == pytest.approx(undisturbed.lines[-1]["val_loss"], rel=ROUNDING_16)


def test_compilation_is_not_in_the_training_time(run_on_gpu, model_config, make_train_config):
    outcome, _ = run_on_gpu(model_config, make_train_config(compile=True))
    assert outcome.state == "finished"
    assert outcome.wall_s < 2.0  # s; compiling takes ten times as long


@pytest.mark.parametrize("settings", [{}, {"micro_batch_size": 2, "compile": True, "precision": "bfloat16"}], ids=str)
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_graph_trains_as_its_kernels_do(run_on_gpu, model_config, make_train_config, settings, dropout):
    model_config = type(model_config).parse({**model_config.to_dict(), "dropout": dropout})
    _, one_by_one = run_on_gpu(model_config, make_train_config(**settings))
    outcome, graphed = run_on_gpu(model_config, make_train_config(**settings, cuda_graph=True))
    assert outcome.state == "finished"
    for one, other in zip(one_by_one.curve(), graphed.curve(), strict=True):
        assert one == pytest.approx(other, rel=ROUNDING_16 if "precision" in settings else ROUNDING_32)


@pytest.mark.parametrize("attention", list(TABLE))
def test_every_attention_can_be_captured(run_on_gpu, model_config, make_train_config, attention):
    data = {"vocab_size": model_config.vocab_size, "context_length": model_config.context_length}
    model = ModelConfig(d_model=64, n_layers=2, n_heads=4, **data, attention=attention)
    settings = {"compile": True, "precision": "bfloat16"}
    _, one_by_one = run_on_gpu(model, make_train_config(**settings))
    _, graphed = run_on_gpu(model, make_train_config(**settings, cuda_graph=True))
    losses = [[line["train_loss"] for line in recording.lines] for recording in (one_by_one, graphed)]
    assert losses[0] == pytest.approx(losses[1], rel=ROUNDING_16)


@pytest.mark.parametrize("recompute", [False, True])
def test_a_step_with_a_penalty_on_the_loss_can_be_captured(
    run_on_gpu, model_config, make_train_config, penalized, recompute
):
    data = {"vocab_size": model_config.vocab_size, "context_length": model_config.context_length}
    model = ModelConfig.parse({"d_model": 64, "n_layers": 2, "n_heads": 4, **data, **penalized})
    settings = {"compile": True, "precision": "bfloat16", "recompute": recompute}
    _, one_by_one = run_on_gpu(model, make_train_config(**settings))
    _, graphed = run_on_gpu(model, make_train_config(**settings, cuda_graph=True))
    losses = [[line["train_loss"] for line in recording.lines] for recording in (one_by_one, graphed)]
    assert losses[0] == pytest.approx(losses[1], rel=ROUNDING_16)


def test_a_graphed_run_resumes_one_that_was_not(run_on_gpu, model_config, make_train_config):
    _, undisturbed = run_on_gpu(model_config, make_train_config())
    stops = iter([False] * 4 + [True])
    _, recording = run_on_gpu(model_config, make_train_config(), should_stop=lambda: next(stops))
    run_on_gpu(model_config, make_train_config(cuda_graph=True), recording=recording)
    assert [line["step"] for line in recording.lines] == [line["step"] for line in undisturbed.lines]
    assert recording.lines[-1]["val_loss"] == pytest.approx(undisturbed.lines[-1]["val_loss"], rel=ROUNDING_32)


@pytest.mark.skipif(not HAS_TRITON, reason="needs Triton")
@pytest.mark.parametrize("normalization", ["prenorm", "ngpt"])
def test_a_graph_updates_its_weights_in_one_pass_as_in_several(
    run_on_gpu, model_config, make_train_config, monkeypatch, normalization
):
    """Weights, moments and curve after 20 steps, with widths that are not powers of two, clipping and weight decay."""
    sizes = {"d_model": 72, "n_layers": 2, "n_heads": 2}
    data = {"vocab_size": model_config.vocab_size, "context_length": model_config.context_length}
    model = ModelConfig(**sizes, **data, normalization=normalization)
    config = make_train_config(steps=20, grad_clip=0.3, cuda_graph=True)
    found = {}
    for in_one_pass in (True, False):
        monkeypatch.setattr(optimizer, "is_fusible", lambda _, answer=in_one_pass: answer)
        outcome, recording = run_on_gpu(model, config)
        found[in_one_pass] = list(outcome.model.parameters()), recording.curve()
    for one, other in zip(*(parameters for parameters, _ in found.values()), strict=True):
        assert (one - other).norm() <= ROUNDING_32 * other.norm()
    for one, other in zip(*(curve for _, curve in found.values()), strict=True):
        assert one == pytest.approx(other, rel=ROUNDING_32)


@pytest.mark.parametrize(
    ("attention", "normalization"),
    [
        ("standard", "prenorm"),
        ("standard", "ngpt"),
        ("differential", "ngpt"),
        ({"name": "differential_v2", "n_kv_heads": 2}, "ngpt"),
        ({"name": "linear_ensemble", "num_maps": 3}, "ngpt"),
    ],
    ids=str,
)
def test_the_fast_path_trains_as_plain_float32(run_on_gpu, model_config, make_train_config, attention, normalization):
    """Every arm of the speed table: compiled, bfloat16, one graph and custom kernels, against none of these."""
    sizes = {"d_model": 64, "n_layers": 2, "n_heads": 4}
    data = {"vocab_size": model_config.vocab_size, "context_length": model_config.context_length}
    model = ModelConfig(**sizes, **data, attention=attention, normalization=normalization)
    settings = {"steps": 300, "learning_rate": 3e-3, "weight_decay": 0.0, "log_every": 25, "eval_every": 50}
    _, plain = run_on_gpu(model, make_train_config(**settings))
    fast = {"compile": True, "precision": "bfloat16", "cuda_graph": True}
    _, quick = run_on_gpu(model, make_train_config(**settings, **fast))
    curves = [[line["train_loss"] for line in recording.lines] for recording in (plain, quick)]
    assert curves[0][-1] < 0.5 * curves[0][0]
    assert max(abs(a - b) for a, b in zip(*curves, strict=True)) < FAST_DRIFT


DETERMINISTIC = {
    "plain": ({}, {"precision": "float32"}),
    "compiled graph": ({"context_length": 256}, {"compile": True, "cuda_graph": True}),
    "window": ({"attention": {"name": "standard", "window": 64}, "context_length": 256}, {"compile": True}),
    "ngpt": ({"normalization": "ngpt", "context_length": 256}, {"compile": True, "cuda_graph": True}),
    "forgetting": ({"attention": "forgetting", "context_length": 256}, {}),
    "selective": ({"attention": "selective", "context_length": 256}, {}),
    "differential": ({"attention": "differential", "context_length": 256}, {"optimizer": "muon"}),
    "recompute": ({"context_length": 256, "dropout": 0.1}, {"recompute": True, "micro_batch_size": 8}),
}


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor", "ignore:TensorFloat32 tensor cores")
@pytest.mark.parametrize("kind", DETERMINISTIC)
def test_a_deterministic_run_repeats_bit_by_bit(run_on_gpu, model_config, make_train_config, kind):
    changes, settings = DETERMINISTIC[kind]
    model_config = type(model_config).parse({**model_config.to_dict(), **changes})
    settings = {"steps": 40, "batch_size": 16, "eval_tokens": 512, "precision": "bfloat16", **settings}
    config = make_train_config(deterministic=True, **settings)
    try:
        first, *others = [run_on_gpu(model_config, config) for _ in range(3)]
        for outcome, recording in others:
            assert recording.curve() == first[1].curve()
            for name, weights in outcome.model.state_dict().items():
                assert torch.equal(weights, first[0].model.state_dict()[name]), name
        stops = iter([False] * 19 + [True])
        _, recording = run_on_gpu(model_config, config, should_stop=lambda: next(stops))
        resumed, _ = run_on_gpu(model_config, config, recording=recording)
        assert recording.curve()[-1]["val_loss"] == first[1].curve()[-1]["val_loss"]
        assert resumed.step == 40
    finally:
        set_deterministic(False)
