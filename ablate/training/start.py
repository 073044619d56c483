"""The weights of another run that a run starts from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ablate.errors import RecordError
from ablate_model import ConfigError
from ablate_model.gpt import HeadedModel
from ablate_model.storage import read_safetensors
from ablate_model.transfer import adopt


@dataclass(frozen=True)
class StartWeights:
    """The file of the weights, and the tensors that keep their initial values."""

    path: Path
    fresh: frozenset[str] = frozenset()

    def load_into(self, model: HeadedModel) -> None:
        """Copy the weights into a model. Raises `RecordError` if they cannot be read or do not fit."""
        try:
            adopt(model, read_safetensors(self.path), self.fresh, self.path)
        except ConfigError as error:
            raise RecordError(": ".join(filter(None, (error.path, error.message)))) from None
