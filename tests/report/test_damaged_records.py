"""Damaged records: intact ones count, the report names the others, and there is no traceback."""

import json
import os
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest

from ablate.analysis.curve_columns import read_columns
from ablate.errors import AblateError, RecordError, ResourceError
from ablate.report import ReportOptions, format_table, write_report
from ablate.report.offline_page import write_html
from ablate.report.report import make_report
from ablate.report.sections import compose
from ablate.report.summary import summarize
from ablate.report.write import read_study
from ablate.tracking.folders import StudyFolder
from ablate.tracking.study_record import Status
from benchmarks.synthetic import SyntheticArm, write_study

BASE, FAST = SyntheticArm("baseline", {"kind": "plain"}), SyntheticArm("fast", {"kind": "new"}, speedup=2)
SEEDS = (0, 1, 2)
HUGE = 10**400


class Damaged:
    """A study of two arms and three seeds, and functions that damage it."""

    def __init__(self, path):
        self.store = StudyFolder(path / "runs" / "damaged")
        self.study = write_study(self.store, [BASE, FAST], SEEDS, n_steps=100, noise=0.01)

    def folder(self, arm, seed=0):
        (run,) = [run for run in self.study.runs if (run.arm, run.seed) == (arm, seed)]
        return self.store.run(run.run_id)

    def change(self, path, **values):
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    def change_arm(self, **values):
        record = json.loads(self.store.record.read_text())
        record["arms"][1] |= values
        self.store.record.write_text(json.dumps(record))

    def change_line(self, n, values, run="fast"):
        path = self.folder(run).curve
        lines = path.read_text().splitlines()
        lines[n] = json.dumps(json.loads(lines[n]) | values)
        path.write_text("\n".join(lines) + "\n")

    def cut(self, n_lines, arm="fast", seed=0):
        path = self.folder(arm, seed).curve
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:n_lines]))

    def report(self):
        """All the files."""
        report = write_report(self.store, self.store.path / "report")
        return report, json.loads(report.paths["summary"].read_text())

    def summarize(self):
        """Only the page and the summary, because most of a report's time goes into its pictures."""
        report = make_report(read_study(self.store), ReportOptions())
        assert write_html(compose(report)) and format_table(report)
        return json.loads(json.dumps(summarize(report), allow_nan=False))


@pytest.fixture(params=[0, 2**13], ids=["like long curves", "like short ones"])
def damaged(tmp_path, monkeypatch, request):
    monkeypatch.setattr("ablate.analysis.curve_columns._SMALL_BYTES", request.param)
    return Damaged(tmp_path)


def headline(summary):
    (row,) = [row for row in summary["speedup"] if (row["axis"], row["target"]) == ("tokens", "final")]
    return row


def failure(summary):
    (found,) = summary["failures"]
    return found["state"], found["step"], found["error"]


def refusal(damaged):
    with pytest.raises(RecordError) as refused:
        damaged.report()
    message = str(refused.value)
    assert message.startswith(str(damaged.store.path)) and "\n" not in message
    return message


@pytest.mark.parametrize("arm", ["fast", "baseline"])
def test_a_finished_run_whose_curve_is_truncated_counted_as_whole(damaged, arm):
    intact = headline(damaged.summarize())
    damaged.cut(4, arm)
    report, summary = damaged.report()
    row = headline(summary)
    assert (row["bound"], row["n_pairs"], row["n_reached"]) == (None, 2, 2)
    assert row["ratio"] == pytest.approx(intact["ratio"], rel=0.1)
    assert failure(summary) == ("incomplete curve", 40, "curve.jsonl ends at step 40, status.json says 100")
    counts = {line["arm"]: (line["n_finished"], line["n_stopped"], line["n_incomplete"]) for line in summary["arms"]}
    assert counts[arm] == (2, 0, 1)
    assert {line["arm"]: line["final_loss"]["n"] for line in summary["arms"]}[arm] == 2
    assert "left out (incomplete curve)" in row["note"]
    assert "1 run with an incomplete curve is left out" in report.answer[1]
    assert "seed 0: incomplete curve" in report.paths["html"].read_text()


def test_a_published_report_forgot_that_a_curve_is_incomplete(damaged, tmp_path):
    damaged.cut(4)
    report, _ = damaged.report()
    again = write_report(StudyFolder(damaged.store.path / "report"), tmp_path / "again")
    assert again.answer == report.answer and again.mishaps == report.mishaps


