"""Reading a git repository without touching its checkout, its index or its refs, and without running its hooks."""

from __future__ import annotations

import os
import posixpath
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ablate.errors import GridError, suggest
from ablate.formatting import quote

PATCH = "patch:"
WORKING_TREE = "."
TIMEOUT_S = 600.0
SUBMODULE, LINK = b"160000", b"120000"
MAX_NAMED = 3
MAX_DIFF_BYTES = 2**24
# A repository's own settings can name programs to run. None of them is needed to read it.
_NEW_CODE = ("--exclude-standard", "--", "*.py")
_SAFE = ("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-c", "core.quotePath=false")


@dataclass(frozen=True)
class Tree:
    """A level of the axis `git`: the tree's hash, the commit that it comes from, and the patch on top of it."""

    level: str
    hash: str
    commit: str
    top: Path  # the folder of the checkout
    below: str  # the grid's folder, relative to it
    patch: Path | None = None
    notices: tuple[str, ...] = ()
    paths: frozenset[str] | None = field(default=None, repr=False, compare=False)  # None if links lead elsewhere

    def lacks(self, *names: str) -> str:
        """The first of these paths, relative to the grid's folder, that the tree lacks; empty if it has all."""
        if self.paths is None:
            return ""
        for name in names:
            path = posixpath.normpath(posixpath.join(self.below, name))
            inside = path not in (".", "..") and not path.startswith("../")
            if inside and path not in self.paths and not any(one.startswith(f"{path}/") for one in self.paths):
                return name
        return ""


def list_tracked(folder: Path) -> list[str]:
    """The files that git tracks in a folder, relative to it; empty outside of a repository or without git."""
    try:
        return _split(_run(folder, "ls-files", "-z", "--cached", "."))
    except GridError:
        return []


def find_tree(folder: Path, level: str) -> Tree:
    """The tree that a level names: a branch, a tag, a commit, or `patch:FILE` on top of the checked-out commit.

    Raises `GridError`, with git's reason, if a name does not exist or a patch does not apply.
    """
    try:
        top = Path(os.fsdecode(_run(folder, "rev-parse", "--show-toplevel")).rstrip("\n"))
    except GridError as error:
        raise GridError(f"{folder}: this folder is not in a git repository: {error}") from None
    below = os.fsdecode(_run(folder, "rev-parse", "--show-prefix")).rstrip("\n")
    is_patch = level.startswith(PATCH)
    commit = _resolve(top, "HEAD" if is_patch or level == WORKING_TREE else level)
    patch = (folder / level.removeprefix(PATCH)).resolve() if is_patch else None
    with _index_of(top, commit, patch, with_changes=level == WORKING_TREE) as env:
        tree = _run(top, "write-tree", env=env).decode().strip()
        entries = _run(top, "ls-files", "-z", "--stage", env=env).split(b"\0")
    names = frozenset(os.fsdecode(entry.split(b"\t", 1)[1]) for entry in entries if entry)
    has_links = any(entry.startswith(LINK) for entry in entries)
    modules = [entry.split(b"\t", 1)[1] for entry in entries if entry.startswith(SUBMODULE)]
    notices = [f"{level}: submodules are left out: {', '.join(map(os.fsdecode, modules))}"] if modules else []
    if level == WORKING_TREE and (new := _split(_run(folder, "ls-files", "-z", "--others", *_NEW_CODE))):
        more = f" and {len(new) - MAX_NAMED} others" if len(new) > MAX_NAMED else ""
        notices.append(f"{level}: files that git does not track are left out: {', '.join(new[:MAX_NAMED])}{more}")
    return Tree(level, tree, commit, top, below, patch, tuple(notices), None if has_links else names)


def exported_at(study: Path, tree: Tree) -> Path:
    """The folder in a study's folder that holds the files of a tree."""
    return study.resolve() / "code" / "git" / tree.hash[:16]


