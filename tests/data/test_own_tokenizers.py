"""Tokenizers that a user brings: a tokenizer.json, an encoding of tiktoken, and folders with their files."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiktoken.load
import tiktoken.registry
import tokenizers as hf
from documents import documents, make_texts, write_jsonl
from tokenizers import decoders, models, pre_tokenizers, processors

from ablate.data import Tokenizer, check_vocabulary, describe, load_tokenizer, prepare, tokenizers
from ablate.errors import DataError
from ablate.study.data_schema import DataConfig

ADDRESS = "https://example.org/encodings/tiny.tiktoken"
RANKS = {bytes([i]): i for i in range(256)} | {b"th": 256, b"the": 257, b" the": 258}
LINES = b"".join(b"%b %d\n" % (base64.b64encode(token), rank) for token, rank in RANKS.items())
TEXT = "the naïve 漢字 🙂\n\n  the end</s>"


def write_tokenizer(path: Path, special: tuple[str, ...] = ("<s>", "</s>"), n_more: int = 0) -> Path:
    """A byte-level BPE with a few merges that asks for a start token, truncation and padding."""
    signs = {sign: i for i, sign in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    vocabulary = signs | {"th": 256, "the": 257, "Ġthe": 258} | {f"more{i}": 300 + i for i in range(n_more)}
    made = hf.Tokenizer(models.BPE(vocabulary, [("t", "h"), ("th", "e"), ("Ġ", "the")]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(list(special))
    if special:
        start = (special[0], made.token_to_id(special[0]))
        made.post_processor = processors.TemplateProcessing(single=f"{special[0]} $A", special_tokens=[start])
    made.enable_truncation(4)
    made.enable_padding(length=64)
    made.save(str(path))
    return path


def load(name: str, base: Path = Path(), folder: Path | None = None) -> Tokenizer:
    config = DataConfig(tokenizer=name, tokenizer_path=None if folder is None else str(folder))
    return load_tokenizer(config, base)


def test_a_tokenizer_file_encodes_whole_texts_and_nothing_else(tmp_path: Path) -> None:
    write_tokenizer(tmp_path / "own.json")
    for tokenizer in (load(str(tmp_path / "own.json")), load("own.json", tmp_path)):
        tokens = tokenizer.encode(TEXT)
        assert tokenizer.decode(tokens) == TEXT
        assert tokens[0] == 257  # no start token, neither cut to 4 tokens nor padded to 64
        assert tokenizer.separator not in tokens.tolist()
        assert tokens.dtype == np.uint16
        assert tokenizer.vocab_size == tokenizer.separator + 1 == 261
    (tmp_path / "folder").mkdir()
    shutil.copy(tmp_path / "own.json", tmp_path / "folder" / "tokenizer.json")
    assert load(str(tmp_path / "folder")).identity == load(str(tmp_path / "own.json")).identity


def split_at(tokenizer: Tokenizer, tokens: np.ndarray) -> list[np.ndarray]:
    """The documents in some tokens, each of which ends with the separator."""
    ends = np.flatnonzero(tokens == tokenizer.separator)
    assert ends[-1] == len(tokens) - 1
    return np.split(tokens, ends + 1)[:-1]


def text_of(tokenizer: Tokenizer, tokens: np.ndarray) -> str:
    return tokenizer.decode(tokens[:-1])


def test_documents_end_with_the_end_of_text_token(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", texts := make_texts(30))
    write_tokenizer(tmp_path / "own.json")
    config = documents("jsonl", tmp_path / "a.jsonl", tokenizer="own.json")
    made = prepare(config, tmp_path, tmp_path / "shards")
    tokenizer = load("own.json", tmp_path)
    found = [
        text_of(tokenizer, tokens) for split in (made.train, made.validation) for tokens in split_at(tokenizer, split)
    ]
    assert sorted(found) == sorted(texts)
    before = describe(config, tmp_path).hash
    write_tokenizer(tmp_path / "own.json", n_more=1)
    assert describe(config, tmp_path).hash != before


def test_a_tokenizer_without_an_end_is_said(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", make_texts(30))
    write_tokenizer(tmp_path / "own.json", special=())
    config = documents("jsonl", tmp_path / "a.jsonl", tokenizer="own.json")
    assert load("own.json", tmp_path).separator is None
    assert "has no end-of-text token" in describe(config, tmp_path).notices[0]


def test_numbers_beyond_two_bytes_take_four(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [*make_texts(30), "<extra>"])
    path = write_tokenizer(tmp_path / "own.json")
    content = json.loads(path.read_text())
    content["model"]["vocab"] |= {f"unused{i}": i for i in range(259, 70_000)}
    path.write_text(json.dumps(content))
    config = documents("jsonl", tmp_path / "a.jsonl", tokenizer="own.json")
    made = prepare(config, tmp_path, tmp_path / "shards")
    assert made.train.dtype == np.uint32
    largest = int(made.train.max())
    assert largest == load("own.json", tmp_path).separator == made.info.vocab_size - 1 >= 70_000
    with pytest.raises(DataError, match=rf"contains the token {largest}, beyond a model\.vocab_size of 50304"):
        check_vocabulary(made, 50_304)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An encoding `tiny` that tiktoken would download. Returns tiktoken's cache, which is empty."""

    def make() -> dict[str, object]:
        ranks = tiktoken.load.load_tiktoken_bpe(ADDRESS, hashlib.sha256(LINES).hexdigest())
        pattern = r" ?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
        return {"pat_str": pattern, "mergeable_ranks": ranks, "special_tokens": {"<|endoftext|>": 300}}

    def download(_: str) -> bytes:
        raise AssertionError("nothing is downloaded")

    tiktoken.list_encoding_names()
    monkeypatch.setitem(tiktoken.registry.ENCODING_CONSTRUCTORS, "tiny", make)
    monkeypatch.setattr(tiktoken.load, "read_file", download)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


