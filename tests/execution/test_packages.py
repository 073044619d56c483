"""The check that both packages come from one checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import ablate
import ablate_model
from ablate.errors import ResourceError
from ablate.execution import nodes, packages

ROOT = Path(__file__).parents[2]


def test_ablate_of_one_checkout_ran_with_the_models_of_another(tmp_path: Path) -> None:
    shutil.copytree(Path(ablate.__file__).parent, tmp_path / "ablate", ignore=shutil.ignore_patterns("__pycache__"))
    environment = {**os.environ, "PYTHONPATH": str(Path(ablate_model.__file__).parents[1])}
    command = [sys.executable, "-m", "ablate", "variants"]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr.startswith("error: two versions of ablate are mixed")
    assert result.stderr.count("\n") == 1
    assert str(tmp_path.resolve()) in result.stderr
    assert result.stdout == ""


def test_a_checkout_on_the_python_path_is_one_version() -> None:
    environment = {**os.environ, "PYTHONPATH": f".{os.pathsep}.typings"}
    command = [sys.executable, "-m", "ablate", "--help"]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


def test_the_fingerprint_tells_versions_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.py").write_text("x = 1")
    monkeypatch.setattr(packages, "_find_folders", lambda: {"ablate": tmp_path})
    before = packages.fingerprint()
    assert before == packages.fingerprint()
    (tmp_path / "a.py").write_text("x = 2")
    assert packages.fingerprint() != before


def test_a_node_with_another_version_trained_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two nodes, one with a different fingerprint. No cluster is started."""
    alive = [
        {"Alive": True, "Resources": {"CPU": 1.0}, "NodeID": "0" * 56, "NodeManagerAddress": f"10.0.0.{n}"}
        for n in (1, 2)
    ]
    answers = iter([(True, packages.fingerprint()), (True, "0123456789ab")])

    class Remote:
        def options(self, **_: object) -> Remote:
            return self

        def remote(self, *_: object) -> tuple[bool, str]:
            return next(answers)

    class Node:
        def is_head(self) -> bool:
            return False

    monkeypatch.setattr(nodes.ray, "nodes", lambda: alive)
    monkeypatch.setattr(nodes.ray, "remote", lambda _: Remote())
    monkeypatch.setattr(nodes.ray, "wait", lambda refs, **_: (refs, []))
    monkeypatch.setattr(nodes.ray, "get", lambda answer: answer)
    monkeypatch.setattr(nodes, "local_node", Node)
    with pytest.raises(ResourceError, match=r"another version of ablate is on 10\.0\.0\.2: install"):
        nodes.check_nodes(tmp_path)
    assert list(tmp_path.iterdir()) == []
