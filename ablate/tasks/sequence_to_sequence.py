"""Sequence to sequence: an encoder-decoder learns to turn a source into its target."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, get_args

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from ablate.data.files import find_path
from ablate.data.tokenizers import Tokenizer
from ablate.errors import DataError
from ablate.metrics import Direction
from ablate.tasks.epochs import pick_rows
from ablate.tasks.pair_files import Format, PairFiles, Tokens, read_pairs
from ablate.tasks.synthetic_pairs import FIRST_SYMBOL, PADDING, START, STOP, VALIDATION, Ids, Synthetic, SyntheticPairs
from ablate.tasks.task import DataInfo, Task
from ablate.training.contract import Batch, TrainingTask
from ablate_model import ConfigError, EncoderDecoderConfig, ModelConfig, translate

SYNTHETIC = get_args(Synthetic)
EVALUATION_TOKENS = 16384  # at once, of sources and targets; fixed, so that no other setting changes a metric
N_BLEU = 10  # matching and all n-grams of four lengths, and the lengths of outputs and targets

Pick = Callable[[int, int, int], tuple[Ids, Ids]]  # (seed, step, n_rows) to sources and targets, filled up with PADDING


class SequenceToSequence(Task):
    """Pairs of a source and a target. Without files, they are made up and never repeat."""

    name: ClassVar[str] = "sequence_to_sequence"
    summary: ClassVar[str] = "an encoder-decoder turns a source into a target; greedy decoding must find it exactly"
    source_of_idea: ClassVar[str] = "Attention Is All You Need (arXiv 1706.03762)"
    rows: ClassVar[str] = "pairs"
    config_class: ClassVar[type[ModelConfig]] = EncoderDecoderConfig
    passes_per_evaluation: ClassVar[int] = 3  # decoding takes more than one
    located_knobs: ClassVar[tuple[str, ...]] = ("path", "validation_path", "tokenizer")

    source: Literal["reverse", "sort", "copy_with_distractors", "tsv", "jsonl", "parquet"] = Field(
        default="reverse",
        description="reverse, sort: symbols in another order; copy_with_distractors: copy the marked ones of many "
        "symbols; tsv, jsonl, parquet: your own pairs of texts",
    )
    symbols: int = Field(default=26, ge=2, le=65_000, description="different symbols of a made-up source")
    longest: int = Field(default=8, ge=1, le=10_000, description="symbols of the longest made-up target")
    shortest: int = Field(default=4, ge=1, le=10_000, description="symbols of the shortest made-up target")
    noise: float = Field(
        default=0.5,
        ge=0,
        le=0.99,
        description="copy_with_distractors: share of the symbols of a source that are distractors",
    )
    path: tuple[str, ...] = Field(default=(), description="files, globs or folders of pairs (also .gz .bz2 .xz .zst)")
    validation_path: tuple[str, ...] = Field(default=(), description="files of pairs that are held out")
    validation_fraction: float = Field(
        default=0.1, gt=0, lt=1, description="share held out without validation_path, chosen by a hash of the source"
    )
    source_key: str = Field(default="source", min_length=1, description="jsonl, parquet: key of the source")
    target_key: str = Field(default="target", min_length=1, description="jsonl, parquet: key of the target")
    tokenizer: str = Field(default="bytes", min_length=1, description="tokenizer of files, as in `data`")
    eval_pairs: int = Field(default=256, ge=1, le=10**7, description="validation pairs per evaluation, the first ones")
    label_smoothing: float = Field(default=0.0, ge=0, lt=1, description="share of a label that all tokens get")
    bleu: bool = Field(default=False, description="also measure BLEU of greedy decoding, with the package sacrebleu")
    metric: Literal["loss", "token_accuracy", "exact_match", "bleu"] = Field(
        default="loss", description="the metric by which arms are compared; it does not change the runs"
    )

    @model_validator(mode="before")
    @classmethod
    def _one_path_or_many(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        paths = {key: (data[key],) for key in ("path", "validation_path") if isinstance(data.get(key), str)}
        return {**data, **paths}

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.is_synthetic and (self.path or self.validation_path):
            files = [name for name in type(self).model_fields["source"].annotation.__args__ if name not in SYNTHETIC]  # type: ignore[union-attr]
            raise ConfigError("path", f"the source {self.source} is made up and reads no files", files)
        if not self.is_synthetic and not self.path:
            raise ConfigError("path", f"the source {self.source} needs files")
        if self.shortest > self.longest:
            raise ConfigError("shortest", f"{self.shortest} is more than longest, which is {self.longest}")
        if self.metric == "bleu" and not self.bleu:
            raise ConfigError("metric", "bleu is only measured with `bleu: true`")
        if self.bleu and self.is_synthetic:
            raise ConfigError("bleu", "BLEU compares texts, and made-up pairs have none", [False])
        return self

    @property
    def is_synthetic(self) -> bool:
        return self.source in SYNTHETIC

    @property
    def measures(self) -> Mapping[str, Direction]:
        found: dict[str, Direction] = {"val_loss": "lower", "val_token_accuracy": "higher", "val_exact_match": "higher"}
        return {**found, "val_bleu": "higher"} if self.bleu else found

    def idle(self) -> Mapping[str, str]:
        if not self.is_synthetic:
            unread = ("symbols", "longest", "shortest", "noise")
            return dict.fromkeys(unread, f"the source {self.source} reads files")
        unread = ("validation_fraction", "source_key", "target_key", "tokenizer")
        found = dict.fromkeys(unread, f"the source {self.source} is made up")
        return found if self.source == "copy_with_distractors" else found | {"noise": f"{self.source} has none"}

    def locate(self, base: Path) -> Self:
        def find(name: str) -> str:
            return str(base / name) if (place := find_path(name, base)) is None else str(place)

        paths = {knob: tuple(map(find, getattr(self, knob))) for knob in ("path", "validation_path")}
        tokenizer = find_path(self.tokenizer, base) if self.tokenizer != "bytes" else None
        return self.model_copy(update=paths | ({"tokenizer": str(tokenizer)} if tokenizer else {}))

    @property
    def made_up(self) -> SyntheticPairs:
        assert self.source in SYNTHETIC
        noise = 0.0 if "noise" in self.idle() else self.noise
        return SyntheticPairs(self.source, self.symbols, self.shortest, self.longest, noise)  # type: ignore[arg-type]

    @property
    def files(self) -> PairFiles:
        keys = (self.source_key, self.target_key)
        source: Format = self.source  # type: ignore[assignment]
        return PairFiles(source, self.path, self.validation_path, self.validation_fraction, keys, self.tokenizer)

    def describe(self, base: Path) -> DataInfo:
        if self.bleu:
            _find_bleu()
        if self.is_synthetic:
            made = self.made_up
            train = validation = _digest(self.version, *astuple(made))
            longest, n_tokens, n_train, n_measured = (
                (made.source_length, made.longest),
                self.symbols,
                None,
                self.eval_pairs,
            )
        else:
            pairs = read_pairs(self.files, base)
            train, validation = pairs.digests
            longest, n_tokens, n_train = pairs.longest, pairs.tokenizer.vocab_size, len(pairs.train)
            n_measured = min(self.eval_pairs, len(pairs.validation))
        settings = {
            "vocab_size": FIRST_SYMBOL + n_tokens,
            "source_length": max(longest[0], 1),
            "context_length": longest[1] + 1,  # the target and the token that ends it
        }
        return DataInfo(_digest(train, validation), _digest(validation, n_measured), n_train, n_measured, settings)

    def check_model(self, config: ModelConfig, data: DataInfo) -> None:
        needs = {**data.settings, "source_vocab_size": data.settings["vocab_size"]}
        for knob, needed in needs.items():
            if getattr(config, knob) < needed:
                what = "different tokens" if "vocab" in knob else "tokens in the longest pair"
                raise ConfigError(knob, f"{getattr(config, knob)} is less than the {needed} {what} of the task")

    def open(self, config: ModelConfig, base: Path) -> TrainingTask:
        assert isinstance(config, EncoderDecoderConfig)
        if self.is_synthetic:
            made = self.made_up
            return PairTraining(self, config, made.draw, made.draw(VALIDATION, 0, self.eval_pairs))
        pairs = read_pairs(self.files, base)

        def pick(seed: int, step: int, n_rows: int) -> tuple[Ids, Ids]:
            return _fill([pairs.train[row] for row in pick_rows(seed, step, n_rows, len(pairs.train))])

        return PairTraining(self, config, pick, _fill(pairs.validation[: self.eval_pairs]), pairs.tokenizer)


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _fill(pairs: Sequence[tuple[Tokens, Tokens]]) -> tuple[Ids, Ids]:
    """Sources and targets as two arrays, filled up with PADDING."""
    found = []
    for sequences in zip(*pairs, strict=True):
        ids = np.full((len(pairs), max(1, *map(len, sequences), 1)), PADDING)
        for row, tokens in zip(ids, sequences, strict=True):
            row[: len(tokens)] = tokens
        found.append(ids)
    return found[0], found[1]


class PairTraining(TrainingTask):
    """Batches of (source [b, s], inputs [b, t], labels [b, t], mean number of labels per row of the whole batch [b]).

    The last part lets parts of a batch weigh every label of the batch equally.
    """

    model: EncoderDecoderConfig

    def __init__(
        self,
        task: SequenceToSequence,
        config: EncoderDecoderConfig,
        pick: Pick,
        validation: tuple[Ids, Ids],
        tokenizer: Tokenizer | None = None,
    ) -> None:
        self.task, self.model, self.pick, self.tokenizer = task, config, pick, tokenizer
        self.tokens_per_row = config.context_length
        self.n_sums = 5 + N_BLEU * task.bleu
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
        settings = {"padding": PADDING, "label_smoothing": self.task.label_smoothing}
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
        bleu = self._count_bleu(found_bt, labels_bt) if self.task.bleu else []
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
        score = _find_bleu()().corpus_score(found, [wanted])
        return [*score.counts, *score.totals, score.sys_len, score.ref_len]

    def _to_text(self, ids: Sequence[int]) -> str:
        assert self.tokenizer is not None  # only pairs of files have texts
        return self.tokenizer.decode([token - FIRST_SYMBOL for token in ids if token >= FIRST_SYMBOL])

    def conclude(self, sums: Sequence[float]) -> dict[str, float]:
        loss, n_labels, n_correct, n_exact, n_pairs, *bleu = sums
        found = {
            "val_loss": loss / n_labels,
            "val_token_accuracy": n_correct / n_labels,
            "val_exact_match": n_exact / n_pairs,
        }
        if not self.task.bleu:
            return found
        counts, totals, (n_found, n_wanted) = bleu[:4], bleu[4:8], bleu[8:]
        if not np.isfinite(bleu).all():
            return {**found, "val_bleu": loss}
        score = _find_bleu().compute_bleu(
            *([int(n) for n in part] for part in (counts, totals)), int(n_found), int(n_wanted)
        )
        return {**found, "val_bleu": float(score.score)}


def _widen(ids: Ids, length: int) -> Ids:
    return np.pad(ids, ((0, 0), (0, length - ids.shape[1])), constant_values=PADDING)


@lru_cache(maxsize=1)
def _find_bleu() -> Any:
    """Find sacrebleu's BLEU. Raises `DataError` if the package is missing."""
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ImportError:
        raise DataError("task.bleu: needs the package sacrebleu: pip install 'ablate-studies[bleu]'") from None
    return BLEU
