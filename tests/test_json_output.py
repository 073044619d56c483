"""What every verb prints with `--json` fits its documented schema, and nothing else is on standard output."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from typer.main import get_command

from ablate.cli import app
from ablate.cli.outputs.table import OUTPUTS, output_schemas
from ablate.plan.schema_reference import write_outputs
from ablate.tracking.folders import StudyFolder
from benchmarks.synthetic import SyntheticArm, write_study
from test_cli import list_commands

Ablate = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parents[1]
SCHEMAS = output_schemas()
OTHERS = {"report", "schema"}  # they print documents that have schemas of their own


def verbs() -> dict[str, Any]:
    return {" ".join(words): command for words, command in list_commands(get_command(app))}


def read(verb: str, answer: tuple[int, str, str], code: int = 0) -> Any:
    """The JSON that a verb printed, once it is checked against its schema."""
    assert answer[0] == code, answer
    value = json.loads(answer[1])
    jsonschema.validate(value, SCHEMAS[verb])
    return value


def test_every_verb_has_json_with_a_schema_and_a_page() -> None:
    for verb, command in verbs().items():
        assert any("--json" in parameter.opts for parameter in command.params), verb
    assert verbs().keys() - OTHERS == OUTPUTS.keys()
    told = (ROOT / "docs" / "json-output.md").read_text()
    assert told == write_outputs(SCHEMAS), "run `ablate schema --outputs --markdown > docs/json-output.md`"
    page = (ROOT / "docs" / "command-line.md").read_text()
    assert not {verb for verb in verbs() if f"`ablate {verb}`" not in page}


def test_a_schema_refuses_what_lacks_a_key() -> None:
    good = {"study": "s", "archive": "a", "n_runs": 3}
    jsonschema.validate(good | {"later": 1}, SCHEMAS["pack"])
    for key in good:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({name: value for name, value in good.items() if name != key}, SCHEMAS["pack"])


def test_verbs_about_files_print_json(call_ablate: Ablate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert {row["kind"] for row in read("init", call_ablate("init", "--json"))} >= {"attention", "program"}
    started = read("init", call_ablate("init", "language-model", "--json"))
    assert all(Path(name).is_file() for name in started["files"])
    assert {row["name"] for row in read("data sources", call_ablate("data", "sources", "--json"))} >= {"text", "jsonl"}
    assert read("variants", call_ablate("variants", "--json"))["attention"]["standard"]
    assert read("doctor", call_ablate("doctor", "--json"))
    assert json.loads(call_ablate("schema", "--json")[1])["required"] == ["study", "matrix"]
    assert json.loads(call_ablate("schema", "--outputs")[1]).keys() == OUTPUTS.keys()
    assert "needle" in read("evaluate", call_ablate("evaluate", "--list", "--json"))
    code, out, err = call_ablate("logs", "nothing", "--json")
    assert (code, out) == (2, "") and err.startswith("error: ")


def test_verbs_about_a_finished_study_print_json(
    call_ablate: Ablate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arms = [SyntheticArm(f"a={name}", {"a": name}, "a=x", speedup=speed) for name, speed in (("x", 1.0), ("y", 1.5))]
    assert read("status", call_ablate("status", "--json")) == []
    write_study(StudyFolder(Path("runs/made-up")), arms, seeds=range(2), noise=0.02)
    Path("runs/torn").mkdir()
    Path("runs/torn/study.json").write_text("{")
    made_up, torn = read("status", call_ablate("status", "--json"))
    assert (made_up["study"], made_up["states"]) == ("made-up", {"finished": 4}) and "torn" in torn["error"]
    assert "4 finished" in call_ablate("status")[1]
    assert read("campaign", call_ablate("campaign", "--json")) == []
    states = read("status", call_ablate("status", "made-up", "--json"))
    assert len(states) == 4 and all(row["val_loss"] > 0 for row in states)
    log = read("logs", call_ablate("logs", states[0]["run_id"], "--lines", "2", "--json"))
    assert len(log["curve"]) == 2 and log["curve"][0]["step"] <= log["curve"][1]["step"] == log["step"]
    assert read("power", call_ablate("power", "made-up", "--effect", "0.01", "--json"))[0]["n_seeds"] == 2
    summary_schema = json.loads((ROOT / "ablate" / "report" / "summary.schema.json").read_text())
    code, out, _ = call_ablate("report", "made-up", "--json")
    jsonschema.validate(json.loads(out), summary_schema)
    Path("logs").mkdir()
    for arm in ("x", "y"):
        rows = "".join(f"{step},{4 - step / 10 - (arm == 'y') / 10}\n" for step in range(10))
        Path(f"logs/{arm}-seed0.csv").write_text(f"step,val_loss\n{rows}")
    code, out, err = call_ablate("report", "--from", "logs", "--baseline", "arm=x", "--json")
    jsonschema.validate(json.loads(out), summary_schema)
    assert code == 0 and err.startswith("Read 2 runs")
    (tmp_path / "runs" / "made-up" / states[0]["run_id"] / ".curve.tmp").write_text("half")
    cleaned = read("clean", call_ablate("clean", "made-up", "--json"))
    assert (cleaned["n_bytes"], cleaned["dry_run"], len(cleaned["removals"])) == (4, False, 1)
    assert read("pack", call_ablate("pack", "made-up", "--json"))["n_runs"] == 4
    merged = read("merge", call_ablate("merge", "made-up.tar.gz", "--runs", "other", "--json"))
    assert (merged["n_added"], merged["n_present"]) == (4, 0)
    code, out, err = call_ablate("stop", "made-up", "--json")
    assert (code, out) == (2, "") and "no `ablate run` is training it" in err


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_study_that_is_trained_prints_json(
    call_ablate: Ablate, write_grid: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    grid = write_grid(matrix={"normalization": ["prenorm", "ngpt"]}, baseline={"normalization": "prenorm"})
    prepared = read("data prepare", call_ablate("data", "prepare", grid, "--json"))
    assert prepared["n_train_tokens"] > prepared["n_validation_tokens"] > 0
    planned = read("plan", call_ablate("plan", grid, "--json"))
    late = read("run", call_ablate("run", grid, "--minutes", "0", "--json"))
    assert late["time_is_up"] and late["states"] == {"queued": len(planned)}
    outcome = read("run", call_ablate("run", grid, "--json"))
    assert outcome["states"] == {"finished": len(planned)} and not outcome["failed"]
    run_id = planned[0]["run_id"]
    continued = read("generate", call_ablate("generate", run_id, "--prompt", "ab", "--tokens", "3", "--json"))
    assert continued["text"].startswith("ab")
    assert read("evaluate", call_ablate("evaluate", outcome["study"], "--with", "bits_per_byte", "--json"))
    bench = read("bench", call_ablate("bench", grid, "--steps", "1", "--json"))
    assert {row["arm"] for row in bench["arms"]} == {row["arm"] for row in planned}
    broken = write_grid(study="broken", train={"steps": 12, "learning_rate": 1e30, "batch_size": 4})
    assert read("run", call_ablate("run", broken, "--json"))["states"].keys() <= {"diverged", "finished"}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_search_and_a_tuned_study_print_json(
    call_ablate: Ablate, write_grid: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    space = {"train.learning_rate": [1e-3, 1e-2]}
    search = yaml.safe_load(write_grid(matrix=None, baseline=None, question=None).read_text())
    del search["study"]
    Path("search.yaml").write_text(yaml.safe_dump({**search, "search": "rates", "space": space, "trials": 2}))
    assert read("plan", call_ablate("plan", "search.yaml", "--json"))[0]["trials"] == 2
    found = read("search", call_ablate("search", "search.yaml", "--json"))
    assert set(found["states"]) == {"finished"} and Path(found["page"]).is_file()
    folder = Path(found["page"]).parent
    for words in (("search.yaml", "--report"), (folder,)):
        assert read("search", call_ablate("search", *words, "--json"))["states"] == {}
    tune = {"space": space, "trials": 2}
    grid = write_grid(study="tuned", matrix={"normalization": ["prenorm"]}, baseline=None, tune=tune)
    late = read("run", call_ablate("run", grid, "--minutes", "0", "--json"))
    assert late["study"] == "tuned-tune" and late["time_is_up"]
    done = read("run", call_ablate("run", grid, "--json"))
    assert done["study"] == "tuned" and set(done["states"]) == {"finished"}
