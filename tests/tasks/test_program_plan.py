"""What a grid with a program may say, and what is refused before anything starts."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from program_bench import Bench

from ablate.errors import GridError
from ablate.plan.inputs import describe_inputs
from ablate.study.template import fill

ECHO = "import json, os, sys\njson.dump([sys.argv[1:], dict(os.environ)], open(sys.argv[1] + '/seen.json', 'w'))\n"
ECHO += "print('step 1: val loss 2.0')\n"


def see(mine: Bench, index: int = 0) -> tuple[list[str], dict[str, str]]:
    """The arguments and the environment of a run's program."""
    mine.write(ECHO)
    plan = mine.plan()
    assert mine.train(plan, index) == "finished"
    words, env = json.loads((mine.folder_of(plan, index).path / "seen.json").read_text())
    return words[1:], env


def test_a_level_stays_one_argument_and_no_shell_sees_it(bench: Callable[..., Bench]) -> None:
    nasty = "a b; touch x $(id) `id` 'q' \"d\" {seed} \\ \n*"
    command = "python train.py {run_dir} {kind} --kind={kind} --seed {seed} '{{literal}}' $HOME *"
    mine = bench({"command": command}, matrix={"kind": ["x", nasty]}, seeds=[7])
    words, env = see(mine, 1)
    assert words == [nasty, f"--kind={nasty}", "--seed", "7", "{literal}", "$HOME", "*"]
    assert env["ABLATE_KIND"] == nasty
    assert not (mine.folder / "x").exists()


def test_settings_reach_the_program_as_words_variables_and_a_file(bench: Callable[..., Bench]) -> None:
    mine = bench(
        {"command": ["python", "train.py", "{run_dir}", "{train.lr}", "{flag}"], "env": {"WANDB_MODE": "off-{kind}"}},
        train={"lr": 3e-4, "opt": {"betas": [0.9, 0.95]}},
        matrix={"kind": ["plain", {"name": "new", "train.lr": 1e-3}], "flag": [True, None, "yes"]},
        resources={"cpus": 1, "gpus": 0},
    )
    words, env = see(mine, 3)
    assert words == ["0.001", "True"]
    assert {name: env[name] for name in env if name.startswith(("ABLATE_TRAIN", "ABLATE_KIND", "ABLATE_FLAG"))} == {
        "ABLATE_TRAIN_LR": "0.001",
        "ABLATE_TRAIN_OPT_BETAS": "[0.9, 0.95]",
        "ABLATE_KIND": "new",
        "ABLATE_FLAG": "True",
    }
    assert (env["WANDB_MODE"], env["OMP_NUM_THREADS"], env["CUDA_VISIBLE_DEVICES"]) == ("off-new", "1", "")
    assert not [name for name in env if name.startswith("RAY_")]
    plan = mine.plan()
    arm = json.loads((mine.folder_of(plan, 3).path / "arm.json").read_text())
    assert arm["settings"] == {"train": {"lr": 1e-3, "opt": {"betas": [0.9, 0.95]}}, "kind": "new", "flag": True}
    assert (arm["seed"], arm["study"], arm["run_dir"]) == (0, "mine", env["ABLATE_RUN_DIR"])
    assert see(mine, 4)[0] == ["0.001", "None"]


