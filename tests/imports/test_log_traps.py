"""Logs with gaps, restarts, other units and hostile content: one message, or a note beside the right number."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from log_writers import make_runs, to_lightning, write_csv
from made_up_logs import TWICE, Rows, compare, read, rows_of, write_runs

from ablate.errors import AblateError, RecordError
from ablate.imports.columns import Column, is_logged
from ablate.imports.log_study import read_log_study
from ablate.imports.names import Names
from ablate.imports.run_names import shorten, split_seed
from ablate.report.write import write_report

NAN = math.nan

# Cells


def test_nan_between_numbers_is_a_filler_and_nan_at_the_end_is_divergence(tmp_path: Path) -> None:
    def kept(*values: float) -> list[float]:
        cells = np.array(values)
        return list(cells[is_logged(Column(cells, np.ones(cells.size, bool)))])

    assert kept(5, NAN, NAN, 4, NAN, NAN, 3, NAN, NAN) == [5, 4, 3]
    np.testing.assert_equal(kept(5, NAN, NAN, 4, NAN, NAN, 3, NAN, NAN, NAN), [5, 4, 3, NAN])
    np.testing.assert_equal(kept(5, 4, NAN, 3, 2, NAN), [5, 4, NAN, 3, 2, NAN])  # a value was logged in every row
    np.testing.assert_equal(kept(5, 4, NAN, NAN), [5, 4, NAN, NAN])
    lost = rows_of("new", 1)
    lost[-1]["val_loss"] = "Infinity"
    results = read(write_runs(tmp_path / "logs", {"new-seed1": lost}))
    assert [run.state for run in results.runs] == ["finished", "finished", "finished", "diverged"]


def test_numbers_as_a_spreadsheet_writes_them(tmp_path: Path) -> None:
    def spell(rows: Rows, arm: str) -> Rows:
        return [{"Arm": arm, "Seed": 0, "Schritt": f"{r['step']:,}", "Größe": r["val_loss"], "x": "="} for r in rows]

    rows = [row for arm in ("gpt", "new") for row in spell(rows_of(arm, 0), arm)]
    write_csv(tmp_path / "sheet.csv", [*rows, {"Arm": "gpt", "Seed": 0, "Größe": "#DIV/0!"}], ";", "utf-8-sig")
    (tmp_path / "sheet.csv").write_text("sep=;\n" + (tmp_path / "sheet.csv").read_text("utf-8-sig"), "utf-8-sig")
    text = (tmp_path / "sheet.csv").read_text("utf-8-sig")
    comma = text.replace(",", "").replace(".", ",")  # 1,000;4.5 becomes 1000;4,5
    (tmp_path / "comma.csv").write_text(comma, "latin-1")
    for name, is_comma in (("sheet.csv", False), ("comma.csv", True)):
        found = read(tmp_path / name, step="Schritt", val_loss="Größe")
        assert compare(found).ratio == TWICE
        said = " ".join(found.record.caveats)
        assert "left out 1 cell that is not a number" in said and ("decimal comma" in said) == is_comma
    tabs = write_csv(tmp_path / "tabs.tsv", rows, "\t")
    assert compare(read(tabs, step="Schritt", val_loss="Größe")).ratio == TWICE


@pytest.mark.parametrize("delimiter", ["\t", ","])
def test_a_loss_of_4_532_beside_step_2000_was_read_as_thousands(tmp_path: Path, delimiter: str) -> None:
    rows = [
        {"step": 1000 * i, "val_loss": f"{1 + loss:.3f}".replace(".", ","), "arm": "gpt"}
        for i, loss in enumerate((3.532, 1.25, 1.125))
    ]
    results = read(write_csv(tmp_path / "sheet.csv", rows, delimiter))
    assert list(results.runs[0].columns["val_loss"]) == [4.532, 2.25, 2.125]
    assert "decimal comma" in " ".join(results.record.caveats)


def test_a_loss_column_of_words_is_named(tmp_path: Path) -> None:
    rows = [{"step": step, "val_loss": "high", "arm": "gpt"} for step in (1, 2)]
    said: list[str] = []
    with pytest.raises(RecordError, match="no run has a metric"):
        read_log_study([str(write_csv(tmp_path / "gpt.csv", rows))], Names({}), tell=said.append)
    assert said[-1].endswith("gpt.csv, val_loss: left out 2 cells that are not numbers.")


@pytest.mark.parametrize("column", ["epoch", "step (M)"])
def test_fractions_are_no_steps(tmp_path: Path, column: str) -> None:
    rows = [{column: row["step"] / 1000, "val_loss": row["val_loss"]} for row in rows_of("gpt", 0)]
    with pytest.raises(RecordError, match=r"holds fractions, such as 0\.1"):
        read(write_csv(tmp_path / "gpt.csv", rows), step=column)


# Rows


def test_a_log_that_goes_on_after_a_restart_counts_each_step_once(tmp_path: Path) -> None:
    rows = rows_of("new", 1)
    again = [{**row, "val_loss": row["val_loss"] + 1} for row in rows[:14]] + rows[10:]
    results = read(write_runs(tmp_path / "logs", {"new-seed1": again}))
    assert (compare(results).ratio, compare(results).n_pairs) == (TWICE, 2)
    path = tmp_path / "logs" / "new-seed0.csv"
    path.write_text(path.read_text() + path.read_text().splitlines()[0] + "\n2000\n")
    results = read(tmp_path / "logs")
    assert compare(results).ratio == TWICE
    assert any("repeats its header between the rows" in caveat for caveat in results.record.caveats)
    assert any("left out 1 row with another number of columns" in caveat for caveat in results.record.caveats)


def test_several_runs_in_one_table_are_never_taken_for_one(tmp_path: Path) -> None:
    rows = [
        {"trial": seed, "arm": arm, **row} for arm in ("gpt", "new") for seed in (0, 1) for row in rows_of(arm, seed)
    ]
    path = write_csv(tmp_path / "all.csv", rows)
    with pytest.raises(RecordError, match=r"42 losses for 21 steps, so it mixes several runs.*--seed.*found: trial"):
        read(path)
    assert compare(read(path, seed="trial")).ratio == TWICE
    unpaired = compare(read(path, run="trial"))
    assert unpaired.ratio == TWICE and unpaired.method.startswith("Welch")


@pytest.mark.parametrize(
    ("clock", "reason"),
    [
        (lambda step: step % 1000, "the count goes back"),
        (lambda step: step / 1000, "another unit"),
        (lambda step: step * 1.0, ""),
    ],
)
def test_a_clock_that_restarts_or_counts_in_another_unit_is_left_out(tmp_path: Path, clock: Any, reason: str) -> None:
    odd = rows_of("new", 1, time=clock, device="A100")
    logs = write_runs(tmp_path / "logs", {"new-seed1": odd}, time=float, device="A100")
    results = read(logs, wall_s="time")
    run = next(run for run in results.runs if (run.arm, run.seed) == ("new", 1))
    assert reason in run.why_no_cost("seconds") and bool(run.why_no_cost("seconds")) == bool(reason)
    assert reason in " ".join(results.record.caveats)
    assert (compare(results, "seconds").ratio is None) == bool(reason)


def test_a_run_that_ends_early_is_said_and_one_without_the_metric_does_not_count(tmp_path: Path) -> None:
    changed = {"new-seed1": rows_of("new", 1, last=500), "gpt-seed1": [{"step": 0, "val_loss": ""}]}
    results = read(write_runs(tmp_path / "logs", changed))
    assert any("1 run ended early (at step 500 of 2,000)" in caveat for caveat in results.record.caveats)
    assert compare(results).n_pairs == 1


# Names


def test_arms_and_seeds_in_names() -> None:
    places = [("a", "gpt-seed3", "lightning_logs", f"version_{n}", "metrics") for n in (0, 1)]
    places.append(("a", "new-seed3", "lightning_logs", "version_0", "metrics"))
    assert shorten(places) == [("gpt-seed3",), ("gpt-seed3",), ("new-seed3",)]
    names = ["gpt-seed3", "gpt_s1", "lr3e-4_seed=2_long", "Seed 7", "sparse", "version_3", "vit-b16"]
    assert [split_seed([name]) for name in names] == [
        ("gpt", "3"),
        ("gpt", "1"),
        ("lr3e-4_long", "2"),
        ("runs", "7"),
        ("sparse", None),
        ("version_3", None),
        ("vit-b16", None),
    ]
    assert split_seed(["gpt", "seed=2"]) == ("gpt", "2")


def test_what_the_names_told_is_printed_and_pairs_in_them_are_facts(tmp_path: Path) -> None:
    for attention in ("softmax", "linear"):
        for seed in (0, 1):
            place = tmp_path / "logs" / f"attention={attention},lr=1e-3" / f"seed={seed}" / "log.csv"
            write_csv(place, rows_of("new" if attention == "linear" else "gpt", seed))
    said: list[str] = []
    read_log_study([str(tmp_path / "logs")], Names({}), tell=said.append)
    assert said == [
        "Read 4 runs from 4 files: tables.",
        "Arms from the names of folders, files or runs: attention=linear,lr=1e-3 (seeds 0, 1), "
        "attention=softmax,lr=1e-3 (seeds 0, 1). To use attention instead, give --arm.",
    ]
    results = read(tmp_path / "logs", arm="attention")
    assert results.record.axes == {"attention": ("linear", "softmax")}
    with pytest.raises(
        RecordError,
        match=r"no column or hyperparameter of any log is named atention.*did you mean 'attention'.*see --arm",
    ):
        read(tmp_path / "logs", arm="atention")


def test_of_two_attempts_at_one_arm_and_seed_the_last_whole_one_counts(tmp_path: Path) -> None:
    to_lightning([run for run in make_runs() if run.arm != "new"], tmp_path / "logs")
    folder = tmp_path / "logs" / "lightning_logs"
    half = [{"step": 0, "epoch": 0, "val_loss": 9}, {"step": 10, "epoch": 0, "val_loss": 8}]
    write_csv(folder / "version_10" / "metrics.csv", half)
    (folder / "version_10" / "hparams.yaml").write_text("arm: gpt\nseed: 0\n")
    for file in folder.glob("*/hparams.yaml"):
        file.write_text(file.read_text().replace("model:\n  ", ""))
    said: list[str] = []
    results = read_log_study([str(tmp_path / "logs")], Names({}), tell=said.append)
    assert len(results.runs) == 6
    assert "Note: passed over: 1 later run without a whole curve." in said
    assert not any(run.evaluation_loss[0] == 9 for run in results.runs)
    assert any("its Python tags were ignored" in caveat for caveat in results.record.caveats)
    assert not Path("pwned").exists() and not list(tmp_path.rglob("pwned"))


def test_hostile_names_are_text_on_the_page(tmp_path: Path) -> None:
    for arm in ("gpt", "new"):
        rows = [{"arm": f"<script>alert('{arm}')</script>", "seed": "../../1", **row} for row in rows_of(arm, 0)]
        write_csv(tmp_path / "logs" / f"{arm}; rm -rf $HOME `id` <b>.csv", [{**row, "seed": 1} for row in rows])
    made = write_report(read(tmp_path / "logs"), tmp_path / "out")
    page = Path(made.paths["html"]).read_text()
    assert "<script>alert(" not in page and "alert(" in page
    assert {path.name for path in tmp_path.iterdir()} == {"logs", "out"}


def test_a_small_file_that_unfolds_to_billions_and_a_name_that_is_no_text(tmp_path: Path) -> None:
    to_lightning(make_runs()[:1], tmp_path / "logs")
    levels = [f"a{n}: &a{n} {{{', '.join(f'k{i}: *a{n - 1}' for i in range(10))}}}" for n in range(1, 12)]
    (hparams,) = (tmp_path / "logs").rglob("hparams.yaml")
    hparams.write_text("\n".join(["arm: gpt", "a0: &a0 {x: 1}", *levels]))
    odd = os.fsdecode(bytes(tmp_path) + b"/logs/\x1b[31m\xff-seed1")
    write_csv(Path(odd, "metrics.csv"), [{**row, "epoch": 0} for row in rows_of("new", 1)])
    Path(odd, "metrics.csv").write_text(Path(odd, "metrics.csv").read_text() + "1\n")
    said: list[str] = []
    results = read_log_study([str(tmp_path / "logs")], Names({}), tell=said.append)
    made = write_report(results, tmp_path / "out")
    assert "\x1b" not in "".join(said) + Path(made.paths["html"]).read_text()
    assert str(tmp_path) not in Path(made.paths["html"]).read_text()


# Files


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x04\x95pickle", "not a log of a known format: Hugging Face"),
        (b"PAR1broken", "this file is damaged"),
        (b"step;val_loss\n", r"no run has a metric .*found: none"),
        (b"a,b\n1,2\n", r"no column of steps, such as step or .*found: a, b.*--step names"),
        (b"step,loss\n1,2\n", r"no run has a metric val/loss or .*found: loss.*see --metric"),
        (b"step,val_loss\nx,y\n", r"no run has a metric .*found: none"),
        (b"", "not a log of a known format"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_message(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "gpt.csv"
    path.write_bytes(content)
    with pytest.raises(AblateError, match=message) as error:
        read(path)
    assert "\n" not in str(error.value)


def test_places_without_logs_are_one_message(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="there is no such file or folder"):
        read(tmp_path / "none")
    with pytest.raises(RecordError, match="no log in this folder"):
        read(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(RecordError, match="there is no such regular file"):
        read(tmp_path / "pipe")
    write_csv(tmp_path / "table.csv", [{"model": "gpt", "score": 1}])
    said: list[str] = []
    with pytest.raises(RecordError, match="there is no run in these files"):
        read_log_study([str(tmp_path)], Names({}), tell=said.append)
    assert "left out: no column of steps" in said[1]
    assert "(found: model, score); --step names another one" in said[1]


def test_a_metric_of_which_more_is_better_gives_the_same_ratio(tmp_path: Path) -> None:
    for name, rows in ((f"{arm}-seed{seed}", rows_of(arm, seed)) for arm in ("gpt", "new") for seed in (0, 1)):
        write_csv(tmp_path / f"{name}.csv", [{"step": r["step"], "top-1 acc": -r["val_loss"]} for r in rows])
    results = read_log_study([str(tmp_path)], Names({"val_loss": "top-1 acc"}, "higher"))
    assert (results.metric.name, results.metric.direction) == ("top-1_acc", "higher")
    assert (compare(results).ratio, compare(results).n_pairs) == (TWICE, 2)
