"""Files that a report writes besides the page, and the effect of its options."""

import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from ablate.analysis import read_results, speed_ups
from ablate.analysis.curves_parquet import NAME, read_archive
from ablate.analysis.results import AXES
from ablate.errors import AblateError, RecordError
from ablate.report import ReportOptions, load, write_report
from ablate.report.latex import escape_latex
from ablate.report.markdown import escape
from ablate.report.notation import format_p_value
from ablate.report.sections import compose, describe_context
from ablate.tracking.folders import StudyFolder
from benchmarks.synthetic import SyntheticArm, write_study

BASE = "attention=standard,norm=pre"


def arm(attention, norm, **changes):
    name = f"attention={attention},norm={norm}"
    return SyntheticArm(name, {"attention": attention, "norm": norm}, BASE, **changes)


ARMS = [
    arm("standard", "pre"),
    arm("standard", "ngpt", speedup=2.0, step_s=0.15),
    arm("diff_v1", "pre", speedup=1.5),
    arm("diff_v1", "ngpt", speedup=3.0),
]
TABLES = {"speedup", "ladder", "arms", "differences", "effects", "cost", "fairness"}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = StudyFolder(tmp_path_factory.mktemp("runs") / "outputs")
    write_study(store, ARMS, noise=0.01)
    return store


def report(store, out, **options):
    made = write_report(store, out, options=ReportOptions(**options))
    return made, json.loads(made.paths["summary"].read_text())


@pytest.mark.slow
def test_every_figure_is_written_as_svg_and_pdf_on_demand(store, tmp_path):
    report(store, tmp_path, figures=True)
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    shown = {"differences", "curves", "minus-baseline", "speedup", "ladder", "interactions", "effects", "diagnostics"}
    stems = shown | {"curves-val-loss-end", "curves-train-loss", "diagnostics-alpha-attn"}
    assert names == {f"{stem}.{ending}" for stem in stems for ending in ("svg", "pdf")}
    for path in (tmp_path / "figures").glob("*.svg"):
        assert ET.parse(path).getroot().tag.endswith("svg")
    assert all(path.read_bytes().startswith(b"%PDF") for path in (tmp_path / "figures").glob("*.pdf"))
    pictures = re.findall(r"!\[.*\]\((figures/.*)\)", (tmp_path / "report.md").read_text())
    assert {f"{stem}.svg" for stem in shown} == {picture.removeprefix("figures/") for picture in pictures}


def test_the_usual_report_draws_only_what_the_markdown_shows(store, tmp_path):
    report(store, tmp_path)
    names = {path.stem for path in (tmp_path / "figures").iterdir()}
    assert names == {"differences", "curves", "minus-baseline", "speedup"}
    text = (tmp_path / "report.md").read_text()
    assert "## Speedups" in text and "## Diagnostics" not in text  # its only chart is not drawn


@pytest.mark.slow
def test_pictures_of_many_arms_stay_on_a_page(tmp_path):
    store = StudyFolder(tmp_path / "many")
    arms = [SyntheticArm("baseline", {"kind": 0})]
    arms += [SyntheticArm(f"kind={i}", {"kind": i}, speedup=1 + i / 10) for i in range(1, 60)]
    write_study(store, arms, seeds=(0,), n_steps=100)
    made, _ = report(store, tmp_path / "out", figures=True)
    for name in ("curves", "speedup", "ladder", "differences"):
        height = float(ET.parse(tmp_path / "out" / "figures" / f"{name}.svg").getroot().get("height"))
        assert height < 1200
    assert "(no interval)" in made.paths["markdown"].read_text()


def test_tables_for_papers_have_the_rules_of_booktabs_and_as_many_cells_in_each_row(store, tmp_path):
    report(store, tmp_path)
    files = {path.stem: path.read_text() for path in (tmp_path / "tables").iterdir()}
    assert set(files) == TABLES
    for text in files.values():
        assert re.findall(r"\\(top|mid|bottom)rule", text) == ["top", "mid", "bottom"]
        n_columns = len(re.search(r"\\begin\{tabular\}\{(l?r*)\}", text)[1])
        rows = [line for line in text.splitlines() if line.endswith(r"\\")]
        assert {len(re.findall(r"(?<!\\)&", row)) + 1 for row in rows} == {n_columns}
    assert r"diff\_v1 / ngpt" in files["speedup"]


def test_latex_by_hand():
    assert escape_latex("a_b & 5 % $x$ {y}\\z\nnew") == r"a\_b \& 5 \% \$x\$ \{y\}\textbackslash{}z new"


