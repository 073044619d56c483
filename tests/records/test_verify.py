"""`ablate verify`: fresh seeds of a published report confirm, refute or do not decide its verdicts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from ablate.analysis.curves_parquet import read_archive, write_archive
from ablate.analysis.results import Results
from ablate.cli.outputs.table import output_schemas
from ablate.data import CorpusInfo
from ablate.errors import AblateError, RecordError
from ablate.files import write_atomic
from ablate.plan.tasks import describe_corpus
from ablate.records.rebuild import build, declare
from ablate.records.verify import choose_arms, choose_seeds, describe_power
from ablate.report.markdown import escape
from ablate.report.verifications import describe_verification, find_verifications
from ablate.report.write import read_study
from ablate.tracking.folders import StudyFolder
from ablate.tracking.verifications import Verification, read_verification, read_verifications

ROOT = Path(__file__).parents[2]
REPORTS = sorted(path.parent for path in (ROOT / "reports").glob("**/curves.parquet"))
VERIFICATIONS = sorted((ROOT / "reports").glob("**/verifications/*.json"))
Call = Callable[..., tuple[int, str, str]]
Fresh = Callable[[Path, Sequence[int]], None]


def change_report(report: Path, change: Callable[[Results], Results]) -> None:
    changed = change(read_archive(report / "curves.parquet"))
    write_atomic(report / "curves.parquet", lambda file: write_archive(changed, file))


def shift_losses(by: float) -> Callable[[Results], Results]:
    """Publish other losses of nGPT than those that were measured."""

    def change(results: Results) -> Results:
        runs = [
            replace(run, columns={**run.columns, "val_loss": run.columns["val_loss"] + by * ("ngpt" in run.arm)})
            for run in results.runs
        ]
        return replace(results, runs=tuple(runs))

    return change


def test_a_verdict_that_holds_is_confirmed_and_a_false_one_refuted(
    report: Path, train_fresh: Fresh, call_ablate: Call
) -> None:
    train_fresh(report, (3, 4, 5))
    code, out, err = call_ablate("verify", report, "--json")
    made = Verification.model_validate_json(out)
    jsonschema.validate(json.loads(out), output_schemas()["verify"])
    (arm,) = made.arms
    assert (code, made.seeds, made.is_complete) == (0, (3, 4, 5), True), err
    assert arm.fresh is not None
    assert (arm.outcome, arm.published.verdict, arm.fresh.verdict) == ("confirmed", "worse", "worse")
    assert "confirm 1 published verdict (ngpt: worse)" in err
    path = report / "verifications" / "seeds-3-5.json"
    assert read_verification(path) == made
    assert "Differences are arm minus baseline" in path.with_suffix(".md").read_text()

    change_report(report, shift_losses(-3.0))
    code, out, err = call_ablate("verify", report)
    (arm,) = read_verification(path).arms
    assert (code, arm.outcome, arm.published.verdict, arm.size) == (1, "refuted", "better", "smaller")
    assert "refute 1 published verdict (ngpt: better)" in out + err
    assert len(read_verifications(report)) == 1  # the same runs

    assert call_ablate("report", report, "--out", report)[0] == 0
    assert "The report has changed since" not in (report / "report.md").read_text()
    page, text = (report / "report.html").read_text(), (report / "report.md").read_text()
    assert '<p class="verdict">The fresh seeds 3 to 5 refute 1 published verdict (ngpt: better).</p>' in page
    assert "The fresh seeds 3 to 5 refute 1 published verdict" in text.partition("##")[0]
    summary = json.loads((report / "summary.json").read_text())
    jsonschema.validate(summary, json.loads((ROOT / "ablate/report/summary.schema.json").read_text()))
    assert summary["verifications"][0]["arms"][0]["outcome"] == "refuted"


def test_more_seeds_keep_the_earlier_ones_and_say_that_results_were_seen(
    report: Path, train_fresh: Fresh, call_ablate: Call
) -> None:
    train_fresh(report, (3, 4))
    assert call_ablate("verify", report, "--seeds", "2")[0] == 0
    results, store = read_study(StudyFolder(report)), StudyFolder(Path("runs/tiny-verify"))
    assert choose_seeds(results, 4, report, store) == (3, 4, 5, 6)
    assert choose_seeds(results, 2, report, store) == (3, 4)
    elsewhere = StudyFolder(Path("elsewhere/tiny-verify"))
    assert choose_seeds(results, 2, report, elsewhere) == (5, 6)  # the verification beside the report used 3 and 4
    history = store.read_study().history
    train_fresh(report, (3, 4, 5))
    store.write_study(replace(store.read_study(), history=(*history, replace(history[-1], what="seeds", n_seeds=3))))
    assert call_ablate("verify", report, "--seeds", "3")[0] == 0
    (made,) = read_verifications(report).values()
    assert (made.seeds, made.looks) == ((3, 4, 5), (2,))


def test_the_trials_of_a_tuning_are_not_fresh(report: Path) -> None:
    (report / "tuning").mkdir()
    (report / "tuning" / "summary.json").write_text('{"seeds": [7]}')
    results = read_study(StudyFolder(report))
    assert choose_seeds(results, 2, report, StudyFolder(Path("runs/none"))) == (8, 9)
    (report / "tuning" / "summary.json").write_text('{"seeds": [7')
    with pytest.raises(RecordError, match=r"tuning/summary\.json"):
        choose_seeds(results, 2, report, StudyFolder(Path("runs/none")))


def test_other_runs_of_the_same_seeds_do_not_replace_a_verification(
    report: Path, train_fresh: Fresh, call_ablate: Call
) -> None:
    train_fresh(report, (3, 4, 5))
    call_ablate("verify", report)
    path = report / "verifications" / "seeds-3-5.json"
    theirs = read_verification(path)
    runs = tuple(run.model_copy(update={"value": 1.0}) for run in theirs.runs)
    path.write_text(theirs.model_copy(update={"runs": runs}).model_dump_json())
    call_ablate("verify", report)
    assert {found.name for found in read_verifications(report)} == {"seeds-3-5.json", "seeds-3-5-2.json"}


def test_arms_are_named_by_name_or_label(report: Path) -> None:
    results, store = read_study(StudyFolder(report)), StudyFolder(Path("runs/none"))
    both = ("normalization=prenorm", "normalization=ngpt")
    for asked in ([], ["ngpt"], ["normalization=ngpt"]):
        assert choose_arms(results, asked, store) == both
    with pytest.raises(AblateError, match=r"--arm ngtp: tiny has no such arm; did you mean 'ngpt'\? \(legal: ngpt\)"):
        choose_arms(results, ["ngtp"], store)
    with pytest.raises(AblateError, match=r"--arm prenorm: it is a baseline.*\(legal: ngpt\)"):
        choose_arms(results, ["prenorm"], store)


def test_what_cannot_be_verified_is_refused_before_anything_is_trained(report: Path, call_ablate: Call) -> None:
    def refuse(change: Callable[[Any], Any], part: str) -> str:
        before = (report / "curves.parquet").read_bytes()
        change_report(report, lambda results: replace(results, **{part: change(getattr(results, part))}))
        code, _, err = call_ablate("verify", report, "--seeds", "4")
        (report / "curves.parquet").write_bytes(before)
        assert code == 2
        assert not Path("runs/tiny-verify/study.json").exists()
        return err

    def edit(**changes: Any) -> Callable[[Any], Any]:
        return lambda runs: tuple(replace(run, **{k: v(getattr(run, k)) for k, v in changes.items()}) for run in runs)

    assert "the data are not those of the report: hash c0ffee there" in refuse(
        edit(manifest=lambda m: {**m, "data_hash": "c0ffee"}), "runs"
    )
    faster = edit(config=lambda c: {**c, "train": {**c["train"], "learning_rate": 0.5}})
    assert "this version of ablate would train something else for normalization=prenorm" in refuse(faster, "runs")
    old = edit(config=lambda c: {**c, "model": {**c["model"], "attention": {"name": "standard", "version": 99}}})
    assert "normalization=prenorm cannot be trained by this version of ablate: attention.version" in refuse(old, "runs")
    assert "are not recorded" in refuse(edit(config=lambda _: {}), "runs")
    assert "--grid GRID names the grid" in refuse(edit(config=lambda c: {**c, "program": {}}), "runs")
    assert "start from the weights of other runs" in refuse(edit(config=lambda c: {**c, "start_from": "x"}), "runs")
    on_gpu = edit(manifest=lambda m: {**m, "device": {"kind": "cuda", "name": "NVIDIA H200"}, "gpus": 1.0})
    assert "reports/tiny: resources: a run that takes 1 CPU and 1 GPU cannot be placed" in (
        told := refuse(on_gpu, "runs")
    )
    assert "the published runs used NVIDIA H200" in told
    missing = refuse(lambda record: replace(record, data={**record.data, "path": ["gone.txt"]}), "record")
    assert "gone.txt" in missing
    assert "--data DIR" in missing


def test_a_changed_report_does_not_continue_an_old_verification(
    report: Path, train_fresh: Fresh, call_ablate: Call
) -> None:
    train_fresh(report, (3, 4, 5))
    store = StudyFolder(Path("runs/tiny-verify"))
    record = store.read_study()
    runs = tuple(replace(run, run_id=f"0{run.run_id[1:-1]}x") for run in record.runs)
    store.write_study(replace(record, runs=runs))
    code, _, err = call_ablate("verify", report)
    assert code == 2
    assert "it has begun to verify another version of the report" in err


def test_the_power_of_so_many_seeds_is_told(report: Path) -> None:
    change_report(report, lambda results: add_noise(results, 0.3))
    results = read_study(StudyFolder(report))
    (line,) = describe_power(results, list(results.arms), 3)
    assert line.startswith("ngpt: published ")
    assert "3 seeds detect a difference of" in line


def add_noise(results: Results, sd: float) -> Results:
    rng = np.random.default_rng(0)
    runs = [
        replace(run, columns={**run.columns, "val_loss": run.columns["val_loss"] + sd * rng.normal()})
        for run in results.runs
    ]
    return replace(results, runs=tuple(runs))


@pytest.mark.parametrize("folder", REPORTS, ids=lambda path: path.relative_to(ROOT / "reports").as_posix())
def test_every_published_report_rebuilds_to_its_run_ids(folder: Path) -> None:
    results = read_study(StudyFolder(folder))
    names = [name for name in results.arms if any(run.config for run in results.runs_of(name))]
    if json.loads((folder / "summary.json").read_text()).get("is_complete", True):
        assert names == list(results.arms)
    if folder.name == "finetune-csqa":
        with pytest.raises(RecordError, match="start from the weights of other runs"):
            declare(results, names, folder, Path(), "again")
        return
    study = declare(results, names, folder, Path(), "again")
    if study.is_language_model:
        corpus = CorpusInfo(str(results.runs[0].manifest["data_hash"]), 10**8, 10**7, 256)
    else:
        corpus = describe_corpus(study, Path("runs"))
    plan = build(study, results, names, [100], corpus, folder)  # compares the ids of all published runs
    assert len(plan.runs) == len(names)
    if study.is_language_model:
        with pytest.raises(RecordError, match="the data are not those of the report"):
            build(study, results, names, [100], replace(corpus, hash="c0ffee"), folder)


@pytest.mark.parametrize("path", VERIFICATIONS, ids=lambda path: path.parts[-3])
def test_every_verification_is_on_its_page_and_in_the_docs(path: Path) -> None:
    folder = path.parents[1]
    made = read_verification(path)
    sentence = describe_verification(made)
    values = {(run.arm, run.seed): run.value for run in made.runs}
    for arm in made.arms:  # the numbers of the file follow from its runs
        pairs = [(values[arm.arm, seed], values[arm.baseline, seed]) for seed in made.seeds]
        assert arm.fresh is not None
        assert arm.fresh.estimate == pytest.approx(
            np.mean([mine - theirs for mine, theirs in pairs if mine and theirs])
        )
    assert made in find_verifications(read_study(StudyFolder(folder)).record, [folder])
    for page in (folder / "report.md", path.with_suffix(".md"), ROOT / "docs" / "share.md"):
        text = " ".join(page.read_text().split())
        assert sentence in text or escape(sentence) in text, page


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_verification_that_was_stopped_is_resumed(report: Path, call_ablate: Call) -> None:
    """The only test here that trains with Ray."""
    shutil.rmtree("runs/tiny-verify")
    code, out, err = call_ablate("verify", report, "--seeds", "2", "--minutes", "0.001", "--json")
    assert code == 130 and "there is no outcome yet" in err
    assert not (report / "verifications").exists()
    assert not out or not json.loads(out)["is_complete"]
    code, out, err = call_ablate("verify", report, "--seeds", "2", "--json")
    made = Verification.model_validate_json(out)
    assert (code in (0, 1), made.seeds, made.is_complete) == (True, (3, 4), True), err
    assert read_verification(report / "verifications" / "seeds-3-4.json") == made
