"""What every verb prints with `--json` fits its documented schema, and nothing else is on standard output."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from typer.main import get_command

from ablate.cli import app
from ablate.cli.outputs import OUTPUTS, output_schemas
from ablate.plan.schema_reference import write_outputs
from test_cli import list_commands

Ablate = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parents[1]
SCHEMAS = output_schemas()
OTHERS = {"report", "evaluate", "schema"}  # they print documents that have schemas of their own


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
    code, out, err = call_ablate("logs", "nothing", "--json")
    assert (code, out) == (2, "") and err.startswith("error: ")


@pytest.mark.timeout(240)
def test_a_study_from_plan_to_merge_prints_json(
    call_ablate: Ablate, write_grid: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    grid = write_grid()
    prepared = read("data prepare", call_ablate("data", "prepare", grid, "--json"))
    assert prepared["n_train_tokens"] > prepared["n_validation_tokens"] > 0
    planned = read("plan", call_ablate("plan", grid, "--json"))
    outcome = read("run", call_ablate("run", grid, "--json"))
    study = outcome["study"]
    assert outcome["states"] == {"finished": len(planned)} and not outcome["failed"]
    states = read("status", call_ablate("status", study, "--json"))
    assert {row["run_id"] for row in states} == {row["run_id"] for row in planned}
    assert all(row["val_loss"] > 0 for row in states)
    run_id = planned[0]["run_id"]
    log = read("logs", call_ablate("logs", run_id, "--lines", "2", "--json"))
    assert len(log["curve"]) == 2 and log["curve"][0]["step"] <= log["curve"][1]["step"] == log["step"]
    continued = read("generate", call_ablate("generate", run_id, "--prompt", "ab", "--tokens", "3", "--json"))
    assert continued["text"].startswith("ab")
    assert read("clean", call_ablate("clean", study, "--keep", "none", "--dry-run", "--json"))["n_bytes"] > 0
    assert read("pack", call_ablate("pack", study, "--json"))["n_runs"] == len(planned)
    merged = read("merge", call_ablate("merge", f"{study}.tar.gz", "--runs", "other", "--json"))
    assert (merged["n_added"], merged["n_present"]) == (len(planned), 0)
    code, out, err = call_ablate("stop", study, "--json")
    assert (code, out) == (2, "") and "no `ablate run` is training it" in err
