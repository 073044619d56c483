"""The README's examples work as shown."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import pytest
import torch
import yaml

import ablate_model.attention
import ablate_model.normalization
from ablate.cli import app
from ablate.data import CorpusInfo
from ablate.plan import build_plan
from ablate.study import load_study
from ablate_model import GPT, ModelConfig

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    every = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    return [text for found, text in every if found == language]


def test_the_grid_can_be_planned(tmp_path: Path, corpus_info: CorpusInfo) -> None:
    (grid,) = blocks("yaml")
    path = tmp_path / "grid.yaml"
    path.write_text(grid)
    plan = build_plan(load_study(path), corpus_info)
    assert len(plan.runs) == 3 * len(plan.arms) == 24
    assert {arm.train.learning_rate for arm in plan.arms if arm.axes["normalization"] == "ngpt"} == {3e-3}


def test_every_verb_exists() -> None:
    verbs = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    verbs |= {group.name for group in app.registered_groups}
    shown = set(re.findall(r"^ablate (\w+)", "\n".join(blocks("")), re.MULTILINE))
    assert shown
    assert shown <= verbs


def test_every_make_target_and_link_exists() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"^make ([\w-]+)", README, re.MULTILINE)) <= targets
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md"), *ROOT.glob("*/README.md")]
    for page in pages:
        for link in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
            assert (page.parent / link).exists(), (page, link)


def test_every_experiment_is_listed() -> None:
    listed = (ROOT / "experiments" / "README.md").read_text()
    for path in (ROOT / "experiments").glob("*.yaml"):
        assert f"`{path.name}`" in listed


def test_the_networks_alone(capsys: pytest.CaptureFixture[str]) -> None:
    code = next(block for block in blocks("python") if "import torch" in block)
    exec(code, {})
    assert "lambda/0" in capsys.readouterr().out


@pytest.fixture
def gain(monkeypatch: pytest.MonkeyPatch) -> str:
    """The README's example attention, registered as the README says."""
    code = next(block for block in blocks("python") if "class GainAttention" in block)
    module = types.ModuleType("ablate_model.attention.gain")
    module.__package__ = "ablate_model.attention"
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(code, module.__dict__)
    line = re.search(r'the line `"(\w+)": "([\w:]+)"`', README)
    assert line is not None
    monkeypatch.setitem(ablate_model.attention.TABLE.lines, line[1], line[2])
    return line[1]


@pytest.mark.parametrize("normalization", list(ablate_model.normalization.TABLE))
def test_an_attention_is_one_file_and_one_line(gain: str, normalization: str) -> None:
    sizes = {"d_model": 16, "n_layers": 2, "n_heads": 2, "vocab_size": 11, "context_length": 8}
    config = ModelConfig(**sizes, attention=gain, normalization=normalization)
    model = GPT(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == config.num_params()
    ids = torch.randint(11, (2, 8), generator=torch.Generator().manual_seed(0))
    standard = GPT(ModelConfig(**sizes, normalization=normalization))
    torch.testing.assert_close(model(ids), standard(ids))  # the gain starts at 1
    model.loss(ids, ids).backward()
    assert all(block.attention.gain.grad.abs().sum() > 0 for block in model.modules() if hasattr(block, "attention"))


def test_the_headers_of_the_grids_say_what_they_ask() -> None:
    for path in sorted((ROOT / "experiments").glob("*.yaml")):
        text = path.read_text()
        assert text.startswith("#"), path
        assert yaml.safe_load(text)["question"].endswith("?"), path
