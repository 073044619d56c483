"""Read the logs of other programs as one study: W&B, TensorBoard, Hugging Face, Lightning, and any table.

Each format has one module, which is chosen by a file's content. Everything after that is shared.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from ablate.analysis.checked_records import clean
from ablate.analysis.results import Results
from ablate.errors import RecordError, suggest
from ablate.formatting import count
from ablate.imports import lightning_csv, table, tensorboard, trainer_state, wandb_csv
from ablate.imports.log_files import LogFile, Notes, find_logs
from ablate.imports.logged_run import LoggedRun
from ablate.imports.names import FACTS, Names
from ablate.imports.run_names import read_names
from ablate.imports.study import read_study

FORMATS: tuple[ModuleType, ...] = (trainer_state, lightning_csv, tensorboard, wandb_csv, table)
"""In the order in which they are tried. In one folder, only the files of the first format that it has are read."""

_MOST_ARMS = 12


def name_study(paths: Sequence[str]) -> str:
    """The name of a study: that of the file or folder, or of the folder that all of them share."""
    whole = [Path(path).resolve() for path in paths]
    shared = whole[0] if len(whole) == 1 else Path(os.path.commonpath([path.parent for path in whole]))
    return shared.stem or "logs"


def read_log_study(
    paths: Sequence[str], names: Names, command: str = "", tell: Callable[[str], None] = lambda _: None
) -> Results:
    """Build a study from log files and from all logs below folders; see `read_study`.

    `tell` is given what was read, which arms were found, and what was left out. Raises `RecordError`, naming the file,
    if nothing can be read, and `ResourceError` if a package for it is missing.
    """
    notes = Notes()
    files = _choose(find_logs(paths), notes)
    read = [run for form, group in files.items() for run in form.read(group, names, notes)]
    source = " and ".join(form.SOURCE for form in files)

    def say(line: str) -> None:
        tell(" ".join(str(clean(line)).split()))

    say(f"Read {count(len(read), 'run')} from {count(sum(map(len, files.values())), 'file')}: {source}.")
    for line in notes.lines:
        say(f"Note: {line}.")
    if not read:
        raise RecordError(f"{paths[0]}: there is no run in these files")
    runs, is_named = read_names(read, names)
    _check_facts(runs, names)
    results = read_study(name_study(paths), runs, names, source, command)
    say(_describe_arms(results, runs, names, is_named))
    record = results.record
    for about in ("left out", "joined", "replaced", "passed over"):
        if about in record.data:
            say(f"Note: {about}: {record.data[about]}.")
    short = _list_short(results)
    for line in short:
        say(f"Note: {line}.")
    data = {**record.data, **({"arms": "from the names of folders, files or runs"} if is_named else {})}
    return replace(results, record=replace(record, data=data, caveats=(*record.caveats, *notes.lines, *short)))


def _choose(files: Sequence[LogFile], notes: Notes) -> dict[ModuleType, list[LogFile]]:
    """Group files by their format. If a run has logs in several formats, keep those of the first one."""
    chosen: dict[ModuleType, list[LogFile]] = {}
    for file in files:
        form = next((form for form in FORMATS if form.recognizes(file)), None)
        if form is not None:
            chosen.setdefault(form, []).append(file)
        elif file.is_given:
            raise RecordError(f"{file.path}: this is not a log of a known format: {', '.join(_list_formats())}")
        else:
            notes.add(file.path, "left out, because it is not a log of a known format")
    kept: dict[ModuleType, list[LogFile]] = {}
    taken: dict[tuple[str, ...], ModuleType] = {}
    for form in FORMATS:
        for file in chosen.get(form, ()):
            above = [file.folders[:n] for n in range(len(file.folders) + 1)]
            first = next((taken[place] for place in above if place in taken), form)
            if first is form or file.is_given or (first is not trainer_state and file.folders not in taken):
                kept.setdefault(form, []).append(file)
            else:
                notes.add(file.path, f"left out, because its folder has {first.SOURCE}")
        for file in chosen.get(form, ()):
            place = trainer_state.find_run(file) if form is trainer_state else file.folders
            taken.setdefault(place, form)
    return kept


def _list_formats() -> list[str]:
    return [form.SOURCE for form in FORMATS[:-1]] + ["or CSV, JSON Lines or Parquet with at least two columns"]


def _check_facts(runs: Sequence[LoggedRun], names: Names) -> None:
    """Raise `RecordError` if no run has a fact whose name the user chose, naming what there is."""
    there = {name for run in runs for name in run.facts}
    known = sorted(there | {name for run in runs for name in run.logged})
    for what in names.chosen.keys() & FACTS.keys():
        for name in names.of(what):
            if name not in there:
                raise RecordError(
                    f"no column or hyperparameter of any log is named {name}, and no folder or file {name}=VALUE"
                    f"{suggest(name, known).replace('legal: ', 'found: ')}; see --{what}"
                )


def _describe_arms(results: Results, runs: Sequence[LoggedRun], names: Names, is_named: bool) -> str:
    arms: dict[str, list[int]] = {}
    for run in results.runs:
        arms.setdefault(run.arm, []).append(run.seed)
    has_seed = {run.run_id for run in runs if any(run.facts.get(name) for name in names.of("seed"))}
    known = {run.arm for run in results.runs if run.run_id in has_seed}
    listed = [
        f"{arm} ({'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, sorted(seeds)))})"
        if arm in known
        else f"{arm} ({count(len(seeds), 'run')} without a seed)"
        for arm, seeds in arms.items()
    ]
    more = f" and {len(listed) - _MOST_ARMS} more" if len(listed) > _MOST_ARMS else ""
    found = f"{', '.join(listed[:_MOST_ARMS])}{more}"
    if not is_named:
        return f"Arms from {', '.join(names.of('arm'))}: {found}."
    differ = sorted({name for run in runs for name in run.facts} - {*names.of("arm"), *names.of("seed")})
    differ = [name for name in differ if len({run.facts.get(name) for run in runs}) > 1][:_MOST_ARMS]
    hint = (
        f" To use {' or '.join(differ)} instead, give --arm." if differ else " To change them, give --arm and --seed."
    )
    return f"Arms from the names of folders, files or runs: {found}.{hint}"


def _list_short(results: Results) -> list[str]:
    """Name the runs that end before the others of their arm. A log does not say why."""
    short: dict[str, list[str]] = {}
    for run in results.runs:
        if run.was_stopped:
            short.setdefault(run.arm, []).append(f"at step {run.last_step:,} of {run.n_steps:,}")
    return [
        f"{arm}: {count(len(ends), 'run')} ended early ({', '.join(ends[:3])}), and the log does not say why"
        for arm, ends in short.items()
    ]
