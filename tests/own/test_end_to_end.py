"""From an empty folder to a text that the user's attention continues, with the command line only."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from own_files import ablate, command, environment, make_project, run_ids

PATIENCE_S = 300.0
MINE = "attention=my_attention.py:MyAttention(window=4)"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_plain_module_from_plan_to_generate(tmp_path: Path, corpus_file: Path) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    grid = make_project(folder, corpus_file)

    planned = ablate(folder, "plan", grid.name)
    assert "runs your code: my_attention.py, helpers.py, version " in planned
    assert MINE in planned
    rows = json.loads(ablate(folder, "plan", grid.name, "--json"))
    assert (
        len({(row["n_params"], row["flops_per_token"]) for row in rows}) == 1
    )  # a window masks, it saves nothing here

    # SIGKILL in the middle of a run of the user's attention, then the same command
    runs = {row["arm"]: row["run_id"] for row in rows}
    mine = folder / "runs" / "mine" / runs[MINE]
    process = subprocess.Popen(
        command("run", grid.name, "--set", "train.steps=120"), cwd=folder, env=environment(), start_new_session=True
    )
    long_runs = folder / "runs" / "mine"
    deadline = time.monotonic() + PATIENCE_S
    while not any(_uses_own(path.parent) and _n_lines(path.parent) > 5 for path in long_runs.glob("*/checkpoint.pt")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    (killed,) = (path.parent for path in long_runs.glob("*/checkpoint.pt") if _uses_own(path.parent))
    before = (killed / "curve.jsonl").read_text().splitlines()
    ablate(folder, "run", grid.name, "--set", "train.steps=120")
    after = (killed / "curve.jsonl").read_text().splitlines()
    assert json.loads(after[-1])["step"] == 120
    assert len(before) > 5
    assert after[:4] == before[:4]  # with the same times: it went on from its checkpoint
    undisturbed = ablate(folder, "run", grid.name, "--set", "train.steps=120", "--runs", "again")
    assert "2 finished" in undisturbed
    twin = (folder / "again" / "mine" / killed.name / "curve.jsonl").read_text().splitlines()
    losses = [[json.loads(line)["train_loss"] for line in lines] for lines in (after, twin)]
    assert losses[0] == losses[1]

    # another content is another run, and the old one stays
    ablate(folder, "run", grid.name)
    first = run_ids(folder)
    assert first == runs
    assert mine.is_dir()
    source = folder / "my_attention.py"
    source.write_text(source.read_text().replace("return self.out(", "return 0.5 * self.out("))
    ablate(folder, "run", grid.name)
    second = run_ids(folder)
    assert second["attention=standard"] == first["attention=standard"]
    assert second[MINE] != first[MINE]
    assert mine.is_dir()
    ablate(folder, "report", grid.name, "--no-attach")
    assert "MyAttention" in (folder / "runs" / "mine" / "report" / "report.html").read_text()

    # on another machine, which has only the archive
    ablate(folder, "pack", grid.name, "--weights", "--out", "mine.tar.gz")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    ablate(elsewhere, "merge", folder / "mine.tar.gz")
    (version,) = (elsewhere / "runs" / "mine" / "code").iterdir()
    assert {path.name for path in version.iterdir()} == {"my_attention.py", "helpers.py"}
    ablate(elsewhere, "report", "mine", "--no-attach")
    run = second[MINE]
    refused = ablate(elsewhere, "generate", run, "--tokens", "8", code=2)
    assert f"code/{version.name}/my_attention.py" in refused
    assert "--trust-code" in refused
    trusted = ablate(elsewhere, "generate", run, "--tokens", "8", "--trust-code")
    assert trusted == ablate(folder, "generate", run, "--tokens", "8", "--grid", grid.name)
    source.write_text(source.read_text() + "# edited\n")
    assert "which does not exist here" in ablate(folder, "generate", run, "--tokens", "8", "--grid", grid.name, code=2)
    (version / "helpers.py").write_text("raise SystemExit('never')\n")
    assert "its files were changed" in ablate(elsewhere, "generate", run, "--trust-code", code=2)


def _n_lines(run: Path) -> int:
    return len((run / "curve.jsonl").read_text().splitlines())


def _uses_own(run: Path) -> bool:
    config = run / "config.json"
    return config.is_file() and "my_attention.py" in config.read_text()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_search_varies_a_knob_of_the_users_attention(tmp_path: Path, corpus_file: Path) -> None:
    grid = make_project(tmp_path, corpus_file)
    declared = yaml.safe_load(grid.read_text())
    search = {
        "search": "window",
        "data": declared["data"],
        "model": {**declared["model"], "attention": "my_attention.py:MyAttention"},
        "train": declared["train"],
        "resources": {"cpus": 1},
        "space": {"model.attention.window": {"choices": [2, 8]}, "train.learning_rate": {"low": 1e-3, "high": 1e-2}},
        "trials": 3,
    }
    (tmp_path / "search.yaml").write_text(yaml.safe_dump(search, sort_keys=False))
    ablate(tmp_path, "search", "search.yaml")
    best = yaml.safe_load((tmp_path / "runs" / "window" / "best.yaml").read_text())
    assert "window" in json.dumps(best)
    configs = [json.loads(path.read_text()) for path in (tmp_path / "runs" / "window").glob("*/config.json")]
    assert {config["model"]["attention"]["window"] for config in configs} <= {2, 8, 64}
    (version,) = (tmp_path / "runs" / "window" / "code").iterdir()
    assert {config["model"]["attention"]["version"] for config in configs} == {version.name}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_crash_in_training_is_the_users_own_line(tmp_path: Path, corpus_file: Path) -> None:
    """The checks before training cannot see an error that comes after some steps."""
    grid = make_project(tmp_path, corpus_file)
    source = tmp_path / "my_attention.py"
    source.write_text(
        source.read_text()
        .replace("self.n_heads, self.window", "self.calls = 0\n        self.n_heads, self.window")
        .replace(
            "b, t, d = x.shape",
            "self.calls += b == 4\n        assert self.calls < 5, 'enough'\n        b, t, d = x.shape",
            1,
        )
        .replace("self.calls += b == 4", "self.calls += x.shape[0] == 4")
    )
    told = ablate(tmp_path, "run", grid.name, code=1)
    line = next(i for i, text in enumerate(source.read_text().splitlines(), 1) if "assert" in text)
    assert f"my_attention.py:{line}: assert self.calls < 5, 'enough': AssertionError: enough" in told
    assert "1 failed, 1 finished" in told
    assert "ablate_model" not in told


@pytest.mark.slow
def test_plan_and_check_need_no_ray_and_refuse_by_name(tmp_path: Path, corpus_file: Path) -> None:
    grid = make_project(tmp_path, corpus_file)
    source = tmp_path / "my_attention.py"
    source.write_text(
        source.read_text().replace("attn_mask=causal_window(t, self.window, x.device)", "is_causal=False")
    )
    told = ablate(tmp_path, "plan", grid.name, code=2)
    assert "grid.yaml:" in told
    assert "my_attention.py:MyAttention is not causal: output 0 depends on input 1" in told
    assert "Traceback" not in told
    shutil.rmtree(tmp_path / "runs", ignore_errors=True)
    checked = json.loads(ablate(tmp_path, "check", "my_attention.py", "--no-compile", "--json", code=1))
    outcomes = {check["name"]: check["outcome"] for check in checked["checks"]}
    assert outcomes["causality"] == outcomes["decoding"] == "fail"
    assert outcomes["gradients"] == outcomes["resuming"] == "pass"
