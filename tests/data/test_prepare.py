"""Making shards: in parallel, interrupted anywhere, twice at once, on a full disk, and within little memory."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from documents import documents, make_texts, write_jsonl, write_parquet

from ablate.data import Corpus, Means, corpus, describe, memory, pieces, pool, prepare, shards
from ablate.data.sources import base
from ablate.errors import DataError, ResourceError
from ablate.study.data_schema import DataConfig

TEXTS = make_texts(400)


@dataclass
class Watcher(shards.Silent):
    """Counts what an observer is told, and interrupts after `stop_after` bytes."""

    stop_after: float = float("inf")
    n_bytes: int = 0
    n_done: int = -1
    read: int = 0
    expected: int = 0
    processes: int = 0

    def start(self, n_bytes: int, n_done: int, expected_bytes: int, free_bytes: int, processes: int) -> None:  # noqa: ARG002
        self.n_bytes, self.n_done, self.expected, self.processes = n_bytes, n_done, expected_bytes, processes

    def advance(self, n_bytes: int) -> None:
        self.read += n_bytes
        if self.read > self.stop_after:
            raise KeyboardInterrupt


@pytest.fixture
def many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataConfig:
    """A corpus of about twenty pieces."""
    monkeypatch.setattr(base, "PIECE_BYTES", 1500)
    write_jsonl(tmp_path / "a.jsonl", TEXTS)
    return documents("jsonl", tmp_path / "a.jsonl")


def content(made: Corpus) -> tuple[bytes, bytes, bytes]:
    return (
        made.train_path.read_bytes(),
        made.validation_path.read_bytes(),
        (made.train_path.parent / "meta.json").read_bytes(),
    )


def test_several_processes_make_what_one_makes(many: DataConfig, tmp_path: Path) -> None:
    alone, together = Watcher(), Watcher()
    one = prepare(many, tmp_path, tmp_path / "one", Means(1, observer=alone))
    two = prepare(many, tmp_path, tmp_path / "two", Means(2, observer=together))
    assert content(one) == content(two)
    assert (alone.processes, together.processes) == (1, 2)
    assert alone.read == alone.n_bytes == together.read == (tmp_path / "a.jsonl").stat().st_size
    assert sorted(path.name for path in two.train_path.parent.iterdir()) == ["meta.json", "train.bin", "validation.bin"]


@pytest.mark.parametrize("tail", [False, True])
def test_an_interruption_anywhere_changes_nothing(many: DataConfig, tmp_path: Path, tail: bool) -> None:
    if tail:  # a single text, whose end is moved to the other shard
        (tmp_path / "a.txt").write_text("\n".join(TEXTS))
        many = documents("text", tmp_path / "a.txt")
    expected = content(prepare(many, tmp_path, tmp_path / "whole"))
    folder, n_stops = tmp_path / "interrupted", 0
    original, calls = shards.write_atomic, {"n": 0}

    def interrupt(*arguments: object, **more: object) -> None:  # before and after every step that is recorded
        calls["n"] += 1
        if calls["n"] == 2:
            raise KeyboardInterrupt
        original(*arguments, **more)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "write_atomic", interrupt)
        while True:
            calls["n"] = 0
            try:
                made = prepare(many, tmp_path, folder)
                break
            except KeyboardInterrupt:
                n_stops += 1
                with next(folder.glob("*/train.bin")).open("ab") as file:
                    file.write(b"half a piece")
    assert n_stops >= (1 if tail else 10)
    assert content(made) == expected


def test_a_corpus_that_is_half_done_is_not_read_again(many: DataConfig, tmp_path: Path) -> None:
    first, second = Watcher(stop_after=15_000), Watcher()
    with pytest.raises(KeyboardInterrupt):
        prepare(many, tmp_path, tmp_path / "shards", Means(observer=first))
    prepare(many, tmp_path, tmp_path / "shards", Means(observer=second))
    assert 10_000 < second.n_done <= 15_000
    assert second.n_done + second.read == second.n_bytes


COMMAND = """
import sys
from pathlib import Path
from ablate.data import Means, prepare
from ablate.data.sources import base
from ablate.study.data_schema import DataConfig
base.PIECE_BYTES = 20_000
if __name__ == "__main__":
    config = DataConfig(source="jsonl", path=sys.argv[1])
    prepare(config, Path(), Path(sys.argv[2]), Means(int(sys.argv[3])))
