"""Absurd input, such as numbers out of range and huge files, is refused quickly and with a short message."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from ablate.errors import GridError
from ablate.formatting import quote
from ablate.study import load_study
from ablate.study.schema import Resources, TrainConfig

MINIMAL = "study: s\nmodel: {d_model: 8}\ntrain: {steps: 10}\nmatrix: {attention: [standard]}\n"
SOON_S = 20.0  # a second or two on one idle core
LONGEST_LINE = 1500


def refusal(tmp_path: Path, text: str, *settings: str) -> str:
    path = tmp_path / "grid.yaml"
    path.write_text(text)
    begun = time.process_time()
    with pytest.raises(GridError) as caught:
        load_study(path, settings)
    assert time.process_time() - begun < SOON_S
    assert max(map(len, str(caught.value).splitlines())) < LONGEST_LINE
    return str(caught.value).replace(str(tmp_path), "")


@pytest.mark.parametrize(
    ("key", "value", "legal"),
    [
        ("steps", 10**30, "more than 0, at most 1,000,000,000"),
        ("batch_size", 10**30, "more than 0, at most 10,000,000"),
        ("eval_every", 10**30, "at most 1,000,000,000"),
        ("eval_tokens", 2**63, "at most 1,000,000,000,000"),
        ("warmup_steps", 10**30, "at least 0, at most 1,000,000,000"),
        ("adam_eps", 1e30, "at least 1e-30, at most 1"),
        ("adam_eps", "1e-300", "at least 1e-30, at most 1"),
        ("weight_decay", 1e30, "at least 0, at most 10000"),
        ("learning_rate", 1e31, "more than 0, at most 1e+30"),
        ("grad_clip", 1e30, "at least 0, at most 1e+09"),
        ("logarithmic_rho", 1e30, "at least 1e-09, at most 1e+09"),
    ],
)
def test_a_number_out_of_range_is_refused_with_the_range(tmp_path: Path, key: str, value: float, legal: str) -> None:
    message = refusal(tmp_path, MINIMAL, f"train.{key}={value}")
    assert message.startswith(f"--set: train.{key}: ")
    assert f"{legal})" in message
    text = MINIMAL.replace("{steps: 10}", f"{{steps: 10, {key}: {value}}}" if key != "steps" else f"{{steps: {value}}}")
    assert refusal(tmp_path, text).startswith(f"/grid.yaml:3: train.{key}: ")


@pytest.mark.parametrize("value", [10**30, 0, -1, 1.5, "all", True])
def test_a_micro_batch_size_out_of_range_is_one_message(tmp_path: Path, value: object) -> None:
    message = refusal(tmp_path, MINIMAL, f"train.micro_batch_size={value}")
    assert message == (
        f"--set: train.micro_batch_size: must be a whole number from 1 to 10,000,000 or auto, got {value!r}"
    )


@pytest.mark.parametrize("key", ["runs: x", "stand_ins: {0: 1}", "stand_ins: {a: 1}"])
def test_what_only_the_command_sets_was_taken_from_a_grid(tmp_path: Path, key: str) -> None:
    name = key.partition(":")[0]
    assert f"unknown key '{name}'" in refusal(tmp_path, MINIMAL + f"start_from: {{study: x, {key}}}\n")


@pytest.mark.parametrize("kind", [TrainConfig, Resources])
def test_every_number_has_both_limits(kind: type[TrainConfig | Resources]) -> None:
    for name, known in kind.model_json_schema()["properties"].items():
        for option in known.get("anyOf", [known]):
            if option.get("type") in ("integer", "number"):
                assert {"maximum", "exclusiveMaximum"} & option.keys(), name
                assert {"minimum", "exclusiveMinimum"} & option.keys(), name


KEYS = "\n".join(f"key{index}: {index}" for index in range(60_000))
DEEP = "[" * 5000
MERGES = "\n".join(
    ["a0: &a0 {x: 1, y: 2}", *(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}" for i in range(1, 9))]
)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (MINIMAL + KEYS, "more than 20,000 values"),
        (MINIMAL + f"question: {'x' * 9_900_000}", "limited to 1 MB"),
        (MINIMAL + f"question: {'x' * 20_000}", "/grid.yaml:5: a value of 20,000 characters (legal: at most 10,000)"),
        (MINIMAL + f"{'k' * 900}: 1", "/grid.yaml:5: a key of 900 characters (legal: at most 200)"),
        (MINIMAL + f"question: {DEEP}", "nested too deeply"),
        (MINIMAL + MERGES, "/grid.yaml:5: a0: unknown key"),
        (MINIMAL + "\n".join(f"key{index}: 1" for index in range(5000)), "unknown key"),
        (MINIMAL.replace("[standard]", f"[{', '.join(map(str, range(25_000)))}]"), "more than 20,000 values"),
    ],
    ids=["keys", "megabytes", "value", "key", "depth", "merges", "unknown keys", "levels"],
)
def test_a_file_without_measure_is_refused_soon(tmp_path: Path, text: str, told: str) -> None:
    assert told in refusal(tmp_path, text)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("steps: 10", "steps: VALUE"),
        ("steps: 10", "steps: 10, optimizer: VALUE"),
        ("steps: 10", "steps: 10, micro_batch_size: VALUE"),
        ("study: s", "study: VALUE"),
        ("study: s", "study: s\nseeds: VALUE"),
        ("study: s", "study: s\ndata: VALUE"),
        ("study: s", "study: s\nrules: VALUE"),
        ("study: s", "study: s\ntune: {space: {train.learning_rate: VALUE}, trials: 3}"),
    ],
)
@pytest.mark.parametrize("value", ["x" * 5000, "[" + ", ".join(["1"] * 1500) + "]"], ids=["text", "list"])
def test_a_message_shows_a_long_value_in_short(tmp_path: Path, old: str, new: str, value: str) -> None:
    for line in refusal(tmp_path, MINIMAL.replace(old, new.replace("VALUE", value))).splitlines():
        assert len(line) < 700, line


def test_a_value_in_short() -> None:
    assert quote("ab") == "'ab'"
    assert quote("x" * 118) == repr("x" * 118)
    assert quote("x" * 5000) == f"'{'x' * 59}...{'x' * 29}' (5,002 characters)"
