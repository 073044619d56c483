"""Corpora: what is built, reused and refused."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from ablate.data import CorpusInfo, check_length, check_vocabulary, corpus, describe, files, prepare, splits
from ablate.errors import DataError, ResourceError
from ablate.study.data_schema import DataConfig
from damage import DAMAGED, IN_THE_WAY


def text(*paths: Path, **more: object) -> DataConfig:
    return DataConfig(source="text", path=tuple(map(str, paths)), **more)


@pytest.fixture
def two(tmp_path: Path) -> DataConfig:
    (tmp_path / "a.txt").write_bytes(b"first")
    (tmp_path / "b.txt").write_bytes(b"second")
    (tmp_path / "v.txt").write_bytes(b"kept")
    return text(tmp_path / "a.txt", tmp_path / "b.txt", validation_path=str(tmp_path / "v.txt"))


def test_bytes_are_joined_by_the_separator(two, tmp_path):
    made = prepare(two, tmp_path, tmp_path / "shards")
    assert made.train.tobytes() == b"first\0second"
    assert made.validation.tobytes() == b"kept"
    assert isinstance(made.train, np.memmap)
    assert (made.info.n_train_tokens, made.info.n_validation_tokens, made.info.vocab_size) == (12, 4, 256)


def test_describe_says_what_prepare_makes_and_writes_nothing(two, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    described = describe(two, tmp_path, tmp_path / "shards")
    assert sorted(tmp_path.rglob("*")) == before
    made = prepare(two, tmp_path, tmp_path / "shards")
    assert described == made.info == describe(two, tmp_path, tmp_path / "shards")
    kept = sorted(path.name for path in (tmp_path / "shards").rglob("*") if path.is_file())
    assert kept == ["meta.json", "train.bin", "validation.bin"]


def test_describe_reads_the_meta_of_made_shards(two, tmp_path, monkeypatch):
    made = prepare(two, tmp_path, tmp_path / "shards")
    monkeypatch.setattr(corpus, "count", None)
    assert describe(two, tmp_path, tmp_path / "shards") == made.info


@pytest.mark.parametrize("name", ["train.bin", "validation.bin", "meta.json"])
@pytest.mark.parametrize("how", [*DAMAGED, "same size", "fifo", "loop", "device"])
def test_damaged_shards_are_made_again(two, tmp_path, name, how):
    """Other tokens in a file of the same size were used."""
    made = prepare(two, tmp_path, tmp_path / "shards")
    path = made.train_path.with_name(name)
    damage = {"same size": lambda path: path.write_bytes(b"X" * path.stat().st_size), **IN_THE_WAY, **DAMAGED}[how]
    damage(path)
    assert describe(two, tmp_path, tmp_path / "shards") == made.info
    again = prepare(two, tmp_path, tmp_path / "shards")
    assert (again.train.tobytes(), again.validation.tobytes()) == (b"first\0second", b"kept")


def test_shards_that_were_copied_or_made_by_an_earlier_version_are_used(two, tmp_path, monkeypatch):
    made = prepare(two, tmp_path, tmp_path / "shards")
    os.utime(made.train_path, (1e11, 1e11))
    meta = made.train_path.with_name("meta.json")
    content = json.loads(meta.read_text())
    assert len(content.pop("crc32")) == 2
    monkeypatch.setattr(corpus, "ShardMaker", None)
    assert prepare(two, tmp_path, tmp_path / "shards") == made
    meta.write_text(json.dumps(content))
    assert prepare(two, tmp_path, tmp_path / "shards") == made


def test_a_folder_in_place_of_a_shard_is_named(two, tmp_path):
    """Instead, the lock began again after any error of the disk."""
    made = prepare(two, tmp_path, tmp_path / "shards")
    made.train_path.unlink()
    made.train_path.mkdir()
    with pytest.raises(ResourceError, match=r"train\.bin: the token shards cannot be written: Is a directory"):
        prepare(two, tmp_path, tmp_path / "shards")


def test_a_lone_file_keeps_its_tail_for_validation(tmp_path):
    (tmp_path / "a.txt").write_bytes(bytes(range(65, 85)))
    config = text(tmp_path / "a.txt", validation_fraction=0.25)
    made = prepare(config, tmp_path, tmp_path / "shards")
    assert made.train.tolist() == list(range(65, 80))
    assert made.validation.tolist() == list(range(80, 85))
    assert describe(config, tmp_path) == made.info


@pytest.mark.parametrize(("suffix", "module"), [(".gz", gzip), (".bz2", bz2), (".xz", lzma)])
def test_archives_are_read_directly(tmp_path, suffix, module):
    (tmp_path / f"a.txt{suffix}").write_bytes(module.compress(b"compressed text"))
    made = prepare(text(tmp_path / f"a.txt{suffix}"), tmp_path, tmp_path / "shards")
    assert made.train.tobytes() + made.validation.tobytes() == b"compressed text"


@pytest.mark.parametrize(("suffix", "module"), [(".gz", gzip), (".bz2", bz2), (".xz", lzma)])
@pytest.mark.parametrize("damage", ["cut short", "not one"])
def test_a_damaged_archive_is_named(tmp_path, suffix, module, damage):
    path = tmp_path / f"a.txt{suffix}"
    whole = module.compress(bytes(range(256)) * 40)
    path.write_bytes(whole[: len(whole) // 2] if damage == "cut short" else b"this is plain text")
    with pytest.raises(DataError, match=rf"a\.txt\{suffix}: cannot be read"):
        describe(text(path), tmp_path)


def test_an_archive_of_nothing_is_refused(tmp_path):
    (tmp_path / "a.gz").write_bytes(gzip.compress(b""))
    with pytest.raises(DataError, match="training split of the corpus is empty"):
        describe(text(tmp_path / "a.gz"), tmp_path)
    with pytest.raises(DataError, match="training split of the corpus is empty"):
        prepare(text(tmp_path / "a.gz"), tmp_path, tmp_path / "shards")


def test_an_unreadable_file_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("text")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files.hashlib, "file_digest", refuse)
    with pytest.raises(DataError, match=r"a\.txt: cannot be read: Permission denied"):
        describe(text(tmp_path / "a.txt"), tmp_path)


def test_text_that_is_no_utf8_is_named(tmp_path):
    pytest.importorskip("tiktoken")
    ranks = {bytes([i]): i for i in range(256)}
    from ablate.data.tokenizers import GPT2Tokenizer

    path = tmp_path / "latin.txt"
    path.write_bytes("café".encode("latin-1"))
    with (
        pytest.raises(DataError, match=r"latin\.txt: is not UTF-8 \(byte 0xe9\)"),
        files.open_file(path) as (stream, _),
    ):
        list(GPT2Tokenizer(ranks).encode_stream(stream))


def test_the_hash_is_of_content_not_of_places(tmp_path):
    hashes = set()
    for folder in ("here", "there/deeper"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / f"{folder[0]}.txt").write_text("the same text")
        hashes.add(describe(text(tmp_path / folder / f"{folder[0]}.txt"), tmp_path).hash)
    assert len(hashes) == 1


def test_the_hash_tells_content_and_split_apart(two, tmp_path):
    hashes = {describe(two, tmp_path).hash}
    hashes.add(describe(two.model_copy(update={"validation_path": two.path[:1]}), tmp_path).hash)
    (tmp_path / "b.txt").write_bytes(b"Second")
    hashes.add(describe(two, tmp_path).hash)
    lone = text(tmp_path / "b.txt", validation_fraction=0.5)
    hashes.add(describe(lone, tmp_path).hash)
    hashes.add(describe(lone.model_copy(update={"validation_fraction": 0.4}), tmp_path).hash)
    assert len(hashes) == 5


def test_the_hash_names_the_tokenizer(two, tmp_path):
    split = corpus.split_files(two, tmp_path)
    assert corpus._content(split, "bytes") != corpus._content(split, "gpt2:0")


@pytest.mark.parametrize("damage", ["train.bin", "validation.bin", "meta.json", "meta garbage"])
def test_torn_shards_are_made_again(two, tmp_path, damage):
    made = prepare(two, tmp_path, tmp_path / "shards")
    if damage == "meta garbage":
        made.train_path.with_name("meta.json").write_text("[1")
    else:
        made.train_path.with_name(damage).write_bytes(b"x")
    again = prepare(two, tmp_path, tmp_path / "shards")
    assert again.train.tobytes() == b"first\0second"
    assert again.validation.tobytes() == b"kept"


def test_whole_shards_are_reused(two, tmp_path):
    made = prepare(two, tmp_path, tmp_path / "shards")
    before = made.train_path.stat().st_ino
    assert prepare(two, tmp_path, tmp_path / "shards") == made
    assert made.train_path.stat().st_ino == before


def _prepare(job: tuple[DataConfig, Path]) -> bytes:
    config, folder = job
    return prepare(config, folder, folder / "shards").train.tobytes()


def test_two_processes_may_prepare_at_once(two, tmp_path):
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        assert set(pool.map(_prepare, [(two, tmp_path)] * 4)) == {b"first\0second"}


def test_a_folder_that_cannot_be_written_is_named(two, tmp_path):
    (tmp_path / "shards").write_text("a file in the way")
    with pytest.raises(ResourceError, match=r"shards.*cannot be written"):
        prepare(two, tmp_path, tmp_path / "shards")


def test_a_corpus_travels_as_paths(two, tmp_path):
    made = prepare(two, tmp_path, tmp_path / "shards")
    assert made.train is not None
    packed = pickle.dumps(made)
    assert len(packed) < 1000
    assert pickle.loads(packed).train.tobytes() == b"first\0second"


def test_shards_that_vanish_or_change_are_noticed(two, tmp_path):
    made = prepare(two, tmp_path, tmp_path / "shards")
    made.train_path.write_bytes(b"other")
    with pytest.raises(DataError, match=r"train\.bin: 5 bytes where 12 were prepared"):
        _ = made.train
    made.validation_path.unlink()
    with pytest.raises(DataError, match=r"validation\.bin: cannot be read"):
        _ = made.validation


def write_bin(folder: Path, train: list[int], validation: list[int]) -> DataConfig:
    folder.mkdir()
    np.array(train, dtype="<u2").tofile(folder / "train.bin")
    np.array(validation, dtype="<u2").tofile(folder / "val.bin")
    return DataConfig(source="bin", path=str(folder))


def test_nanogpt_files_are_used_in_place(tmp_path):
    config = write_bin(tmp_path / "owt", [1, 50256, 2], [7, 8])
    made = prepare(config, tmp_path, tmp_path / "shards")
    assert made.train.tolist() == [1, 50256, 2]
    assert made.validation_path == tmp_path / "owt" / "val.bin"
    assert made.info == describe(config, tmp_path) == CorpusInfo(made.info.hash, 3, 2, 50304, 50256)
    assert not (tmp_path / "shards").exists()


def test_large_files_are_hashed_by_samples(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "SAMPLED_ABOVE_BYTES", 100)
    monkeypatch.setattr(files, "SAMPLE_BYTES", 4)
    path = tmp_path / "large.bin"
    path.write_bytes(bytes(400))
    before = files.digest_of(path)
    path.write_bytes(bytes(399) + b"\1")
    assert files.digest_of(path) != before
    path.write_bytes(bytes(401))
    assert files.digest_of(path) != before


@pytest.mark.parametrize("name", ["nowhere", "owt"])
def test_a_folder_without_nanogpt_files_is_refused(tmp_path, name):
    write_bin(tmp_path / "owt", [1], [1])
    (tmp_path / "owt" / "val.bin").unlink()
    with pytest.raises(DataError, match=rf"{name} must be a folder with train\.bin and val\.bin"):
        describe(DataConfig(source="bin", path=str(tmp_path / name)), tmp_path)


def test_half_a_token_is_refused(tmp_path):
    config = write_bin(tmp_path / "owt", [1], [1])
    (tmp_path / "owt" / "val.bin").write_bytes(b"abc")
    with pytest.raises(DataError, match=r"val\.bin: 3 bytes are not a sequence of uint16"):
        describe(config, tmp_path)


@pytest.mark.parametrize("vocab_size", [50_257, 200_000])
def test_tokens_of_four_bytes_are_refused(tmp_path: Path, vocab_size: int) -> None:
    """Read as tokens of two bytes, they would be twice as many, and every other token would be 0."""
    config = write_bin(tmp_path / "owt", [1], [7, 300])
    draw = np.random.default_rng(0)
    draw.integers(vocab_size, size=100).astype("<u4").tofile(tmp_path / "owt" / "train.bin")
    with pytest.raises(DataError, match=r"train\.bin: this looks like uint32 tokens; source bin reads uint16"):
        describe(config, tmp_path)
    separated = np.zeros(100, "<u2")
    separated[::2] = draw.integers(256, size=50)
    separated.tofile(tmp_path / "owt" / "train.bin")
    assert describe(config, tmp_path).n_train_tokens == 100


def test_training_on_the_validation_tokens_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.path: train\.bin and val\.bin of .*owt contain the same tokens"):
        describe(write_bin(tmp_path / "owt", [1, 2, 3], [1, 2, 3]), tmp_path)
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(name * 100)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress((tmp_path / "a.txt").read_bytes()))
    names = [str(tmp_path / name) for name in ("a.txt", "b.txt", "a.txt.gz")]
    for config in (
        DataConfig(source="text", path=tuple(names)),
        DataConfig(source="text", path=tuple(names[:2]), validation_path=(names[2],)),
    ):
        with pytest.raises(DataError, match=r"a\.txt\.gz and a\.txt are the same text: name only one of them"):
            describe(config, tmp_path)


def test_tokens_beyond_the_vocabulary_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "SCAN_TOKENS", 2)
    made = prepare(write_bin(tmp_path / "owt", [1, 2, 3], [1, 2, 9]), tmp_path, tmp_path)
    check_vocabulary(made, 10)
    with pytest.raises(DataError, match=r"validation split contains the token 9, beyond a model\.vocab_size of 9"):
        check_vocabulary(made, 9)


def test_a_corpus_shorter_than_a_context_is_refused():
    info = CorpusInfo("", n_train_tokens=100, n_validation_tokens=33, vocab_size=256)
    check_length(info, 32)
    with pytest.raises(DataError, match=r"validation split has 33 tokens.*context_length of 33 \(legal: at most 32\)"):
        check_length(info, 33)
    with pytest.raises(DataError, match="training split has 100 tokens"):
        check_length(info, 100)


def test_bytes_read_as_they_are_do_not_share_the_hash_of_their_decompressed_twin(tmp_path: Path) -> None:
    content = b"the quick brown fox jumps over the lazy dog\n" * 50
    packed, renamed = tmp_path / "a.txt.gz", tmp_path / "a.dat"
    packed.write_bytes(gzip.compress(content))
    renamed.write_bytes(packed.read_bytes())
    assert splits.digest([packed])[0].digest != splits.digest([renamed])[0].digest
    info = describe(text(packed), tmp_path)
    assert info.n_train_tokens + info.n_validation_tokens == len(content)
    with pytest.raises(DataError, match=r"a\.dat: is gzip data, not text: give it the suffix \.gz"):
        describe(text(renamed), tmp_path)


def test_a_copy_of_a_validation_file_is_left_out_of_training(tmp_path: Path) -> None:
    for name, letter in (("a.txt", "a"), ("b.txt", "b"), ("copy.txt", "b")):
        (tmp_path / name).write_text(letter * 100)
    config = DataConfig(
        source="text",
        path=(str(tmp_path / "a.txt"), str(tmp_path / "copy.txt")),
        validation_path=(str(tmp_path / "b.txt"),),
    )
    corpus = prepare(config, tmp_path, tmp_path / "shards")
    assert set(bytes(corpus.train)) == {ord("a")}


@pytest.mark.parametrize("name", ["x.zst", "x.ZIP", "x.tar"])
def test_an_archive_that_is_not_read_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"noise" * 100)
    with pytest.raises(DataError, match=r"\.gz, \.bz2, \.xz"):
        describe(DataConfig(source="text", path=(name,)), tmp_path)


def test_a_home_that_does_not_exist_is_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nobody-of-that-name"):
        describe(DataConfig(source="text", path=("~nobody-of-that-name/x",)), tmp_path)


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "log.txt").write_text("the first part")
    split = corpus.split_files

    def split_and_append(*arguments: object) -> splits.Split:
        found = split(*arguments)
        (tmp_path / "log.txt").write_text("the first part and another")
        return found

    monkeypatch.setattr(corpus, "split_files", split_and_append)
    with pytest.raises(DataError, match=r"log\.txt: the file changed while it was read"):
        prepare(text(tmp_path / "log.txt"), tmp_path, tmp_path / "shards")
    assert not list((tmp_path / "shards").rglob("*.bin"))


def test_copies_are_said_and_counted(tmp_path: Path) -> None:
    for name, content in (("a", "one"), ("b", "one"), ("c", "another")):
        (tmp_path / f"{name}.txt").write_text(content)
    config = text(tmp_path / "*.txt", validation_path=str(tmp_path / "c.txt"))
    info = describe(config, tmp_path)
    assert info.n_train_tokens == len("one\0one")
    assert len(info.notices) == 1 and "1 of the 3 files" in info.notices[0] and "b.txt has the" in info.notices[0]
    prepare(config, tmp_path, tmp_path / "shards")
    assert describe(config, tmp_path, tmp_path / "shards").notices == info.notices


def test_an_edit_that_keeps_size_and_time_makes_other_shards(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("first text")
    made = prepare(text(path), tmp_path, tmp_path / "shards")
    times = (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    path.write_text("other text")
    os.utime(path, ns=times)
    again = prepare(text(path), tmp_path, tmp_path / "shards")
    assert again.info.hash != made.info.hash
    assert again.train.tobytes() + again.validation.tobytes() == b"other text"


def test_a_vocabulary_that_the_tokens_contradict_is_refused(tmp_path: Path) -> None:
    config = write_bin(tmp_path / "owt", [1, 300, 2], [7, 8])
    meta = tmp_path / "owt" / "meta.pkl"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        meta.write_bytes(pickle.dumps({"itos": {0: "a"}, "vocab_size": 301, "stoi": {"a": 0}}, protocol))
        assert describe(config, tmp_path).stated_vocab_size == 301
    meta.write_bytes(pickle.dumps({"vocab_size": 300}))
    with pytest.raises(DataError, match=r"meta\.pkl: states a vocabulary of 300, but .* contain the token 300"):
        describe(config, tmp_path)
    meta.write_bytes(pickle.dumps({"vocab_size": 151_936}))
    with pytest.raises(DataError, match=r"meta\.pkl: a vocabulary of 151,936 tokens does not fit in uint16"):
        describe(config, tmp_path)


def test_a_pickle_beside_the_tokens_is_never_run(tmp_path: Path) -> None:
    config = write_bin(tmp_path / "owt", [1, 2, 3], [7, 8])
    (tmp_path / "owt" / "meta.pkl").write_bytes(b"cos\nmkdir\n(S'" + str(tmp_path / "run").encode() + b"'\ntR.")
    assert describe(config, tmp_path).stated_vocab_size is None
    assert not (tmp_path / "run").exists()
