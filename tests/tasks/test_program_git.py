"""Arms that are branches, commits and patches of one repository."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from program_bench import Bench

from ablate.errors import GridError
from ablate.plan import Plan
from ablate.sources.git import exported_at
from ablate.tracking.curve import read_curve

SCRIPT = "from idea import loss\nprint(f'step 1: val loss {loss}')\n"


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=tester", "-c", "user.email=tester@localhost", "-c", "commit.gpgsign=false")
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run(["git", "-C", folder, *who, *words], capture_output=True, text=True, check=True, env=env)
    return done.stdout.strip()


@pytest.fixture
def repository(bench: Callable[..., Bench]) -> Callable[..., Bench]:
    """A function that makes a repository with the grid in a folder of it, a branch `better` and a patch on `main`."""

    def make(*levels: str) -> Bench:
        mine = bench(matrix={"git": list(levels)})
        top = mine.folder.parent
        git(top, "init", "-q", "-b", "main")
        mine.write(SCRIPT)
        mine.write("loss = 3.0\n", "idea.py")
        (top / ".gitignore").write_text("runs\ngrid.yaml\n")
        git(top, "add", ".")
        git(top, "commit", "-qm", "first")
        git(top, "tag", "start")
        mine.write("loss = 2.5\n", "idea.py")
        (mine.folder / "ideas").mkdir()
        mine.write(git(top, "diff") + "\n", "ideas/half.diff")
        git(top, "checkout", "-q", "-b", "better")
        mine.write("loss = 2.0\n", "idea.py")
        git(top, "commit", "-qam", "better")
        git(top, "checkout", "-q", "main")
        return mine

    return make


def state(mine: Bench) -> tuple[str, ...]:
    """Everything that a user sees of a repository."""
    top = mine.folder.parent
    index = (top / ".git" / "index").read_bytes()
    worktrees, objects = git(top, "worktree", "list"), git(top, "count-objects")
    return (
        git(top, "--no-optional-locks", "status", "--porcelain"),
        git(top, "show-ref"),
        worktrees,
        objects,
        str(hash(index)),
    )


def losses(mine: Bench, plan: Plan) -> list[float]:
    return [
        read_curve(mine.folder_of(plan, index).curve)[0]["val_loss"]
        for index in range(len(plan.runs))
        if mine.train(plan, index) == "finished"
    ]


def test_each_level_runs_its_own_code_and_the_checkout_stays_as_it_is(repository: Callable[..., Bench]) -> None:
    mine = repository("start", "better", "patch:ideas/half.diff")
    mine.write("loss = 99.0  # not committed\n", "idea.py")
    before = state(mine)
    plan = mine.plan()
    assert losses(mine, plan) == [3.0, 2.0, 2.5]
    assert state(mine) == before
    diffs = [(mine.folder_of(plan, index).path / "code.diff").read_text() for index in range(3)]
    assert [[line for line in diff.splitlines() if line.startswith("+l")] for diff in diffs] == [
        [],
        ["+loss = 2.0"],
        ["+loss = 2.5"],
    ]


def test_the_tree_and_not_the_name_identifies_a_run(repository: Callable[..., Bench]) -> None:
    mine = repository("start", "better")
    before = [run.run_id for run in mine.plan().runs]
    top = mine.folder.parent
    git(top, "branch", "other", "better")
    mine.grid["matrix"]["git"] = ["main", "other"]
    assert [run.run_id for run in mine.plan().runs] == before
    git(top, "checkout", "-q", "other")
    mine.write("loss = 1.0\n", "idea.py")
    git(top, "commit", "-qam", "again")
    after = mine.plan()
    assert [run.run_id == old for run, old in zip(after.runs, before, strict=True)] == [True, False]
    assert losses(mine, after) == [3.0, 1.0]


def test_the_working_tree_is_a_level_of_its_own(repository: Callable[..., Bench]) -> None:
    mine = repository("main", ".")
    mine.write("loss = 1.5\n", "idea.py")
    before = state(mine)
    assert losses(mine, mine.plan()) == [3.0, 1.5]
    assert state(mine) == before


def test_two_levels_with_the_same_tree_are_one_arm(repository: Callable[..., Bench]) -> None:
    plan = repository("main", "better", "start").plan()
    assert [arm.name for arm in plan.arms] == ["git=main", "git=better"]
    assert plan.stands_for == {"git=start": "git=main"}


@pytest.mark.parametrize(
    ("level", "reason"),
    [
        ("gone", "matrix.git.1: gone: 'gone' is not a branch, tag or commit"),
        ("mian", "did you mean 'main'?"),
        ("patch:ideas/none.diff", "can't open patch"),
        ("--help", "'--help' is not a branch, tag or commit"),
        ("patch:train.py", "patch:train.py: No valid patches in input"),
        (3, "a level of git is a branch, a tag, a commit or patch:FILE, got 3"),
    ],
)
def test_a_level_that_cannot_be_used_is_refused_with_the_reason_of_git(
    repository: Callable[..., Bench], level: object, reason: str
) -> None:
    mine = repository("main")
    mine.grid["matrix"]["git"].append(level)
    with pytest.raises(GridError) as error:
        mine.plan()
    assert reason in str(error.value)
    assert "grid.yaml:" in str(error.value)


def test_a_tree_without_the_script_or_the_folder_is_refused(repository: Callable[..., Bench]) -> None:
    mine = repository("main", "better")
    git(mine.folder.parent, "checkout", "-q", "better")
    git(mine.folder.parent, "mv", "mine/train.py", "mine/other.py")
    git(mine.folder.parent, "commit", "-qm", "moved")
    with pytest.raises(GridError, match=r"matrix.git.1: better: it has no file 'train.py', which the command runs"):
        mine.plan()
    git(mine.folder.parent, "rm", "-rqf", "mine")
    git(mine.folder.parent, "commit", "-qm", "removed")
    mine.folder.mkdir(exist_ok=True)
    with pytest.raises(GridError, match="better: it has no folder 'mine/', where the grid is"):
        mine.plan()


def test_files_that_git_does_not_track_are_told_of(repository: Callable[..., Bench]) -> None:
    mine = repository("main", ".")
    mine.write("x = 1\n", "new.py")
    mine.write("loss = 1.5\n", "idea.py")
    assert mine.plan().notices[-1] == ".: files that git does not track are left out: new.py"


def test_a_tree_that_a_program_edited_is_not_run_again(repository: Callable[..., Bench]) -> None:
    mine = repository("main", "better")
    plan = mine.plan()
    assert losses(mine, plan) == [3.0, 2.0]
    setup: Any = plan.arms[1].setup
    path = exported_at(mine.store.path, setup.tree) / "mine" / "idea.py"
    (path.parent / "result.txt").write_text("a new file changes nothing\n")
    assert losses(mine, plan) == [3.0, 2.0]
    path.unlink()
    path.write_text("loss = 0.0\n")
    with pytest.raises(GridError, match="its files were changed: remove the folder"):
        mine.train(plan, 1)


def test_a_patch_that_does_not_apply_is_refused_with_its_place(repository: Callable[..., Bench]) -> None:
    mine = repository("main", "patch:ideas/half.diff")
    mine.write("loss = 7.0\n", "idea.py")
    git(mine.folder.parent, "commit", "-qam", "moved on")
    with pytest.raises(GridError, match=r"patch failed: mine/idea.py:1"):
        mine.plan()


def test_a_folder_outside_of_a_repository_is_refused(bench: Callable[..., Bench]) -> None:
    mine = bench(matrix={"git": ["main"]})
    mine.write(SCRIPT)
    with pytest.raises(GridError, match="this folder is not in a git repository"):
        mine.plan()
