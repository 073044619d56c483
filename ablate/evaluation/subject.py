"""From the folder of a run to the subject of evaluations: its model, tokenizer and corpus."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from ablate.data import SHARDS, Corpus, Tokenizer, find_corpus, load_tokenizer, prepare
from ablate.errors import DataError, RecordError
from ablate.evaluation.base import Subject
from ablate.study.data_schema import DataConfig
from ablate.tracking.folders import RunFolder, StudyFolder
from ablate.tracking.json_files import read_mapping
from ablate_model import ConfigError, load
from ablate_model.gpt import HeadedModel

TOKENIZER = ("tokenizer", "tokenizer_path")  # the settings of a tokenizer in a study's record


def load_model(run: RunFolder, device: str | torch.device, weights: str = "model.safetensors") -> HeadedModel:
    """Load a run's model, with the weights of a file in its folder.

    Raises `RecordError` if the weights do not fit its config or this code.
    """
    try:
        return load(run.path, device, weights)
    except (ConfigError, OSError, ValueError) as error:
        raise RecordError(f"{run.path}: its model cannot be loaded: {error}") from None


def declared_data(store: StudyFolder) -> DataConfig:
    """The data section of a study, as its record has it.

    Raises `RecordError` if it cannot be read, or if the runs were not trained on text.
    """
    return parse_data(store.read_study().data, store.record)


def parse_data(data: Mapping[str, Any], place: Path) -> DataConfig:
    """Read the data section from a study's record. Raises `RecordError` as `declared_data` does, naming the `place`."""
    keys = tuple(DataConfig.model_fields)
    if task := data.get("task"):
        keys = TOKENIZER
        if not reads_text(data):
            raise RecordError(f"{place}: its runs were trained on the task {task}, which has no text")
    known = {key: value for key, value in data.items() if key in keys}
    try:
        return DataConfig.model_validate(known)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, ("data", *first["loc"])))
        raise RecordError(f"{place}: {key}: {first['msg']}, got {first['input']!r}") from None


def find_tokenizer(store: StudyFolder, base: Path) -> Tokenizer | None:
    """Load the tokenizer that a study declares. None if its files are not here, if its data came as tokens and it names
    none, or if its task has no text."""
    if has_task(store) and not reads_text(store.read_study().data):
        return None
    declared = declared_data(store)
    if declared.source == "bin" and declared.tokenizer == "bytes":  # the default, which says nothing about the tokens
        return None
    try:
        return load_tokenizer(declared, base)
    except DataError:
        return None


def reads_text(data: Mapping[str, Any]) -> bool:
    """Tell if the record of a task's data names the tokenizer of its texts."""
    return all(key in data for key in TOKENIZER)


def has_task(store: StudyFolder) -> bool:
    """Tell if the runs were trained on another task than language modeling."""
    return "task" in store.read_study().data


def find_training_corpus(store: StudyFolder, base: Path) -> Corpus:
    """Find the corpus that the runs were trained on: its shards, or else the files that the study declares.

    Raises `DataError` if they are not here or have changed, and `ResourceError` if shards cannot be written.
    """
    folder, wanted = store.path.parent / SHARDS, str(store.read_study().data.get("hash"))
    corpus = find_corpus(folder, wanted) or prepare(declared_data(store), base, folder)
    if corpus.info.hash != wanted:
        raise DataError("the files that the study names have changed since it was trained")
    return corpus


def make_subject(
    run: RunFolder,
    weights: str,
    device: torch.device,
    corpus: Corpus | None,
    tokenizer: Tokenizer | None,
) -> Subject:
    """Load the model of a run for evaluation. Raises `RecordError` if its config or its weights cannot be used."""
    model = load_model(run, device, weights).eval()
    seed = read_mapping(run.config).get("seed", 0)
    return Subject(model, device, model.config.context_length, tokenizer, corpus, seed)