def test_a_torn_last_line_left_a_finished_run_with_an_earlier_end(damaged):
    path = damaged.folder("fast").curve
    path.write_text(path.read_text()[:-30])
    assert failure(damaged.summarize())[:2] == ("incomplete curve", 90)


def test_a_curve_that_is_not_the_one_the_run_ended_with_counted(damaged):
    folder = damaged.folder("fast")
    content = folder.curve.read_bytes()
    folder.write_status(Status("finished", 100, 100, curve=(len(content), crc32(content))))
    assert damaged.summarize()["failures"] == []
    folder.curve.write_bytes(content.replace(b'"val_loss":5', b'"val_loss":4'))
    summary = damaged.summarize()
    assert failure(summary)[2] == "curve.jsonl is not the file that the run ended with"
    assert headline(summary)["n_pairs"] == 2


@pytest.mark.parametrize(("step", "state"), [(45, "stopped early"), (60, "incomplete curve")])
def test_a_run_may_be_stopped_between_two_lines_but_not_later(damaged, step, state):
    damaged.cut(4)
    damaged.folder("fast").write_status(Status("finished", step, 100))
    assert failure(damaged.summarize())[0] == state


@pytest.mark.parametrize("content", ["", "\n", "no record\n", None])
@pytest.mark.parametrize("arm", ["fast", "baseline"])
def test_one_empty_curve_made_the_whole_report_fail(damaged, content, arm):
    curve = damaged.folder(arm).curve
    curve.unlink() if content is None else curve.write_text(content)
    summary = damaged.summarize()
    assert headline(summary)["n_pairs"] == 2
    assert failure(summary)[:2] == ("incomplete curve", 0)
    assert "the curve has no line" in failure(summary)[2]


@pytest.mark.parametrize(
    "values",
    [
        *({"val_loss": loss} for loss in ("3.5", [3.5], {"mean": 3.5}, True, HUGE, -HUGE, 1e308, 1e400)),
        *({"step": step} for step in (HUGE, "40", None, 40.5, -1, [40])),
        *({"tokens": tokens} for tokens in (HUGE, -5, "many", 1e-300)),
        {"wall_s": {}},
        {"train_loss": "low"},
    ],
    ids=lambda values: json.dumps(values)[:24],
)
def test_a_value_that_is_no_measurement_ended_in_a_traceback(damaged, values):
    damaged.change_line(3, values)
    summary = damaged.summarize()
    assert failure(summary) == ("finished", 100, "1 line of curve.jsonl passed over: not a record")
    assert (headline(summary)["n_pairs"], headline(summary)["bound"]) == (3, None)


@pytest.mark.parametrize("opening", ["[", '{"a":'])
@pytest.mark.parametrize("depth", [3_000, 1_000_000])  # too deep for Python's stack, and for that of pyarrow's parser
def test_a_very_deep_line_broke_the_stack(damaged, opening, depth):
    closing = {"[": "]"}.get(opening, "}")
    path = damaged.folder("fast").curve
    path.write_text('{"step":1,"x":' + opening * depth + "1" + closing * depth + "}\n" + path.read_text())
    assert failure(damaged.summarize())[2] == "1 line of curve.jsonl passed over: not a record"


def test_a_diagnostic_that_is_no_number_costs_no_line(damaged):
    damaged.change_line(3, {"alpha_attn/0": "x", "learning_rate": HUGE, "grad_norm": [1], "arm": 3, "run_id": 4})
    report, summary = damaged.report()
    assert summary["failures"] == []
    assert set(report.results.frame()["arm"]) == {"baseline", "fast"}


def test_costs_far_apart_gave_an_infinite_interval(damaged):
    damaged.folder("fast", 2).write_status(Status("failed"))
    for seed, exponent in ((0, 90), (1, -90)):
        path = damaged.folder("fast", seed).curve
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(line | {"tokens": 10.0**exponent}) + "\n" for line in lines))
    row = headline(damaged.summarize())
    assert (row["low"], row["high"]) == (None, None) and "wider than numbers reach" in row["note"]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("state", ["finished", "running"])
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (Path.mkdir, "this is a folder, not a file"),
        (os.mkfifo, "this is a FIFO, not a file"),
        (lambda path: path.symlink_to("/dev/zero"), "this is a device, not a file"),
        (lambda path: path.symlink_to(path.name), "Too many levels of symbolic links"),
    ],
)
def test_a_curve_that_cannot_be_read_blocked_the_whole_report(damaged, make, reason, state):
    folder = damaged.folder("fast")
    folder.write_status(Status(state, 100, 100))
    folder.curve.unlink()
    make(folder.curve)
    report = make_report(read_study(damaged.store), ReportOptions())
    summary = json.loads(json.dumps(summarize(report)))
    assert headline(summary)["n_pairs"] == 2
    found, _, error = failure(summary)
    assert found == ("incomplete curve" if state == "finished" else "running")
    assert error == (f"curve.jsonl: cannot be read: {reason}; move it away, and `ablate run` trains the run again")


