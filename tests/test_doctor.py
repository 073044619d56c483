"""`ablate doctor` on this machine, and on machines that lack something."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import ablate
from ablate.cli import app, doctor


@pytest.fixture
def card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A machine whose `nvidia-smi` names one card, which torch cannot use."""
    script = tmp_path / "nvidia-smi"
    script.write_text("#!/bin/sh\necho 'NVIDIA H200, 143771 MiB, 570.86'\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    return ["NVIDIA H200, 143771 MiB, 570.86"]


def run(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, ["doctor", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_it_names_everything_that_a_report_of_a_fault_needs(tmp_path: Path) -> None:
    found = {line["name"]: line["found"] for line in json.loads(run("--runs", tmp_path / "not" / "there", "--json"))}
    assert found["ablate"] == ablate.__version__
    assert found["torch"].startswith(torch.__version__)
    assert {"python", "ray", "mlflow", "optuna", "flash-attn-4", "NVIDIA cards", "CPU cores", "disk"} <= found.keys()
    assert found["CPU cores"] == str(doctor.count_cores())
    assert found["TMPDIR"] == tempfile.gettempdir()
    assert "GiB free in" in found["disk"]


@pytest.mark.parametrize(
    ("build", "advice"),
    [(None, "this torch is CPU-only, but there is an NVIDIA card"), ("12.8", "torch cannot use the card")],
)
def test_a_card_that_torch_cannot_use_is_said(
    card: list[str], monkeypatch: pytest.MonkeyPatch, build: str | None, advice: str
) -> None:
    monkeypatch.setattr(torch.version, "cuda", build)
    assert doctor.list_nvidia_cards() == card
    finding = doctor.examine_torch(card)
    assert advice in finding.advice
    assert (f"CUDA {build}" if build else "CPU only") in finding.found
    assert f"! {advice}" in run()
    assert doctor.examine_torch([]).advice == ""


def test_a_broken_nvidia_smi_and_a_missing_package_are_no_errors(card: list[str], tmp_path: Path) -> None:  # noqa: ARG001
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    assert doctor.list_nvidia_cards() == []
    assert doctor.find_version("no-such-package") == "not installed"


def test_a_long_tmpdir_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 60)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    assert "set TMPDIR to a shorter path" in run()


def test_the_version_and_the_completion_of_the_shell() -> None:
    assert CliRunner().invoke(app, ["--version"]).stdout == f"ablate {ablate.__version__}\n"
    assert "--install-completion" in CliRunner().invoke(app, ["--help"]).stdout
    asked = {"_ABLATE_COMPLETE": "complete_bash", "COMP_WORDS": "ablate doc", "COMP_CWORD": "1"}
    assert CliRunner().invoke(app, [], prog_name="ablate", env=asked).stdout.split() == ["doctor"]