def test_a_published_report_reads_back_as_the_study(store, tmp_path):
    made, summary = report(store, tmp_path / "published")
    again, summary_again = report(StudyFolder(tmp_path / "published"), tmp_path / "again")
    assert summary_again == summary
    assert again.paths["html"].read_bytes() == made.paths["html"].read_bytes()
    assert speed_ups(read_archive(tmp_path / "published" / NAME)) == speed_ups(read_results(store))


def test_another_view_never_takes_the_place_of_what_was_published(store, tmp_path):
    report(store, tmp_path)
    for options in ({"where": "norm == 'pre'"}, {"baseline": {"norm": "ngpt"}}):
        with pytest.raises(AblateError, match="name another folder"):
            report(StudyFolder(tmp_path), tmp_path, **options)
    assert len(read_archive(tmp_path / NAME).runs) == 3 * len(ARMS)


def test_what_is_committed_of_a_study_of_36_runs_is_below_a_megabyte(tmp_path):
    store = StudyFolder(tmp_path / "published")
    cells = [(i, j) for i in range(3) for j in range(4)]
    arms = [SyntheticArm(f"a={i},b={j}", {"a": i, "b": j}, "a=0,b=0", speedup=1 + i / 9 + j / 7) for i, j in cells]
    write_study(store, arms, n_steps=600, eval_every=10, log_every=1, noise=0.01)
    report(store, tmp_path / "out")
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert 10**6 < sizes.pop("report.html") < 1.8e6
    assert sum(sizes.values()) < 10**6


def test_the_corpus_was_listed_in_python_with_its_unset_keys(tmp_path):
    store = StudyFolder(tmp_path / "s")
    record = write_study(store, ARMS[:2], seeds=(0,))
    data = {"source": "text", "path": ["a.txt", "b.txt"], "tokenizer_path": None, "validation_path": [], "hash": "f00"}
    store.write_study(replace(record, data=data))
    report(store, tmp_path / "report")
    assert "; data hash f00; data path a.txt, b.txt; data source text." in (tmp_path / "report/report.md").read_text()
    page = (tmp_path / "report/report.html").read_text()
    assert "<dd>a.txt, b.txt</dd>" in page and "tokenizer_path" not in page and "<dd>[]</dd>" not in page


def test_bytes_have_bits_per_byte(store, tmp_path):
    record = store.read_study()
    made, _ = report(store, tmp_path / "report")
    told = replace(record, data={**record.data, "tokenizer": "bytes"})
    in_bytes = replace(made, record=told, results=replace(made.results, record=told))
    header, *rows = next((table.header, *table.rows) for table in compose(in_bytes).tables if table.name == "arms")
    place = header.index("Bits per byte")
    for row, arm in zip(rows, made.arms, strict=True):
        assert float(row[place]) == pytest.approx(arm.final_loss.mean / 0.693147, abs=1e-4)
    assert all("Bits per byte" not in table.header for table in compose(made).tables)


def test_an_archive_names_no_machine(store, tmp_path):
    made, _ = report(store, tmp_path)
    archived = read_archive(made.paths["curves"])
    assert all("host" not in run.manifest["device"] and not run.status.worker for run in archived.runs)
    assert all(run.manifest["device"]["host"] == "nowhere" for run in read_results(store).runs)


def test_a_broken_archive_is_one_message(tmp_path):
    (tmp_path / NAME).write_bytes(b"PAR1 no more")
    with pytest.raises(RecordError, match="cannot be read as an archive"):
        write_report(StudyFolder(tmp_path), tmp_path / "out")


def test_effects_of_the_factorial_reach_the_summary(store, tmp_path):
    _, summary = report(store, tmp_path)
    levels = [effect["levels"] for effect in summary["effects"] if effect["outcome"] == "final_loss"]
    assert levels == [{"attention": "diff_v1"}, {"norm": "ngpt"}, {"attention": "diff_v1", "norm": "ngpt"}]
    on_time = next(e for e in summary["effects"] if e["outcome"] == "log_tokens" and e["levels"] == {"norm": "ngpt"})
    assert on_time["high"] < 0
    assert {row["arm"] for row in summary["differences"]} == {arm.arm for arm in ARMS[1:]}


def test_a_leave_one_out_shows_what_each_component_is_worth(tmp_path):
    store = StudyFolder(tmp_path / "loo")
    full = SyntheticArm("all", {"a": "on", "b": "on"}, "all", speedup=2.0)
    without = [SyntheticArm(f"no {axis}", {"a": "on", "b": "on", axis: "off"}, "all") for axis in ("a", "b")]
    write_study(store, [full, *without], design="leave_one_out", noise=0.01)
    made, summary = report(store, tmp_path / "out")
    assert [(row["levels"], row["estimate"] > 0.3) for row in summary["differences"]] == [
        ({"a": "off"}, True),
        ({"b": "off"}, True),
    ]
    assert summary["effects"] == []
    assert "Value of each component" in made.paths["html"].read_text()


