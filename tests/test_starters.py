"""What `ablate init` writes runs as it is."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from ablate.cli import app
from ablate.errors import AblateError
from ablate.starters import KINDS, read_starter


def init(*words: str) -> str:
    result = CliRunner().invoke(app, ["init", *words], catch_exceptions=True)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


@pytest.mark.parametrize("kind", KINDS)
def test_a_starter_can_be_planned_as_it_is(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said = init(kind)
    (declared,) = (path for path in Path(kind).iterdir() if path.suffix == ".yaml")
    assert f"cd {kind} && " in said and f"ablate plan {declared.name}" in said
    monkeypatch.chdir(kind)
    result = CliRunner().invoke(app, ["plan", declared.name], catch_exceptions=False)
    assert result.exit_code == 0, result.output


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_starter_trains_to_a_report_as_it_is(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    init(kind, ".")
    (declared,) = (path.name for path in Path().iterdir() if path.suffix == ".yaml")
    steps = [["search", declared]] if declared == "search.yaml" else [["run", declared], ["report", declared]]
    for words in steps:
        result = CliRunner().invoke(app, words, catch_exceptions=False)
        assert result.exit_code == 0, result.output
    assert len(list(Path("runs").glob("*/report/*.html"))) == 1


def test_a_starter_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "grid.yaml").write_text("mine")
    with pytest.raises(AblateError, match=r"grid\.yaml would be overwritten"):
        init("language-model", str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["grid.yaml"]
    assert (tmp_path / "grid.yaml").read_text() == "mine"


def test_an_unknown_starter_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(AblateError, match=r"did you mean 'attention'.*language-model, attention, program, search"):
        init("atention", str(tmp_path / "x"))
    assert all(any(name.endswith(".yaml") for name in read_starter(kind)) for kind in KINDS)
