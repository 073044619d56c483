"""Verbs that read results, on a made-up study."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from shutil import rmtree

import numpy as np
import pytest

from ablate.cli.inputs import find_store
from ablate.errors import GridError
from ablate.report import forest
from ablate.tracking.folders import StudyFolder
from ablate.tracking.study_record import Status
from benchmarks.synthetic import SyntheticArm, true_loss, write_study
from foreign_runs import Experiments

Ablate = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ablate(call_ablate: Ablate, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Ablate:
    """A function that runs the command beside `runs/made-up`, a study of two arms, one twice as fast."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)
    arms = [
        SyntheticArm(f"attention={name}", {"attention": name}, "attention=a", speedup=speedup)
        for name, speedup in (("a", 1.0), ("b", 2.0))
    ]
    write_study(StudyFolder(tmp_path / "runs" / "made-up"), arms)

    return call_ablate


def speed_ups(folder: Path) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = json.loads((folder / "summary.json").read_text())["speedup"]
    return rows


def test_the_report_prints_the_table_and_the_path_of_the_page(ablate: Ablate, tmp_path: Path) -> None:
    code, out, err = ablate("report", "made-up")
    assert code == 0, err
    assert "2.00x" in out
    assert "report.html" in out.replace("\n", "")
    assert (tmp_path / "runs" / "made-up" / "report" / "report.html").exists()


def test_a_pipe_gets_the_whole_table_and_a_narrow_terminal_what_fits(
    ablate: Ablate, monkeypatch: pytest.MonkeyPatch
) -> None:
    (row,) = [line for line in ablate("report", "made-up")[1].splitlines() if line.startswith("  b ")]
    assert row.count("2.00x [") == 1  # the four axes of cost say the same
    monkeypatch.setenv("COLUMNS", "40")
    assert "Left out at this width, but on the page: Step" in " ".join(ablate("report", "made-up")[1].split())


def test_the_report_begins_with_the_verdict_and_a_plot_of_it(ablate: Ablate) -> None:
    out = ablate("report", "made-up")[1]
    verdict, blank, plot, ends, *_ = out.splitlines()
    assert verdict.startswith("Better: b ends at a clearly lower final loss than a: -0.34") and not blank
    assert plot.startswith("b  ") and "●" in plot and plot.index("●") < plot.index("│")
    assert ends.endswith("0")