def test_options_choose_targets_axis_arms_and_baseline(store, tmp_path):
    made, summary = report(
        store, tmp_path, targets=("90", 4.2), axis="seconds", where="norm == 'ngpt'", baseline={"attention": "standard"}
    )
    assert {row["target"] for row in summary["speedup"]} == {"90", 4.2}
    assert summary["headline"] == {"target": 4.2, "axis": "seconds"}
    assert {(row["arm"], row["baseline"]) for row in summary["speedup"]} == {
        ("attention=diff_v1,norm=ngpt", "attention=standard,norm=ngpt")
    }
    assert made.answer[0].startswith(
        "Better: diff_v1 / ngpt ends at a clearly lower final loss than standard / ngpt: -0.2"
    )
    assert " In seconds, diff_v1 / ngpt reaches a validation loss of 4.2 2.2" in made.answer[0]
    assert "share of its budget, or a validation loss (nats per token)." in made.paths["markdown"].read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"axis": "token"}, "axis 'token': there is no such axis of cost; did you mean 'tokens'"),
        ({"axis": "gpu_seconds"}, "not every run held a GPU"),
        ({"targets": ()}, "no target"),
        ({"where": "nrom == 1"}, "did you mean 'norm'"),
        ({"baseline": {"norm": "prr"}}, "did you mean 'pre'"),
    ],
)
def test_wrong_options_are_one_message_and_nothing_is_written(store, tmp_path, options, message):
    with pytest.raises(AblateError, match=message):
        write_report(store, tmp_path / "out", options=ReportOptions(**options))
    assert not (tmp_path / "out").exists()


def test_several_studies_are_compared_on_one_page(store, tmp_path):
    other = StudyFolder(tmp_path / "other")
    write_study(other, ARMS[:2], noise=0.01)
    made, summary = report([store, other], tmp_path / "out")
    assert summary["study"] == "outputs + other"
    assert {row["arm"].partition(":")[0] for row in summary["speedup"]} == {"outputs", "other"}
    assert "other / standard / ngpt" in made.paths["html"].read_text()


def test_full_schedules_are_reported_where_the_horizon_is_an_axis(tmp_path):
    store = StudyFolder(tmp_path / "horizons")
    arms = [
        SyntheticArm(f"{kind}-{n}", {"kind": kind, "train.steps": n}, f"plain-{n}", speedup=speed, n_steps=n)
        for kind, speed in (("plain", 1.0), ("new", 1.5))
        for n in (100, 200, 400)
    ]
    write_study(store, arms, noise=0.001)
    made, summary = report(store, tmp_path / "out")
    rows = {row["arm"]: row for row in summary["full_schedule"] if row["axis"] == "steps"}
    assert rows["new-200"]["ratio"] == pytest.approx(1.5, rel=0.02)  # the loss is log1p of the budget, not exactly log
    assert rows["new-400"]["bound"] == "at_least"
    assert "between full schedules (the number to quote)" in made.answer[-1].lower()
    assert "Speedup between full schedules" in made.paths["html"].read_text()


def test_a_picture_shows_how_the_speed_up_grows(tmp_path):
    store = StudyFolder(tmp_path / "growth")
    arms = [
        SyntheticArm(
            f"{kind}-{n}", {"kind": kind, "context_length": n}, f"plain-{n}", {"context_length": n}, speedup=speed
        )
        for kind, n, speed in [("plain", 256, 1.0), ("plain", 1024, 1.0), ("new", 256, 1.2), ("new", 1024, 0.5)]
    ]
    write_study(store, arms, noise=0.001)
    made, summary = report(store, tmp_path / "out")
    assert summary["trends"][0]["bound"] == "at_most"
    page = made.paths["markdown"].read_text()
    assert (
        "figures/growth.svg" in page
        and f"| {escape(format_p_value(made.growths[0].p_value))} |" in page.split("## Growth")[1]
    )
    assert 'id="figure-growth"' in made.paths["html"].read_text()
    other = report(store, tmp_path / "other", targets=("50",))[0]
    assert 'id="figure-growth"' not in other.paths["html"].read_text()
    assert "it is multiplied by" in made.answer[1] and "multiplied by" not in " ".join(other.answer)