def export(tree: Tree, target: Path, base: Tree) -> None:
    """Write the files of a tree into the folder `target`, and its difference from `base` into `target`.diff.

    Files are read-only, so that they are not edited by mistake. A folder that exists is left as it is. Raises
    `GridError` if the tree is no longer what the plan found, or if its files in the folder were changed.
    """
    if target.is_dir():
        with _index_of(tree.top, tree.commit, tree.patch, with_changes=tree.level == WORKING_TREE) as env:
            _run(tree.top, f"--work-tree={target}", "add", "--update", "--", ":/", env=env)
            found = _run(tree.top, "write-tree", env=env).decode().strip()
        if found != tree.hash:
            raise GridError(f"git: {target}: its files were changed: remove the folder, and ablate writes it again")
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".export-") as scratch:
        files = Path(scratch) / "files"
        files.mkdir()
        with _index_of(tree.top, tree.commit, tree.patch, with_changes=tree.level == WORKING_TREE) as env:
            if _run(tree.top, "write-tree", env=env).decode().strip() != tree.hash:
                raise GridError(f"git: {tree.level} has changed since the study was planned: run the command again")
            _run(tree.top, "checkout-index", "--all", f"--prefix={files}/", env=env)
            with _index_of(base.top, base.commit, base.patch, env=env, with_changes=base.level == WORKING_TREE) as more:
                before = _run(base.top, "write-tree", env=more).decode().strip()
                diff = _run(tree.top, "diff", "--no-ext-diff", "--no-textconv", "--binary", before, tree.hash, env=more)
        for path in files.rglob("*"):
            if path.is_file() and not path.is_symlink():
                path.chmod(path.stat().st_mode & ~0o222)
        if len(diff) > MAX_DIFF_BYTES:
            diff = diff[:MAX_DIFF_BYTES] + b"\n... the rest of the difference was left out\n"
        Path(f"{target}.diff").write_bytes(diff)
        try:
            files.rename(target)
        except OSError:
            if not target.is_dir():  # another driver was faster
                raise


@contextmanager
def _index_of(
    top: Path, commit: str, patch: Path | None, *, with_changes: bool = False, env: Mapping[str, str] | None = None
) -> Iterator[dict[str, str]]:
    """The environment for git commands on a temporary index with a commit, and with the patch or the changes of the
    checkout on top. New objects go to a temporary folder too, so that the repository stays as it is."""
    with tempfile.TemporaryDirectory(prefix="ablate-git-") as scratch:
        objects = Path(scratch) / "objects"
        objects.mkdir()
        own = os.fsdecode(_run(top, "rev-parse", "--git-path", "objects")).rstrip("\n")
        others = [str((top / own).resolve())]
        if env is not None:
            others += [env["GIT_OBJECT_DIRECTORY"], *env["GIT_ALTERNATE_OBJECT_DIRECTORIES"].split(os.pathsep)]
        made = {
            "GIT_INDEX_FILE": str(Path(scratch) / "index"),
            "GIT_OBJECT_DIRECTORY": str(objects),
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": os.pathsep.join(dict.fromkeys(others)),
        }
        _run(top, "read-tree", commit, env=made)
        if patch is not None:
            _run(top, "apply", "--cached", "--whitespace=nowarn", "--", str(patch), env=made)
        if with_changes:
            _run(top, "add", "--update", "--", ".", env=made)
        yield made


def _resolve(top: Path, name: str) -> str:
    try:
        found = _run(top, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    except GridError:
        if not _run(top, "rev-list", "--all", "--max-count=1"):
            raise GridError("the repository has no commits yet") from None
        known = _run(top, "for-each-ref", "--format=%(refname:short)", "refs/heads", "refs/tags").decode().split()
        raise GridError(f"{quote(name)} is not a branch, tag or commit{suggest(name, known)}") from None
    return found.decode().strip()


def _split(output: bytes) -> list[str]:
    return [os.fsdecode(name) for name in output.split(b"\0") if name]


def _run(folder: Path, *arguments: str, env: Mapping[str, str] | None = None) -> bytes:
    """The output of a git command. Raises `GridError` with git's reason if it fails."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    clean |= {"GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C", **(env or {})}
    command = ["git", "-C", str(folder), *_SAFE, *arguments]
    try:
        done = subprocess.run(
            command, env=clean, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=TIMEOUT_S
        )
    except FileNotFoundError:
        raise GridError("git is not installed") from None
    except subprocess.TimeoutExpired:
        raise GridError(f"git {arguments[0]} did not end within {TIMEOUT_S:.0f} s") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        reason = "; ".join(line.removeprefix("fatal: ").removeprefix("error: ") for line in said[:3])
        raise GridError(reason or f"{quote(arguments[-1])} does not exist")
    return done.stdout
