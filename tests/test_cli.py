"""The command line: its output, and its messages for bad input. Nothing is trained here."""

from __future__ import annotations

import io
import json
import pickle
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
import yaml
from typer.main import get_command

from ablate.cli import app
from ablate.cli.command import PLACES
from ablate.plan.estimate import Pace
from ablate.tracking.folders import StudyFolder
from ablate.tracking.study_record import Status
from ablate_model.config import TABLES

ROOT = Path(__file__).parents[1]

Ablate = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ablate(call_ablate: Ablate, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Ablate:
    """A function that runs the command in an empty folder and returns exit code, output and error output."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)

    return call_ablate


@pytest.fixture
def token_files(tmp_path: Path) -> Path:
    """nanoGPT's two files, in which every token is 7 except the last one, which is 49."""
    for name, n_tokens in (("train.bin", 1000), ("val.bin", 1001)):
        (tmp_path / name).write_bytes(bytes([7, 0]) * n_tokens + bytes([49, 0]))
    return tmp_path


def assert_refused(result: tuple[int, str, str], *words: str) -> None:
    """One message, exit code 2, no traceback, nothing written."""
    code, out, err = result
    assert code == 2, out + err
    assert "Traceback" not in out + err
    assert err.startswith("error: ")
    for word in words:
        assert word in err
    assert list(Path().iterdir()) == []


def test_plan_prints_arms_sizes_and_cost(ablate: Ablate, write_grid: Callable[..., Path]) -> None:
    code, out, _ = ablate("plan", write_grid(seeds=2))
    assert code == 0
    assert "attention=differential,normalization=ngpt" in out
    assert "8 runs of 4 arms, seeds 0, 1, " in out
    assert "compared with" not in out and "baseline: attention=standard,normalization=prenorm" in out
    assert list(Path().iterdir()) == []


def test_plan_estimates_for_a_machine_that_is_elsewhere(ablate: Ablate, write_grid: Callable[..., Path]) -> None:
    grid = write_grid(seeds=2, resources={"gpus": 2})
    code, out, _ = ablate("plan", grid, "--on", "8xh100")
    assert code == 0
    assert "4 runs at a time, each by 2 processes on 1 CPU core and 1 GPU" in out
    assert "1.38PFLOP/s for a large matrix product" in out and "on 8xH100" in out  # 2 x 0.7 x 989 TFLOP/s
    code, out, _ = ablate("plan", grid)
    assert code == 0 and "`ablate run` would refuse on this machine" in " ".join(out.split())
    assert "the time is not known until a run has finished" in out
    for name, words in (("8xH10", "did you mean 'H100'"), ("0xH100", "such as 8xH100"), ("H100", "cannot be placed")):
        code, _, err = ablate("plan", grid, "--on", name)
        assert code == 2 and words in err


def test_plan_counted_finished_runs_among_those_to_come(
    ablate: Ablate, write_grid: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "ablate.cli.planned_machine.measure_pace", lambda _: Pace(1e6, 1e9)
    )  # slow enough that a run takes minutes
    grid = write_grid(seeds=2)
    rows = json.loads(ablate("plan", grid, "--json")[1])
    before = ablate("plan", grid)[1]
    for row in rows:
        folder = StudyFolder(Path("runs/tiny")).run(row["run_id"])
        folder.path.mkdir(parents=True)
        folder.write_status(Status(state="finished", took_s=60.0))
    after = ablate("plan", grid)[1]
    assert "are done" not in before and "about 0 s" not in before
    assert "finished runs)" not in before and ", and from finished runs)" in " ".join(after.split())
    assert ("besides about 600MB for Python and PyTorch" in " ".join(before.split())) == (not torch.cuda.is_available())
    assert "8 of the runs are done" in after and "about 0 s" in after


def test_a_note_of_several_arms_named_the_first_alone(ablate: Ablate, write_grid: Callable[..., Path]) -> None:
    matrix = {"attention": ["standard", "sink"], "normalization": ["prenorm", "ngpt"]}
    out = ablate("plan", write_grid(matrix=matrix, match="parameters"))[1]
    assert "note: attention=standard,normalization=ngpt and 1 more arm: d_ff " in out


def test_plan_as_json(ablate: Ablate, write_grid: Callable[..., Path]) -> None:
    code, out, _ = ablate("plan", write_grid(seeds=2), "--json")
    rows = json.loads(out)
    assert code == 0
    assert len(rows) == 8
    assert len({row["run_id"] for row in rows}) == 8
    for row in rows:
        assert {"run_id", "arm", "seed", "n_params", "flops_per_token", "n_tokens"} <= set(row)
        assert row["n_tokens"] == 12 * 4 * 16


def test_settings_reach_the_plan(ablate: Ablate, write_grid: Callable[..., Path]) -> None:
    _, out, _ = ablate("plan", write_grid(), "--json", "--set", "train.steps=5", "--set", "matrix.attention=[standard]")
    rows = json.loads(out)
    assert [row["n_steps"] for row in rows] == [5, 5]


@pytest.mark.parametrize("verb", ["plan", "run"])
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"trian": {}}, ["trian", "'train'", "grid.yaml:"]),
        ({"matrix": {"attention": ["standrad"]}, "baseline": {}}, ["'standard'", "differential"]),
        ({"matrix": {}}, ["empty"]),
        ({"exclude": ["attention = 'x'"]}, ["does not parse"]),
        ({"exclude": ["__import__('os').system('touch hacked')"]}, ["not allowed"]),
        ({"model": {"d_model": 12, "n_layers": 1, "n_heads": 4, "context_length": 16}}, ["even"]),
        ({"data": {"source": "text", "path": "missing/*.txt"}}, ["missing/*.txt"]),
        ({"model": {"d_model": 16, "n_layers": 1, "n_heads": 2, "context_length": 10**6}}, ["1000000"]),
        ({"study": "../../x"}, ["letters"]),
        ({"resources": {"stack": "seed"}}, ["did you mean 'seeds'? (legal: seeds)"]),
        ({"smallest_effect": "big"}, ["smallest_effect: must be a valid number, got 'big'"]),
        ({"data": {"source": "python-stdlib", "tokenizer": "gpt2"}}, ["vocab.bpe"]),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    ablate: Ablate, write_grid: Callable[..., Path], verb: str, changes: dict[str, Any], words: list[str]
) -> None:
    assert_refused(ablate(verb, write_grid(**changes)), "grid.yaml", *words)


