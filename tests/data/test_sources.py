"""Documents from JSON Lines, Parquet and Hugging Face's folders: what becomes of them, and what is refused."""

from __future__ import annotations

import bz2
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pyarrow as pa
import pytest
from documents import documents, make_texts, save_to_disk, write_jsonl, write_parquet

from ablate.data import Corpus, describe, prepare
from ablate.data.sources import TABLE, base, load_source
from ablate.errors import DataError
from ablate.study.data_schema import DataConfig

TEXTS = make_texts(60)


def made(config: DataConfig, folder: Path) -> Corpus:
    corpus = prepare(config, folder, folder / "shards")
    assert corpus.info == describe(config, folder)  # a plan counts what is then made
    return corpus


def texts_in(corpus: Corpus) -> tuple[list[str], list[str]]:
    """The documents of both splits. Every document ends with the byte 0."""
    train, validation = (part.tobytes().decode().split("\0") for part in (corpus.train, corpus.validation))
    assert train.pop() == validation.pop() == ""
    return train, validation


def zstandard(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as out:
        out.write(content)
    return sink.getvalue().to_pybytes()


def test_the_table_lists_the_sources_of_the_grid() -> None:
    assert set(TABLE) == set(get_args(DataConfig.model_fields["source"].annotation))
    for name in TABLE:
        assert load_source(name).summary
        assert load_source(name).validation


def test_every_format_gives_the_same_documents_on_the_same_sides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "PIECE_BYTES", 500)
    write_jsonl(tmp_path / "a.jsonl", TEXTS)
    for suffix, pack in ((".gz", gzip.compress), (".zst", zstandard), (".bz2", bz2.compress)):
        (tmp_path / f"packed.jsonl{suffix}").write_bytes(pack((tmp_path / "a.jsonl").read_bytes()))
    write_parquet(tmp_path / "a.parquet", {"id": list(range(60)), "text": TEXTS})
    save_to_disk(tmp_path / "saved", TEXTS)
    write_jsonl(tmp_path / "crlf.jsonl", TEXTS, "body")
    crlf = (tmp_path / "crlf.jsonl").read_bytes().replace(b"\n", b"\r\n\r\n").removesuffix(b"\r\n\r\n")
    (tmp_path / "crlf.jsonl").write_bytes(b"\xef\xbb\xbf" + crlf)
    found = [
        texts_in(made(config, tmp_path))
        for config in (
            documents("jsonl", tmp_path / "a.jsonl"),
            documents("jsonl", tmp_path / "packed.jsonl.gz"),
            documents("jsonl", tmp_path / "packed.jsonl.zst"),
            documents("jsonl", tmp_path / "packed.jsonl.bz2"),
            documents("jsonl", tmp_path / "crlf.jsonl", text_key="body"),
            documents("parquet", tmp_path / "a.parquet"),
            documents("huggingface", tmp_path / "saved"),
        )
    ]
    assert all(splits == found[0] for splits in found)
    train, validation = found[0]
    assert sorted(train + validation) == sorted(TEXTS)
    assert train == [text for text in TEXTS if text in set(train)]  # in the order of the file
    assert 1 <= len(validation) <= 15


def test_a_document_keeps_its_side_and_copies_share_theirs(tmp_path: Path) -> None:
    one, many = tmp_path / "one.jsonl", tmp_path / "many"
    many.mkdir()
    write_jsonl(one, TEXTS)
    write_jsonl(many / "1.jsonl", [*make_texts(40, seed=1), *TEXTS[30:], *TEXTS[:10]])
    write_jsonl(many / "0.jsonl", list(reversed(TEXTS)))
    before, after = (texts_in(made(documents("jsonl", path), tmp_path)) for path in (one, many))
    assert set(before[0]) <= set(after[0])
    assert set(before[1]) <= set(after[1])
    assert not set(after[0]) & set(after[1])


