"""Which files are read as text, whatever their names are, and which are not."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import sqlite3
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest

from ablate.data import describe
from ablate.errors import DataError
from ablate.study.data_schema import DataConfig

PROSE = "The cat sat on a mat, and then it ran to the sea.\n" * 400


def size_of(*paths: Path) -> int:
    info = describe(DataConfig(source="text", path=tuple(map(str, paths))), Path())
    return info.n_train_tokens + info.n_validation_tokens


def tar(mode: str, format: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode, format=format) as archive:
        member = tarfile.TarInfo("corpus.txt")
        member.size = len(PROSE)
        archive.addfile(member, io.BytesIO(PROSE.encode()))
    return out.getvalue()


def written(write: Callable[[io.BytesIO], object]) -> bytes:
    out = io.BytesIO()
    write(out)
    return out.getvalue()


def zipped(name: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(name, PROSE)
    return out.getvalue()


def arrow_stream(table: pa.Table) -> bytes:
    out = io.BytesIO()
    with pa.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table)
    return out.getvalue()


TABLE = pa.table({"text": PROSE.split("\n")})
TOKENS = np.frombuffer(PROSE.encode(), np.uint8).astype("<u2")
RECORDS = [{"text": PROSE[:300], "id": index} for index in range(40)]
LINES = "\n".join(map(json.dumps, RECORDS)).encode()
NOT_TEXT = {
    "c.tar.gz": (tar("w:gz"), "tar"),
    "c.tar.bz2": (tar("w:bz2"), "tar"),
    "c.tar.xz": (tar("w:xz"), "tar"),
    "old-tar": (tar("w", tarfile.USTAR_FORMAT), "tar"),
    "c.gz.gz": (gzip.compress(gzip.compress(PROSE.encode())), "gzip"),
    "no-suffix": (gzip.compress(PROSE.encode()), "gzip"),
    "c.bz2.txt": (bz2.compress(PROSE.encode(), 5), "bzip2"),
    "c.xz.txt": (lzma.compress(PROSE.encode()), "xz"),
    "c.docx": (zipped("word/document.xml"), "zip"),
    "c.parquet": (written(lambda out: pyarrow.parquet.write_table(TABLE, out)), "Parquet.*source: parquet"),
    "c.feather": (written(lambda out: pyarrow.feather.write_feather(TABLE, out)), "Arrow"),
    "c.arrow": (arrow_stream(TABLE), "Arrow.*source: huggingface"),
    "c.npy": (written(lambda out: np.save(out, TOKENS)), "NumPy"),
    **{f"{i}.pkl": (pickle.dumps(PROSE.split(), i), "pickle") for i in (0, 2, 3, 4, 5)},
    "1.pkl": (pickle.dumps(PROSE.split(), 1), "NUL"),
    "c.pdf": (b"%PDF-1.7\n" + PROSE.encode(), "PDF"),
    "lfs.txt": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1\n", "Git LFS"),
    "utf16.txt": (PROSE.encode("utf-16"), "UTF-16"),
    "utf16be.txt": (PROSE.encode("utf-16-be"), "NUL"),
    "utf32.txt": (PROSE.encode("utf-32"), "UTF-32"),
    "train.bin": (TOKENS.tobytes(), "NUL"),
    "uint8.bin": (np.random.default_rng(0).integers(0, 65, 5000).astype("u1").tobytes(), "NUL"),
    "late.txt": (PROSE.encode() * 60 + os.urandom(1 << 20), "control characters"),
    "late.txt.gz": (gzip.compress(PROSE.encode() * 60 + os.urandom(1 << 20)), "control characters"),
    "page.txt.gz": (b"<!DOCTYPE html>" + PROSE.encode(), "HTML"),
    "c.jsonl": (
        b'{"id": "1", "text": "a"}\n{"id": "2", "text": "b"}\n',
        "JSON.*source: jsonl with data.text_key: text ",
    ),
    "long.json": (b'{"body": "' + PROSE.replace("\n", "\\n").encode() + b'"}', "JSON.*its key 'body'"),
    "array.json": (b'[\n {"output": "a", "n": 1},\n {"output": "b", "n": 2}\n]', "JSON.*its key 'output'"),
    "ids.jsonl": (b'{"ids": [1, 2]}\n{"ids": [3]}\n', "JSON"),
    "strings.json": (json.dumps([PROSE[:300]] * 40).encode(), "JSON"),
    "lists.jsonl": (b"\n".join(json.dumps([PROSE[:300], i]).encode() for i in range(40)), "JSON"),
    "quoted.jsonl": (b"\n".join([json.dumps(PROSE[:300]).encode()] * 40), "JSON"),
    "nested.json": (json.dumps({"version": "1", "data": RECORDS}, indent=1).encode(), "JSON"),
    "cut.json": (json.dumps({"version": "1", "data": RECORDS * 800}).encode(), "JSON"),  # longer than what is read
    "columns.json": (json.dumps({"text": [PROSE[:300]] * 40, "id": [*range(40)]}).encode(), "JSON"),
    "commented.txt": (b"# exported\n" + LINES, "JSON.*text_key: text"),
    "commas.txt": (LINES.replace(b"\n", b",\n"), "JSON.*text_key: text"),
    "rfc7464.txt": (b"\x1e" + LINES.replace(b"\n", b"\n\x1e"), "JSON.*text_key: text"),
    **{
        f"{type(value).__name__}.pkl": (pickle.dumps(value, 0), "pickle")
        for value in (PROSE * 4, (PROSE, PROSE), {PROSE}, PROSE.encode(), TOKENS, Path(PROSE))
    },
}


@pytest.mark.parametrize("name", NOT_TEXT)
def test_what_is_not_text_is_refused_whatever_its_name(tmp_path: Path, name: str) -> None:
    content, what = NOT_TEXT[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"(?s){name}: .*{what}"):
        size_of(tmp_path / name)


def test_a_database_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "c.txt") as base:
        base.execute("create table t(x)")
    with pytest.raises(DataError, match=r"c\.txt: is SQLite data, not text"):
        size_of(tmp_path / "c.txt")


TEXTS = {
    "crlf": PROSE.replace("\n", "\r\n").encode(),
    "latin-1": ("Là-bas, où l'été s'achève, ça sent le thé.\n" * 50).encode("latin-1"),
    "koi8-r": ("Кошка сидела на ковре.\n" * 50).encode("koi8-r"),
    "shift-jis": ("猫はマットの上に座った。\n" * 50).encode("shift-jis"),
    "gbk without a space": ("猫坐在垫子上" * 500).encode("gbk"),
    "iso-2022-jp": ("猫は a マット b の上に\n" * 50).encode("iso-2022-jp"),
    "utf-8 with a mark": b"\xef\xbb\xbf" + PROSE.encode(),
    "cjk": ("猫坐在垫子上。然后跑向大海。" * 500).encode(),
    "emoji": ("🙂👩‍🚀 " * 500).encode(),
    "one long line": PROSE.replace("\n", " ").encode() * 100,
    "base64-like": b"QUJD" * 20000,
    "terminal log": b"\x1b[31mred\x1b[0m plain\x08\x08\n" * 200,
    "listing with form feeds": b"a page\x0c" * 100,
    "the end of a DOS file": b"text\r\n\x1a",
    "a stray NUL far in": PROSE.encode() + b"\0" + PROSE.encode(),
    "xml": b"<page><title>T</title></page>\n" * 100,
    "settings.json": b'{\n  "name": "a",\n  "version": "1.0",\n  "private": true\n}\n',
    "code": b"{\n  int x = 1;\n}\n" * 30,
    "a list": b"[a] first\n[b] second\n",
    "a quoted dialogue": b'"Hello there, my dear old friend, how are you this fine morning?"\n"Fine."\n' * 50,
    "settings of many words": json.dumps({"scripts": {f"task-{i}": "python -m build" for i in range(99)}}).encode(),
    "a notebook": json.dumps({"cells": [{"cell_type": "code", "source": ["x = 1\n"] * 9}] * 9}).encode(),
    "numbers": b"[1, 2, 3]\n[4, 5, 6]\n",
    "verse": b"V\nVery (long) line\np0 is no number here\n" * 20,
    "a comment": b"# a heading\n{braces} in prose\n" * 20,
    "PAR1 and GIF8 at the start": b"PAR1 is a receptor, GIF8 is not.\n" * 10,
    "BZh": b"BZh9 is how bzip2 begins.\n" * 10,
    "two letters": b"ab",
}


@pytest.mark.parametrize("name", TEXTS)
def test_text_is_taken(tmp_path: Path, name: str) -> None:
    (tmp_path / "corpus").write_bytes(TEXTS[name])
    (tmp_path / "corpus.GZ").write_bytes(gzip.compress(TEXTS[name]))
    for path in (tmp_path / "corpus", tmp_path / "corpus.GZ"):
        if len(TEXTS[name]) > 10:
            assert size_of(path) == len(TEXTS[name])


def test_one_table_among_texts_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(PROSE)
    (tmp_path / "b.txt").write_bytes(NOT_TEXT["c.parquet"][0])
    with pytest.raises(DataError, match=r"data\.path: .*b\.txt: is Parquet data.*a narrower glob leaves"):
        size_of(tmp_path / "*")