"""


def start(tmp_path: Path, folder: Path, processes: int = 2) -> subprocess.Popen[bytes]:
    (tmp_path / "command.py").write_text(COMMAND)
    words = [sys.executable, "command.py", "a.jsonl", str(folder), str(processes)]
    return subprocess.Popen(words, cwd=tmp_path)


def test_a_killed_command_is_resumed_and_leaves_no_process(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", make_texts(2000, n_words=120))
    killed, folder = start(tmp_path, tmp_path / "killed"), tmp_path / "killed"
    deadline = time.monotonic() + 60
    while not list(folder.glob("*/journal.json")) and time.monotonic() < deadline:
        time.sleep(0.002)
    children = subprocess.run(["pgrep", "-P", str(killed.pid)], capture_output=True, text=True, check=False).stdout
    killed.kill()
    killed.wait()
    assert list(folder.glob("*/journal.json"))
    assert not list(folder.glob("*/meta.json"))
    n_done = json.loads(next(folder.glob("*/journal.json")).read_bytes())["cursor"]
    assert n_done > 0
    with start(tmp_path, folder) as again:
        assert again.wait() == 0
    config = documents("jsonl", tmp_path / "a.jsonl")
    (made,) = folder.glob("*/meta.json")
    expected = content(prepare(config, tmp_path, tmp_path / "whole"))
    assert tuple((made.parent / name).read_bytes() for name in ("train.bin", "validation.bin", "meta.json")) == expected
    for child in map(int, children.split()):
        while Path(f"/proc/{child}").exists() and "ablate" in Path(f"/proc/{child}/cmdline").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.mark.slow
def test_two_commands_at_once_make_one_corpus(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", make_texts(2000, n_words=100))
    folder = tmp_path / "shards"
    commands = [start(tmp_path, folder, processes) for processes in (1, 2, 1)]
    assert [command.wait() for command in commands] == [0, 0, 0]
    config = documents("jsonl", tmp_path / "a.jsonl")
    assert content(prepare(config, tmp_path, folder)) == content(prepare(config, tmp_path, tmp_path / "alone"))
    assert len(list(folder.rglob("*"))) == 4


def test_a_second_command_waits_and_says_so(many: DataConfig, tmp_path: Path) -> None:
    name = describe(many, tmp_path).hash
    waited: list[Path] = []

    class Waiter(shards.Silent):
        def wait(self, folder: Path) -> None:
            waited.append(folder)
            holder.release()

    holder = Holder(tmp_path / "shards" / name)
    prepare(many, tmp_path, tmp_path / "shards", Means(observer=Waiter()))
    assert waited == [tmp_path / "shards" / name]


class Holder:
    """Another process with the lock of a folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        code = (
            "import fcntl, sys; file = open(sys.argv[1], 'ab'); fcntl.flock(file, fcntl.LOCK_EX); "
            "print('held', flush=True); sys.stdin.read()"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, folder / ".lock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"held\n"

    def release(self) -> None:
        self.process.communicate()


def test_a_process_that_dies_is_reported(many: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = pool._Pool.start

    def start_and_kill(self: pool._Pool, index: int, piece: pieces.Piece) -> None:
        original(self, index, piece)
        if index == 3:
            os.kill(self._processes[0].pid or 0, signal.SIGKILL)
            os.kill(self._processes[1].pid or 0, signal.SIGKILL)

    monkeypatch.setattr(pool._Pool, "start", start_and_kill)
    with pytest.raises(
        ResourceError, match=r"ended unexpectedly.*memory.*resumes; to use fewer processes, set --processes"
    ):
        prepare(many, tmp_path, tmp_path / "shards", Means(2))


def test_an_error_in_a_process_is_the_error_of_the_command(many: DataConfig, tmp_path: Path) -> None:
    lines = (tmp_path / "a.jsonl").read_text().splitlines()
    lines[300] = '{"text": 1}'
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"a\.jsonl: line 301: its 'text' is a value of type int"):
        prepare(many, tmp_path, tmp_path / "shards", Means(2))


def test_a_disk_that_is_too_small_is_refused_first(
    many: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "ESTIMATED_ABOVE_BYTES", 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 20))
    with pytest.raises(ResourceError, match=r"the token shards need about 67.*MB, but the disk has only 1.05MB free"):
        prepare(many, tmp_path, tmp_path / "shards")
    assert not list((tmp_path / "shards").rglob("*.bin"))


def test_an_estimate_is_near_and_marked(many: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = describe(many, tmp_path)
    monkeypatch.setattr(corpus, "ESTIMATED_ABOVE_BYTES", 1000)
    guess = describe(many, tmp_path)
    assert (guess.is_estimate, exact.is_estimate, guess.hash) == (True, False, exact.hash)
    assert abs(guess.n_train_tokens / exact.n_train_tokens - 1) < 0.1
    prepare(many, tmp_path, tmp_path / "shards")
    assert describe(many, tmp_path, tmp_path / "shards") == exact


def test_memory_limits_the_number_of_processes(many: DataConfig, tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"--max-memory: 1MB is too little: this process needs about"):
        prepare(many, tmp_path, tmp_path / "shards", Means(4, 1_000_000))
    each = memory.memory_in_use() + memory.BUFFER_BYTES
    limits = (None, int(9.5 * each), int(3.5 * each), int(1.5 * each))
    assert [memory.choose_processes(4, limit, n_pieces=20, n_bytes=30_000) for limit in limits] == [4, 4, 2, 1]
    assert memory.choose_processes(None, None, n_pieces=20, n_bytes=30_000) == 1  # others would start too slowly


PEAK = """
import sys
from pathlib import Path
from ablate.data import Means, prepare
from ablate.study.data_schema import DataConfig
if __name__ == "__main__":
    source, path, limit = sys.argv[1:]
    made = prepare(DataConfig(source=source, path=path), Path(), Path("shards"), Means(2, int(limit)))
    print(len(made.train) + len(made.validation), Path("/proc/self/status").read_text())
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is read from /proc")
@pytest.mark.parametrize("source", ["jsonl", "parquet"])
def test_a_corpus_is_larger_than_the_memory_it_takes(tmp_path: Path, source: str) -> None:
    """Processes with a limit on memory tokenize a corpus that would not fit into it, from one large row group."""
    texts = [text * 25 for text in make_texts(2000, n_words=40)]
    rows = [f"{i} {text}" for i in range(60) for text in texts]
    if source == "jsonl":
        write_jsonl(tmp_path / "c.jsonl", rows)
    else:
        write_parquet(tmp_path / "c.parquet", {"text": rows}, rows=len(rows))
    size = sum(len(row.encode()) for row in rows)
    limit = 330_000_000
    assert size > limit
    (tmp_path / "peak.py").write_text(PEAK)
    words = [sys.executable, "peak.py", source, f"c.{source}", str(limit)]
    shown = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert int(shown.split()[0]) == size + len(rows)
    peak = int(re.search(r"VmHWM:\s+(\d+) kB", shown)[1]) * 1024  # type: ignore[index]
    assert peak < limit
