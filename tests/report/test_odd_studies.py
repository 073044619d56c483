"""Odd studies: each gives a correct page in plain words, or one clear message."""

import json
from importlib import resources

import jsonschema
import pytest

from ablate.errors import RecordError, ResourceError
from ablate.report import format_table, write_report
from ablate.tracking.folders import StudyFolder
from ablate.tracking.study_record import Status
from benchmarks.synthetic import SyntheticArm, write_study

BASE, FAST = SyntheticArm("baseline", {"kind": "plain"}), SyntheticArm("fast", {"kind": "new"}, speedup=2)


@pytest.fixture
def store(tmp_path):
    return StudyFolder(tmp_path / "runs" / "odd")


def write(store, **changes):
    return write_study(store, [BASE, FAST], **({"noise": 0.01} | changes))


SCHEMA = json.loads(resources.files("ablate.report").joinpath("summary.schema.json").read_text())


def report(store):
    """Check that each study, however odd, has all its pages and a summary that follows the documented schema."""
    made = write_report(store, store.path / "report")
    assert all(path.stat().st_size for path in made.paths.values())
    summary = json.loads(made.paths["summary"].read_text())
    jsonschema.Draft202012Validator(SCHEMA).validate(summary)
    return made, summary


def folders(store, study, arm):
    return [store.run(run.run_id) for run in study.runs if run.arm == arm]


def cut_curve(folder, n_lines):
    lines = folder.curve.read_text().splitlines(keepends=True)
    folder.curve.write_text("".join(lines[:n_lines]))


def headline(summary, axis="tokens"):
    (row,) = [row for row in summary["speedup"] if (row["axis"], row["target"]) == (axis, "final")]
    return row


def test_a_plain_study_answers_in_two_sentences(store):
    write(store)
    made, summary = report(store)
    assert made.answer[0].startswith("Better: new ends at a clearly lower final loss than plain: -0.34")
    assert "). In tokens, new reaches plain's final loss 2.0" in made.answer[0]
    assert "in seconds" in made.answer[1].lower()
    assert summary["answer"] == list(made.answer)
    assert headline(summary)["low"] < 2 < headline(summary)["high"]


def test_one_seed(store):
    write(store, seeds=(0,), noise=0.0)
    made, summary = report(store)
    assert "without an interval: one seed" in made.answer[0]
    assert (headline(summary)["ratio"], headline(summary)["low"]) == (pytest.approx(2.0, rel=1e-3), None)
    assert "no interval: one seed" in format_table(made)
    assert "no interval: one seed" in made.paths["markdown"].read_text()


def test_one_arm(store):
    write_study(store, [BASE])
    made, summary = report(store)
    assert made.answer[0].startswith("The only arm, plain, ends at a validation loss of 4.1")
    assert summary["speedup"] == []
    assert "plain" in format_table(made) and "final validation loss" in format_table(made)


def test_nothing_has_run_yet(store):
    study = write(store)
    for arm in ("baseline", "fast"):
        for folder in folders(store, study, arm):
            folder.write_status(Status("queued"))
            folder.curve.unlink()
    made, summary = report(store)
    assert made.answer == (
        "This study cannot determine whether new reaches plain's final loss in fewer tokens: 3 runs of this arm left "
        "out (unfinished); 3 runs of the baseline left out (unfinished); nothing to compare: no run of this "
        "arm counts.",
        "6 unfinished runs are left out.",
    )
    assert (headline(summary)["bound"], summary["is_complete"]) == ("not_determined", False)


