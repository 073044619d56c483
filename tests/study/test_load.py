"""From grid.yaml to Study, and the messages for files that cannot be read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ablate.errors import GridError
from ablate.study import load_study, study_name

WriteGrid = Callable[..., Path]

MINIMAL = "study: s\nmodel: {d_model: 8}\ntrain: {steps: 10}\nmatrix: {attention: [standard]}\n"


def load_text(tmp_path: Path, text: str, *settings: str):
    path = tmp_path / "grid.yaml"
    path.write_text(text)
    return load_study(path, settings)


def refusal(tmp_path: Path, text: str, *settings: str) -> str:
    with pytest.raises(GridError) as caught:
        load_text(tmp_path, text, *settings)
    return str(caught.value)


def test_a_grid_is_read_with_its_defaults(tmp_path: Path) -> None:
    study = load_text(tmp_path, MINIMAL + "seeds: 3\nexclude: attention == 'x'\n")
    assert study.seeds == (0, 1, 2)
    assert study.exclude == ("attention == 'x'",)
    assert (study.data.source, study.design, study.match) == ("python-stdlib", "full", "none")


def test_numbers_are_read_as_people_write_them(tmp_path: Path) -> None:
    study = load_text(
        tmp_path, MINIMAL.replace("[standard]", "[1e-3, 1_000, 010, 1.5, off, no, 'true', true, 1:30, null]")
    )
    assert study.matrix["attention"] == (0.001, 1000, 10, 1.5, "off", "no", "true", True, "1:30", None)


@pytest.mark.parametrize(
    ("change", "line", "words"),
    [
        (("train: {steps: 10}", "train: {stepz: 10}"), 3, ["train.stepz", "'steps'", "learning_rate"]),
        (("study: s", "stdy: s"), 1, ["stdy", "'study'"]),
        (("study: s", "study: ../../x"), 1, ["study", "letters"]),
        (("study: s", "study: s\ndata: {source: pythn}"), 2, ["data.source", "python-stdlib", "text", "bin"]),
        (
            ("study: s", "study: s\ndata: {source: bin, path: d, validation_path: v}"),
            2,
            ["val.bin is the"],
        ),
        (("steps: 10", "steps: 0"), 3, ["train.steps", "greater than 0"]),
        (("steps: 10", "steps: ten"), 3, ["train.steps", "'ten'"]),
        (("steps: 10", "steps: 10, learning_rate: .inf"), 3, ["train.learning_rate"]),
        (("steps: 10", "steps: 10, warmup_steps: 10"), 3, ["warmup_steps"]),
        (("steps: 10", "steps: 10, batch_size: 6, micro_batch_size: 4"), 3, ["micro_batch_size"]),
        (
            ("steps: 10", "steps: 10, micro_batch_size: atuo"),
            3,
            ["train.micro_batch_size: must", "or auto, got 'atuo'"],
        ),
        (("steps: 10", "steps: 10, attention_backend: flahs"), 3, ["train.attention_backend", "'flash'", "fastest"]),
        (("steps: 10", "steps: 10, optimizer: muon, cuda_graph: true"), 3, ["cuda_graph: muon cannot"]),
        (("study: s", "study: s\nsmallest_effect: 0"), 2, ["smallest_effect", "greater than 0"]),
        (("study: s", "study: s\nsmallest_effect: .inf"), 2, ["smallest_effect"]),
        (("study: s", "study: s\nsmallest_effect: small"), 2, ["smallest_effect", "'small'"]),
        (("{attention: [standard]}", "{}"), 4, ["matrix", "empty"]),
        (("[standard]", "[]"), 4, ["matrix", "attention", "no levels"]),
        (("[standard]", "standard"), 4, ["matrix.attention", "must be a list"]),
        (("study: s", "study: s\ndata: 3"), 2, ["data: must be a mapping of source, tokenizer", "got 3"]),
        (("study: s", "study: s\nrules: [{when: x, set: {}}]"), 2, ["rules.0.set: is empty"]),
        (("study: s", "study: s\n? [a]\n: 1"), 2, ["a key must be a word, not a seq"]),
        (("study: s", "study: s\nseeds: 0"), 2, ["seeds"]),
        (("study: s", "study: s\nseeds: [1, 1]"), 2, ["seeds", "distinct"]),
        (
            ("study: s", "study: s\nseeds: three"),
            2,
            ["seeds: must be a number of seeds, a list of seeds, or {at_least: ..., ", "until: decided}, got 'three'"],
        ),
        (("study: s", "study: s\nseeds: 3.5"), 2, ["must be a number of seeds", "got 3.5"]),
        (("study: s", "study: s\nseeds: 20261124"), 2, ["seeds: [20261124]"]),
        (("study: s", "study: s\nseeds: [18446744073709551616]"), 2, ["seeds"]),
        (("study: s", "study: mlflow.db"), 1, ["MLflow"]),
        (("study: s", "study: s\nquestion: !!bool maybe"), 2, ["maybe"]),
        (("study: s", 'study: s\nquestion: "\\uD800"'), 2, ["text"]),
        (("study: s", 'study: s\nquestion: "\\e[31m"'), 2, ["text"]),
        (("study: s", "study: s\nquestion: \x01"), 2, ["text"]),
        (("steps: 10", "steps: true"), 3, ["train.steps"]),
        (("steps: 10", f"steps: {'9' * 5000}"), 3, ["YAML"]),
        (("study: s", "study: s\nstudy: t"), 2, ["study", "twice"]),
        (("study: s", "study: s\nrules: [{when: x, st: {}}]"), 2, ["rules.0.st", "'set'"]),
        (("study: s", "study: s\n  bad: [1"), 2, ["YAML"]),
        (("study: s", "study: !!python/object/apply:os.system [ls]"), 1, ["YAML"]),
        (("study: s", "study: s\ndata: {source: text}"), 2, ["data", "path"]),
        (("study: s", "study: s\ndata: {path: x}"), 2, ["source: text"]),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path: Path, change: tuple[str, str], line: int, words: list[str]) -> None:
    message = refusal(tmp_path, MINIMAL.replace(*change))
    assert f"grid.yaml:{line}" in message
    for word in words:
        assert word in message


def test_a_misspelt_key_is_one_problem_and_another_missing_key_stays_one(tmp_path: Path) -> None:
    (problem,) = refusal(tmp_path, MINIMAL.replace("matrix:", "matrx:")).splitlines()
    assert "grid.yaml:4: matrx: unknown key; did you mean 'matrix'?" in problem
    both = refusal(tmp_path, MINIMAL.replace("matrix:", "unrelated_words:"))
    assert "the key 'matrix' is missing" in both and "unrelated_words: unknown key" in both


def test_keys_that_exclude_each_other_are_refused_at_the_line_of_one(tmp_path: Path) -> None:
    grid = tmp_path / "grid.yaml"
    grid.write_text("study: s\nprogram: {command: echo}\nmatrix: {a: [1, 2]}\nresources:\n  gpus: 1\n  stack: seeds\n")
    with pytest.raises(GridError, match=r"grid\.yaml:6: resources\.stack: a program trains one seed at a time$"):
        load_study(grid)
    with pytest.raises(GridError, match=r"^--set: evaluations: a program keeps"):
        load_study(grid, ["resources={}", "evaluations=[recall]"])


@pytest.mark.parametrize("text", ["", "[]", "- a\n- b", "just words"])
def test_a_file_that_is_no_mapping(tmp_path: Path, text: str) -> None:
    assert "study: NAME" in refusal(tmp_path, text)


def test_a_directory_and_a_missing_file(tmp_path: Path) -> None:
    (tmp_path / "grid.yaml").touch()
    with pytest.raises(GridError, match="directory"):
        load_study(tmp_path)
    with pytest.raises(GridError, match=r"grid\.yml: no such file; did you mean 'grid\.yaml'"):
        load_study(tmp_path / "grid.yml")


def test_an_alias_of_itself_and_a_file_without_an_end(tmp_path: Path) -> None:
    assert "nested too deeply, or contains itself" in refusal(tmp_path, f"{MINIMAL}seeds: &a [*a]\n")
    with pytest.raises(GridError, match="/dev/zero: grid files are limited to"):
        load_study("/dev/zero")


def test_a_binary_file(tmp_path: Path) -> None:
    path = tmp_path / "grid.yaml"
    path.write_bytes(b"\xff\xfe\x00study")
    with pytest.raises(GridError, match="UTF-8"):
        load_study(path)


def test_aliases_that_expand_without_end(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join(f'*a{i - 1}' for _ in range(10))}]" for i in range(1, 9)]
    assert "aliases" in refusal(tmp_path, "\n".join(lines))


def test_an_alias_of_itself(tmp_path: Path) -> None:
    assert "grid.yaml" in refusal(tmp_path, "study: &a [*a]\n")


def test_settings_lie_over_the_grid(tmp_path: Path) -> None:
    text = MINIMAL.replace("{d_model: 8}", "{d_model: 8, attention: differential}")
    study = load_text(
        tmp_path,
        text,
        "train.steps=3",
        "seeds=[4]",
        "matrix.train.learning_rate=[1e-3, 1e-2]",
        "model.attention.lambda_init=0.5",
    )
    assert study.train.steps == 3
    assert study.seeds == (4,)
    assert study.matrix["train.learning_rate"] == (0.001, 0.01)
    assert study.model["attention"] == {"name": "differential", "lambda_init": 0.5}


def test_a_setting_reaches_entries_of_lists_and_keys_with_dots(tmp_path: Path) -> None:
    text = MINIMAL + "rules: [{when: normalization == 'ngpt', set: {train.beta1: 0.5}}]\n"
    text += "tune: {space: {train.learning_rate: {low: 1.0e-3, high: 1.0e-2}}, trials: 2}\n"
    study = load_text(
        tmp_path,
        text,
        "rules.0.set.train.beta1=0.8",
        "rules.0.set.train.beta2=0.9",
        "tune.space.train.learning_rate.low=2e-3",
        "matrix.attention.0=gated",
    )
    assert study.rules[0].set == {"train.beta1": 0.8, "train.beta2": 0.9}
    assert study.tune is not None
    assert study.tune.space["train.learning_rate"].low == 2e-3
    assert study.matrix["attention"][0] == "gated"


def test_a_setting_replaces_a_mapping_by_a_name(tmp_path: Path) -> None:
    text = MINIMAL.replace("{d_model: 8}", "{d_model: 8, attention: {name: differential, head_norm: l2}}")
    assert load_text(tmp_path, text, "model.attention=gated").model["attention"] == "gated"


@pytest.mark.parametrize(
    "setting",
    [
        *("train.steps", "=3", "train..steps=3", "study.x=3", "train.stps=3", "train.steps=["),
        *("model.d_model.x=3", "train.steps.x=3", "matrix.normalization.9=peri", "matrix.normalization.x=peri"),
        *("model=5", "train=null", "seeds.x=1", "resources.cpus.x=2", "data.path.0=x"),
    ],
)
def test_a_setting_that_cannot_be_is_named(tmp_path: Path, setting: str) -> None:
    assert "--set" in refusal(tmp_path, MINIMAL, setting)


def test_the_name_alone(write_grid: WriteGrid) -> None:
    assert study_name(write_grid()) == "tiny"
    with pytest.raises(GridError, match="letters"):
        study_name(write_grid(study="../x"))
