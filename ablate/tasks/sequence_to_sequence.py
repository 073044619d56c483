"""Sequence to sequence: an encoder-decoder learns to turn a source into its target."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import astuple
from pathlib import Path
from typing import ClassVar, Literal, Self, get_args

from pydantic import Field, model_validator

from ablate.data.files import find_path
from ablate.metrics import Direction
from ablate.study.schema import Texts
from ablate.tasks.epochs import pick_rows
from ablate.tasks.pair_files import Format, PairFiles, fill_up, read_pairs
from ablate.tasks.pair_training import PairTraining, find_bleu
from ablate.tasks.synthetic_pairs import FIRST_SYMBOL, VALIDATION, Ids, Synthetic, SyntheticPairs
from ablate.tasks.task import DataInfo, Task
from ablate.training.contract import TrainingTask
from ablate_model import ConfigError, EncoderDecoderConfig, ModelConfig

SYNTHETIC = get_args(Synthetic)


class SequenceToSequence(Task):
    """Pairs of a source and a target. Without files, they are made up and never repeat."""

    name: ClassVar[str] = "sequence_to_sequence"
    summary: ClassVar[str] = "an encoder-decoder turns a source into a target; greedy decoding must find it exactly"
    source_of_idea: ClassVar[str] = "Attention Is All You Need (arXiv 1706.03762)"
    rows: ClassVar[str] = "pairs"
    config_class: ClassVar[type[ModelConfig]] = EncoderDecoderConfig
    passes_per_evaluation: ClassVar[int] = 3  # decoding takes more than one
    data_knobs: ClassVar[tuple[str, ...]] = (
        "path",
        "validation_path",
        "validation_fraction",
        "source_key",
        "target_key",
        "tokenizer",
    )

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
    path: Texts = Field(default=(), description="files, globs or folders of pairs (also .gz .bz2 .xz .zst)")
    validation_path: Texts = Field(default=(), description="files of pairs that are held out")
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

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.is_synthetic and (self.path or self.validation_path):
            raise ConfigError("path", f"the source {self.source} is made up and reads no files")
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
        if self.is_synthetic:
            return self
        train, validation = (tuple(map(str, paths)) for paths in self.files.find(base))
        tokenizer = find_path(self.tokenizer, base) if self.tokenizer != "bytes" else None
        found = {"path": train, "validation_path": validation}
        return self.model_copy(update=found | ({"tokenizer": str(tokenizer)} if tokenizer else {}))

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
            find_bleu()
        if self.is_synthetic:
            made = self.made_up
            train = validation = _digest(self.version, *astuple(made))
            longest, n_tokens = (made.source_length, made.longest), self.symbols
            n_train, n_measured = None, self.eval_pairs
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
            return PairTraining(config, made.draw, made.draw(VALIDATION, 0, self.eval_pairs), self.label_smoothing)
        pairs = read_pairs(self.files, base)

        def pick(seed: int, step: int, n_rows: int) -> tuple[Ids, Ids]:
            return fill_up([pairs.train[row] for row in pick_rows(seed, step, n_rows, len(pairs.train))])

        held_out = fill_up(pairs.validation[: self.eval_pairs])
        return PairTraining(config, pick, held_out, self.label_smoothing, pairs.tokenizer if self.bleu else None)


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