def test_what_could_not_be_read_is_still_said_in_a_published_report(damaged, tmp_path):
    curve = damaged.folder("fast").curve
    curve.unlink()
    curve.mkdir()
    report, _ = damaged.report()
    again = write_report(StudyFolder(damaged.store.path / "report"), tmp_path / "again")
    assert again.mishaps == report.mishaps


@pytest.mark.parametrize("n_bytes", [1, 7, 200, 4096])
def test_a_long_curve_is_read_block_by_block_as_it_is_at_once(damaged, n_bytes, monkeypatch):
    damaged.change_line(3, {"alpha_attn/0": "x", "late": 1.0})
    damaged.change_line(5, {"val_loss": "x"})
    path = damaged.folder("fast").curve
    path.write_text(path.read_text() + "no record\n" + '{"step": 1000, "torn')
    whole = read_columns(path)
    monkeypatch.setattr("ablate.analysis.curve_columns._BLOCK_BYTES", n_bytes)
    monkeypatch.setattr("ablate.analysis.curve_columns._MAX_LINE_BYTES", 10_000)
    parts = read_columns(path)
    assert (parts.n_passed_over, parts.extent) == (whole.n_passed_over, whole.extent) == (2, whole.extent)
    assert {*parts.columns} == {*whole.columns}
    for name, values in whole.columns.items():
        assert np.array_equal(values, parts.columns[name], equal_nan=True), name


def test_a_file_where_the_pages_go_is_named(damaged):
    out = damaged.store.path / "pages"
    (out / "figures").mkdir(parents=True)
    for name, make in (("tables", Path.touch), ("report.html", os.mkfifo)):
        make(out / name)
        with pytest.raises(ResourceError, match=rf"{out / name}: the report cannot be written: this is (a FIFO|not)"):
            write_report(damaged.store, out)
        (out / name).unlink()


@pytest.mark.parametrize(
    "manifest",
    [
        {"device": {"kind": ["cpu"], "name": {"a": 1}}, "shared_by": [1], "threads": {}, "gpus": "one"},
        {"device": ["cpu"], "versions": [1], "precision": ["float32"], "attention_backend": {}, "data_hash": 5},
        {"device": {"kind": "cuda"}, "gpus": HUGE, "shared_by": HUGE, "peak_flops_per_s": 0, "tuning_trials": "many"},
        {"peak_flops_per_s": HUGE, "peak_memory_bytes": HUGE, "versions": {"torch": [2], "ray": None}, "commit": {}},
        ["not", "a", "manifest"],
        "no manifest",
    ],
)
def test_a_manifest_of_wrong_types_ended_in_a_traceback(damaged, manifest):
    for arm in ("baseline", "fast"):
        for seed in SEEDS:
            damaged.folder(arm, seed).manifest.write_text(json.dumps(manifest))
    summary = damaged.summarize()
    assert headline(summary)["n_pairs"] == 3
    assert {arm["device"] for arm in summary["arms"]} <= {"unknown device", "cuda, 1 GPU"}
    assert summary["versions"] == {}


@pytest.mark.parametrize("name", ["manifest", "config", "status"])
@pytest.mark.parametrize("content", ["[" * 100_000, '{"a":' * 40 + "1" + "}" * 40, "{", "[]", '{"state": "odd"}'])
def test_a_document_of_a_run_that_cannot_be_read(damaged, name, content):
    getattr(damaged.folder("fast"), name).write_text(content)
    summary = damaged.summarize()
    if name != "status":
        assert summary["failures"] == []
        return
    state, _, error = failure(summary)
    assert state == "queued" and error.startswith("status.json: ") and str(damaged.store.path) not in error


@pytest.mark.parametrize("step", [HUGE, -1])
def test_a_status_with_an_impossible_step(damaged, step):
    damaged.change(damaged.folder("fast").status, step=step)
    assert failure(damaged.summarize()) == ("queued", 100, f"status.json: step is not a number from 0 to {2**53}")


