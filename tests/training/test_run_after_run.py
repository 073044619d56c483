"""Several runs in one process, as a worker trains them."""

from __future__ import annotations

import gc
import weakref


def test_a_run_has_the_memory_of_the_one_before(run, model_config, make_train_config):
    outcome, _ = run(model_config, make_train_config())
    outcome.model.cycle = [outcome.model]  # as a compiled one is in
    before, alive = weakref.ref(outcome.model), []
    del outcome
    gc.disable()
    try:
        run(model_config, make_train_config(), should_stop=lambda: alive.append(before() is not None))
    finally:
        gc.enable()
    assert alive and not any(alive)
