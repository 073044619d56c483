"""A prompt continued by the model that a run left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from ablate.data import Tokenizer, load_tokenizer
from ablate.errors import RecordError, suggest
from ablate.study.schema import DataConfig
from ablate.tracking.folders import RunFolder, StudyFolder
from ablate_model import GPT, ConfigError, Sampling, generate, load


def find_run(name: str, runs: Path) -> RunFolder:
    """The run whose folder `name` is, or whose id begins with it among all studies under `runs`.

    Several studies may have the same run: then one that has its weights, where one does.
    Raises `RecordError` where there is none, or more than one.
    """
    if (Path(name) / "config.json").is_file():
        return RunFolder(Path(name))
    folders = sorted(path.parent for path in runs.glob("*/*/config.json"))
    begun = [folder for folder in folders if name and folder.name.startswith(name)]
    found = {folder.name: folder for folder in sorted(begun, key=lambda folder: RunFolder(folder).weights.is_file())}
    if len(found) == 1:
        return RunFolder(next(iter(found.values())))
    if name and Path(name).is_dir():
        raise RecordError(f"{name}: this folder is no run's: it holds no config.json")
    if found:
        raise RecordError(f"{name}: more than one run begins so: {', '.join(found)}")
    raise RecordError(f"{name}: no such run under {runs}{suggest(name, dict.fromkeys(f.name for f in folders[:12]))}")


def continue_prompt(
    run: RunFolder, prompt: str, max_new_tokens: int, sampling: Sampling, *, stop: str = "", seed: int = 0
) -> str:
    """The prompt and what the run's model makes of it, up to the text `stop` or `max_new_tokens` tokens.

    An empty prompt stands for the beginning of a document. Raises `RecordError` where the run has no weights or they
    do not fit its configuration or this code, `DataError` where its tokenizer's vocabulary is gone.
    """
    if not run.weights.is_file():
        raise RecordError(f"{run.path}: {_explain_missing_weights(run)}")
    tokenizer = _load_tokenizer(run)
    model = _load_model(run)
    ids = [int(token) for token in tokenizer.encode(prompt)] or [tokenizer.separator]
    if max(ids) >= model.config.vocab_size:
        message = f"the prompt holds the token {max(ids)}, beyond the model's vocabulary of {model.config.vocab_size}"
        raise RecordError(f"{run.path}: {message}")
    stops = [int(token) for token in tokenizer.encode(stop)]
    device = next(model.parameters()).device
    try:
        out = generate(
            model,
            torch.tensor([ids], device=device),
            max_new_tokens,
            sampling=sampling,
            stop=stops if len(stops) == 1 else (),  # a longer one is looked for in the text
            seed=seed,
        )
    except ValueError as error:  # weights that are not numbers, from a run that diverged
        raise RecordError(f"{run.path}: its model cannot continue the prompt: {error}") from None
    text = tokenizer.decode(out[0, len(ids) :].tolist())
    return prompt + (text.partition(stop)[0] if stop else text)


def _explain_missing_weights(run: RunFolder) -> str:
    status = run.read_status()
    if status.state == "finished":
        return (
            f"its {run.weights.name} is gone: it finished, but `ablate clean` or a rule of --keep removed the weights"
        )
    notes = "".join(f"; {note}" for note in status.notes)
    return f"has no weights (it is {status.state}; they are kept once a run has finished{notes})"


def _load_model(run: RunFolder) -> GPT:
    try:
        return load(run.path, "cuda" if torch.cuda.is_available() else "cpu")
    except (ConfigError, OSError, ValueError) as error:
        raise RecordError(f"{run.path}: its model cannot be loaded: {error}") from None


def _load_tokenizer(run: RunFolder) -> Tokenizer:
    store = StudyFolder(run.path.parent)
    declared: dict[str, Any] = dict(store.read_study().data)
    known = {key: value for key, value in declared.items() if key in DataConfig.model_fields}
    try:
        return load_tokenizer(DataConfig.model_validate(known), run.path.parent)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, ("data", *first["loc"])))
        raise RecordError(f"{store.record}: {key}: {first['msg']}, got {first['input']!r}") from None
