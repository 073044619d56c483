"""Bytes, and GPT-2's byte-pair encoding with a small vocabulary, and with the real one if it is installed."""

from __future__ import annotations

import base64
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ablate.data import describe, gpt2_vocabulary, load_tokenizer, pretokens, tokenizers
from ablate.data.tokenizers import ByteTokenizer, GPT2Tokenizer
from ablate.errors import DataError
from ablate.study.data_schema import DataConfig

REAL = Path(__file__).parents[3] / "shared" / "data" / "gpt2_bpe"
MERGES = ("t h", "th e", "Ġ the", "Ġ a", "a b")

pytest.importorskip("tiktoken", reason="tokenizer: gpt2 needs tiktoken")


@pytest.fixture
def vocabulary(tmp_path: Path) -> Path:
    """A folder with vocabulary files like GPT-2's: 256 bytes and a few merges."""
    signs = gpt2_vocabulary._printable_bytes()
    numbers = {sign: i for i, sign in enumerate(signs)} | {m.replace(" ", ""): 256 + i for i, m in enumerate(MERGES)}
    numbers["<|endoftext|>"] = len(numbers)
    (tmp_path / "encoder.json").write_text(json.dumps(numbers))
    (tmp_path / "vocab.bpe").write_text("#version: 0.2\n" + "\n".join(MERGES) + "\n", encoding="utf-8")
    return tmp_path


def load(folder: Path) -> tokenizers.Tokenizer:
    return load_tokenizer(DataConfig(tokenizer="gpt2", tokenizer_path=str(folder)), folder)


def test_bytes_are_tokens():
    tokenizer = ByteTokenizer()
    assert tokenizer.encode("aé").tolist() == [97, 0xC3, 0xA9]
    assert tokenizer.decode([97, 0xC3, 0xA9]) == "aé"
    assert tokenizer.decode([0xC3]) == "\ufffd"


def test_merges_apply_in_the_order_of_their_ranks(vocabulary):
    tokenizer = load(vocabulary)
    assert tokenizer.encode("the the ab").tolist()[:2] == [257, 258]
    assert [tokenizer.decode([token]) for token in tokenizer.encode("the abc")] == ["the", " a", "b", "c"]
    assert tokenizer.vocab_size == 50304


def test_end_of_text_is_the_separator(vocabulary):
    tokenizer = load(vocabulary)
    assert tokenizer.encode("a<|endoftext|>b").tolist()[1] == tokenizer.separator == 256 + len(MERGES)
    assert tokenizer.decode([tokenizer.separator, 50303]) == "<|endoftext|>"


def test_tiktoken_ranks_give_the_same_tokenizer(vocabulary, tmp_path_factory):
    tokenizer = load(vocabulary)
    other = tmp_path_factory.mktemp("ranks")
    lines = [f"{base64.b64encode(token).decode()} {rank}" for token, rank in tokenizer._ranks.items()]
    (other / "gpt2.tiktoken").write_text("\n".join(lines))
    assert load(other).identity == tokenizer.identity
    assert load(other).encode("the cab").tolist() == tokenizer.encode("the cab").tolist()


@settings(max_examples=60, deadline=None)
@given(text=st.text(alphabet=st.sampled_from("thea b\n\t'sé1.漢"), max_size=200), block=st.integers(1, 30))
def test_a_text_read_in_blocks_has_the_tokens_of_the_whole(text, block):
    ranks = {bytes([i]): i for i in range(256)} | {b"th": 256, b"the": 257, b" the": 258, b"\n\n": 259, b"  ": 260}
    tokenizer = GPT2Tokenizer(ranks)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizers, "BLOCK_BYTES", block)
        blocks = list(tokenizer.encode_stream(io.BytesIO(text.encode())))
    assert [token for block in blocks for token in block] == tokenizer.encode(text).tolist()
    assert tokenizer.decode(tokenizer.encode(text)) == text


PARTS = (
    *("a", "b", " ", "'", "'s", "'ll", "  ", "\n", "\n\n", "\t", "\x1c", "\x85", "\xa0", "\u3000", "\r\n", "     "),
    *("12", "²", "Ⅷ", "!", "----", "漢字", "é", "e\u0301", "🙂", "\ufeff", "ǅ", "\u0627", "aaaaa", "'saaaaa", "\ud83d"),
    *("<|endoftext|>", "<|endof", "text|>"),
)
MERGED = (
    b"aa",
    b"aaa",
    b"--",
    b"----",
    b"  ",
    b"   ",
    b"\n\n",
    b" a",
    b" --",
    b"'s",
    b"12",
    b"\xc3\xa9",
    b"\r\n",
    b" '",
)
RANKS = {bytes([i]): i for i in range(256)} | {token: 256 + i for i, token in enumerate(MERGED)}


