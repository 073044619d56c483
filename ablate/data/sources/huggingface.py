"""A folder that `save_to_disk` of Hugging Face's `datasets` wrote.

Its tables are Arrow streams, which pyarrow reads as `load_from_disk` does. So the package `datasets` is not needed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from ablate.data.files import find_path, reading
from ablate.data.sources import base
from ablate.data.sources.base import Documents, Span, key_of
from ablate.data.sources.parquet import check_column, texts_of
from ablate.data.splits import File, Split, digest, leave_out
from ablate.errors import DataError
from ablate.files import open_regular
from ablate.study.data_schema import DataConfig

WANTED = "must be a folder written by save_to_disk of Hugging Face's datasets (with state.json or dataset_dict.json)"
VALIDATION = ("validation", "valid", "val", "dev")


class HuggingFaceSource(Documents):
    """A Dataset is split by document. A DatasetDict has splits of its own. Spans are ranges of record batches."""

    summary = (
        "a folder written by save_to_disk of Hugging Face's datasets, with the text of each document in the column "
        "text_key"
    )
    validation = f"the split named {', '.join(VALIDATION[:-1])} or {VALIDATION[-1]}, else {Documents.validation}"

    def split(self, config: DataConfig, base: Path) -> Split:
        train, validation, notices = _find_tables(config.path, base, "data.path")
        if config.validation_path:
            found = _find_tables(config.validation_path, base, "data.validation_path", is_held_out=True)
            validation = found[1]
        files, kept = leave_out(digest(train), digest(validation))
        for file in (*files, *kept):
            self.check_key(file, config)
        by_document = 0.0 if kept else config.validation_fraction
        return Split(files, kept, by_document=by_document, notices=() if kept else notices)

    def check_key(self, file: File, config: DataConfig) -> None:
        with _open(file.path) as table:
            check_column(file.path, table.schema, key_of(config))

    def cut(self, file: File, config: DataConfig) -> Iterator[tuple[int, int, int]]:  # noqa: ARG002
        with _open(file.path) as table:
            n_batches = sum(1 for _ in table)
        batch_bytes = max(file.stamp[1] // max(n_batches, 1), 1)
        step = max(base.PIECE_BYTES // batch_bytes, 1)
        for start in range(0, n_batches, step):
            stop = min(start + step, n_batches)
            yield start, stop, (stop - start) * batch_bytes

    def documents(self, span: Span, key: str) -> Iterator[tuple[str, float]]:
        row = 0
        with _open(span.file.path) as table:
            for i in range(span.stop):
                batch = table.read_next_batch()
                if i >= span.start:
                    column = batch.column(batch.schema.get_field_index(key))
                    for j, text in enumerate(texts_of(column, span.file.path, key, row), start=1):
                        yield text, (i - span.start + j / len(column)) / (span.stop - span.start)
                row += len(batch)


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    with reading(path), pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as table:
        yield table


def _find_tables(
    names: tuple[str, ...], base: Path, key: str, *, is_held_out: bool = False
) -> tuple[list[Path], list[Path], tuple[str, ...]]:
    """The tables for training and for validation in these folders, and remarks about them."""
    train: list[Path] = []
    validation: list[Path] = []
    notices: tuple[str, ...] = ()
    for name in names:
        folder = find_path(name, base)
        if folder is None:
            raise DataError(f"{key}: {name} does not exist; it {WANTED}")
        splits = _read_json(folder / "dataset_dict.json", key).get("splits")
        if not isinstance(splits, list):
            (validation if is_held_out else train).extend(_tables_of(folder, key))
            continue
        held_out = next((split for split in VALIDATION if split in splits), None)
        if (held_out if is_held_out else "train" if "train" in splits else None) is None:
            wanted = f"{', '.join(VALIDATION[:-1])} or {VALIDATION[-1]}" if is_held_out else "train"
            raise DataError(
                f"{key}: {name} has no split named {wanted} (it has {', '.join(map(str, splits))}); "
                f"name the folder of a split, such as {name}/{splits[0] if splits else 'train'}"
            )
        if not is_held_out:
            train += _tables_of(folder / "train", key)
        if held_out is not None:
            validation += _tables_of(folder / held_out, key)
        elif len(splits) > 1:
            others = ", ".join(str(split) for split in splits if split != "train")
            notices += (
                f"{name} has no split named {VALIDATION[0]}; documents of train are held out, and {others} is not used",
            )
    return train, validation, notices


def _tables_of(folder: Path, key: str) -> list[Path]:
    """The tables of a dataset, in their order."""
    state = _read_json(folder / "state.json", key)
    if not state:
        raise DataError(f"{key}: {folder} {WANTED}{_suggest(folder)}")
    if any(state.get(name) for name in ("_indices_files", "_indices_data_files")):
        raise DataError(
            f"{key}: {folder} keeps the order of its rows in a separate file; load it, call flatten_indices(), and "
            "save it again"
        )
    files = state.get("_data_files")
    names = [file.get("filename") for file in files if isinstance(file, dict)] if isinstance(files, list) else []
    paths = [folder / name for name in names if isinstance(name, str)]
    if missing := [path for path in paths if not path.is_file()]:
        raise DataError(f"{key}: {missing[0]} is missing, although {folder / 'state.json'} names it")
    if not paths:
        raise DataError(f"{key}: {folder / 'state.json'} names no tables")
    return paths


def _suggest(folder: Path) -> str:
    kinds = (("**/*.parquet", "parquet"), ("**/*.jsonl", "jsonl"), ("**/*.jsonl.*", "jsonl"))
    found = next((source for pattern, source in kinds if next(folder.glob(pattern), None)), None)
    return f"; for the files inside, use data.source: {found}" if found else ""


def _read_json(path: Path, key: str) -> dict[str, Any]:
    """The object in a file. Empty if there is no such file."""
    try:
        with open_regular(path) as file:
            found = json.loads(file.read())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise DataError(f"{key}: {path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{key}: {path}: cannot be read: {error}") from None
    return found if isinstance(found, dict) else {}
