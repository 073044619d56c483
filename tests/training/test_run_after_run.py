"""Several runs in one process, the way workers train them."""

from __future__ import annotations

import gc
import weakref
from functools import partial

import pytest
import torch

from ablate.training import compilation
from ablate.training.device import prepare_process
from ablate_model import ModelConfig


@pytest.mark.filterwarnings("ignore")  # torch triggers its own warning
def test_a_compiled_run_has_the_memory_of_the_one_before(run, model_config, make_train_config, monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    train = make_train_config(compile=True)
    outcome, _ = run(model_config, train)
    before, alive = weakref.ref(outcome.model), []
    del outcome
    gc.disable()
    try:
        run(model_config, train, should_stop=lambda: alive.append(before() is not None))
    finally:
        gc.enable()
    assert alive and not any(alive)


@pytest.mark.slow
def test_compilers_start_before_the_first_compiled_run_on_a_gpu(make_train_config, monkeypatch):
    calls = []
    monkeypatch.setattr("torch._inductor.async_compile.maybe_warm_pool", lambda: calls.append("start"))
    compilation.start_compilers.cache_clear()
    eager, compiled = make_train_config(), make_train_config(compile=True)
    for train, device in ((eager, "cuda"), (compiled, "cpu")):
        prepare_process(train, device, 1)
    assert calls == []
    for _ in range(2):
        prepare_process(compiled, "cuda", 1)
    assert calls == ["start"]
    compilation.start_compilers.cache_clear()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch triggers its own warning
def test_a_process_compiles_each_kind_of_model_once_and_any_number_of_kinds(
    run, model_config, make_train_config, monkeypatch
):
    """torch stops compiling a function that was compiled too often, and a worker trains many models."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    monkeypatch.setattr(compilation, "MAX_KINDS", 2)
    compilation.forget_compiled()
    train = make_train_config(steps=3, compile=True)
    n_compiled, models = [], []
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        for seed, context_length in enumerate((16, 8, 16, 12, 16)):
            config = ModelConfig.parse({**model_config.to_dict(), "context_length": context_length})
            before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
            outcome, recording = run(config, train, seed=seed)
            assert outcome.state == "finished"
            n_compiled.append(torch._dynamo.utils.counters["stats"]["unique_graphs"] - before)
            models.append(weakref.ref(outcome.model))
            del outcome, recording
    one = n_compiled[0]
    assert one > 0
    assert n_compiled == [one, one, 0, one, one]  # the fourth kind is one too many, so the earlier ones are dropped
    gc.collect()
    assert [model() for model in models] == [None] * 5  # compiled code keeps no model's memory
