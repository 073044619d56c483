"""Checkpoints are written completely or not at all, and read without executing anything."""

from __future__ import annotations

import os
import pickle
import threading

import pytest
import torch

from ablate.errors import RecordError
from ablate.training import checkpoint
from ablate.training.checkpoint import TRAILER_START, read_checkpoint, write_checkpoint


def test_a_state_survives_bit_for_bit(tmp_path):
    state = {"weights": torch.randn(3, 4, dtype=torch.float64), "progress": {"step": 3, "loss_sum": 0.1 + 0.2}}
    write_checkpoint(tmp_path / "c.pt", state)
    read = read_checkpoint(tmp_path / "c.pt")
    assert read is not None
    assert torch.equal(read["weights"], state["weights"])
    assert read["progress"] == state["progress"]


def test_no_checkpoint_is_none(tmp_path):
    assert read_checkpoint(tmp_path / "c.pt") is None


def test_a_crash_while_writing_keeps_the_old_checkpoint(tmp_path, monkeypatch):
    write_checkpoint(tmp_path / "c.pt", {"step": 1})

    def crash(_state, file):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.torch, "save", crash)
    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(tmp_path / "c.pt", {"step": 2})
    assert read_checkpoint(tmp_path / "c.pt") == {"step": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["c.pt"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")  # noqa: PTH110
def test_a_full_disk_is_an_os_error(tmp_path):
    write_checkpoint(tmp_path / "c.pt", {"step": 1})
    (tmp_path / f".c.pt.{os.getpid()}-{threading.get_ident()}").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device"):
        write_checkpoint(tmp_path / "c.pt", {"weights": torch.zeros(100_000)})
    assert read_checkpoint(tmp_path / "c.pt") == {"step": 1}


@pytest.mark.parametrize("content", [b"", b"garbage", pickle.dumps({"step": 1}, protocol=2)[:-3]])
def test_what_is_no_checkpoint_is_named(tmp_path, content):
    (tmp_path / "c.pt").write_bytes(content)
    with pytest.raises(RecordError, match=r"c\.pt: not a checkpoint"):
        read_checkpoint(tmp_path / "c.pt")


def test_a_torn_checkpoint_is_named(tmp_path):
    write_checkpoint(tmp_path / "c.pt", {"weights": torch.zeros(1000)})
    whole = (tmp_path / "c.pt").read_bytes()
    (tmp_path / "c.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RecordError, match=r"c\.pt: not a checkpoint"):
        read_checkpoint(tmp_path / "c.pt")


def test_a_checkpoint_with_a_changed_byte_was_trained_on(tmp_path):
    """torch checks no checksum, so damaged weights and optimizer states were resumed from without a word. A zip file
    has none of its own fields, which say where a part is."""
    state = {"weights": torch.arange(50.0), "progress": {"step": 3}}
    path = tmp_path / "c.pt"
    write_checkpoint(path, state)
    whole = path.read_bytes()
    for place in range(len(whole) - len(TRAILER_START) - 8):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        with pytest.raises(RecordError, match=r"c\.pt: not a checkpoint: "):
            read_checkpoint(path)


def test_a_checkpoint_of_an_earlier_version_has_no_checksum_of_the_file(tmp_path):
    path, weights = tmp_path / "c.pt", torch.arange(50.0)
    torch.save({"weights": weights}, path)
    state = read_checkpoint(path)
    assert state is not None and torch.equal(state["weights"], weights)
    whole = path.read_bytes()
    start = whole.index(weights.numpy().tobytes())
    path.write_bytes(whole[:start] + bytes([whole[start] ^ 0xFF]) + whole[start + 1 :])
    with pytest.raises(RecordError, match=r"c\.pt: not a checkpoint: it is damaged"):
        read_checkpoint(path)


class Bomb:
    def __reduce__(self):
        return os.system, ("touch exploded",)


def test_nothing_in_a_checkpoint_is_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"weights": Bomb()}, tmp_path / "c.pt")
    with pytest.raises(RecordError, match=r"c\.pt: not a checkpoint"):
        read_checkpoint(tmp_path / "c.pt")
    assert not (tmp_path / "exploded").exists()
