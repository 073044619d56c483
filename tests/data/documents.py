"""Small corpora of documents in every format, for tests."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ablate.study.data_schema import DataConfig


def make_texts(n: int, n_words: int = 20, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    words = ["the", "naïve", "model", "learns", "漢字", "faster", "a", "query"]
    return [f"Document {i}: {' '.join(draw.choices(words, k=draw.randint(1, n_words)))}." for i in range(n)]


def write_jsonl(path: Path, texts: Sequence[object], key: str = "text") -> Path:
    path.write_text("".join(json.dumps({"id": i, key: text}) + "\n" for i, text in enumerate(texts)))
    return path


def write_parquet(path: Path, columns: Mapping[str, Sequence[Any]], rows: int = 10) -> Path:
    pq.write_table(pa.table(dict(columns)), path, row_group_size=rows)
    return path


def save_to_disk(folder: Path, texts: Sequence[str], n_files: int = 2, rows: int = 7) -> Path:
    """A folder as `Dataset.save_to_disk` of the package `datasets` writes it."""
    folder.mkdir(parents=True)
    names = [f"data-{i:05d}-of-{n_files:05d}.arrow" for i in range(n_files)]
    step = -(-len(texts) // n_files)
    for i, name in enumerate(names):
        table = pa.table({"text": texts[i * step : (i + 1) * step]})
        with (folder / name).open("wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=rows)
    features = {"text": {"dtype": "string", "_type": "Value"}}
    (folder / "dataset_info.json").write_text(json.dumps({"features": features}))
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "0", "_split": None}
    (folder / "state.json").write_text(json.dumps(state))
    return folder


def documents(source: str, path: Path | str, **more: Any) -> DataConfig:
    return DataConfig(source=source, path=(str(path),), **more)
