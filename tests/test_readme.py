"""The examples of the README and of pages without a test file of their own work as shown."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
import yaml

import ablate_model.attention
import ablate_model.normalization
from ablate.cli import app
from ablate.data import CorpusInfo
from ablate.plan import Plan, build_plan
from ablate.study import load_study
from ablate_model import GPT, ModelConfig

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MOST_WORDS = 900  # before the reference


def blocks(language: str, text: str = README) -> list[str]:
    every = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [text for found, text in every if found == language]


def read_plan(folder: Path, grid: str, corpus: CorpusInfo, **files: str) -> Plan:
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    (folder / "grid.yaml").write_text(grid)
    return build_plan(load_study(folder / "grid.yaml"), corpus)


def test_the_readme_is_short() -> None:
    assert len(README.partition("## Reference")[0].split()) <= MOST_WORDS


def test_the_attention_of_the_readme_can_be_compared(tmp_path: Path, corpus_info: CorpusInfo) -> None:
    (source,) = blocks("python")
    study, _ = blocks("yaml")
    assert len(list(filter(str.strip, source.splitlines()))) <= 15
    assert len(study.splitlines()) <= 12
    plan = read_plan(tmp_path, study, corpus_info, my_attention=source)
    assert len(plan.runs) == 3 * len(plan.arms) == 12
    assert {arm.train.learning_rate for arm in plan.arms if arm.axes["normalization"] == "ngpt"} == {1.6e-2}
    assert not any("initial weights" in notice for notice in plan.notices)  # the baseline is the module itself
    (tmp_path / "standard").mkdir()
    other = study.replace('{name: "my_attention.py:MyAttention", learned: false}', "standard")
    plan = read_plan(tmp_path / "standard", other, corpus_info, my_attention=source)
    assert [notice for notice in plan.notices if "draws its own initial weights" in notice]


@pytest.mark.slow
def test_the_attention_of_the_readme_gets_a_verdict(tmp_path: Path) -> None:
    (tmp_path / "my_attention.py").write_text(*blocks("python"))
    (tmp_path / "grid.yaml").write_text(blocks("yaml")[0])
    (commands,) = (text for text in blocks("") if "ablate check" in text)
    for line in commands.splitlines():
        if line.startswith("ablate"):
            words = [sys.executable, "-m", *line.partition("#")[0].split()]
            done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((tmp_path / "runs" / "my-attention" / "report" / "summary.json").read_text())
    rows = [row for row in summary["differences"] if "my_attention" in row["arm"]]
    assert {row["verdict"] for row in rows} <= {"better", "worse", "equivalent", "undecided"}
    assert len(rows) == 3


def test_the_program_of_the_readme_can_be_planned(tmp_path: Path, corpus_info: CorpusInfo) -> None:
    _, study = blocks("yaml")
    assert len(study.splitlines()) <= 10
    assert len(read_plan(tmp_path, study, corpus_info, train="").runs) == 6


def test_the_grid_of_the_documentation_can_be_planned(tmp_path: Path, corpus_info: CorpusInfo) -> None:
    (grid,) = blocks("yaml", (ROOT / "docs" / "grid.md").read_text())
    plan = read_plan(tmp_path, grid, corpus_info)
    assert len(plan.runs) == 3 * len(plan.arms) == 24
    assert {arm.train.learning_rate for arm in plan.arms if arm.axes["normalization"] == "ngpt"} == {3e-3}


def test_every_command_is_one_of_ablate() -> None:
    """In code blocks, the verb and its options exist."""
    command = typer.main.get_command(app)
    for page in PAGES:
        text = page.read_text().replace("\\\n", " ")
        lines = [
            line for language in ("", "sh", "bash") for block in blocks(language, text) for line in block.splitlines()
        ]
        for words in (line.partition("#")[0].split() for line in lines if line.startswith("ablate ")):
            verb: Any = command
            while hasattr(verb, "commands"):
                assert words[1] in verb.commands, (page.name, words)
                verb, words = verb.commands[words[1]], words[1:]
            known = {name for parameter in verb.params for name in (*parameter.opts, *parameter.secondary_opts)}
            assert {word.partition("=")[0] for word in words if word.startswith("--")} <= known, (page.name, words)


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
    (code,) = blocks("python", (ROOT / "docs" / "networks.md").read_text())
    exec(code, {})
    assert "lambda/0" in capsys.readouterr().out


@pytest.fixture
def gain(monkeypatch: pytest.MonkeyPatch) -> str:
    """The example attention of the page about built-in variants, registered as the page says."""
    page = (ROOT / "docs" / "built-in-variant.md").read_text()
    (code,) = blocks("python", page)
    module = types.ModuleType("ablate_model.attention.gain")
    module.__package__ = "ablate_model.attention"
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(code, module.__dict__)
    line = re.search(r'the line `"(\w+)": "([\w:]+)"`', page)
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
