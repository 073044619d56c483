"""`reports/performance/stacked_models.py`: stacked models equal the models, and its check detects differences."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
from torch.nn.utils import clip_grad_norm_

from ablate_model.numerics import rms

SCRIPT = Path(__file__).parents[2] / "reports" / "performance" / "stacked_models.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("stacked_models", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("size", [1, 3])
def test_losses_and_gradients_are_those_of_models_on_their_own(script, size):
    assert script.measure_difference(size) < script.TOLERANCE


FAULTS = {
    "norm": lambda _, x_nrd, gain_nd: rms(x_nrd, 1.0) * gain_nd[:, None],  # another eps
    "split_heads": lambda _, x_nrd: x_nrd.reshape(-1, 12, 2, 12).roll(1, 0),  # attends to a neighbour's sequence
    "clip": lambda stacked, limit: clip_grad_norm_(stacked.weights.values(), limit),  # one norm over all models
}


@pytest.mark.parametrize("method", FAULTS)
def test_a_fault_shows_in_the_difference(script, monkeypatch, method):
    monkeypatch.setattr(script.StackedGPT, method, FAULTS[method])
    assert script.measure_difference() > 1000 * script.TOLERANCE


def test_each_size_gets_a_line(script, write_grid, monkeypatch, capsys):
    arguments = ["stacked_models.py", "--grid", str(write_grid()), "--sizes", "1", "2", "--steps", "1"]
    monkeypatch.setattr(sys, "argv", arguments)
    script.main()
    *_, head, one, two = capsys.readouterr().out.splitlines()
    assert head.split() == ["models", "ms", "a", "step", "tokens/s", "in", "all", "x", "the", "first"]
    assert [line.split()[0] for line in (one, two)] == ["1", "2"]
    assert one.split()[-1] == "1.00"
