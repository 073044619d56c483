"""Training and measuring an encoder-decoder on pairs of token sequences."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ablate.data.tokenizers import Tokenizer
from ablate.errors import DataError
from ablate.tasks.synthetic_pairs import FIRST_SYMBOL, PADDING, START, STOP, Ids
from ablate.training.contract import Batch, TrainingTask
from ablate_model import EncoderDecoderConfig, translate

EVALUATION_TOKENS = 16384  # at once, of sources and targets; fixed, so that no other setting changes a metric
N_BLEU = 10  # matching and all n-grams of four lengths, and the lengths of outputs and targets

Pick = Callable[[int, int, int], tuple[Ids, Ids]]  # (seed, step, n_rows) to sources and targets, filled up with PADDING


class PairTraining(TrainingTask):
    """Batches of (source [b, s], inputs [b, t], labels [b, t], mean number of labels per row of the whole batch [b]).

    The last part lets parts of a batch weigh every label of the batch equally. `bleu_of` is the tokenizer whose texts
    BLEU compares, if it is measured.
    """

    model: EncoderDecoderConfig

    def __init__(
        self,
        config: EncoderDecoderConfig,
        pick: Pick,
        validation: tuple[Ids, Ids],
        label_smoothing: float = 0.0,
        bleu_of: Tokenizer | None = None,
    ) -> None:
        self.model, self.pick, self.label_smoothing, self.bleu_of = config, pick, label_smoothing, bleu_of
        self.tokens_per_row = config.context_length
        self.n_sums = 5 if bleu_of is None else 5 + N_BLEU
        self.validation = self._frame(*validation)

    def _frame(self, source: Ids, target: Ids) -> Batch:
        source_bs = _widen(source, self.model.source_length)
        target_bt = _widen(target, self.model.context_length)
        n_tokens = (target != PADDING).sum(1)
        inputs_bt = np.concatenate([np.full((len(target), 1), START), target_bt[:, :-1]], axis=1)
        labels_bt = target_bt.copy()
        labels_bt[np.arange(len(target)), n_tokens] = STOP
        share_b = np.full(len(target), (n_tokens + 1).mean())
        return source_bs, inputs_bt, labels_bt, share_b

    def batch(self, seed: int, step: int, n_rows: int) -> Batch:
        return self._frame(*self.pick(seed, step, n_rows))

    def loss(self, model: Any, *batch: Tensor) -> Tensor:
        *pair, share_b = batch
        settings = {"padding": PADDING, "label_smoothing": self.label_smoothing}
        loss: Tensor = model.loss(*pair, **settings, n_labels=share_b.sum())
        return loss

    def validation_batches(self, seed: int, step: int) -> Iterator[Batch]:  # noqa: ARG002 - always the same pairs
        n_rows = max(1, EVALUATION_TOKENS // (self.model.source_length + self.model.context_length))
        for start in range(0, len(self.validation[0]), n_rows):
            yield tuple(part[start : start + n_rows] for part in self.validation)

    def measure(self, model: Any, *batch: Tensor) -> Tensor:
        """Return the sums of the loss (nats), labels, correct labels, exact targets and pairs, then those of BLEU."""
        source_bs, inputs_bt, labels_bt, _ = batch
        logits_btv = model(source_bs, inputs_bt, padding=PADDING)
        is_label_bt = labels_bt != PADDING
        settings = {"ignore_index": PADDING, "reduction": "sum"}
        loss = F.cross_entropy(logits_btv.flatten(0, 1).double(), labels_bt.flatten(), **settings)  # type: ignore[arg-type]
        n_correct = ((logits_btv.argmax(-1) == labels_bt) & is_label_bt).sum()
        sums_n = torch.stack([loss, is_label_bt.sum().double(), n_correct.double()])
        if not loss.isfinite():  # then there is nothing to decode by
            return torch.cat([sums_n, loss.expand(self.n_sums - len(sums_n))])
        found_bt = self._decode(model, source_bs)
        n_exact = (found_bt == labels_bt).all(1).sum().item()
        bleu = [] if self.bleu_of is None else self._count_bleu(found_bt, labels_bt)
        return torch.cat([sums_n, loss.new_tensor([n_exact, len(source_bs), *bleu])])

    def _decode(self, model: Any, source_bs: Tensor) -> Tensor:
        """Decode greedily: targets with their STOP, filled up with PADDING, (b, t)."""
        length = self.model.context_length
        found_bt = translate(model, source_bs, start=START, stop=STOP, max_new_tokens=length, padding=PADDING)[:, 1:]
        found_bt = F.pad(found_bt, (0, length - found_bt.shape[1]), value=STOP)
        has_ended_bt = (found_bt == STOP).cumsum(1) - (found_bt == STOP).long() > 0
        return found_bt.masked_fill(has_ended_bt, PADDING)

    def _count_bleu(self, found_bt: Tensor, labels_bt: Tensor) -> list[float]:
        texts = ([self._to_text(row) for row in ids_bt.tolist()] for ids_bt in (found_bt, labels_bt))
        found, wanted = texts
        score = find_bleu()().corpus_score(found, [wanted])
        return [*score.counts, *score.totals, score.sys_len, score.ref_len]

    def _to_text(self, ids: Sequence[int]) -> str:
        assert self.bleu_of is not None
        return self.bleu_of.decode([token - FIRST_SYMBOL for token in ids if token >= FIRST_SYMBOL])

    def conclude(self, sums: Sequence[float]) -> dict[str, float]:
        loss, n_labels, n_correct, n_exact, n_pairs, *bleu = sums
        found = {
            "val_loss": loss / n_labels,
            "val_token_accuracy": n_correct / n_labels,
            "val_exact_match": n_exact / n_pairs,
        }
        if self.bleu_of is None:
            return found
        counts, totals, (n_found, n_wanted) = bleu[:4], bleu[4:8], bleu[8:]
        if not np.isfinite(bleu).all():
            return {**found, "val_bleu": loss}
        score = find_bleu().compute_bleu(
            *([int(n) for n in part] for part in (counts, totals)), int(n_found), int(n_wanted)
        )
        return {**found, "val_bleu": float(score.score)}


def _widen(ids: Ids, length: int) -> Ids:
    return np.pad(ids, ((0, 0), (0, length - ids.shape[1])), constant_values=PADDING)


@lru_cache(maxsize=1)
def find_bleu() -> Any:
    """Find sacrebleu's BLEU. Raises `DataError` if the package is missing."""
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ImportError:
        raise DataError("task.bleu: needs the package sacrebleu: pip install 'ablate-studies[bleu]'") from None
    return BLEU