def test_the_command_is_printed_without_the_minutes_that_a_machine_was_lent_for(store, tmp_path):
    made = report(store, tmp_path / "out")[0]
    for lent in ("--minutes 8.5 ", "--minutes=8 "):
        record = replace(made.record, command=f"ablate run grid.yaml {lent}--set train.steps=3")
        assert replace(made, record=record).command == "ablate run grid.yaml --set train.steps=3"


@pytest.mark.parametrize(("versions", "owner"), [({"ablate": "0"}, "ablate"), ({}, "commit")])
def test_the_page_says_whose_commit_it_names(store, tmp_path, versions, owner):
    made = report(store, tmp_path / "out")[0]
    runs = tuple(replace(run, manifest={"versions": versions, "commit": "0123456789"}) for run in made.results.runs)
    there = replace(made, results=replace(made.results, runs=runs), versions={"commit": "0123456789"})
    assert describe_context(there).endswith(f" · {owner} 0123456")


@pytest.mark.parametrize(
    ("gpus", "axis", "is_shown"), [((1, 1), "tokens", False), ((1, 2), "tokens", True), ((1, 1), "gpu_seconds", True)]
)
def test_gpu_seconds_stand_in_tables_where_they_are_not_the_seconds(store, tmp_path, gpus, axis, is_shown):
    made = report(store, tmp_path / "out")[0]
    cards = [{"device": {"kind": "cuda"}, "gpus": gpus[number % 2]} for number in range(len(made.results.runs))]
    runs = tuple(replace(run, manifest=card) for run, card in zip(made.results.runs, cards, strict=True))
    there = replace(made, axes=AXES, axis=axis, results=replace(made.results, runs=runs))
    assert ("gpu_seconds" in there.table_axes) == is_shown and set(AXES[:-1]) <= set(there.table_axes)


def test_the_python_door(store):
    study = load(store.path)
    assert repr(study) == "<study outputs: 4 arms, 12 of 12 runs finished>"
    assert study.question == "Does it help?"
    assert list(study.curves.columns[:6]) == ["arm", "seed", "run_id", "state", "step", "tokens"]
    assert len(study.runs) == 12 and study.runs["final_loss"].notna().all()
    assert set(study.runs.columns) >= {"attention", "norm"}
    final = study.speedup("final")
    assert len(final) == 3 * 4
    assert final.loc[final["arm"].str.contains("standard"), "ratio"].between(1.2, 2.2).all()
    assert {*study.effects()["outcome"]} == {"final_loss", "log_tokens"}
    assert len(study.where("norm == 'ngpt'").runs) == 9
    assert set(study.against({"norm": "ngpt"}).speedup()["baseline"]) == {
        "attention=standard,norm=ngpt",
        "attention=diff_v1,norm=ngpt",
    }
    assert study.full_schedule().empty
    picture = study.plot_curves("seconds")
    assert "<svg" in picture._repr_svg_() and picture.chart.to_dict()["layer"]
    with pytest.raises(AblateError, match=r"must be \.svg, \.pdf or \.png"):
        picture.save("curves.jpg")
    assert "<p>" in study._repr_html_()


def test_the_door_escapes_what_people_wrote(store):
    study = load(store.path)
    named = replace(study, results=replace(study.results, record=replace(study.results.record, question="<script>")))
    assert "<script>" not in named._repr_html_()


# MLflow and SQLAlchemy use deprecated calls of their own and of each other.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_is_the_same_for_all_arms_stands_once_below_the_fairness_table(store, tmp_path):
    made, _ = report(store, tmp_path / "same")
    panel = made.paths["markdown"].read_text().split("### Fairness")[1].split("##")[0]
    assert "| Arm | Flags | Parameters | FLOPs per token | Crossing at | Learning rate there |" in panel
    assert (
        "The same for all arms: recipe learning\\_rate 0.001; tokens 1.64M; precision float32; schedule cosine;"
        in panel
    )

    other = StudyFolder(tmp_path / "other")
    study = write_study(other, ARMS, noise=0.01)
    for run in study.runs:
        if run.arm == BASE:
            config = json.loads(other.run(run.run_id).config.read_text())
            config["train"] |= {"precision": "bfloat16", "learning_rate": 0.002}
            other.run(run.run_id).config.write_text(json.dumps(config))
    made, _ = report(other, tmp_path / "differs")
    panel = made.paths["markdown"].read_text().split("### Fairness")[1].split("##")[0]
    assert "| Arm | Flags | Recipe | Parameters | FLOPs per token | Precision | Crossing at |" in panel
    assert "The same for all arms: tokens 1.64M; schedule cosine;" in panel