@pytest.mark.parametrize("fraction", [1e-9, 1 - 1e-9])
def test_neither_split_of_a_few_documents_is_empty(tmp_path: Path, fraction: float) -> None:
    write_jsonl(tmp_path / "a.jsonl", TEXTS[:5])
    corpus = made(documents("jsonl", tmp_path / "a.jsonl", validation_fraction=fraction), tmp_path)
    assert sorted(map(len, texts_in(corpus))) == [1, 4]
    write_jsonl(tmp_path / "b.jsonl", TEXTS[:1] * 3)
    with pytest.raises(DataError, match=r"data\.path: the corpus is a single document, or copies of it.*validation_p"):
        made(documents("jsonl", tmp_path / "b.jsonl", validation_fraction=fraction), tmp_path)


def test_files_and_splits_that_are_named_are_held_out(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", TEXTS[:40])
    write_jsonl(tmp_path / "held.jsonl", TEXTS[40:])
    save_to_disk(tmp_path / "dict" / "train", TEXTS[:40])
    save_to_disk(tmp_path / "dict" / "validation", TEXTS[40:])
    save_to_disk(tmp_path / "dict" / "test", ["never read"] * 4)
    names = {"splits": ["train", "validation", "test"]}
    (tmp_path / "dict" / "dataset_dict.json").write_text(json.dumps(names))
    held_out = str(tmp_path / "held.jsonl")
    for config in (
        documents("jsonl", tmp_path / "*.jsonl", validation_path=held_out),
        documents("huggingface", tmp_path / "dict"),
    ):
        assert texts_in(made(config, tmp_path)) == (TEXTS[:40], TEXTS[40:])
    (tmp_path / "dict" / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    info = describe(documents("huggingface", tmp_path / "dict"), tmp_path)
    assert "no split named validation; documents of train are held out, and test is not used" in info.notices[0]


def test_the_hash_is_of_what_decides_the_tokens(tmp_path: Path) -> None:
    rows = {"text": TEXTS, "title": [f"Title {i}" for i in range(60)]}
    for place in ("a.parquet", "moved.parquet"):
        write_parquet(tmp_path / place, rows)
    write_parquet(tmp_path / "other.parquet", {**rows, "text": [*TEXTS[:-1], "another end"]})

    def hash_of(name: str, **more: object) -> str:
        return describe(documents("parquet", tmp_path / name, **more), tmp_path).hash

    assert hash_of("a.parquet") == hash_of("moved.parquet") == hash_of("a.parquet", text_key="text")
    others = {
        hash_of("a.parquet"),
        hash_of("other.parquet"),
        hash_of("a.parquet", text_key="title"),
        hash_of("a.parquet", validation_fraction=0.2),
    }
    assert len(others) == 4


def test_empty_documents_are_left_out(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", ["", *TEXTS, ""])
    train, validation = texts_in(made(documents("jsonl", tmp_path / "a.jsonl"), tmp_path))
    assert sorted(train + validation) == sorted(TEXTS)


def line(content: str, at: int = 45) -> Callable[[Path], DataConfig]:
    """JSON Lines whose line number `at` + 1 is replaced."""

    def write(folder: Path) -> DataConfig:
        lines = write_jsonl(folder / "c.jsonl", TEXTS).read_text().splitlines()
        lines[at] = content
        (folder / "c.jsonl").write_text("\n".join(lines))
        return documents("jsonl", folder / "c.jsonl")

    return write


def raw(source: str, name: str, content: bytes) -> Callable[[Path], DataConfig]:
    def write(folder: Path) -> DataConfig:
        (folder / name).write_bytes(content)
        return documents(source, folder / name)

    return write


def table(columns: dict[str, list[object]], **more: object) -> Callable[[Path], DataConfig]:
    return lambda folder: documents("parquet", write_parquet(folder / "c.parquet", columns), **more)


def cut(folder: Path) -> DataConfig:
    path = write_parquet(folder / "c.parquet", {"text": TEXTS})
    path.write_bytes(path.read_bytes()[:-100])
    return documents("parquet", path)


def saved(change: Callable[[Path], object]) -> Callable[[Path], DataConfig]:
    def write(folder: Path) -> DataConfig:
        change(save_to_disk(folder / "saved", TEXTS))
        return documents("huggingface", folder / "saved")

    return write


def with_indices(folder: Path) -> None:
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps({**state, "_indices_files": [{"filename": "i.arrow"}]}))


BAD = {
    "a missing key": (
        line('{"id": 1, "body": "b"}', 0),
        r"data\.text_key: .*c\.jsonl: line 1 has no key 'text' \(legal: id, body\)",
    ),
    "a later missing key": (line('{"id": 1, "body": "b"}'), r"line 46 has no key 'text' \(legal: id, body\)"),
    "a broken line": (line('{"id": 1, "te'), r"c\.jsonl: line 46: is not JSON: Unterminated string"),
    "a list": (line("[1, 2]"), r"c\.jsonl: line 46: is not a JSON object: \[1, 2\]"),
    "a number": (line('{"text": 7}'), r"c\.jsonl: line 46: its 'text' is a value of type int, not text"),
    "a null": (line('{"text": null}'), r"c\.jsonl: line 46: its 'text' is null, not text"),
    "an empty file": (raw("jsonl", "c.jsonl", b""), r"data\.path: .*c\.jsonl is empty"),
    "a file of blank lines": (raw("jsonl", "c.jsonl", b"\n\n"), "the training split of the corpus is empty"),
    "latin-1": (
        raw("jsonl", "c.jsonl", '{"text": "é"}'.encode("latin-1")),
        r"line 1: is not UTF-8 \(byte 0xe9 in column 11\)",
    ),
    "an array": (raw("jsonl", "c.json", b'[{"text": "a"}]'), r"c\.json: is a JSON array; write one object per line"),
    "Parquet as JSON": (
        raw("jsonl", "c.jsonl", b"PAR1\x15\x04"),
        r"is Parquet data, not JSON Lines: use data\.source: parquet",
    ),
    "JSON as Parquet": (
        raw("parquet", "c.parquet", b'{"text": "a"}\n'),
        r"is JSON data, not Parquet: use data\.source: jsonl",
    ),
    "a cut archive": (
        raw("jsonl", "c.jsonl.zst", zstandard(b'{"text": "a"}\n' * 9999)[:-9]),
        r"c\.jsonl\.zst: cannot be read: Truncated",
    ),
    "a missing column": (
        table({"body": TEXTS, "id": TEXTS}),
        r"data\.text_key: .*there is no column 'text' \(legal: body, id\)",
    ),
    "a column of numbers": (table({"text": [1, 2]}), r"data\.text_key: .*the column 'text' holds int64, not strings"),
    "a null in a column": (table({"text": [*TEXTS, None]}), r"c\.parquet: row 60: its 'text' is null, not text"),
    "a truncated Parquet": (cut, r"c\.parquet: cannot be read: Parquet magic bytes not found in footer"),
    "an empty folder": (
        lambda folder: documents("parquet", folder),
        r"is a folder without files named \*\.parquet, \*\.pq",
    ),
    "no state": (saved(lambda folder: (folder / "state.json").unlink()), r"must be a folder written by save_to_disk"),
    "a missing table": (
        saved(lambda folder: (folder / "data-00001-of-00002.arrow").unlink()),
        r"00002\.arrow is missing",
    ),
    "an order of rows": (saved(with_indices), r"call flatten_indices\(\)"),
    "a truncated table": (
        saved(lambda folder: (folder / "data-00000-of-00002.arrow").write_bytes(b"\xff\xff\xff\xff\x10\0\0\0")),
        r"data-00000-of-00002\.arrow: cannot be read",
    ),
    "parquet as a dataset": (
        lambda folder: documents("huggingface", write_parquet(folder / "c.parquet", {"text": TEXTS}).parent),
        r"save_to_disk.*for the files inside, use data\.source: parquet",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_with_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    monkeypatch.setattr(base, "PIECE_BYTES", 500)
    write, message = BAD[case]
    config = write(tmp_path)
    for look in (lambda: describe(config, tmp_path), lambda: prepare(config, tmp_path, tmp_path / "shards")):
        with pytest.raises(DataError, match=message):
            look()
    assert not list((tmp_path / "shards").rglob("*.bin"))
