"""Several runs in one process, as a worker trains them."""

from __future__ import annotations

import gc
import weakref
from functools import partial

import pytest
import torch


@pytest.mark.filterwarnings("ignore")  # torch's, of its own affairs
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
