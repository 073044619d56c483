"""`ablate report --from` and its page in the documentation."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[1] / "docs" / "own-logs.md").read_text()
EXAMPLE, COMMAND, PRINTED = re.findall(r"^```\w*\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
Ablate = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ablate(call_ablate: Ablate, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Ablate:
    """A function that runs the command in a folder where the example of the documentation was executed."""
    monkeypatch.chdir(tmp_path)
    exec(EXAMPLE, {})

    return call_ablate


def test_the_example_of_the_documentation_works_as_shown(ablate: Ablate, tmp_path: Path) -> None:
    code, out, err = ablate(*COMMAND.split()[1:])
    assert code == 0, err
    assert out.startswith(PRINTED)
    assert "linear reaches softmax's final loss" in " ".join(out.split())
    folder = tmp_path / "runs" / "logs" / "report"
    assert {"report.html", "report.md", "summary.json", "curves.parquet"} <= {path.name for path in folder.iterdir()}
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["data"]["arms"] == "from the names of folders, files or runs"
    files = sorted(str(path) for path in (tmp_path / "logs").iterdir())
    again, out, _ = ablate("report", "--from", *files, "--baseline", "arm=softmax", "--out", "again")
    assert (again, out.startswith(PRINTED)) == (0, True)
    known = json.loads((tmp_path / "again" / "summary.json").read_text())
    assert known["speedup"] == summary["speedup"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--from", "none.csv"), "none.csv: there is no such file or folder"),
        (("--from", "logs", "--mlflow", "sqlite:///x.db"), "--from and --mlflow cannot be used together"),
        (("--from", "logs", "--arm", "x", "--map", "arm=y"), "--arm and --map arm=y set the same thing"),
        (("--from", "logs", "--metric", "los"), "no run has a metric los"),
        (("--from", "logs", "--metric", "val_loss:up"), "unknown direction 'up' (legal: lower, higher)"),
        (("--from", "logs", "--seed", "step"), "no column or hyperparameter of any log is named step"),
        (("--mlflow", "sqlite:///x.db", "--experiment", "x", "--step", "iter"), "--step names a column of log files"),
        (("made-up", "--arm", "x"), "or --from"),
    ],
)
def test_options_that_do_not_fit_are_one_message(ablate: Ablate, arguments: tuple[str, ...], words: str) -> None:
    code, _, err = ablate("report", *arguments)
    assert (code, err.count("error: ")) == (2, 1)
    assert words in err


def test_logs_stand_beside_a_study(ablate: Ablate, tmp_path: Path) -> None:
    published = Path(__file__).parents[1] / "reports" / "ngpt-vs-gpt"
    shutil.copytree(published, tmp_path / "gpt")
    code, _, err = ablate("report", "gpt", "--from", "logs", "--baseline", "arm=logs: softmax")
    assert code == 0, err
    arms = {row["arm"] for row in json.loads((tmp_path / "runs/comparison/summary.json").read_text())["differences"]}
    assert "logs: linear" in arms and any(arm.startswith("ngpt-vs-gpt: ") for arm in arms)
    code, out, err = ablate("report", "gpt", "--from", "logs")
    assert code == 0, err
    assert "2 arms have no baseline to be compared with: logs / linear ends at" in " ".join(out.split())


def test_more_is_better_where_the_metric_says_so(ablate: Ablate, tmp_path: Path) -> None:
    for path in (tmp_path / "logs").iterdir():
        path.write_text(re.sub(r",(\d)", r",-\1", path.read_text()).replace("val_loss", "accuracy"))
    code, out, err = ablate("report", "--from", "logs", "--metric", "accuracy:higher", "--baseline", "arm=softmax")
    assert code == 0, err
    assert "linear reaches softmax's final accuracy" in " ".join(out.split())
