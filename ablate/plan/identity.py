"""Run ids: hashes of everything that affects the result of a run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from ablate.study.schema import TrainConfig
from ablate_model import ModelConfig

# These change when and where a run trains, but not its result.
IMMATERIAL = frozenset(
    {"checkpoint_every", "micro_batch_size", "compile", "attention_backend", "cuda_graph", "recompute"}
)

RUN_ID_LENGTH = 16
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def canonical_json(data: Any) -> str:
    """A unique text for plain data: sorted keys, no spaces, no NaN."""
    return _ENCODER.encode(data)


def arm_identity(model: ModelConfig, train: TrainConfig, data_hash: str) -> str:
    """The canonical JSON of an arm on a corpus, without the seed. It includes the `version` of each variant.

    It also includes model settings that have no effect, because the ids of existing runs do. The canonical
    identities of `identify` leave them out.
    """
    return _join(_write_model(model), train, data_hash)


def _write_model(model: ModelConfig) -> str:
    return canonical_json(model.to_dict())


def _join(model: str, train: TrainConfig, data_hash: str, task: str = "", idle: frozenset[str] = frozenset()) -> str:
    # Only deterministic runs name it: they promise one curve per id, and other runs keep the ids that they had.
    usual = frozenset() if train.deterministic else frozenset({"deterministic"})
    settings = canonical_json(train.model_dump(exclude=set(IMMATERIAL | usual | train.idle_settings() | idle)))
    middle = f'"task":{task},' if task else ""
    return f'{{"data":{canonical_json(data_hash)},"model":{model},{middle}"train":{settings}}}'


def task_identities(
    model: ModelConfig, train: TrainConfig, data_hash: str, task: Mapping[str, Any], idle: frozenset[str]
) -> tuple[str, str]:
    """(identity, canonical identity) of an arm of a task, which does not read the `idle` settings of `train`."""
    text = canonical_json(task)
    own = _join(_write_model(model), train, data_hash, text, idle)
    return own, _join(_write_model(model.canonical()), train.canonical(), data_hash, text, idle)


def identify(arms: Sequence[tuple[ModelConfig, TrainConfig]], data_hash: str) -> list[tuple[str, str]]:
    """(identity, canonical identity) of each arm. Arms that share a config object share the work."""
    models = {id(model): model for model, _ in arms}
    texts = {key: (_write_model(model), _write_model(model.canonical())) for key, model in models.items()}
    result = []
    for model, train in arms:
        own, usual = texts[id(model)]
        identity, canonical = _join(own, train, data_hash), train.canonical()
        is_usual = own == usual and canonical is train
        result.append((identity, identity if is_usual else _join(usual, canonical, data_hash)))
    return result


def hash_text(text: str) -> str:
    """The sha256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def arm_id(identity: str) -> str:
    """16 hexadecimal digits of a sha256, by which records compare arms."""
    return hash_text(identity)[:RUN_ID_LENGTH]


def with_start(identity: str, start: Mapping[str, str]) -> str:
    """The identity of an arm whose runs start from the weights of others."""
    return f'{identity[:-1]},"start_from":{canonical_json(start)}}}'


def run_id(identity: str, seed: int, parent: str = "") -> str:
    """The name of a run's folder: 16 hexadecimal digits of a sha256. `parent` is the run that it starts from."""
    text = f"{identity}\n{seed}\n{parent}" if parent else f"{identity}\n{seed}"
    return hash_text(text)[:RUN_ID_LENGTH]
