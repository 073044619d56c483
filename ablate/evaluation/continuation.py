"""Continue a prompt with a run's trained model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ablate.data import load_tokenizer
from ablate.errors import RecordError, suggest
from ablate.evaluation.subject import declared_data, load_model
from ablate.tracking.code import is_file_name, named_code
from ablate.tracking.folders import RunFolder, StudyFolder
from ablate.tracking.json_files import read_mapping
from ablate_model import GPT, ConfigError, Sampling, generate
from ablate_model.own_code import LIBRARY


def find_run(name: str, runs: Path) -> RunFolder:
    """The run in the folder `name`, or the run under `runs` whose id begins with `name`.

    If several studies have the same run, one that has its weights is taken. Raises `RecordError` if no run or more than
    one run matches.
    """
    if (Path(name) / "config.json").is_file():
        return RunFolder(Path(name))
    folders = sorted(path.parent for path in runs.glob("*/*/config.json"))
    begun = [folder for folder in folders if name and folder.name.startswith(name)]
    found = {folder.name: folder for folder in sorted(begun, key=lambda folder: RunFolder(folder).weights.is_file())}
    if len(found) == 1:
        return RunFolder(next(iter(found.values())))
    if name and Path(name).is_dir():
        raise RecordError(f"{name}: this is not a run's folder: it has no config.json")
    if found:
        raise RecordError(f"{name}: more than one run id begins like this: {', '.join(found)}")
    raise RecordError(f"{name}: no such run under {runs}{suggest(name, dict.fromkeys(f.name for f in folders[:12]))}")


def allow_code(run: RunFolder, grid: Path | None, *, is_trusted: bool) -> None:
    """Let the model of a run use the user's code: the files next to `grid`, if they are those that the run used, or
    with `is_trusted` those that its study keeps.

    Raises `RecordError`, naming the files, where neither is asked for: a study may come from elsewhere.
    """
    config = {"model": read_mapping(run.config).get("model")}
    allow_named_code(config, StudyFolder(run.path.parent), run.path, grid, is_trusted=is_trusted)


def allow_named_code(
    config: Mapping[str, Any], store: StudyFolder, place: Path, grid: Path | None, *, is_trusted: bool
) -> None:
    """Let the code that a run's `config` names be used, as `allow_code` does. Messages begin with the `place`."""
    if is_trusted:
        LIBRARY.trust(store.code)
        return
    if grid is not None:
        LIBRARY.look_in(grid.parent)
    for name, version in dict(named_code(config)).items():
        if not is_file_name(name):
            continue  # an installed package
        try:
            if grid is None:
                raise ConfigError("version", "it runs code that is kept in its study")
            LIBRARY.find(name.rpartition(":")[0], version)
        except ConfigError as error:
            kept = ", ".join(str(path) for path in sorted((store.code / version).rglob("*.py")))
            raise RecordError(
                f"{place}: {name}: {error.message}: {kept or f'{store.code / version} is missing'}\n"
                "--grid GRID runs it if the same files are next to that grid; --trust-code runs the files of the study"
            ) from None


def continue_prompt(
    run: RunFolder, prompt: str, max_new_tokens: int, sampling: Sampling, *, stop: str = "", seed: int = 0
) -> str:
    """The prompt and its continuation by the run's model, up to the text `stop` or `max_new_tokens` tokens.

    With an empty prompt the model starts a document. Raises `RecordError` if the run has no weights, or if they do not
    fit its config or this code. Raises `DataError` if its tokenizer's vocabulary is gone.
    """
    if not run.weights.is_file():
        raise RecordError(f"{run.path}: {_explain_missing_weights(run)}")
    store = StudyFolder(run.path.parent)
    model = _load_gpt(run)
    tokenizer = load_tokenizer(declared_data(store), store.path)
    ids = [int(token) for token in tokenizer.encode(prompt)]
    if not ids and tokenizer.separator is None:
        raise RecordError(
            f"{run.path}: its tokenizer has no token that starts a document, so the prompt must not be empty"
        )
    ids = ids or [tokenizer.separator or 0]
    if max(ids) >= model.config.vocab_size:
        message = f"the prompt holds token {max(ids)}, but the model's vocabulary has {model.config.vocab_size} tokens"
        raise RecordError(f"{run.path}: {message}")
    stops = [int(token) for token in tokenizer.encode(stop)]
    device = next(model.parameters()).device
    try:
        out = generate(
            model,
            torch.tensor([ids], device=device),
            max_new_tokens,
            sampling=sampling,
            stop=stops if len(stops) == 1 else (),  # a longer stop is searched for in the text below
            seed=seed,
        )
    except ValueError as error:  # the run diverged and its weights are not numbers
        raise RecordError(f"{run.path}: its model cannot continue the prompt: {error}") from None
    text = tokenizer.decode(out[0, len(ids) :].tolist())
    return prompt + (text.partition(stop)[0] if stop else text)


def _explain_missing_weights(run: RunFolder) -> str:
    status = run.read_status()
    if run.log.exists() or os.path.lexists(run.weights):
        return run.weights_flaw().replace(f"{run.path}/", "")
    if status.state == "finished":
        gone = "`ablate clean` or --keep removed the weights, or `ablate pack` left them out (without --weights)"
        return f"its {run.weights.name} is not here: the run finished, but {gone}"
    notes = "".join(f"; {note}" for note in status.notes)
    return f"it has no weights: it is {status.state}, and only a finished run has weights{notes}"


def _load_gpt(run: RunFolder) -> GPT:
    model = load_model(run, "cuda" if torch.cuda.is_available() else "cpu")
    if not isinstance(model, GPT):
        raise RecordError(f"{run.path}: its model is of kind {model.config.kind}, and only a GPT can continue a text")
    return model