@settings(max_examples=400, deadline=None)
@given(text=st.lists(st.sampled_from(PARTS), max_size=40).map("".join), block=st.integers(1, 30))
def test_long_runs_have_the_tokens_that_tiktoken_gives_them(text, block):
    tokenizer = GPT2Tokenizer(RANKS)
    expected = tokenizer._encoding.encode(text, allowed_special="all")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretokens, "LONG_RUN", 4)
        patch.setattr(tokenizers, "BLOCK_BYTES", block)
        assert tokenizer.encode(text).tolist() == expected
        if "\ud83d" not in text:
            blocks = list(tokenizer.encode_stream(io.BytesIO(text.encode())))
            assert [token for part in blocks for token in part] == expected


@pytest.mark.parametrize("run", ["-", "a", "7", " ", "\n", "漢"])
def test_a_run_of_a_million_signs_is_tokenized(run):
    """The regular expression engine's stack overflows on this text."""
    tokenizer = GPT2Tokenizer(RANKS)
    text = f"it's {run * 1_000_000} end"
    tokens = np.concatenate(list(tokenizer.encode_stream(io.BytesIO(text.encode()))))
    assert tokenizer.decode(tokens) == text


def test_a_run_that_is_too_long_is_refused_with_the_name_of_its_file(vocabulary, tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizers, "LONGEST_RUN", 100)
    (tmp_path / "long.txt").write_text("a" * 1000)
    config = DataConfig(source="text", path="long.txt", tokenizer="gpt2", tokenizer_path=str(vocabulary))
    with pytest.raises(DataError, match=r"long\.txt: contains a run of more than 100 characters.*tokenizer: bytes"):
        describe(config, tmp_path)


def test_a_surrogate_in_a_prompt_counts_as_what_replaces_it(vocabulary):
    for tokenizer in (ByteTokenizer(), load(vocabulary)):
        assert tokenizer.encode("a\ud800b").tolist() == tokenizer.encode("a\ufffdb").tolist()


def test_merges_that_are_cut_short_are_refused(vocabulary):
    (vocabulary / "vocab.bpe").write_text("#version: 0.2\nt h\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"not a GPT-2 vocabulary: 1 merges do not give 261 tokens"):
        load(vocabulary)


@pytest.mark.parametrize("missing", ["encoder.json", "vocab.bpe"])
def test_absent_vocabulary_files_are_named(vocabulary, missing):
    (vocabulary / missing).unlink()
    with pytest.raises(DataError, match=r"encoder\.json and vocab\.bpe, or with gpt2\.tiktoken"):
        load(vocabulary)


def test_no_tokenizer_path_names_the_key():
    with pytest.raises(DataError, match=r"needs data\.tokenizer_path.*encoder\.json"):
        load_tokenizer(DataConfig(tokenizer="gpt2"), Path())


def test_merges_in_another_order_are_refused(vocabulary):
    (vocabulary / "vocab.bpe").write_text("#version: 0.2\nth e\nt h\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"vocab\.bpe: not a GPT-2 vocabulary: the merge 'th e'"):
        load(vocabulary)


@pytest.mark.parametrize("content", ["", "IQ== 0\n", "IQ== zero\n", "garbage\n"])
def test_a_damaged_tiktoken_file_is_refused(tmp_path, content):
    (tmp_path / "gpt2.tiktoken").write_text(content)
    with pytest.raises(DataError, match=r"gpt2\.tiktoken: not a GPT-2 vocabulary"):
        load(tmp_path)


def test_the_message_says_which_package_is_missing(vocabulary, monkeypatch):
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    with pytest.raises(DataError, match="pip install tiktoken"):
        load(vocabulary).encode("a")


@pytest.mark.skipif(not REAL.is_dir(), reason="GPT-2's vocabulary files are not beside the repository (../shared/data)")
class TestRealVocabulary:
    def test_known_tokens(self):
        tokenizer = load(REAL)
        # These are documented examples of GPT-2's encoding.
        assert tokenizer.encode("Hello world").tolist() == [15496, 995]
        assert tokenizer.encode("<|endoftext|>").tolist() == [50256] == [tokenizer.separator]
        assert tokenizer.encode("I'll  go\n\n").tolist()[:2] == [40, 1183]

    def test_both_kinds_of_files_are_the_same_vocabulary(self, tmp_path):
        (tmp_path / "gpt2.tiktoken").write_bytes((REAL / "gpt2.tiktoken").read_bytes())
        assert load(tmp_path).identity == load(REAL).identity

    def test_text_survives(self):
        text = "naïve café — 漢字 🙂  \t\n\ndef f(x):\n    return x**2  # it's\n"
        tokenizer = load(REAL)
        tokens = tokenizer.encode(text)
        assert tokenizer.decode(tokens) == text
        assert tokens.dtype == np.uint16
