"""An arm of a program: its settings, its command, and the code that trains it."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ablate.data import CorpusInfo
from ablate.plan.identity import canonical_json
from ablate.plan.program_names import PROVIDED
from ablate.plan.setup import Setup
from ablate.sources.files import Code
from ablate.sources.git import Tree, export, exported_at
from ablate.study.declaration import Declaration
from ablate.study.program import Program
from ablate.study.template import fill, placeholder_values

GIT = "git"  # the axis whose levels are branches, tags, commits and patches
NO_CORPUS = CorpusInfo("", 0, 0, 0)  # only the program knows what it reads


@dataclass(frozen=True, eq=False)
class ProgramSetup(Setup):
    """The settings of an arm, and where its program runs. `tree` is the arm's level of the axis `git`, if it has one,
    and `base_tree` the first level of that axis."""

    program: Program
    settings: Mapping[str, Any]
    folder: Path
    code: Code
    steps: int | None = None
    tree: Tree | None = None
    base_tree: Tree | None = None

    @property
    def n_steps(self) -> int | None:
        return self.steps

    @property
    def n_params(self) -> None:
        return None

    @property
    def flops_per_token(self) -> None:
        return None

    @property
    def n_tokens(self) -> None:
        return None

    def to_dict(self) -> dict[str, Any]:
        return dict(self.settings)

    @cached_property
    def _own(self) -> dict[str, Any]:
        """The settings without the level of `git`, whose tree counts instead of its name."""
        return {key: value for key, value in self.settings.items() if key != GIT or self.tree is None}

    def describe_size(self) -> str:
        return f"the program {shlex.join(self.program.command)}"

    def describe_horizon(self, declared: Declaration | None = None) -> str:  # noqa: ARG002 - the arm itself says it
        return f"{self.steps:,} steps" if self.steps else "as long as it runs"

    @property
    def code_hash(self) -> str:
        return self.tree.hash if self.tree is not None else self.code.hash

    def identity(self, data_hash: str) -> str:  # noqa: ARG002 - the data are the program's own
        return canonical_json({"program": self._describe(), "settings": self._own})

    def _describe(self) -> dict[str, Any]:
        return {
            "command": list(self.program.command),
            "pattern": list(self.program.pattern),
            "metrics": [list(pair) for pair in self.program.metrics.items()],
            "env": dict(self.program.env),
            "code": self.code_hash,
        }

    def config(self) -> Mapping[str, Any]:
        sections: dict[str, Any] = {"model": {}, "train": {}}
        other: dict[str, Any] = {}
        for key, value in self._own.items():
            (sections if key in ("model", "train") and isinstance(value, dict) else other)[key] = value
        return {**sections, "program": self._describe(), **({"settings": other} if other else {})}

    def prepare(self, study: Path) -> None:
        if self.tree is not None and self.base_tree is not None:
            export(self.tree, exported_at(study, self.tree), self.base_tree)

    def directions(self, study: Path) -> Mapping[str, Any]:
        place = exported_at(study, self.tree) if self.tree is not None else None
        return {
            "settings": self.settings,
            "folder": str(self.folder),
            "cwd": str(self.folder if place is None or self.tree is None else place / self.tree.below),
            "files": list(self.code.files) if place is None else None,
            "diff": f"{place}.diff" if place is not None else "",
            "n_steps": self.steps,
            "silent_s": self.program.silent_for,
            "timeout_s": self.program.timeout,
        }

    def show_command(self, seed: int) -> list[str]:
        """The words of a run's command, with the placeholders that are only known later left as they are."""
        provided = {name: f"{{{name}}}" for name in PROVIDED} | {"seed": seed, "grid_dir": str(self.folder)}
        values = placeholder_values(self.settings) | provided
        return [fill(word, values) for word in self.program.command]

    @property
    def pace_group(self) -> str:
        return canonical_json([self.code_hash, self._own])


def find_program(name: str) -> str | None:
    """The path at which runs find a program: the folder of this interpreter comes first, then PATH."""
    return shutil.which(name, path=search_path())


def search_path() -> str:
    """PATH with the folder of this interpreter in front, so that `python` is the one with ablate in it."""
    return os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
