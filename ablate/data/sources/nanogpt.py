"""nanoGPT's files of tokens, which are used in place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ablate.data.files import find_path, size_of
from ablate.data.sources.base import Block, Source, Span
from ablate.data.splits import Split, digest
from ablate.data.tokenizers import Tokenizer
from ablate.errors import DataError
from ablate.study.data_schema import DataConfig


class TokenSource(Source):
    """A folder with train.bin and val.bin."""

    summary = "a folder with nanoGPT's train.bin and val.bin (uint16 tokens), used in place"
    validation = "val.bin"

    def split(self, config: DataConfig, base: Path) -> Split:
        name = config.path[0]
        folder = find_path(name, base)
        paths = [folder / file for file in ("train.bin", "val.bin")] if folder is not None else []
        if not paths or not all(path.is_file() for path in paths):
            raise DataError(f"data.path: {name} must be a folder with train.bin and val.bin (uint16 tokens)")
        for path in paths:
            if size_of(path) == 0 or size_of(path) % 2:
                raise DataError(f"{path}: {size_of(path)} bytes are not a sequence of uint16 tokens")
        train, validation = digest(paths)
        if train.digest == validation.digest:
            raise DataError(f"data.path: train.bin and val.bin of {name} contain the same tokens: validate on others")
        return Split((train,), (validation,))

    def read(self, span: Span, config: DataConfig, tokenizer: Tokenizer, border: int) -> Iterator[Block]:
        raise NotImplementedError("the tokens are used in place")