def test_the_report_as_json_is_the_summary_and_nothing_else(ablate: Ablate, tmp_path: Path) -> None:
    code, out, err = ablate("report", "made-up", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == json.loads((tmp_path / "runs" / "made-up" / "report" / "summary.json").read_text())


def test_the_status_averages_the_seeds_of_an_arm_at_a_step_that_all_have_reached(
    ablate: Ablate, tmp_path: Path
) -> None:
    store = StudyFolder(tmp_path / "runs" / "made-up")
    runs = [run for run in store.read_study().runs if run.arm == "attention=b"]
    behind = store.run(runs[0].run_id)
    lines = behind.curve.read_text().splitlines(keepends=True)
    behind.curve.write_text("".join(lines[:20]))
    behind.write_status(Status("running", 200, 400))
    rows = [line.split() for line in ablate("status", "made-up")[1].splitlines()]
    (header,) = [i for i, row in enumerate(rows) if row[:2] == ["arm", "seeds"]]
    loss = f"{true_loss(np.array(200.0), 2.0):.4f}"
    assert rows[header + 2] == ["b", "3", "200", loss, f"[{loss},", f"{loss}]"]
    assert rows[header + 1][:3] == ["a", "3", "400"]


def test_targets_are_the_readers_choice(ablate: Ablate, tmp_path: Path) -> None:
    code, _, err = ablate("report", "made-up", "--out", "pages", "--target", "75", "--target", "4.9", "--axis", "steps")
    assert code == 0, err
    assert {row["target"] for row in speed_ups(tmp_path / "pages")} == {"75", 4.9}


def test_a_missing_package_ended_the_report_in_a_traceback(ablate: Ablate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "altair", None)
    forest._declare.cache_clear()
    code, _, err = ablate("report", "made-up")
    assert code == 2
    assert err == "error: the package altair is not installed: install ablate with its dependencies again\n"


def test_a_page_is_made_again_from_what_was_published(ablate: Ablate, tmp_path: Path) -> None:
    assert ablate("report", "made-up", "--out", "pages")[0] == 0
    code, _, err = ablate("report", "pages", "--out", "again")
    assert code == 0, err
    assert speed_ups(tmp_path / "again") == speed_ups(tmp_path / "pages")


def test_the_report_is_written_where_mlflow_is_away_which_is_said_once(
    ablate: Ablate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ablate.report.write.publish", lambda uri, *_: f"MLflow at {uri} is away")
    code, out, _ = ablate("report", "made-up", "--tracking-uri", "http://nowhere")
    assert (code, out.count("MLflow at http://nowhere is away; the pages are complete")) == (0, 1)
    assert (tmp_path / "runs" / "made-up" / "report" / "report.html").exists()
    for words in (("--no-attach", "--tracking-uri", "x"), ("--where", "attention == 'b'", "--tracking-uri", "x"), ()):
        assert "is away" not in ablate("report", "made-up", *words)[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--target", "soon"), "soon"),
        (("--axis", "stps"), "steps"),
        (("--where", "atention == 'a'"), "atention"),
        (("--where", "__import__('os')"), "not allowed"),
        (("--baseline", "attention"), "AXIS=LEVEL"),
        (("--baseline", "arm=nobody"), "nobody"),
        (("--out", ""), "out"),
    ],
)
def test_an_option_that_cannot_be_is_refused(
    ablate: Ablate, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    code, out, err = ablate("report", "made-up", *arguments)
    assert code == 2, out
    assert err.startswith("error: ")
    assert words in err
    assert not (tmp_path / "runs" / "made-up" / "report").exists()


def test_generate_names_a_run_that_is_not_there_and_a_value_out_of_range(ablate: Ablate) -> None:
    code, _, err = ablate("generate", "ffff")
    assert (code, "no such run" in err) == (2, True)
    code, _, err = ablate("generate", "ffff", "--top-p", "1.5")
    assert (code, "--top-p must be" in err) == (2, True)
    code, _, err = ablate("generate", "ffff", "--prompt", "\udcff")  # Python's form of bytes that are not UTF-8
    assert (code, "--prompt: this is not text in UTF-8" in err) == (2, True)
    for option in ("--tokens", "--seed"):
        code, _, err = ablate("generate", "ffff", option, str(10**30))
        assert (code, option in err) == (2, True)


@pytest.mark.parametrize("content", ["[]", "null", '"x"', "3"])
def test_a_config_that_is_no_mapping_ended_in_a_traceback(ablate: Ablate, tmp_path: Path, content: str) -> None:
    run = next(path for path in (tmp_path / "runs" / "made-up").iterdir() if (path / "curve.jsonl").exists())
    (run / "config.json").write_text(content)
    code, _, err = ablate("generate", run.name)
    assert (code, err) == (2, f"error: {run.relative_to(tmp_path)}/config.json: it is not a mapping\n")


# MLflow and SQLAlchemy use deprecated calls of their own and of each other.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_runs_that_only_mlflow_knows_are_reported(ablate: Ablate, experiments: Experiments, tmp_path: Path) -> None:
    experiments.pair("of others / 1", 2)
    place = ("report", "--mlflow", experiments.uri, "--experiment", "of others / 1")
    code, out, err = ablate(*place, "--baseline", "arm=gpt")
    assert code == 0, err
    assert "2.00x" in out and "In steps, new reaches gpt's final loss 2.00x as fast" in out
    folder = tmp_path / "runs" / "of-others---1" / "report"
    assert {row["axis"] for row in speed_ups(folder)} == {"steps", "seconds"}
    assert "data loss val/loss" in (folder / "report.md").read_text()
    code, out, err = ablate(*place, "--out", "alone")
    assert code == 0, err
    assert "No arm has a baseline to be compared with" in out and "name the arm to compare with" in " ".join(
        out.split()
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--mlflow", "sqlite:///none.db", "--experiment", "x"), "sqlite:///none.db: there is no such file"),
        (("--mlflow", "none.db", "--experiment", "x"), "sqlite:///none.db"),
        (("--mlflow", "sqlite:///none.db"), "go together"),
        (("made-up", "--mlflow", "sqlite:///none.db", "--experiment", "x"), "without the name of a study"),
        (("made-up", "--metric", "val/loss"), "give --mlflow"),
        (("--mlflow", "sqlite:///none.db", "--experiment", "x", "--map", "arm"), "--map arm: write it as FACT=NAME"),
        (("--mlflow", "sqlite:///none.db", "--experiment", "x", "--map", "am=x"), "did you mean 'arm'"),
        ((), "no study to report on"),
    ],
)
def test_an_mlflow_that_cannot_be_read_is_one_message(
    ablate: Ablate, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    code, out, err = ablate("report", *arguments)
    assert code == 2, out
    assert err.startswith("error: ") and words in err
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}


@pytest.mark.parametrize(
    ("makes", "taken", "is_said"),
    [
        (lambda place: place.mkdir(), "runs/made-up", True),
        (lambda place: (place.mkdir(), (place / "curves.parquet").write_bytes(b"")), "runs/made-up", True),
        (lambda place: place.write_text("no grid"), "runs/made-up", True),
        (lambda place: place.symlink_to("runs/made-up"), "made-up", False),
        (lambda place: shutil.copytree(Path("runs/made-up"), place), "made-up", True),
        (Path.exists, "runs/made-up", False),
    ],
    ids=["folder", "report", "file", "link", "copy", "nothing"],
)
def test_a_folder_of_its_name_hid_a_study(
    ablate: Ablate,
    tmp_path: Path,
    makes: Callable[[Path], object],
    taken: str,
    is_said: bool,
) -> None:
    makes(tmp_path / "made-up")
    for words in (("status",), ("clean", "--dry-run"), ("pack", "--out", "x.tar.gz")):
        code, _, err = ablate(words[0], "made-up", *words[1:])
        assert code == 0, err
        assert (f"note: made-up means {tmp_path / taken}, not " in err) == is_said
    assert str(find_store("made-up", Path("runs")).path) == taken
    with pytest.raises(GridError, match="no study was run in this folder"):
        find_store("./", Path("runs"))


@pytest.mark.parametrize("out", ["fifo", "/dev/null", "/dev/zero", "folder", "file/x"])
def test_an_archive_replaced_what_is_no_file(ablate: Ablate, tmp_path: Path, out: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    before = Path(out).stat().st_mode if out != "file/x" else None
    code, _, err = ablate("pack", "made-up", "--out", out)
    assert code == 2
    assert err.startswith("error: ") and err.count("\n") == 1
    assert out in err
    assert before == (Path(out).stat().st_mode if out != "file/x" else None)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="it stands for a full disk")
@pytest.mark.parametrize("verb", [("schema",), ("status", "made-up", "--json")])
@pytest.mark.usefixtures("ablate")
def test_a_full_disk_behind_the_output_was_a_traceback(verb: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w") as full:
        result = subprocess.run([sys.executable, "-m", "ablate", *verb], stdout=full, stderr=subprocess.PIPE, text=True)
    assert (result.returncode, result.stderr) == (2, "error: No space left on device\n")


def test_the_status_of_a_large_study_lists_only_what_is_unusual(
    ablate: Ablate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = StudyFolder(tmp_path / "runs" / "made-up")
    runs = store.read_study().runs
    ended = (len(store.run(runs[1].run_id).curve.read_bytes()), 0)
    store.run(runs[0].run_id).write_status(Status("failed", 200, 400, error="broken"))
    store.run(runs[1].run_id).write_status(Status("finished", 200, 400, curve=(1, 0)))  # of another curve
    store.run(runs[2].run_id).write_status(Status("finished", 200, 400, curve=ended))  # stopped early
    rmtree(store.run(runs[3].run_id).path)
    monkeypatch.setattr("ablate.cli.status_output.MANY", 2)
    out = ablate("status", "made-up")[1]
    assert f"made-up: 1 failed, {len(runs) - 4} finished, 2 queued, 1 stopped early" in out
    listed = {word for line in out.splitlines() for word in line.split() if word in {run.run_id for run in runs}}
    assert listed == {runs[0].run_id, runs[1].run_id}
    assert f"{len(runs) - 2} of {len(runs)} runs are not listed" in out
