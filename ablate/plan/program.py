"""Resolve the settings of a program's arms, and check that its command can run."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from functools import cached_property

from ablate.data import CorpusInfo
from ablate.errors import GridError, suggest
from ablate.formatting import quote
from ablate.plan.axes import Assignment, Axes, arm_name
from ablate.plan.program_names import PROVIDED
from ablate.plan.program_setup import GIT, ProgramSetup, find_program
from ablate.plan.resolve import Resolver
from ablate.plan.setup import Resolved
from ablate.sources.files import Code, collect
from ablate.sources.git import Tree, find_tree
from ablate.sources.variables import LOG, PREFIX, variable_name
from ablate.study.declaration import Declaration
from ablate.study.overlay import Overlay
from ablate.study.program import STEP
from ablate.study.settings import Settings, flatten
from ablate.study.template import fill, is_placeholder, names_in
from ablate.study.yaml_source import KeyPath, Place

_NUMBER = re.compile(r"-(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)

_NO_CODE = (
    "no file of the program is known, so a change of its code makes no new runs: name its files under program.code"
)
_SEED_UNREAD = (
    "the command has no placeholder {seed}: unless the program reads $ABLATE_SEED, all seeds train the same run, and "
    "the report counts runs with the same numbers once"
)


class ProgramResolver(Resolver):
    """Resolves the settings of an arm, and checks that its command can be filled in.

    Raises `GridError` for a placeholder that nothing fills, code that cannot be read, or a command that does not exist.
    """

    def __init__(
        self,
        declared: Declaration,
        axes: Axes,
        corpus: CorpusInfo,
        overlays: Sequence[Overlay] = (),
        budget: Mapping[str, Place] | None = None,
    ) -> None:
        assert declared.program is not None
        self.program = declared.program
        self.folder = declared.folder.resolve()
        super().__init__(declared, axes, corpus, overlays, budget)
        self._trees = self._find_trees()
        self.code = self._collect_code()
        self._check_command()
        self._check_placeholders()

    @property
    def notices(self) -> list[str]:
        unread = [axis for axis in self.axes.levels if axis not in self._read and axis != GIT]
        return [
            *super().notices,
            *(
                f"the command has no placeholder for the axis {axis}: the program must read it from "
                f"${variable_name(axis)}, or from arm.json in {{run_dir}}"
                for axis in unread
            ),
            *([_NO_CODE] if not self.code.files and (not self._trees or GIT in self.axes.conditions) else []),
            *self._say_what_no_pattern_reads(),
            *([_SEED_UNREAD] if len(self.declared.seeds) > 1 and "seed" not in self._read else []),
            *dict.fromkeys(notice for tree in self._trees.values() for notice in tree.notices),
        ]

    def _say_what_no_pattern_reads(self) -> list[str]:
        """Why the first metric may never come, which a run would only notice at its end."""
        groups = {name: None for text in self.program.pattern for name in re.compile(text).groupindex}
        if not groups or (name := self.program.primary) in groups:
            return []
        near = suggest(name, [group for group in groups if group != STEP])
        return [f"no pattern has a group for the metric {name}{near}: the program must report it in another way"]

    @cached_property
    def _read(self) -> frozenset[str]:
        """The settings that the command and the variables read, and those inside of them."""
        texts = (*self.program.command, *self.program.env.values())
        names = {name for text in texts for name in names_in(text)}
        inside = {axis for axis in self.axes.levels for name in names if axis.startswith(f"{name}.")}
        return frozenset(names | inside)

    def _find_trees(self) -> dict[str, Tree]:
        trees = {}
        for level in self.axes.levels.get(GIT, ()):
            place = Place(self.declared.source, level.place)
            if not isinstance(level.name, str) or not level.name:
                raise place.refuse(f"a level of git is a branch, a tag, a commit or patch:FILE, got {level.name!r}")
            try:
                tree = trees[level.name] = find_tree(self.folder, level.name)
            except GridError as error:
                raise place.refuse(f"{level.name}: {error}") from None
            if tree.below and tree.lacks("."):
                raise place.refuse(f"{level.name}: it has no folder {quote(tree.below)}, where the grid is")
            if script := tree.lacks(*self._scripts):
                raise place.refuse(f"{level.name}: it has no file {quote(script)}, which the command runs")
        return trees

    def _collect_code(self) -> Code:
        if self._trees and GIT not in self.axes.conditions:
            return Code((), "")  # every arm runs a tree of git
        try:
            return collect(self.folder, self.program.code, self.program.command)
        except GridError as error:
            raise self.declared.refuse(("program", "code"), str(error)) from None

    def _check_command(self) -> None:
        """Raises `GridError` if the program, or a Python script in its command, does not exist."""
        name = self.program.command[0]
        if not names_in(name) and not (self._trees and os.sep in name):
            path = name if os.sep not in name else str(self.folder / name)
            if find_program(path) is None:
                raise self._refuse_command(f"there is no program {quote(name)} on this machine")
        for word in self._scripts if not self._trees else ():
            if not (self.folder / word).exists():
                near = (path.name for path in (self.folder / word).parent.glob("*.py"))
                raise self._refuse_command(f"there is no file {quote(word)} in the grid's folder{suggest(word, near)}")

    @property
    def _scripts(self) -> list[str]:
        """The Python scripts that the command names."""
        words = [word for word in self.program.command[1:] if word.endswith(".py") and not names_in(word)]
        return [word for word in words if not word.startswith("-") and "=" not in word]

    def _refuse_command(self, message: str) -> GridError:
        return self.declared.refuse(("program", "command"), message)

    def _check_placeholders(self) -> None:
        texts: list[tuple[KeyPath, str]] = [(("program", "command"), word) for word in self.program.command]
        texts += [(("program", "env", name), text) for name, text in self.program.env.items()]
        known = [*self.axes.levels, *(path for path, _ in flatten(self.base.tree)), *PROVIDED]
        known += [path for rule in self.declared.rules for path in rule.set]
        for name in self.program.env:
            if name.startswith(PREFIX):
                raise self.declared.refuse(("program", "env", name), f"{name} cannot be set: it comes from ablate")
        for place, text in texts:
            for name in names_in(text):
                if name not in known and self.base.get(name) is None:
                    raise self.declared.refuse(place, f"nothing fills {{{name}}}{suggest(name, known)}")

    def _conclude(self, settings: Settings, arm: Assignment, notices: Sequence[str]) -> Resolved:
        tree = settings.tree
        self._check_finite(settings)
        self._check_variables(settings)
        self._check_words(settings, arm)
        git = tree.get(GIT) if self._trees else None
        setup = ProgramSetup(
            self.program,
            tree,
            self.folder,
            self.code,
            self._count_steps(settings),
            self._trees.get(git) if git is not None else None,
            next(iter(self._trees.values()), None),
        )
        return Resolved(setup, tuple(notices), frozenset(settings.places))

    def _check_finite(self, settings: Settings) -> None:
        for path, value in flatten(settings.tree):
            if isinstance(value, float) and not math.isfinite(value):
                raise self._refuse(path, settings, f"{value} is not a finite number")

    def _check_variables(self, settings: Settings) -> None:
        """Raises `GridError` for settings that would share an environment variable."""
        taken = {variable_name(name): name for name in PROVIDED} | {LOG: "the file of ablate.log"}
        for path, _ in flatten(settings.tree):
            twin = taken.setdefault(variable_name(path), path)
            if twin != path:
                message = f"{path} and {twin} would both be ${variable_name(path)}: rename one of them"
                raise self._refuse(path, settings, message)

    def _check_words(self, settings: Settings, arm: Assignment) -> None:
        """Raises `GridError` where a placeholder has no value in this arm, or a value would become an option."""
        values = dict.fromkeys(PROVIDED, "")
        for index, word in enumerate((*self.program.command, *self.program.env.values())):
            for name in names_in(word):
                if name not in PROVIDED and not self._has(settings, name):
                    message = f"{{{name}}} has no value in the arm {arm_name(arm)}: give it one under model or train"
                    raise self._refuse_command(message)
            if not is_placeholder(word) or not 0 < index < len(self.program.command):
                continue
            (name,) = names_in(word)
            text = fill(word, values | {name: settings.get(name)})
            if isinstance(settings.get(name), str) and text.startswith("-") and not _NUMBER.fullmatch(text):
                message = f"{quote(text)} fills a whole word of the command, and the program may take it for an option"
                raise self._refuse(name, settings, f"{message}: write --NAME={{{name}}} in the command")

    def _refuse(self, path: str, settings: Settings, message: str) -> GridError:
        place = next(settings.places_near(path), self.declared.place(*path.split(".")))
        return place.refuse(message)

    @staticmethod
    def _has(settings: Settings, name: str) -> bool:
        *above, last = name.split(".")
        tree = settings.get(tuple(above)) if above else settings.tree
        return isinstance(tree, Mapping) and last in tree

    def _count_steps(self, settings: Settings) -> int | None:
        declared = self.program.steps
        if not isinstance(declared, str):
            return declared
        value = settings.get(declared)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            known = [path for path, known in flatten(settings.tree) if type(known) is int]
            message = f"{declared} is {value!r}, not a number of steps{suggest(declared, known)}"
            raise self.declared.refuse(("program", "steps"), message)
        return value