def test_nothing_to_compare_among_many_arms(store):
    study = write_study(store, [BASE, FAST, SyntheticArm("slow", {"kind": "old"}, speedup=0.5)])
    for folder in folders(store, study, "baseline"):
        folder.write_status(Status("failed", error="Traceback\n  File /secret/x.py\nMemoryError: out of memory\n"))
    made, summary = report(store)
    assert made.answer[0].startswith(
        "None of the 2 arms can be compared in tokens to reach the baseline's final loss: 3 runs of the baseline left "
    )
    assert made.answer[1] == "3 failed runs are left out."
    assert summary["failures"][0]["error"].startswith("Traceback")
    page = made.paths["html"].read_text()
    assert ">MemoryError: out of memory</td>" in page and "/secret" not in page
    assert b"/secret" not in made.paths["curves"].read_bytes()
    assert "new and old: nothing to compare: no run of the baseline counts" in made.paths["markdown"].read_text()


def test_a_study_that_still_runs_marks_what_it_leaves_out(store):
    study = write(store)
    running = folders(store, study, "fast")[2]
    cut_curve(running, 10)
    running.write_status(Status("running", 100, 400))
    made, summary = report(store)
    assert headline(summary)["n_pairs"] == 2
    assert "1 unfinished run is left out" in made.answer[1]
    assert "This study is not finished" in made.paths["html"].read_text()
    assert [failure["state"] for failure in summary["failures"]] == ["running"]


def test_a_diverged_baseline_is_told(store):
    study = write(store)
    for folder in folders(store, study, "baseline"):
        cut_curve(folder, 6)
        folder.write_status(Status("diverged", 60, 400))
    made, summary = report(store)
    assert "cannot determine" in made.answer[0]
    assert "3 runs of the baseline diverged" in made.answer[0]
    assert headline(summary)["bound"] == "not_determined"


def test_an_arm_of_which_one_seed_diverged_gets_a_bound(store):
    study = write(store)
    folder = folders(store, study, "fast")[0]
    cut_curve(folder, 8)
    folder.write_status(Status("diverged", 80, 400))
    made, summary = report(store)
    row = headline(summary)
    assert (row["bound"], row["ratio"], row["low"], row["n_reached"], row["n_pairs"]) == ("at_most", None, None, 2, 3)
    assert row["high"] == pytest.approx((2 * 2 * 400 / 80) ** (1 / 3), rel=0.1)
    assert "1 of 3 runs never reached" in made.answer[0]
    assert "1 run diverged" in made.answer[1]


def test_no_evaluation_at_all(store):
    write(store, eval_every=1000)
    made, summary = report(store)
    assert headline(summary)["bound"] == "not_determined"
    assert "never evaluated" in made.answer[0]


def test_two_arms_that_share_a_run(store):
    study = write(store, seeds=(0, 1))
    record = json.loads(store.record.read_text())
    twins = {run["seed"]: run["run_id"] for run in record["runs"] if run["arm"] == "baseline"}
    for run in record["runs"]:
        run["run_id"] = twins[run["seed"]]
    store.record.write_text(json.dumps(record))
    assert len(study.runs) == 4
    made, summary = report(store)
    assert [headline(summary)[key] for key in ("ratio", "low", "high", "p_value")] == [1.0, 1.0, 1.0, 1.0]
    assert made.answer[0].startswith(
        "Equivalent: new ends at the same final loss as plain to within 0.01 nats: +0.0000 nats"
    )


def test_a_study_that_was_never_run(store):
    with pytest.raises(RecordError, match="no study was run here"):
        write_report(store, store.path / "report")
    assert not store.path.exists()


def test_a_broken_record_is_one_message(store):
    write(store)
    store.record.write_text('{"study": "odd"}')
    with pytest.raises(RecordError):
        write_report(store, store.path / "report")


def test_an_output_folder_that_is_a_file_is_one_message(store, tmp_path):
    write(store, seeds=(0,))
    (tmp_path / "out").write_text("mine")
    with pytest.raises(ResourceError, match="cannot be written"):
        write_report(store, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


def test_writing_twice_gives_the_same_bytes(store):
    write(store)
    made, _ = report(store)
    figures = sorted((store.path / "report" / "figures").iterdir())
    before = [path.read_bytes() for path in (*made.paths.values(), *figures)]
    report(store)
    assert [path.read_bytes() for path in (*made.paths.values(), *figures)] == before