@pytest.mark.parametrize("key", ["n_params", "flops_per_token", "n_steps", "n_tokens"])
@pytest.mark.parametrize("value", [HUGE, -1])
def test_a_size_of_400_digits_overflowed(damaged, key, value):
    damaged.change_arm(**{key: value})
    assert f"study.json: {key} of the arm 'fast' is not a number from" in refusal(damaged)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('{"study": "damaged"}', "Field required"),
        ("[" * 100_000, "nested too deeply"),
        ('{"study": ' + "[" * 40 + "]" * 40 + "}", "nested too deeply"),
        ("{", "cannot be read"),
        ("1" * 5000, "cannot be read"),
    ],
)
def test_a_broken_record_named_no_file(damaged, content, problem):
    damaged.store.record.write_text(content)
    message = refusal(damaged)
    assert message.startswith(f"{damaged.store.record}: ") and problem in message


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"arms": [], "runs": []}, "it has no arms"),
        ({"runs": [{"run_id": "../x", "arm": "fast", "seed": 0}]}, "'../x' is not a run id"),
        ({"runs": [{"run_id": "a" * 300, "arm": "fast", "seed": 0}]}, "is not a run id"),
        ({"runs": [{"run_id": "a\0", "arm": "fast", "seed": 0}]}, "is not a run id"),
        ({"runs": [{"run_id": "a", "arm": "fast", "seed": 0}] * 2}, "two of its runs are named 'fast, seed 0'"),
    ],
)
def test_a_record_that_does_not_fit_together(damaged, changes, problem):
    damaged.change(damaged.store.record, **changes)
    assert problem in refusal(damaged)


def test_two_arms_of_one_name(damaged):
    damaged.change_arm(arm="baseline")
    damaged.change(damaged.store.record, runs=[])  # otherwise they would name a missing arm
    assert "two of its arms are named 'baseline'" in refusal(damaged)


def test_a_level_that_is_a_list_or_a_mapping(damaged):
    damaged.change_arm(axes={"kind": [0.9, 0.95]})
    damaged.change(damaged.store.record, axes={"kind": ["plain", [0.9, 0.95], {"a": 1}]})
    report, _ = damaged.report()
    assert report.labels["fast"] == "[0.9, 0.95]"


NASTY = "a\x1b[31mb\0c\ud800d\x9b\ufffee"
SHOWN = "a\N{REPLACEMENT CHARACTER}[31mb"


def test_control_characters_and_surrogates_reached_the_pages(damaged):
    record = json.loads(damaged.store.record.read_text())
    record |= {"question": NASTY, "command": NASTY, "design": NASTY, "version": NASTY}
    record["arms"][1]["arm"] = NASTY
    record["arms"][1]["axes"] = {NASTY: NASTY}
    for run in record["runs"]:
        run["arm"] = NASTY if run["arm"] == "fast" else run["arm"]
    damaged.store.record.write_text(json.dumps(record))
    damaged.change(damaged.folder("fast").status, state="failed", error=f"Traceback\n\tline\nError: {NASTY}")
    manifest = {"device": {"kind": "cpu", "name": NASTY}, "precision": NASTY, "versions": {NASTY: NASTY}}
    damaged.change(damaged.folder("fast", 1).manifest, **manifest)
    damaged.change(damaged.folder("fast", 1).config, train={"schedule": NASTY})
    for n in range(10):
        damaged.change_line(n, {NASTY: 1.0}, "baseline")
    report, summary = damaged.report()
    assert SHOWN in summary["question"] and SHOWN in summary["failures"][0]["error"]
    assert "\n\tline\n" in summary["failures"][0]["error"]
    folder = Path(damaged.store.path / "report")
    texts = [path.read_text() for path in folder.rglob("*") if path.suffix in {".md", ".tex", ".csv", ".svg", ".json"}]
    page = report.paths["html"].read_text()
    texts += [page[: page.index("<script")], format_table(report), *report.answer]
    assert not [text for text in texts if set("\x1b\0\x9b\ufffe") & set(text)]
    assert SHOWN in page and "\N{REPLACEMENT CHARACTER}" not in (folder / "tables" / "failures.tex").read_text()


@pytest.mark.parametrize("out", [""])
def test_an_empty_out_wrote_into_the_working_directory(damaged, out, monkeypatch, tmp_path):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(AblateError, match="out: the name is empty"):
        write_report(damaged.store, out)
    assert not list(Path.cwd().iterdir())
