"""What the runs of an arm train, fully resolved. A plan knows only `Setup`; each task has a class of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from ablate.formatting import count
from ablate.plan.estimate import Pace, least_bytes, run_bytes, run_seconds
from ablate.plan.identity import IMMATERIAL, arm_identity, identify, with_start
from ablate.plan.own_names import codes_of
from ablate.plan.start import Start
from ablate.study.data_schema import DataConfig
from ablate.study.declaration import Declaration
from ablate.study.schema import TrainConfig
from ablate_model import ModelConfig
from ablate_model.kinds import model_class
from ablate_model.own_code import Code


class Setup(ABC):
    """Everything about an arm that depends on its task. A size that the task does not know is None."""

    @property
    @abstractmethod
    def n_steps(self) -> int | None: ...

    @property
    @abstractmethod
    def n_params(self) -> int | None: ...

    @property
    @abstractmethod
    def flops_per_token(self) -> int | None:
        """FLOPs per token of a training step, forward and backward."""

    @property
    @abstractmethod
    def n_tokens(self) -> int | None:
        """Training tokens of a run."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """The settings as nested mappings, by which a search reads defaults."""

    @abstractmethod
    def identity(self, data_hash: str) -> str:
        """The canonical JSON of everything that decides the results, except the seed."""

    def identities(self, data_hash: str) -> tuple[str, str]:
        """The identity, and the one that is shared by all arms that train alike."""
        return (self.identity(data_hash),) * 2

    def data_hash(self, corpus_hash: str) -> str:
        """The hash of the data, given that of the corpus."""
        return corpus_hash

    @property
    def measured(self) -> str:
        """A hash of what evaluations measure, if it differs between the arms of a study."""
        return ""

    def tokenizer(self, data: DataConfig) -> tuple[str, str | None] | None:  # noqa: ARG002 - a task may read no text
        """The settings tokenizer and tokenizer_path, given the data section; None if they are not known."""
        return None

    def name_tokenizer(self) -> Mapping[str, Any]:
        """The settings of the tokenizer that a record of the data must name in addition to what the grid gives."""
        return {}

    @abstractmethod
    def config(self) -> Mapping[str, Any]:
        """The sections of config.json that decide the results, without the data and the seed."""

    def explain_idle(self) -> Mapping[str, str]:
        """Settings that have no effect here, by dotted path, with the reason."""
        return {}

    @property
    def immaterial(self) -> frozenset[str]:
        """The keys of `train` in config.json that do not change the results."""
        return frozenset()

    @property
    def codes(self) -> Sequence[Code]:
        """The user's files that the runs import in addition to ablate's packages."""
        return ()

    @property
    def facts(self) -> Mapping[str, Any]:
        """What the manifest of a run says about its training."""
        return {}

    def prepare(self, study: Path) -> None:  # noqa: B027 - most tasks need nothing
        """Write what runs need into the folder of the study, unless it is there."""

    def directions(self, study: Path) -> Mapping[str, Any]:  # noqa: ARG002 - a task may keep files in the study's folder
        """What else a worker needs to know to train a run."""
        return {}

    @abstractmethod
    def describe_size(self) -> str:
        """What is trained, in words."""

    @abstractmethod
    def describe_horizon(self, declared: Declaration | None = None) -> str:
        """How long it is trained, in words; if given, as long as the base of `declared`."""

    def diagnostic_names(self) -> Sequence[str]:
        """What the runs log besides metrics and costs, as far as it is known."""
        return ()

    @property
    def trains_here(self) -> bool:
        """Whether ablate's own loop trains it. A whole run then has `n_steps`, logs the loop's columns, and leaves
        weights."""
        return False

    def resumption(self, checkpoint: Path) -> str:  # noqa: ARG002 - a task may keep none
        """What happens to a run that was stopped, in words."""
        return "it continues if its program can"

    @property
    @abstractmethod
    def pace_group(self) -> str:
        """Runs with the same text take the same time per unit of work."""

    @property
    def compiled_kind(self) -> str | None:
        """Runs with the same text share compiled code; None if nothing is compiled."""
        return None

    @property
    def work(self) -> float:
        """The amount of work of a run, in units that have the same length within a pace group."""
        return float(self.n_tokens or self.n_steps or 1)

    def seconds(self, pace: Pace) -> float | None:  # noqa: ARG002 - a task that can estimate them needs the pace
        """Estimated seconds of a run; None if they are unknown."""
        return None

    @property
    def memory_bytes(self) -> int | None:
        """Estimated memory of a run; None if it is unknown."""
        return None

    @property
    def least_memory_bytes(self) -> int:
        """Memory that a run needs at least; 0 if it is unknown."""
        return 0


@dataclass(frozen=True)
class ModelSetup(Setup):
    """The setup of an arm that trains a model of `ablate_model` with ablate's own training loop.

    This class is for language models. `TaskSetup` is for the other tasks.
    """

    model: ModelConfig
    train: TrainConfig

    rows: ClassVar[str] = "sequences"

    @property
    def n_steps(self) -> int:
        return self.train.steps

    @cached_property
    def n_params(self) -> int:
        return self.model.num_params()

    @cached_property
    def flops_per_token(self) -> int:
        return self.model.flops_per_token()

    @property
    def n_tokens(self) -> int:
        return self.train.steps * self.train.batch_size * self.model.context_length

    @property
    def codes(self) -> Sequence[Code]:
        return codes_of(self.model, self.train)

    def to_dict(self) -> dict[str, Any]:
        return {"model": self.model.to_dict(), "train": self.train.model_dump()}

    def identity(self, data_hash: str) -> str:
        return arm_identity(self.model, self.train, data_hash)

    def config(self) -> Mapping[str, Any]:
        return self.to_dict()

    def tokenizer(self, data: DataConfig) -> tuple[str, str | None] | None:
        return None if data.source == "bin" else (data.tokenizer, data.tokenizer_path)

    def describe_size(self) -> str:
        layers, length = count(self.model.n_layers, "layer"), self.model.context_length
        return f"{self.n_params:,} parameters (d_model {self.model.d_model}, {layers}, context {length})"

    def describe_horizon(self, declared: Declaration | None = None) -> str:
        train = self.train if declared is None else declared.train
        n_tokens = train.steps * train.batch_size * self.model.context_length
        return f"{train.steps:,} steps of {train.batch_size} {self.rows} ({n_tokens:,} tokens)"

    def diagnostic_names(self) -> Sequence[str]:
        return tuple(model_class(self.model).diagnostic_names(self.model))

    @property
    def trains_here(self) -> bool:
        return True

    def resumption(self, checkpoint: Path) -> str:
        return "its checkpoint is kept" if checkpoint.exists() else "it had no checkpoint yet"

    def explain_idle(self) -> Mapping[str, str]:
        train = dict.fromkeys(sorted(IMMATERIAL), "it changes when and where a run trains, but not the result")
        train |= self.train.explain_idle()
        model = {f"model.{path}": why for path, why in self.model.idle().items()}
        return model | {f"train.{key}": why for key, why in train.items()}

    @property
    def immaterial(self) -> frozenset[str]:
        return IMMATERIAL | self.train.idle_settings()

    @property
    def facts(self) -> Mapping[str, Any]:
        return {"precision": self.train.precision, "compile": self.train.compile}

    @property
    def pace_group(self) -> str:
        return repr(self.model)

    @cached_property
    def compiled_kind(self) -> str | None:
        return repr((self.model, *self.train.compiled_settings)) if self.train.compile else None

    def seconds(self, pace: Pace) -> float:
        return run_seconds(self.model, self.train, pace)

    @property
    def memory_bytes(self) -> int:
        return run_bytes(self.model, self.train)

    @property
    def least_memory_bytes(self) -> int:
        return least_bytes(self.model, self.train)


def model_setup(setup: Setup) -> ModelSetup:
    """The setup as one with a model. Raises `TypeError` for a program's."""
    if not isinstance(setup, ModelSetup):
        raise TypeError(f"{type(setup).__name__} has no model of ablate")
    return setup