@pytest.mark.parametrize("verb", ["plan", "run"])
def test_files_that_are_no_grids(ablate: Ablate, verb: str, tmp_path: Path) -> None:
    assert_refused(ablate(verb, tmp_path), "directory")
    assert_refused(ablate(verb, tmp_path / "none.yaml"), "no such file")
    (tmp_path / "bad.yaml").write_text("study: [x\n")
    assert_refused(ablate(verb, tmp_path / "bad.yaml"), "bad.yaml:", "YAML")


@pytest.mark.parametrize("verb", ["status", "report"])
def test_a_study_that_was_never_run(ablate: Ablate, write_grid: Callable[..., Path], verb: str, tmp_path: Path) -> None:
    assert_refused(ablate(verb, write_grid()), "no study was run here")
    assert_refused(ablate(verb, "quickstart"), "no study was run here")
    assert_refused(ablate(verb, tmp_path), "no study.json")
    assert_refused(ablate(verb, "../x"), "../x")
    assert_refused(ablate(verb, tmp_path / "none.yaml"), "no such file")


@pytest.mark.parametrize("verb", ["plan", "run"])
def test_a_token_beyond_the_vocabulary_is_refused_before_anything_trains(
    ablate: Ablate, write_grid: Callable[..., Path], token_files: Path, verb: str
) -> None:
    data = {"source": "bin", "path": str(token_files), "tokenizer": "gpt2"}
    model = {"d_model": 16, "n_layers": 1, "n_heads": 2, "context_length": 16, "vocab_size": 49}
    words = ("grid.yaml:", "model.vocab_size: the corpus contains the token 49", "legal: at least 50")
    assert_refused(ablate(verb, write_grid(data=data, model=model)), *words)
    assert_refused(ablate(verb, write_grid(data=data, matrix={"model.vocab_size": [50, 20]}, baseline={})), "token 49")
    assert ablate("plan", write_grid(data=data, model={**model, "vocab_size": 50}))[0] == 0