def test_an_encoding_is_read_from_local_files(tiny: Path, tmp_path: Path) -> None:
    place = tiny / hashlib.sha1(ADDRESS.encode()).hexdigest()
    message = rf"tiny needs data\.tokenizer_path: a folder with tiny\.tiktoken.*{ADDRESS}.*download the file to {place}"
    with pytest.raises(DataError, match=message):
        load("tiny")
    (tmp_path / "tiny.tiktoken").write_bytes(LINES)
    from_folder = load("tiny", folder=tmp_path)
    place.write_bytes(LINES)
    from_cache = load("tiny")
    assert from_cache.identity == from_folder.identity
    assert from_cache.decode(from_cache.encode(TEXT)) == TEXT
    assert from_cache.encode("the<|endoftext|>the").tolist() == [257, 300, 257]
    assert (from_cache.vocab_size, from_cache.separator) == (301, 300)
    place.write_bytes(LINES[:-9])
    with pytest.raises(DataError, match=rf"{place} is not the file at {ADDRESS}: download it again"):
        load("tiny")


def test_white_space_that_overflows_the_pattern_is_encoded(tiny: Path) -> None:
    (tiny / hashlib.sha1(ADDRESS.encode()).hexdigest()).write_bytes(LINES)
    tokenizer, text = load("tiny"), f"the{' ' * 1_000_000}the"
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_text_file_has_the_same_tokens_however_it_is_read(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Trickle(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(min(size or 7, 7))

    monkeypatch.setattr(tokenizers, "BLOCK_BYTES", 50)
    (tiny / hashlib.sha1(ADDRESS.encode()).hexdigest()).write_bytes(LINES)
    write_tokenizer(tmp_path / "own.json")
    content = ("the 漢字\n" * 50 + "<|endoftext|>the end").encode()
    for tokenizer in (load("tiny"), load("own.json", tmp_path)):
        whole, trickled = (np.concatenate([*tokenizer.encode_stream(kind(content))]) for kind in (io.BytesIO, Trickle))
        assert whole.tolist() == trickled.tolist()
        assert tokenizer.decode(whole).replace("</s>", "<|endoftext|>") == content.decode()


def test_what_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text('{"a": 1}')
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe.json")
    for name, message in (
        ("settings.json", r"data\.tokenizer: .*settings\.json: this is not a valid tokenizer\.json: "),
        ("missing.json", r"data\.tokenizer: missing\.json: there is no such file"),
        ("folder", r"data\.tokenizer: folder: must be a folder with encoder\.json.*or with a tokenizer\.json"),
        ("pipe.json", r"data\.tokenizer: .*pipe\.json: cannot be read: this is a FIFO, not a file"),
        ("gtp2", r"data\.tokenizer: 'gtp2' is not a \.json file, .*did you mean 'gpt2'\? \(legal: bytes, gpt2, "),
    ):
        with pytest.raises(DataError, match=message):
            load(name, tmp_path)


REAL = next(
    (folder for parent in Path(__file__).parents if (folder := parent / "shared" / "data" / "gpt2_bpe").is_dir()),
    None,
)


@pytest.mark.skipif(REAL is None, reason="GPT-2's vocabulary files are not beside the repository (../shared/data)")
def test_gpt2_from_tiktokens_cache_is_the_same_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert REAL is not None
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    address = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/"
    for name in ("encoder.json", "vocab.bpe"):
        shutil.copy(REAL / name, tmp_path / hashlib.sha1((address + name).encode()).hexdigest())
    assert load("gpt2").identity == load("gpt2", folder=REAL).identity
    (tmp_path / "hf").mkdir()
    shutil.copy(REAL / "encoder.json", tmp_path / "hf" / "vocab.json")
    shutil.copy(REAL / "vocab.bpe", tmp_path / "hf" / "merges.txt")
    assert load(str(tmp_path / "hf")).identity == load("gpt2").identity
    shutil.copy(REAL / "gpt2.tiktoken", tmp_path / "hf" / "r50k_base.tiktoken")
    assert load("r50k_base", folder=tmp_path / "hf").encode("Hello world").tolist() == [15496, 995]
