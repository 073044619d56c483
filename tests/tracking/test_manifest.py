"""The commit in a manifest is that of the package's own checkout."""

from __future__ import annotations

import subprocess
from pathlib import Path

from ablate.tracking import manifest


def test_the_commit_of_a_repository_around_an_environment_was_taken_for_ours(tmp_path: Path) -> None:
    def git(*command: str) -> None:
        who = ["-c", "user.name=n", "-c", "user.email=n@example.org"]
        subprocess.run(["git", "-C", str(tmp_path), *who, *command], check=True, capture_output=True)

    package = tmp_path / "venv" / "package"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "of the user")
    assert manifest._commit(package) == {}
    git("add", ".")
    git("commit", "-q", "-m", "the package itself")
    found = manifest._commit(package)
    assert len(found["commit"]) == 40 and found["dirty"] is False
    (package / "__init__.py").write_text("1")
    assert manifest._commit(package)["dirty"] is True