def test_files_of_few_tokens_do_not_take_gpt2s_vocabulary_without_a_word(
    ablate: Ablate, write_grid: Callable[..., Path], token_files: Path
) -> None:
    model = {"d_model": 16, "n_layers": 1, "n_heads": 2, "context_length": 16}
    data = {"source": "bin", "path": str(token_files)}
    out = " ".join(ablate("plan", write_grid(data=data, model=model))[1].split())
    assert "model.vocab_size is 50,304" in out and "the largest token of the corpus is 49: set model.vocab_size" in out
    assert "50,304" not in ablate("plan", write_grid(data=data, model={**model, "vocab_size": 50}))[1]
    (token_files / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": 65}))
    out = " ".join(ablate("plan", write_grid(data=data, model=model))[1].split())
    assert "meta.pkl states 65 tokens: set model.vocab_size" in out


def test_of_many_tokens_a_plan_looks_at_the_first_and_says_so(
    ablate: Ablate, write_grid: Callable[..., Path], token_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("data.corpus", "plan.build"):
        monkeypatch.setattr(f"ablate.{module}.CHECKED_TOKENS", 1000)
    model = {"d_model": 16, "n_layers": 1, "n_heads": 2, "context_length": 16, "vocab_size": 49}
    grid = write_grid(data={"source": "bin", "path": str(token_files), "tokenizer": "gpt2"}, model=model)
    code, out, _ = ablate("plan", grid)
    assert code == 0 and "only the first 1,000 tokens of each split were checked" in out
    assert_refused(ablate("run", grid), "grid.yaml:", "model.vocab_size: the training split contains the token 49")


def test_an_mlflow_that_cannot_be_is_refused_before_anything_trains(
    ablate: Ablate, write_grid: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = write_grid()
    assert_refused(ablate("run", grid, "--tracking-uri", "foo://x"), "tracking URI foo://x", "legal: sqlite, ")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "htps://host")
    assert_refused(ablate("run", grid), "did you mean 'https'?")


def test_a_terminal_that_lacks_characters_shows_others(
    ablate: Ablate, write_grid: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii", write_through=True))
    assert ablate("plan", write_grid(question="why é"))[0] == 0
    assert b"why ?" in written.getvalue()


def test_what_is_no_job_server_is_refused(ablate: Ablate, write_grid: Callable[..., Path]) -> None:
    assert_refused(ablate("submit", write_grid(), "--address", "foo"), "job server", "foo")


def test_wrong_words_on_the_command_line(ablate: Ablate) -> None:
    assert ablate("plam")[0] == 2
    assert ablate("run", "x.yaml", "--wrokers", "2")[0] == 2
    assert ablate("run", "x.yaml", "--workers", "0")[0] == 2


@pytest.mark.parametrize("kind", ["study", "search"])
def test_the_schema_accepts_the_grids_that_ship_and_refuses_a_misspelt_key(ablate: Ablate, kind: str) -> None:
    code, out, _ = ablate("schema", *(["--search"] if kind == "search" else []))
    assert code == 0
    schema = json.loads(out)
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    declared = [(path, yaml.safe_load(path.read_text())) for path in sorted((ROOT / "experiments").glob("*.yaml"))]
    for path, grid in [(path, grid) for path, grid in declared if kind in grid]:
        assert not list(validator.iter_errors(grid)), path
        assert list(validator.iter_errors({**grid, "trian": {}}))
        assert list(validator.iter_errors({**grid, "model": {**grid["model"], "d_modle": 3}}))


def test_every_grid_that_ships_can_be_planned(ablate: Ablate) -> None:
    for path in sorted((ROOT / "experiments").glob("*.yaml")):
        declared = yaml.safe_load(path.read_text())
        data = ["--set", "data={source: python-stdlib}"] if "data" in declared else []  # the wiki data is not here
        code, out, err = ablate("plan", path, "--json", *data)
        if "start_from" in declared:  # test_questions.py plans and trains it
            assert (code, declared["start_from"]["study"] in err) == (2, True), err
            continue
        assert code == 0, err
        assert json.loads(out)


def test_the_page_of_a_published_search_is_made_from_its_summary(ablate: Ablate, tmp_path: Path) -> None:
    assert_refused(ablate("search", tmp_path), "summary.json", "no such file")
    arm: dict[str, Any] = {"arm": "ngpt", "size": "12 parameters", "space": {}, "left_out": [], "defaults": {}}
    arm |= {"n_configurations": 0, "history": [], "best": None, "default": None, "at_edge": [], "importance": []}
    objective = {"metric": "val_loss", "target": None, "direction": "minimize", "text": "val_loss"}
    summary = {"schema": 1, "version": "0", "search": "tiny", "question": "Why?", "scope": "little", "trials": 1}
    summary |= {
        "objectives": [objective],
        "seeds": [0],
        "sampler": {"name": "TPESampler"},
        "pruner": {"name": "NopPruner"},
    }
    summary |= {"data": {"hash": "c0ffee"}, "arms": [arm], "confirmation": None}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    code, out, err = ablate("search", tmp_path)
    assert code == 0, err
    assert "search.html" in out
    assert "ngpt: no trial was completed." in (tmp_path / "search.md").read_text()


def test_variants(ablate: Ablate) -> None:
    code, out, _ = ablate("variants", "--json")
    table = json.loads(out)
    assert code == 0
    assert {"standard", "differential"} <= set(table["attention"])
    assert {"prenorm", "ngpt"} <= set(table["normalization"])
    for entry in (*table["attention"].values(), *table["normalization"].values()):
        assert entry["paper"]
        assert "knobs" in entry
    code, out, _ = ablate("variants")
    assert code == 0
    assert "2410.05258" in out
    assert "2410.01131" in out


def test_a_cluster_that_does_not_answer_is_refused_at_once(ablate: Ablate, write_grid: Callable[..., Path]) -> None:
    with socket.socket() as unheard:  # bound, but not listening
        unheard.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unheard.getsockname()[1]}"
        assert_refused(
            ablate("run", write_grid(), "--address", address), f"--address {address}", "no Ray cluster answers"
        )


def test_more_than_there_is_names_the_line_of_the_grid(ablate: Ablate, write_grid: Callable[..., Path]) -> None:
    grid = write_grid(resources={"cpus": 100_000})
    words = ("grid.yaml:", "resources", "100000 CPU", "there are")
    assert_refused(ablate("run", grid), *words)
    code, out, _ = ablate("plan", grid)  # which may be for another machine
    out = " ".join(out.split())  # lines break elsewhere with another folder
    assert code == 0 and all(word in out for word in ("`ablate run` would refuse", *words))


def test_one_broken_line_of_a_table_ended_every_verb_in_a_traceback(
    ablate: Ablate, write_grid: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TABLES["attention"].lines, "bad", "standard:Gone")
    code, out, err = ablate("variants")
    assert code == 2 and "linear_ensemble" in out and "ngpt" in out
    assert err.startswith("error: attention.name: the line 'bad': 'standard:Gone' of the attention table cannot be ")
    assert ablate("variants", "--json")[0] == 2
    assert_refused(ablate("schema"), "the line 'bad': 'standard:Gone' of the attention table")
    assert ablate("plan", write_grid())[0] == 0
    grid = write_grid(matrix={"attention": ["standard", "bad"]}, baseline={"attention": "standard"})
    assert_refused(ablate("plan", grid), "grid.yaml:", "'standard:Gone'")


def list_commands(group: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every verb with its words, those of groups too."""
    for verb, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from (((verb, *words), inner) for words, inner in list_commands(command))
        else:
            yield (verb,), command


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("logs", "x", "--lines", str(10**20)), "--lines: must be a number of at most 9,223,372,036,854,775,807"),
        (("status", "x", "--watch", "--every", "inf"), "--every: must be a number of at most 1,000,000,000, got inf"),
        (("run", "x", "--minutes", "1e400"), "--minutes: must be a number of at most 1,000,000,000, got inf"),
        (("plan", "x", "--workers", str(10**20)), "--workers: must be a number of at most"),
        (("plan", "x", "--set", "x" * 100_000 + "=1"), "is too long (legal: at most 10,000 characters)"),
        (("report", "x", "--where", "x" * 100_000), "--where: 'xxx"),
    ],
)
def test_a_value_of_an_option_without_measure_is_one_short_message(ablate: Ablate, words: Any, message: str) -> None:
    code, out, err = ablate(*words)
    assert_refused((code, out, err), message)
    assert len(err) < 500


@pytest.mark.parametrize(
    "name",
    [
        "nul\0byte",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("new\nline", "x" * 300, "deep/" + "x" * 256 + "/deep")
        ),
    ],
)
def test_a_name_that_no_file_can_have_ended_in_a_traceback(ablate: Ablate, name: str) -> None:
    """Tries every path argument of every verb, found by its name in the help."""
    tried = 0
    for verb, command in list_commands(get_command(app)):
        arguments = [parameter for parameter in command.params if not parameter.opts[0].startswith("-")]
        needed = ["x" for parameter in arguments if parameter.required]
        for parameter in command.params:
            if str(parameter.metavar).strip("[].") in PLACES:
                tried += 1
                if parameter in arguments:
                    place = arguments.index(parameter)
                    words = [*["x"] * place, name, *needed[place + 1 :]]
                    label = str(parameter.metavar)
                else:
                    words = [*needed, parameter.opts[0], name]
                    label = parameter.opts[0]
                assert_refused(ablate(*verb, *words), "NUL byte" if "\0" in name else label)
    assert tried > 30
    if "\0" in name:
        assert_refused(ablate("generate", "x", "--prompt", name), "NUL byte")
