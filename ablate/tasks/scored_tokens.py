"""Questions to a language model as arrays: token ids, and where in them the tokens are that count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.nn import functional as F

from ablate_model.kernels.cross_entropy import IGNORED_TARGET

Ids = npt.NDArray[np.int64]
Tokens = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Scored:
    """A sequence of tokens. `is_scored` marks those whose probability counts, never the first one."""

    ids: Tokens
    is_scored: npt.NDArray[np.bool_]

    @classmethod
    def join(cls, parts: Sequence[tuple[Tokens, bool]]) -> Scored:
        """Join pieces of tokens, each of which counts or not."""
        marks = [np.full(len(ids), counts) for ids, counts in parts]
        return cls(np.concatenate([ids for ids, _ in parts]).astype(np.int32), np.concatenate(marks))

    def keep_end(self, n_tokens: int) -> Scored:
        """The last tokens, the first of which does not count."""
        kept = Scored(self.ids[-n_tokens:], self.is_scored[-n_tokens:].copy())
        kept.is_scored[0] = False
        return kept

    @property
    def n_scored(self) -> int:
        return int(self.is_scored.sum())


def fill(rows: Sequence[Scored], length: int, n_scored: int) -> tuple[Ids, Ids, Ids]:
    """Stack sequences: ids [n, length], places [n, n_scored] before the tokens that count, and these as targets.

    Ids are filled up with 0 at the end, where no earlier token sees them, and targets with IGNORED_TARGET.
    """
    ids = np.zeros((len(rows), length), np.int64)
    places = np.zeros((len(rows), n_scored), np.int64)
    targets = np.full((len(rows), n_scored), IGNORED_TARGET, np.int64)
    for index, row in enumerate(rows):
        ids[index, : len(row.ids)] = row.ids
        (found,) = np.nonzero(row.is_scored)
        places[index, : len(found)] = found - 1
        targets[index, : len(found)] = row.ids[found]
    return ids, places, targets


def log_probabilities(model: Any, ids_nt: Tensor, places_na: Tensor, targets_na: Tensor) -> Tensor:
    """The log-probability (nats) of each target after the token at its place: [n, a], 0 for ignored targets."""
    stream_ntd = model.encode(ids_nt)
    chosen_nad = stream_ntd.gather(1, places_na[..., None].expand(-1, -1, stream_ntd.shape[-1]))
    logits_mv = model.form_logits(chosen_nad).flatten(0, 1)
    losses_m = F.cross_entropy(logits_mv, targets_na.flatten(), ignore_index=IGNORED_TARGET, reduction="none")
    return -losses_m.view_as(targets_na)
