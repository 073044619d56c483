"""The section `data:` of a grid or search: the files of a corpus, and its tokenizer."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from ablate.study.schema import MAX_STEPS, Texts
from ablate.study.tuning import Frozen


class _Source(Frozen):
    """The kind of files."""

    source: Literal["python-stdlib", "text", "jsonl", "parquet", "huggingface", "bin"] = Field(
        "python-stdlib",
        description="python-stdlib: the source code of the running interpreter's standard library; "
        "text: your own files; jsonl, parquet: files with one document per line or row; huggingface: a folder that "
        "save_to_disk of datasets wrote; bin: nanoGPT's train.bin and val.bin (uint16)",
    )


class _Tokenizer(_Source):
    """How the files become tokens."""

    tokenizer: str = Field(
        "bytes",
        min_length=1,
        description="bytes: 256 tokens; gpt2 or another encoding of tiktoken, by its name; a tokenizer.json; or a "
        "local folder with a tokenizer.json or GPT-2's files. Nothing is downloaded",
        examples=["bytes", "gpt2", "tokenizer.json"],
    )
    tokenizer_path: str | None = Field(
        None, description="folder with the files of an encoding: GPT-2's encoder.json and vocab.bpe, or NAME.tiktoken"
    )


class CorpusFiles(_Source):
    """The files of a corpus, and what of them is held out."""

    path: Texts = Field(
        (),
        description="text: files or globs; jsonl, parquet: files, globs or folders (text and jsonl also in .gz .bz2 "
        ".xz .zst); huggingface, bin: the folder",
    )
    text_key: str | None = Field(
        None, min_length=1, description="jsonl, parquet, huggingface: key or column with the text; default: text"
    )
    validation_path: Texts = Field((), description="files, globs or folders held out for validation, as in path")
    validation_fraction: float = Field(
        0.1,
        gt=0,
        lt=1,
        description="share held out for validation without validation_path: the end of one text file, whole files of "
        "several, or documents of jsonl, parquet and huggingface, chosen by a hash of their text",
    )

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if self.source == "python-stdlib" and (self.path or self.validation_path):
            raise ValueError("source python-stdlib takes no path; use source: text for your own files")
        if self.source != "python-stdlib" and not self.path:
            raise ValueError(f"source {self.source} needs a path")
        if self.source == "bin" and len(self.path) != 1:
            raise ValueError("source bin takes one path: the folder with train.bin and val.bin")
        if self.source == "bin" and self.validation_path:
            raise ValueError("source bin takes no validation_path: the folder's val.bin is the validation split")
        if self.text_key is not None and self.source not in ("jsonl", "parquet", "huggingface"):
            raise ValueError(f"source {self.source} takes no text_key: it has no keys or columns")
        return self


class Phase(CorpusFiles):
    """One corpus of a sequence."""

    steps: int | None = Field(
        None, gt=0, le=MAX_STEPS, strict=True, description="default: an equal share of the steps that are left"
    )


class DataConfig(CorpusFiles, _Tokenizer):
    """The corpus and its tokenizer, or several corpora, one after another."""

    sequence: tuple[Phase, ...] = Field(
        (), description="several corpora instead of one: the runs train on each in turn, to measure plasticity"
    )

    @model_validator(mode="after")
    def _is_one_or_a_sequence(self) -> Self:
        if not self.sequence:
            return self
        if len(self.sequence) < 2:
            raise ValueError("a sequence has at least two corpora")
        if stray := sorted(self.model_fields_set & CorpusFiles.model_fields.keys()):
            raise ValueError(f"{stray[0]}: each entry of the sequence has its own: move it there")
        if any(phase.source == "bin" for phase in self.sequence):
            raise ValueError("sequence: source bin cannot be in it, because its tokens have no known tokenizer")
        return self

    @property
    def name(self) -> str:
        """The source, or the sources in their order."""
        return ", then ".join(phase.source for phase in self.sequence) or self.source

    @property
    def phases(self) -> tuple[DataConfig, ...]:
        """The corpora of the sequence, each with the common tokenizer; empty without one."""
        common = {"tokenizer": self.tokenizer, "tokenizer_path": self.tokenizer_path}
        return tuple(
            DataConfig.model_validate({**common, **phase.model_dump(exclude={"steps"}, exclude_unset=True)})
            for phase in self.sequence
        )
