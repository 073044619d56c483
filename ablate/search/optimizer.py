"""The Optuna side of a search: storage, sampler and pruner by name, and one Optuna study per arm."""

from __future__ import annotations

import inspect
import json
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import get_lock_file

from ablate.errors import GridError, RecordError, suggest
from ablate.plan.identity import canonical_json
from ablate.search.problem import Problem
from ablate.search.space import ArmSpace
from ablate.study.settings import is_same
from ablate.study.tuning import GRID, Chosen
from ablate.tracking.mlflow_client import redact

JOURNAL = "optuna.log"
REHEARSED = 12  # trials: two more than samplers draw at random, and than pruners wait for
NOT_CHOSEN = (
    "PartialFixedSampler",
    "BruteForceSampler",
)  # the first wraps another sampler, the second stops the calling loop
DECLARATION = "declaration"  # user attribute of an Optuna study: what it searches

optuna.logging.set_verbosity(optuna.logging.ERROR)


def open_study(problem: Problem, arm: ArmSpace, storage: BaseStorage) -> optuna.Study:
    """Open the arm's Optuna study; create it where it does not exist.

    Raises `GridError` where the storage holds another search of that name.
    """
    name = problem.name if len(problem.arms) == 1 else f"{problem.name}/{arm.label}"
    if problem.tuning.is_grid:  # a grid may become wider, but Optuna does not accept further choices
        name += f" of {'x'.join(str(len(parameter.choices)) for parameter in arm.parameters.values())}"
    study = optuna.create_study(
        storage=storage,
        pruner=_make("pruner", problem.tuning.pruner, problem.tuning.pruner.arguments),
        study_name=name,
        directions=[objective.direction for objective in problem.objectives],
        load_if_exists=True,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        study.set_metric_names([objective.text for objective in problem.objectives])
    whole = problem.declaration()
    declaration = {**whole, "defaults": whole["defaults"][arm.label]}
    found = study.user_attrs.get(DECLARATION)
    if found is None and not study.get_trials(deepcopy=False):
        study.set_user_attr(DECLARATION, canonical_json(declaration))
    elif found is None or not is_same(json.loads(found), declaration):
        raise GridError(f"storage: it holds another search named {name!r}: give this search another name")
    return study


def open_storage(url: str, folder: Path) -> BaseStorage:
    """Open the storage at an Optuna URL, or the journal in the search's folder.

    The caller must hold the lock of the folder, because this repairs a journal that a killed process left half written.
    Raises `GridError` where the URL cannot be opened, and `RecordError` where the journal cannot be read.
    """
    if url:
        try:
            return optuna.storages.get_storage(url)
        except Exception as error:  # noqa: BLE001 - every kind of storage has its own errors
            text = str(error).splitlines()[0].replace(url, redact(url))
            raise GridError(f"storage: Optuna cannot open {redact(url)}: {type(error).__name__}: {text}") from None
    journal = folder / JOURNAL
    folder.mkdir(parents=True, exist_ok=True)
    _repair(journal)
    return _read_journal(journal)


def copy_storage(problem: Problem, folder: Path) -> BaseStorage:
    """Copy the problem's studies into memory. Nothing is written, and another process may be adding trials.

    Raises what `open_storage` raises.
    """
    copy, journal = InMemoryStorage(), folder / JOURNAL
    if problem.storage:
        source = open_storage(problem.storage, folder)
    elif journal.exists():
        source = _read_journal(journal)
    else:
        return copy
    for name in optuna.get_all_study_names(source):
        if re.match(rf"{re.escape(problem.name)}(/| of |$)", name):
            optuna.copy_study(from_study_name=name, from_storage=source, to_storage=copy)
    return copy


def _read_journal(journal: Path) -> BaseStorage:
    try:
        return JournalStorage(_Journal(str(journal)))
    except (ValueError, KeyError) as error:
        raise RecordError(f"{journal}: cannot be read as an Optuna journal: {error}") from None


class _Journal(JournalFileBackend):
    """Optuna's journal without fsync. A killed process loses nothing, and after a crash of the machine the run folders
    restore what is missing."""

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        with get_lock_file(self._lock), Path(self._file_path).open("ab") as file:
            file.write(lines.encode())


def make_sampler(chosen: Chosen, arm: ArmSpace, seed: int = 0) -> optuna.samplers.BaseSampler:
    """Make a sampler by name. `seed` is added to the file's seed, so that a continued search does not repeat itself."""
    if chosen.name == GRID:
        return optuna.samplers.RandomSampler(seed)  # never asked, because every trial comes with its values
    given: dict[str, Any] = {}
    if chosen.name == "TPESampler":
        given = {"multivariate": True, "group": arm.is_conditional, "constant_liar": True}
    given |= chosen.arguments
    first = given.pop("seed", 0)
    if not isinstance(first, int):
        raise GridError(f"sampler: seed must be a whole number, got {first!r}")
    sampler: optuna.samplers.BaseSampler = _make("sampler", chosen, given | {"seed": first + seed})
    return sampler


def check_names(problem: Problem) -> None:
    """Raises `GridError` where Optuna has no such sampler or pruner, or it does not take the arguments.

    Optuna checks some arguments only when trials end, so this runs a short search in memory.
    """
    if len(problem.objectives) > 1 and problem.tuning.pruner.name != "NopPruner":
        raise problem.study.refuse(("pruner",), "Optuna can prune trials only with a single objective")
    chosen, arm = problem.tuning.sampler, problem.arms[0]
    with _named("sampler", chosen):
        _rehearse(problem, sampler=make_sampler(chosen, arm))
    chosen = problem.tuning.pruner
    pruner, random = _make("pruner", chosen, chosen.arguments), optuna.samplers.RandomSampler(0)
    if len(problem.objectives) == 1:
        with _named("pruner", chosen):
            _rehearse(problem, sampler=random, pruner=pruner)


@contextmanager
def _named(kind: str, chosen: Chosen) -> Iterator[None]:
    """Turn any error of an Optuna class about its arguments into a `GridError`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the search itself warns
            yield
    except GridError:
        raise
    except Exception as error:  # noqa: BLE001 - see above
        reason = next(iter(str(error).splitlines()), type(error).__name__)  # an assertion may have no text
        raise GridError(f"{kind}: {chosen.name}: {reason}") from None


def _rehearse(problem: Problem, **classes: Any) -> None:
    study = optuna.create_study(directions=[objective.direction for objective in problem.objectives], **classes)
    for number in range(REHEARSED):
        trial = study.ask(problem.arms[0].distributions)
        for step in range(1, 9) if "pruner" in classes else ():
            trial.report(float(number + step), step)
            trial.should_prune()
        study.tell(trial, [float(number)] * len(problem.objectives))


def _make(kind: str, chosen: Chosen, arguments: Mapping[str, Any]) -> Any:
    classes = _classes(kind)
    if chosen.name not in classes:
        raise GridError(f"{kind}: Optuna has no {kind} {chosen.name!r}{suggest(chosen.name, classes)}")
    legal = inspect.signature(classes[chosen.name]).parameters
    for name in chosen.arguments:
        if name not in legal:
            raise GridError(f"{kind}: {chosen.name} has no argument {name!r}{suggest(name, legal)}")
    known = {name: value for name, value in arguments.items() if name in legal}
    with _named(kind, chosen):
        return classes[chosen.name](**known)


def _classes(kind: str) -> dict[str, Any]:
    module: Any = {"sampler": optuna.samplers, "pruner": optuna.pruners}[kind]
    return {
        name: getattr(module, name)
        for name in module.__all__
        if name.lower().endswith(kind) and not name.startswith("Base") and name not in NOT_CHOSEN
    }


def _repair(journal: Path) -> None:
    """Drop the last line if a killed process left it half written, and the lock that it held."""
    with suppress(FileNotFoundError):
        content = journal.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with journal.open("r+b") as file:
                file.truncate(whole)
    Path(f"{journal}.lock").unlink(missing_ok=True)