def identify_setups(setups: Sequence[Setup], data_hash: str) -> list[tuple[str, str]]:
    """(identity, canonical identity) of each setup. Setups that train alike have equal canonical identities."""
    models = [setup for setup in setups if type(setup) is ModelSetup]
    known = iter(identify([(setup.model, setup.train) for setup in models], data_hash))
    return [next(known) if type(setup) is ModelSetup else setup.identities(data_hash) for setup in setups]


@dataclass(frozen=True)
class Resolved:
    """The configuration of an arm, and remarks for its reader."""

    setup: Setup
    notices: tuple[str, ...]
    settings: frozenset[str]  # the dotted paths that its levels and rules set
    start: Start | None = None  # the weights that its runs start from

    def identity(self, data_hash: str) -> str:
        """The canonical JSON of everything that decides the results, except the seed."""
        return self.complete(self.setup.identity(data_hash))

    def complete(self, identity: str) -> str:
        """The identity of the setup, with that of the weights that the runs start from."""
        return identity if self.start is None else with_start(identity, self.start.identity)

    @property
    def model(self) -> ModelConfig:
        """The model of an arm that trains one of ablate's."""
        return model_setup(self.setup).model

    @property
    def train(self) -> TrainConfig:
        """The training of an arm that trains one of ablate's models."""
        return model_setup(self.setup).train

    def with_model(self, model: ModelConfig) -> Resolved:
        return replace(self, setup=replace(model_setup(self.setup), model=model))
