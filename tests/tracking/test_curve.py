"""The curve file: appending, cutting back, following and leases."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ablate.tracking.curve import BusyError, CurveReader, CurveWriter, is_held, read_curve


def steps(path: Path) -> list[int]:
    return [record["step"] for record in read_curve(path)]


def test_lines_are_appended_and_read(tmp_path: Path) -> None:
    path = tmp_path / "curve.jsonl"
    with CurveWriter(path) as curve:
        curve.append({"step": 1, "train_loss": 2.5})
        curve.append({"step": 2, "train_loss": math.nan, "val_loss": math.inf})
    assert read_curve(path) == [{"step": 1, "train_loss": 2.5}, {"step": 2, "train_loss": None, "val_loss": None}]


def test_a_resumed_curve_is_cut_back_to_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "curve.jsonl"
    with CurveWriter(path) as curve:
        for step in range(1, 6):
            curve.append({"step": step})
            if step == 3:
                saved = curve.n_bytes, curve.crc32
    with CurveWriter(path) as curve:
        assert curve.rewind(*saved)
        curve.append({"step": 4})
    assert steps(path) == [1, 2, 3, 4]


@pytest.mark.parametrize("damage", [lambda text: text.replace(b"2", b"7"), lambda text: text[:15]])
def test_a_curve_that_is_not_the_one_saved_is_refused(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "curve.jsonl"
    with CurveWriter(path) as curve:
        for step in range(1, 4):
            curve.append({"step": step})
        saved = curve.n_bytes, curve.crc32
    path.write_bytes(damage(path.read_bytes()))
    with CurveWriter(path) as curve:
        assert not curve.rewind(*saved)
        assert curve.rewind(0, 0)
    assert steps(path) == []


@pytest.mark.parametrize(
    "torn",
    [b'{"step": 3, "train', b"\x00\x00\x00\n", b"not json\n", b'{"stop": 3}\n', b"[1]\n", b"[" * 100_000 + b"\n"],
)
def test_a_torn_line_is_passed_over_and_cut(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "curve.jsonl"
    with CurveWriter(path) as curve:
        curve.append({"step": 1})
        curve.append({"step": 2})
        saved = curve.n_bytes, curve.crc32
    path.write_bytes(path.read_bytes() + torn)
    assert steps(path) == [1, 2]
    with CurveWriter(path) as curve:
        assert curve.rewind(*saved)
        curve.append({"step": 3})
    assert steps(path) == [1, 2, 3]


def test_a_line_that_the_disk_takes_only_half_of_is_an_error(tmp_path: Path) -> None:
    code = (
        "import resource, signal, sys; from pathlib import Path; from ablate.tracking.curve import CurveWriter\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20, 20))\n"
        "CurveWriter(Path(sys.argv[1])).append({'step': 1, 'train_loss': 0.5})\n"
    )
    result = subprocess.run([sys.executable, "-c", code, tmp_path / "curve.jsonl"], capture_output=True, text=True)
    assert "No space left on device" in result.stderr


def test_a_reader_follows_and_repeats_nothing(tmp_path: Path) -> None:
    path = tmp_path / "curve.jsonl"
    reader = CurveReader(path)
    assert reader.read() == []
    with CurveWriter(path) as curve:
        curve.append({"step": 1})
        saved = curve.n_bytes, curve.crc32
        curve.append({"step": 2})
        assert [record["step"] for record in reader.read()] == [1, 2]
        assert reader.read() == []
        assert curve.rewind(*saved)
        assert reader.read() == []
        curve.append({"step": 2})
        curve.append({"step": 3})
        assert [record["step"] for record in reader.read()] == [3]


def test_a_reader_omits_nothing_of_a_curve_that_grew_past_where_it_was(tmp_path: Path) -> None:
    """Lines that are written again have other times and therefore other lengths."""
    path = tmp_path / "curve.jsonl"
    reader = CurveReader(path)
    with CurveWriter(path) as curve:
        curve.append({"step": 1, "wall_s": 0.5})
        saved = curve.n_bytes, curve.crc32
        curve.append({"step": 2, "wall_s": 2 / 3})
        assert [record["step"] for record in reader.read()] == [1, 2]
        assert curve.rewind(*saved)
        for step in range(2, 6):
            curve.append({"step": step, "wall_s": step / 2})
        assert [record["step"] for record in reader.read()] == [3, 4, 5]


def test_a_reader_waits_for_the_end_of_a_line(tmp_path: Path) -> None:
    path = tmp_path / "curve.jsonl"
    path.write_bytes(b'{"step": 1}\n{"st')
    reader = CurveReader(path)
    assert [record["step"] for record in reader.read()] == [1]
    with path.open("ab") as file:
        file.write(b'ep": 2}\n')
    assert [record["step"] for record in reader.read()] == [2]


def _hold(path: Path, ready: object) -> None:
    with CurveWriter(path):
        ready.set()  # type: ignore[attr-defined]
        time.sleep(60)


def test_the_lease_is_exclusive_and_dies_with_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "curve.jsonl"
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    holder = context.Process(target=_hold, args=(path, ready))
    holder.start()
    assert ready.wait(30)
    assert is_held(path)
    with pytest.raises(BusyError):
        CurveWriter(path)
    assert holder.pid is not None
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    assert not is_held(path)
    CurveWriter(path).close()