@pytest.mark.parametrize(
    ("program", "changes", "message"),
    [
        ({"command": "python train.py {kid}"}, {}, "program.command: nothing fills {kid}; did you mean 'kind'?"),
        ({"command": "pyhton train.py"}, {}, "there is no program 'pyhton' on this machine"),
        (
            {"command": "python trian.py"},
            {},
            "there is no file 'trian.py' in the grid's folder; did you mean 'train.py'",
        ),
        ({"command": "python 'train.py"}, {}, "program.command: cannot be split into words: No closing quotation"),
        ({"command": ""}, {}, "program.command: is empty"),
        ({"command": "python train.py {kind"}, {}, "has a single brace: write {{ or }} for a brace"),
        ({"command": "python train.py {kind}"}, {"matrix": {"kind": ["a", "--out=/etc"]}}, "may take it for an option"),
        ({"pattern": "val (?P<val_loss>["}, {}, "is not a regular expression"),
        ({"pattern": r"val (?P<val_loss>\S+)"}, {}, "no pattern has a group for the step"),
        ({"pattern": r"step (\d+)"}, {}, "has no named group for a metric"),
        ({"metrics": {"acc": "up"}}, {}, "'up'"),
        ({"metrics": {"step": "lower"}}, {}, "'step' cannot be a metric"),
        ({"code": ["gone.py"]}, {}, "program.code: 'gone.py': there is no such file or folder"),
        ({"code": ["../x"]}, {}, "must be a path inside the grid's folder"),
        ({"code": ["*.cu"]}, {}, "'*.cu' matches no file"),
        ({"env": {"ABLATE_LOG": "1"}}, {}, "program.env.ABLATE_LOG: ABLATE_LOG cannot be set: it comes from ablate"),
        ({"command": "cd x && python train.py"}, {}, "program.command: '&&' means nothing, because no shell runs"),
        ({"env": {"A B": "1"}}, {}, "is not a valid name of an environment variable"),
        ({"steps": "train.iters"}, {"train": {"max_iters": 5}}, "did you mean 'train.max_iters'"),
        ({"silent_for": 0}, {}, "program.silent_for"),
        ({"comand": "x"}, {}, "unknown key; did you mean 'command'?"),
        ({}, {"matrix": {"kind": [0, 0.0]}}, "matrix.kind.1: the level '0.0' is in the list twice: it is 0"),
        ({}, {"matrix": {"kind": [1000, 1e3, True]}}, "the level '1000.0' is in the list twice: it is 1000"),
        ({}, {"matrix": {"seed": [1, 2]}}, "'seed' is set by ablate for every run"),
        ({}, {"matrix": {"run.dir": [1, 2]}}, "run.dir and run_dir would both be $ABLATE_RUN_DIR"),
        ({}, {"matrix": {"a-b": [1, 2], "a_b": [1, 2]}}, "a_b and a-b would both be $ABLATE_A_B"),
        ({}, {"train": [1]}, "train: must be a mapping of the program's settings, got [1]"),
        ({}, {"resources": {"processes": 2}}, "a program starts its own processes"),
        ({}, {"match": "parameters"}, "match"),
        ({}, {"own": {}}, "unknown key 'own'"),
    ],
)
def test_a_mistake_is_refused_with_its_place(
    bench: Callable[..., Bench], program: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    mine = bench(program, **changes)
    mine.write(ECHO)
    with pytest.raises(GridError) as error:
        mine.plan()
    assert message in str(error.value)
    assert str(error.value).startswith(str(mine.folder / "grid.yaml"))


def test_negative_numbers_are_no_options(bench: Callable[..., Bench]) -> None:
    matrix = {"kind": [-1, "-0.5", "-1e-3"]}
    assert see(bench({"command": "python train.py {run_dir} {kind}"}, matrix=matrix), 1)[0] == ["-0.5"]


def test_seeds_that_the_command_does_not_read_are_told_of(bench: Callable[..., Bench]) -> None:
    mine = bench({"command": "python train.py {kind}"}, seeds=3)
    mine.write("pass\n")
    (notice,) = mine.plan().notices
    assert "no placeholder {seed}" in notice
    one_seed = bench({"command": "python train.py {kind}"}, seeds=1)
    one_seed.write("pass\n")
    assert not one_seed.plan().notices


def test_a_plan_says_which_files_run_and_what_no_placeholder_reads(bench: Callable[..., Bench]) -> None:
    mine = bench({"command": "python train.py --lr {train.lr} {seed}"}, train={"lr": 0.1, "steps": 3})
    mine.write("import helper\n")
    mine.write("from package.part import x\n", "helper.py")
    mine.write("not imported\n", "other.py")
    (mine.folder / "package").mkdir()
    mine.write("", "package/__init__.py")
    mine.write("x = 1\n", "package/part.py")
    plan = mine.plan()
    text = "\n".join(describe_inputs(plan))
    assert "the first run: python train.py --lr 0.1 0\n" in text
    assert "4 files" in text
    assert text.endswith("helper.py, package/__init__.py, package/part.py, train.py")
    (notice,) = plan.notices
    assert notice == (
        "the command has no placeholder for the axis kind: the program must read it from $ABLATE_KIND, "
        "or from arm.json in {run_dir}"
    )
    assert (plan.arms[0].n_params, plan.arms[0].n_tokens, plan.total_flops) == (None, None, None)


def test_a_module_that_python_runs_is_part_of_the_code(bench: Callable[..., Bench]) -> None:
    mine = bench({"command": "python -m package.main {kind} {seed} '&&'"})
    (mine.folder / "package").mkdir(parents=True)
    for name in ("__init__", "main", "part"):
        mine.write("from . import part\n", f"package/{name}.py")
    setup: Any = mine.plan().arms[0].setup
    assert setup.code.files == ("package/__init__.py", "package/main.py", "package/part.py")
    assert not mine.plan().notices


def test_a_plan_says_what_would_only_show_at_the_end_of_a_run(bench: Callable[..., Bench]) -> None:
    pattern = r"step (?P<step>\d+): (?P<valloss>\S+)"
    mine = bench({"command": "bash -c 'python train.py {kind} {seed}'", "pattern": pattern})
    code, metric = mine.plan().notices
    assert code.startswith("no file of the program is known, so a change of its code makes no new runs")
    assert metric.startswith("no pattern has a group for the metric val_loss; did you mean 'valloss'?")


def test_only_what_decides_the_result_is_in_the_run_id(bench: Callable[..., Bench]) -> None:
    mine = bench(train={"lr": 0.1})
    mine.write(ECHO)
    mine.write("a note\n", "notes.txt")
    before = [run.run_id for run in mine.plan().runs]
    mine.grid |= {"question": "Why?", "seeds": 2}
    mine.grid["program"] |= {"silent_for": 5, "timeout": 60, "steps": 100}
    mine.write("another note\n", "notes.txt")
    assert [run.run_id for run in mine.plan().runs][:2] == before
    seen = {tuple(before)}
    for change in ({"env": {"A": "1"}}, {"command": "python  train.py -v"}, {"metrics": {"val_loss": "higher"}}):
        mine.grid["program"] |= change
        seen.add(tuple(run.run_id for run in mine.plan().runs))
    mine.grid["train"]["lr"] = 0.2
    seen.add(tuple(run.run_id for run in mine.plan().runs))
    mine.write(ECHO + "# changed\n")
    seen.add(tuple(run.run_id for run in mine.plan().runs))
    assert len(seen) == 6


def test_files_that_git_tracks_count_but_grids_do_not(bench: Callable[..., Bench]) -> None:
    mine = bench()
    mine.write(ECHO)
    mine.write("size: 3\n", "model.yaml")
    mine.write("study: other\n", "other.yaml")
    mine.write("x", "untracked.bin")
    assert mine.file.exists()
    for words in (["init", "-q"], ["add", "train.py", "model.yaml", "other.yaml", "grid.yaml"]):
        subprocess.run(["git", "-C", mine.folder, *words], check=True)
    setup: Any = mine.plan().arms[0].setup
    assert setup.code.files == ("model.yaml", "train.py")


def test_rules_conditions_and_overrides_work_on_settings_of_any_name(bench: Callable[..., Bench]) -> None:
    mine = bench(
        {"command": "python train.py {run_dir} {train.lr} {train.rank}"},
        train={"lr": 1.0, "rank": 0},
        matrix={"kind": ["plain", "new"], "train.rank": [4, 8]},
        conditions={"train.rank": "kind == 'new'"},
        rules=[{"when": "train.rank == 8", "set": {"train.lr": 0.5}}],
        baseline={"kind": "plain", "train.rank": 4},
    )
    mine.write(ECHO)
    plan = mine.plan()
    assert [arm.name for arm in plan.arms] == ["kind=plain", "kind=new,train.rank=4", "kind=new,train.rank=8"]
    assert [see(mine, index)[0] for index in range(3)] == [["1.0", "0"], ["1.0", "4"], ["0.5", "8"]]


def test_values_are_written_as_python_reads_them() -> None:
    values = {"a": True, "b": None, "c": 1e-05, "d": [1, "x"], "e": "true", "f.g": 10**6}
    assert fill("{a} {b} {c} {d} {e} {f.g} {{}}", values) == 'True None 1e-05 [1, "x"] true 1000000 {}'
