"""The last lines of `ablate run`."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from ablate.cli.study_output import print_outcome
from ablate.execution.progress import Outcome
from ablate.tracking.folders import StudyFolder


def test_a_study_that_gave_up_says_how_to_go_on_and_asks_for_no_report(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=80)
    outcome = Outcome({"queued": 2}, interrupted=False, halted="runs/s: No space left on device")
    print_outcome(outcome, StudyFolder(tmp_path / "s"), "grid.yaml", "ablate run grid.yaml", console)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert lines[1:] == [
        "gave up: runs/s: No space left on device",
        "once that is fixed, resume with: ablate run grid.yaml",
    ]
