"""Files of plain text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ablate.data.files import ARCHIVES, TEXT, open_file
from ablate.data.sources.base import Block, Source, Span
from ablate.data.splits import Split, find_split, part
from ablate.data.tokenizers import Tokenizer
from ablate.study.data_schema import DataConfig


class TextSource(Source):
    """Whole files, with the tokenizer's separator between them.

    Without `validation_path`, several files are chosen by a hash of their content, so that two copies are always in the
    same split, and a single file loses its tail.
    """

    summary = f"your own files of plain text ({', '.join(ARCHIVES)} are decompressed)"
    validation = (
        "the end of a single file, or some of several files, chosen by a hash of their content "
        "(validation_fraction sets the share)"
    )

    def split(self, config: DataConfig, base: Path) -> Split:
        files, validation = find_split(config, base, TEXT)
        if validation:
            return Split(files, validation)
        if len(files) == 1:
            return Split(files, (), tail=config.validation_fraction)
        return part(files, [file.digest for file in files], config.validation_fraction)

    def read(self, span: Span, config: DataConfig, tokenizer: Tokenizer, border: int) -> Iterator[Block]:  # noqa: ARG002
        is_held_out = bool(span.is_held_out)
        if span.is_next and tokenizer.separator is not None:
            yield Block(np.array([tokenizer.separator], dtype=tokenizer.dtype), is_held_out, 0.0)
        with open_file(span.file.path) as (stream, position):
            for tokens in tokenizer.encode_stream(stream):
                yield Block(tokens, is_held_out, position() / max(span.size, 1))
