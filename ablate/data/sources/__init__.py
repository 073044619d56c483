"""The sources of text: one file per source, and one line here. `DataConfig.source` names the same sources."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from ablate.data.sources.base import Source
from ablate.data.splits import Split
from ablate.study.data_schema import DataConfig

TABLE: Mapping[str, str] = {
    "python-stdlib": "stdlib:StdlibSource",
    "text": "text:TextSource",
    "jsonl": "jsonl:JsonLinesSource",
    "parquet": "parquet:ParquetSource",
    "huggingface": "huggingface:HuggingFaceSource",
    "bin": "nanogpt:TokenSource",
}


@cache
def load_source(name: str) -> Source:
    """The source of a name. Its file is imported only now, because some need pyarrow."""
    module, _, kind = TABLE[name].partition(":")
    source: Source = getattr(importlib.import_module(f"ablate.data.sources.{module}"), kind)()
    return source


def split_files(config: DataConfig, base: Path) -> Split:
    """The splits of a corpus. Relative paths start at the working directory, or else at `base`.

    Raises `DataError` where files are missing or unreadable, where a split is empty, and where one text is in both.
    """
    return load_source(config.source).split(config, base)


__all__ = ["TABLE", "Source", "load_source", "split_files"]
