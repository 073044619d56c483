"""The inputs of a plan's runs: a corpus, or the files of a program."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from ablate.formatting import count, format_count
from ablate.metrics import Direction
from ablate.plan.identity import hash_text
from ablate.plan.plan import Plan
from ablate.plan.program_setup import ProgramSetup, find_program
from ablate.plan.task_setup import TaskSetup
from ablate.study.data_schema import DataConfig
from ablate.study.declaration import Declaration
from ablate.study.settings import NAME

MAX_NAMED = 12  # files in a line


def describe_data(plan: Plan) -> dict[str, Any]:
    """The data of a study, as its record stores it."""
    corpus = plan.corpus
    if plan.study.program is not None:
        return {"hash": corpus.hash}
    if not plan.study.is_language_model:
        hashes = sorted({arm.setup.data_hash("") for arm in plan.arms})
        return {
            **{"task" if key == NAME else key: value for key, value in plan.study.task.items()},
            **plan.arms[0].setup.name_tokenizer(),
            "hash": hashes[0] if len(hashes) == 1 else hash_text("".join(hashes)),
        }
    return {
        **declare_data(plan.study.data),
        "hash": corpus.hash,
        "n_train_tokens": corpus.n_train_tokens,
        "n_validation_tokens": corpus.n_validation_tokens,
    }


def declare_data(data: DataConfig) -> dict[str, Any]:
    """The data section as records keep it. With a sequence, only its entries have files."""
    if not data.sequence:
        return data.model_dump(exclude={"sequence"})
    phases = [phase.model_dump(exclude_unset=True) for phase in data.sequence]
    return {"tokenizer": data.tokenizer, "tokenizer_path": data.tokenizer_path, "sequence": phases}


def name_data(declared: Declaration, data_hash: str) -> dict[str, Any]:
    """The data in the config of a run. Only a program knows what it reads, and a task names its own data."""
    data = declared.data
    return ({"source": data.name, "tokenizer": data.tokenizer} if declared.is_language_model else {}) | {
        "hash": data_hash
    }


def describe_inputs(plan: Plan) -> Iterator[str]:
    """Lines that describe what the runs read, and which of the user's files they execute."""
    setup = plan.arms[0].setup
    if isinstance(setup, ProgramSetup):
        yield from _describe_program(plan, setup)
        return
    if isinstance(setup, TaskSetup):
        yield from _describe_task(plan, setup)
        return
    about = "about " if plan.corpus.is_estimate else ""
    yield (
        f"data: {plan.study.data.name}, {plan.study.data.tokenizer}, "
        f"{about}{format_count(plan.corpus.n_train_tokens)} tokens for training and "
        f"{format_count(plan.corpus.n_validation_tokens)} for validation, hash {plan.corpus.hash[:12]}"
    )
    yield from _describe_codes(plan)
    if plan.corpus.is_estimate:
        yield "the tokens are estimated from a sample; `ablate data prepare` and `ablate run` count them exactly"


def _describe_codes(plan: Plan) -> Iterator[str]:
    for code in plan.codes:
        files = sorted(code.files, key=lambda name: name != code.entry)
        yield f"runs your code: {', '.join(str(code.place / name) for name in files)}, version {code.version}"


def _describe_task(plan: Plan, first: TaskSetup) -> Iterator[str]:
    name, rows = first.task.name, first.task.rows
    data = dict.fromkeys(arm.setup.data for arm in plan.arms if isinstance(arm.setup, TaskSetup))
    for info in list(data)[:MAX_NAMED]:
        n_train = f"{info.n_train:,}" if info.n_train else "new"
        validation = f"{info.n_validation:,} {rows} to validate"
        yield f"task {name}: {n_train} {rows} for training, {validation}, hash {info.hash[:12]}"
    if len(data) > MAX_NAMED:
        yield f"and {len(data) - MAX_NAMED} other data sets"
    yield f"metrics: {_name_metrics(first.task.metrics)}"
    yield from _describe_codes(plan)


def _name_metrics(metrics: Mapping[str, Direction]) -> str:
    return ", ".join(f"{name} ({direction} is better)" for name, direction in metrics.items())


def _describe_program(plan: Plan, setup: ProgramSetup) -> Iterator[str]:
    command = setup.show_command(plan.runs[0].seed)
    yield f"the first run: {shlex.join(command)}"
    yield f"in the folder {setup.folder}, by {find_program(command[0]) or command[0]}"
    yield f"metrics: {_name_metrics(setup.program.metrics)}"
    trees = dict.fromkeys(
        (arm.setup.tree.level, arm.setup.tree.hash)
        for arm in plan.arms
        if isinstance(arm.setup, ProgramSetup) and arm.setup.tree is not None
    )
    if trees:
        yield f"code from git: {', '.join(f'{level} (tree {tree[:12]})' for level, tree in trees)}"
    else:
        files = setup.code.files
        more = f" and {len(files) - MAX_NAMED} more" if len(files) > MAX_NAMED else ""
        yield f"code: {count(len(files), 'file')}, hash {setup.code.hash}: {', '.join(files[:MAX_NAMED])}{more}"
