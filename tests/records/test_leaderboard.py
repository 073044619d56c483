"""`ablate leaderboard`: arms of reports that obey a benchmark's rules, on one page and in one CSV file."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from ablate.cli.outputs.table import output_schemas
from ablate.errors import GridError
from ablate.records.benchmark import find_breaches, load_benchmark
from ablate.records.leaderboard import make_leaderboard
from ablate.records.page import compose, state_leaders
from ablate.report.write import read_study
from ablate.tracking.folders import StudyFolder

ROOT = Path(__file__).parents[2]
BENCHMARKS = sorted((ROOT / "benchmarks" / "records").glob("*.yaml"))
TRAIN = {"steps": 12, "batch_size": 4, "eval_every": 4, "eval_tokens": 128}
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def write_benchmark(report: Path) -> Callable[..., Path]:
    """A function that writes the benchmark whose rules the tiny report obeys. Arguments replace its keys."""
    results = read_study(StudyFolder(report))
    data = {key: results.record.data[key] for key in ("source", "tokenizer", "path", "hash")}

    def write(**changes: Any) -> Path:
        declared = {
            "benchmark": "words",
            "data": data,
            "target": 5.45,
            "model": {"d_model": 16, "n_layers": 1, "n_heads": 2, "context_length": 16},
            "train": TRAIN,
            "may_change": ["model.normalization", "train.warmup_steps", "train.weight_decay"],
            "limits": {"tokens": 768},
            "seeds": 3,
        }
        Path("words.yaml").write_text(yaml.safe_dump({**declared, **changes}))
        return Path("words.yaml")

    return write


def test_arms_of_a_report_are_entries(report: Path, write_benchmark: Callable[..., Path], call_ablate: Call) -> None:
    code, out, err = call_ablate("leaderboard", report, "--benchmark", write_benchmark(), "--json")
    assert code == 0, err
    found = json.loads(out)
    jsonschema.validate(found, output_schemas()["leaderboard"])
    loss, tokens, *_ = found["boards"]
    assert [entry["entry"] for entry in loss["entries"]] == ["tiny: prenorm", "tiny: ngpt"]
    assert [(entry["rank_low"], entry["rank_high"]) for entry in loss["entries"]] == [(1, 1), (2, 2)]
    assert [entry["verdict"] for entry in loss["entries"]] == ["baseline", "worse"]
    assert loss["pairs"][0]["is_clear"]
    assert loss["pairs"][0]["value"] == pytest.approx(loss["entries"][1]["value"] - loss["entries"][0]["value"])
    assert 256 < tokens["entries"][0]["value"] < 512
    assert tokens["not_ranked"] == {"tiny: ngpt": "3 of 3 runs never reach the target"}
    rows = list(csv.DictReader(Path(found["csv"]).read_text().splitlines()))
    assert len(rows) == 2 * len(found["boards"])
    assert Path(found["page"]) == Path("words/leaderboard.html")
    text = Path("words/leaderboard.md").read_text()
    assert "In loss, tiny: prenorm is first: it is shown to be better than every other entry." in text
    assert "| tiny: ngpt | 2 | 2 |" in text


@pytest.mark.parametrize(
    ("changes", "rule", "message"),
    [
        ({"limits": {"tokens": 767}}, "budget", "it has 768 training tokens, and at most 767 are legal"),
        ({"limits": {"flops": 1e6}}, "budget", "FLOPs, and at most 1M are legal"),
        ({"limits": {"parameters": 100}}, "size", "parameters, and at most 100 are legal"),
        ({"metric": "val_accuracy"}, "metric", "it is compared by val_loss, not by val_accuracy"),
        ({"seeds": 4}, "seeds", "it has 3 seeds, and an entry needs 4"),
        ({"train": {**TRAIN, "batch_size": 8}}, "settings", "train.batch_size is 4, not 8"),
        ({"may_change": ["train.warmup_steps"]}, "settings", 'model.normalization.name is "ngpt"'),
    ],
)
def test_an_arm_that_breaks_a_rule_is_refused_with_its_name(
    report: Path, write_benchmark: Callable[..., Path], call_ablate: Call, changes: Any, rule: str, message: str
) -> None:
    rules = load_benchmark(write_benchmark(**changes))
    refused = make_leaderboard(rules, [report]).refused
    assert refused
    breaches = [breach for item in refused for breach in item.breaches if breach.rule == rule]
    assert any(message in breach.message for breach in breaches), breaches
    if len(refused) == 2:
        code, _, err = call_ablate("leaderboard", report, "--benchmark", "words.yaml")
        assert code == 2
        assert "no arm of these reports obeys the rules" in err
        assert f": {rule}: " in err
        assert not Path("words").exists()


def test_other_data_and_unfinished_runs_are_refused(report: Path, write_benchmark: Callable[..., Path]) -> None:
    rules, results = load_benchmark(write_benchmark()), read_study(StudyFolder(report))
    arm = results.record.arms[0]

    def breaches_of(**changes: Any) -> list[tuple[str, str]]:
        runs = (replace(results.runs[0], **changes), *results.runs[1:])
        return [(b.rule, b.message) for b in find_breaches(rules, replace(results, runs=runs), arm)]

    assert breaches_of() == []
    ((rule, message),) = breaches_of(manifest={**results.runs[0].manifest, "data_hash": "c0ffee"})
    assert (rule, "c0ffee" in message) == ("data", True)
    diverged = replace(results.runs[0].status, state="diverged")
    assert breaches_of(status=diverged) == [("seeds", "1 of its 3 runs did not finish: diverged")]
    ((rule, message),) = breaches_of(config={"program": {"command": []}})
    assert (rule, "program" in message) == ("settings", True)
    older = {key: value for key, value in results.runs[0].config["train"].items() if key != "adam_eps"}
    assert breaches_of(config={**results.runs[0].config, "train": older}) == []  # it had the default


def test_what_fresh_seeds_refuted_is_shown_and_not_ranked(
    report: Path, write_benchmark: Callable[..., Path], train_fresh: Any, call_ablate: Call
) -> None:
    train_fresh(report, (3, 4, 5))
    call_ablate("verify", report)
    rules = load_benchmark(write_benchmark())
    made = make_leaderboard(rules, [report])
    assert [entry.outcomes for entry in made.entries] == [(), (("confirmed", 3),)]
    path = report / "verifications" / "seeds-3-5.json"
    path.write_text(path.read_text().replace('"outcome": "confirmed"', '"outcome": "refuted"'))
    board = make_leaderboard(rules, [report]).boards[0]
    assert [entry.name for entry in board.entries] == ["tiny: prenorm"]
    assert [(entry.name, reason) for entry, reason in board.left_out] == [
        ("tiny: ngpt", "fresh seeds refuted its published verdict")
    ]


def test_two_reports_of_one_study_go_by_their_folders(report: Path, write_benchmark: Callable[..., Path]) -> None:
    (report.parent / "other").symlink_to(report.name)
    made = make_leaderboard(load_benchmark(write_benchmark()), [report, report.parent / "other"])
    assert [entry.name.partition(":")[0] for entry in made.entries] == [*["reports/tiny"] * 2, *["reports/other"] * 2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": None}, "words.yaml:.*: target"),
        ({"may_change": ["model.atention"]}, "'model.atention' is no setting"),
        ({"model": {"d_model": 16, "n_layer": 1}}, "words.yaml:.*: model.n_layer"),
        ({"limits": {"token": 1}}, "words.yaml:.*: limits.token"),
        ({"data": {"source": "python-stdlib", "hash": "x"}}, "words.yaml:.*: data.hash"),
    ],
)
def test_a_benchmark_that_cannot_be_used_names_its_line(
    write_benchmark: Callable[..., Path], changes: Any, message: str
) -> None:
    with pytest.raises(GridError, match=message):
        load_benchmark(write_benchmark(**changes))


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_the_published_boards_are_those_of_the_published_reports(path: Path) -> None:
    rules = load_benchmark(path)
    folder = path.parent / rules.benchmark.name
    rows = list(csv.DictReader((folder / "leaderboard.csv").read_text().splitlines()))
    made = make_leaderboard(rules, [ROOT / "reports" / name for name in dict.fromkeys(row["report"] for row in rows)])
    assert [board.name for board in made.boards] == list(dict.fromkeys(row["board"] for row in rows))
    told = {(row["board"], row["entry"]): (row["rank_low"], row["rank_high"]) for row in rows if row["rank_low"]}
    assert told == {
        (board.name, board.entries[entry].name): tuple(map(str, board.ranking.range_of(entry)))
        for board in made.boards
        for entry in board.ranking.order
    }
    assert compose(made).verdict == tuple(state_leaders(made))
