"""The page about own data, and the grids for public corpora, on files made here with the same columns."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from ablate.cli import main
from ablate.cli.inputs import read_plan
from ablate.data import SHARDS, corpus, describe
from ablate.plan import build_plan
from ablate.study import load_study

ROOT = Path(__file__).parents[1]
MERGES = ("t h", "th e", "Ġ the")


@pytest.mark.slow
def test_the_example_on_the_page_runs(tmp_path: Path) -> None:
    """Copied from the page into a shell: prepares, trains, and does not tokenize again."""
    page = (ROOT / "docs" / "own-data.md").read_text()
    (script,) = re.findall(r"^```sh\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "ablate"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ablate "$@"\n')
    command.chmod(0o755)
    paths = os.pathsep.join((str(command.parent), os.environ["PATH"]))
    environment = {**os.environ, "PATH": paths, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    shown = subprocess.run(
        ["sh", "-e", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "tokens for training" in shown.stdout
    assert "my-notes: 2 finished" in shown.stdout
    assert len(list((tmp_path / "runs" / SHARDS).glob("*/meta.json"))) == 1


def test_a_run_rests_on_no_estimate_and_uses_what_was_prepared(
    write_grid: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = "".join(json.dumps({"text": page}) + "\n" for page in make_pages(60))
    (tmp_path / "pages.jsonl").write_text(lines)
    grid, runs = write_grid(data={"source": "jsonl", "path": "pages.jsonl"}), tmp_path / "runs"
    exact = read_plan(grid, runs, None).corpus
    monkeypatch.setattr(corpus, "ESTIMATED_ABOVE_BYTES", 1000)
    guess = read_plan(grid, runs, None)
    assert guess.corpus.is_estimate
    assert not runs.exists()
    monkeypatch.setattr(sys, "argv", ["ablate", "plan", str(grid), "--runs", str(runs)])
    with pytest.raises(SystemExit):
        main()
    assert "about" in (shown := capsys.readouterr().out)
    assert "the tokens are estimated from a sample" in shown
    planned = read_plan(grid, runs, None, None, Console(quiet=True))
    assert planned.corpus == exact
    assert [run.run_id for run in planned.runs] == [run.run_id for run in guess.runs]
    monkeypatch.setattr(corpus, "ShardMaker", None)
    monkeypatch.setattr(corpus, "count", None)
    assert read_plan(grid, runs, None, None, Console(quiet=True)).corpus == exact


def make_pages(n: int) -> list[str]:
    draw = random.Random(0)
    words = ["the", "teacher", "of", "science", "explains", "cells", "and", "maps"]
    return [f"Page {i}. {' '.join(draw.choices(words, k=700))}." for i in range(n)]


def write_fineweb_edu(folder: Path, pages: list[str]) -> None:
    """Parquet files with the columns of HuggingFaceFW/fineweb-edu."""
    place = folder / "fineweb-edu" / "sample" / "10BT"
    place.mkdir(parents=True)
    for i, part in enumerate((pages[::2], pages[1::2])):
        n = len(part)
        columns = {
            "text": part,
            "id": [f"<urn:uuid:{j}>" for j in range(n)],
            "dump": ["CC-MAIN-2024-10"] * n,
            "url": [f"https://example.org/{j}" for j in range(n)],
            "file_path": ["s3://commoncrawl/crawl-data/example.warc.gz"] * n,
            "language": ["en"] * n,
            "language_score": [0.98] * n,
            "token_count": [len(text) // 4 for text in part],
            "score": [3.1] * n,
            "int_score": [3] * n,
        }
        pq.write_table(pa.table(columns), place / f"{i:03d}_00000.parquet", row_group_size=5, compression="zstd")


def write_openwebtext(folder: Path, pages: list[str]) -> None:
    """The folder that `save_to_disk` makes of Skylion007/openwebtext."""
    place = folder / "openwebtext"
    place.mkdir()
    table = pa.table({"text": pages})
    with (place / "data-00000-of-00001.arrow").open("wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=5)
    (place / "dataset_info.json").write_text(json.dumps({"features": {"text": {"dtype": "string", "_type": "Value"}}}))
    (place / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))


def write_vocabulary(folder: Path) -> None:
    """The folder `gpt2` with vocabulary files like GPT-2's: 256 bytes and a few merges."""
    (folder / "gpt2").mkdir()
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    signs = [*map(chr, printable), *(chr(256 + i) for i in range(256 - len(printable)))]
    numbers = {sign: i for i, sign in enumerate([*signs, *(merge.replace(" ", "") for merge in MERGES)])}
    (folder / "gpt2" / "encoder.json").write_text(json.dumps({**numbers, "<|endoftext|>": len(numbers)}))
    (folder / "gpt2" / "vocab.bpe").write_text("#version: 0.2\n" + "\n".join(MERGES) + "\n", encoding="utf-8")


@pytest.mark.parametrize(("name", "write"), [("fineweb-edu", write_fineweb_edu), ("openwebtext", write_openwebtext)])
def test_the_command_in_the_header_prepares_the_public_corpus(
    name: str,
    write: Callable[[Path, list[str]], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pages = make_pages(40)
    write(tmp_path, pages)
    write_vocabulary(tmp_path)
    monkeypatch.chdir(tmp_path)
    grid = ROOT / "experiments" / f"{name}.yaml"
    (command,) = re.findall(r"^#   (ablate data prepare .*)$", grid.read_text(), re.MULTILINE)
    monkeypatch.setattr(corpus, "ESTIMATED_ABOVE_BYTES", 1000)  # as for the whole corpus
    monkeypatch.setattr(sys, "argv", [*command.split()[:-1], str(ROOT / command.split()[-1])])
    with pytest.raises(SystemExit) as end:
        main()
    out, err = capsys.readouterr()
    assert not end.value.code, err
    assert re.search(r"corpus: .*B; about .*B of token shards, .*B free on the disk; 1 process", err)
    study = load_study(grid)
    info = describe(study.data, grid.parent, Path("runs") / SHARDS)
    assert not info.is_estimate
    plan = build_plan(study, info)
    assert min(arm.n_params or 0 for arm in plan.arms) > 120e6
    (folder,) = (Path("runs") / SHARDS).iterdir()
    tokens = [np.fromfile(folder / split, "<u2") for split in ("train.bin", "validation.bin")]
    end_of_text = 256 + len(MERGES)
    assert [int((part == end_of_text).sum()) for part in tokens] == [39, 1]  # one page in 2,000, and at least one
    assert "held out for validation: " in out
