"""Runs that are trained as one batch of models, against the same runs by themselves."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch

from ablate.data import validation_batches
from ablate.training import compilation
from ablate.training.language_model import LanguageModelling
from ablate.training.stacked import Member, train_stacked
from ablate_model import GPT, ModelConfig
from ablate_model.attention_backend import report_attention

ROUNDING_64 = 1e-9
"""Relative, after a dozen float64 steps: products of several matrices at once add up in another order (1e-16 each),
amplified by training."""

SEEDS = (0, 1, 5)
VARIANTS = [("standard", "prenorm"), ("differential", "ngpt")]


def variant(base: ModelConfig, attention: str, normalization: str) -> ModelConfig:
    return ModelConfig.parse({**base.to_dict(), "attention": attention, "normalization": normalization, "d_ff": None})


@pytest.fixture
def run_stack(corpus, new_recording):
    """Train a stack on the CPU: outcomes, and recordings by seed."""

    def run_once(model_config, train_config, seeds=SEEDS, recordings=None, stop=None, leave=None, device="cpu"):
        """All stop at the step `stop`, `leave` has such steps for some seeds."""
        recordings = recordings or {seed: new_recording() for seed in seeds}

        def is_past(seed, step):
            return step is not None and bool(recordings[seed].beats) and recordings[seed].beats[-1] >= step

        members = [Member(s, recordings[s], partial(is_past, s, (leave or {}).get(s))) for s in seeds]
        task = LanguageModelling(model_config, corpus, train_config.eval_tokens)
        outcomes = train_stacked(
            task, train_config, members, device=device, threads=1, should_stop=partial(is_past, seeds[0], stop)
        )
        return dict(zip(seeds, outcomes, strict=True)), recordings

    return run_once


def assert_same(one, other, rel):
    assert [line["step"] for line in one] == [line["step"] for line in other]
    for line, expected in zip(one, other, strict=True):
        assert line == pytest.approx(expected, rel=rel)


def stop_at(step):
    """Ask to stop at a step and from then on."""
    count = iter(range(1, 1000))
    return lambda: next(count) >= step


@pytest.mark.parametrize("names", VARIANTS)
def test_each_run_of_a_stack_is_the_run_by_itself(run, run_stack, model_config, make_train_config, names):
    config = variant(model_config, *names)
    train = make_train_config(precision="float64", grad_clip=0.3, micro_batch_size=2)
    outcomes, stacked = run_stack(config, train)
    for seed in SEEDS:
        whole, alone = run(config, train, seed=seed)
        assert_same(stacked[seed].curve(), alone.curve(), ROUNDING_64)
        assert (outcomes[seed].state, outcomes[seed].step) == ("finished", 12)
        for one, other in zip(outcomes[seed].model.parameters(), whole.model.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)


def test_the_runs_of_a_stack_share_their_validation_batches(run_stack, model_config, make_train_config, monkeypatch):
    calls = []

    def watch(*arguments):
        calls.append(arguments)
        return validation_batches(*arguments)

    monkeypatch.setattr("ablate.training.language_model.validation_batches", watch)
    run_stack(model_config, make_train_config())
    assert len(calls) == 1


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_stack_that_stopped_resumes_bit_by_bit(run_stack, model_config, make_train_config, precision):
    config = variant(model_config, "standard", "ngpt")
    train = make_train_config(precision=precision)
    _, undisturbed = run_stack(config, train)
    stopped, recordings = run_stack(config, train, stop=5)
    assert [outcome.state for outcome in stopped.values()] == ["stopped"] * 3
    finished, _ = run_stack(config, train, recordings=recordings)
    assert [outcome.state for outcome in finished.values()] == ["finished"] * 3
    for seed in SEEDS:
        assert recordings[seed].curve() == undisturbed[seed].curve()


def test_a_run_can_leave_a_stack_and_resume_by_itself(run, run_stack, model_config, make_train_config):
    train = make_train_config(precision="float64")
    outcomes, recordings = run_stack(model_config, train, leave={1: 4})
    assert [outcome.state for outcome in outcomes.values()] == ["finished", "stopped", "finished"]
    assert recordings[1].saved == [outcomes[1].step]
    run(model_config, train, seed=1, recording=recordings[1])
    for seed in SEEDS:
        assert_same(recordings[seed].curve(), run(model_config, train, seed=seed)[1].curve(), ROUNDING_64)


def test_runs_at_other_steps_wait_for_another_call(run, run_stack, model_config, make_train_config):
    train = make_train_config(precision="float64")
    _, by_itself = run(model_config, train, seed=1, should_stop=stop_at(6))
    _, recordings = run_stack(model_config, train, stop=3)
    recordings[1] = by_itself
    outcomes, _ = run_stack(model_config, train, recordings=recordings)
    assert outcomes[1] is None and outcomes[0].state == outcomes[5].state == "finished"
    outcomes, _ = run_stack(model_config, train, seeds=(1,), recordings=recordings)
    assert outcomes[1].state == "finished"
    for seed in SEEDS:
        assert_same(recordings[seed].curve(), run(model_config, train, seed=seed)[1].curve(), ROUNDING_64)


@pytest.mark.parametrize(("knobs", "backend"), [({"window": 3}, "sdpa"), ({"logit_softcap": 2.0}, "math")], ids=str)
def test_a_stack_names_the_backend_that_takes_the_place_of_flex(
    run, run_stack, model_config, make_train_config, knobs, backend
):
    config = variant(model_config, {"name": "standard", **knobs}, "prenorm")
    outcomes, stacked = run_stack(config, make_train_config(precision="float64"))
    assert report_attention(outcomes[0].model)["backend"] == backend
    assert_same(stacked[0].curve(), run(config, make_train_config(precision="float64"))[1].curve(), ROUNDING_64)


def test_one_run_diverges_and_the_others_go_on(run, run_stack, model_config, make_train_config, monkeypatch):
    train = make_train_config(precision="float64")
    initialize = GPT.initialize

    def spoil(self, seed):
        initialize(self, seed)
        if seed == 1:
            with torch.no_grad():
                self.head_weight()[0].fill_(torch.nan)

    monkeypatch.setattr(GPT, "initialize", spoil)
    outcomes, recordings = run_stack(model_config, train)
    assert {seed: (outcome.state, outcome.step) for seed, outcome in outcomes.items()} == {
        0: ("finished", 12),
        1: ("diverged", 3),
        5: ("finished", 12),
    }
    assert [line["step"] for line in recordings[1].lines] == [3]
    assert math.isnan(recordings[1].lines[0]["train_loss"])
    for seed in (0, 5):
        assert_same(recordings[seed].curve(), run(model_config, train, seed=seed)[1].curve(), ROUNDING_64)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch triggers its own warning
def test_the_blocks_of_a_stack_share_compiled_code_also_with_the_next_stack(
    run_stack, model_config, make_train_config, monkeypatch
):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    compilation.forget_compiled()
    config = ModelConfig.parse({**variant(model_config, *VARIANTS[1]).to_dict(), "n_layers": 3})
    _, eager = run_stack(config, make_train_config(precision="float64"))
    n_compiled = []
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        for _ in range(2):
            before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
            _, compiled = run_stack(config, make_train_config(precision="float64", compile=True))
            n_compiled.append(torch._dynamo.utils.counters["stats"]["unique_graphs"] - before)
    # one block and the loss, which evaluations call too
    assert n_compiled[0] == 2 and n_compiled[1] == 0
    assert not torch._dynamo.utils.counters["graph_break"]
    for seed in SEEDS:
        assert_same(compiled[seed].curve(), eager[seed].curve(), ROUNDING_64)
