"""Grids of tasks: what their runs are, which settings they take, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from ablate.cli.inputs import read_plan
from ablate.errors import GridError
from ablate.execution.jobs import config_of, record_study
from ablate.plan import Plan
from ablate.plan.json_schema import grid_schema
from ablate.plan.task_setup import TaskSetup
from ablate.search.pose import pose_tuning
from ablate_model import EncoderDecoderConfig, ViTConfig

Write = Callable[..., Path]
STARTER = Path(__file__).parents[2] / "ablate" / "starters" / "attention" / "my_attention.py"
PAIRS = {"task": {"name": "sequence_to_sequence"}, "model": {"d_model": 16, "n_layers": 2, "n_heads": 2}}
DIGITS = {"task": "images", "model": {"d_model": 16, "n_layers": 2, "n_heads": 2, "patch_size": 2}}
TRAIN = {"steps": 20, "batch_size": 8}


@pytest.fixture
def plan_of(write_grid: Write, tmp_path: Path) -> Callable[..., Plan]:
    """The plan of a grid without data; keyword arguments are its sections."""

    def plan(*settings: str, **sections: Any) -> Plan:
        matrix = {"normalization": ["prenorm", "ngpt"]}
        grid = write_grid(**{"data": None, "baseline": None, "train": TRAIN, "matrix": matrix, **sections})
        return read_plan(grid, tmp_path / "runs", list(settings))

    return plan


def task(**knobs: Any) -> dict[str, Any]:
    return {**PAIRS["task"], **knobs}


def ids(plan: Plan) -> list[str]:
    return [run.run_id for run in plan.runs]


# Identities


def test_the_ids_of_runs_of_tasks_stay(plan_of) -> None:
    """Recorded when tasks were new, so that studies with such runs can resume."""
    assert ids(plan_of(**PAIRS)) == ["00fa27d83026f7e2", "aff8a0a95d0e7cd8"]
    assert ids(plan_of(**DIGITS)) == ["e731cba335a7f4b5", "f76383b69647094a"]


def test_what_does_not_change_a_run_does_not_change_its_id(plan_of, tmp_path) -> None:
    plan = ids(plan_of(**PAIRS))
    assert ids(plan_of(**{**PAIRS, "task": task(metric="exact_match", source="reverse", noise=0.9)})) == plan
    assert ids(plan_of(**{**PAIRS, "task": task(longest=9)})) != plan
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "pairs.tsv").write_text("".join(f"{n} {n + 1}\t{n + 2}\n" for n in range(99)))
    paths = [str(tmp_path / folder / "pairs.tsv") for folder in ("here", "there")]
    one, other = (ids(plan_of(**{**PAIRS, "task": task(source="tsv", path=path)})) for path in paths)
    assert one == other
    (tmp_path / "there" / "pairs.tsv").write_text("".join(f"{n} {n + 1}\t{n + 3}\n" for n in range(99)))
    assert ids(plan_of(**{**PAIRS, "task": task(source="tsv", path=paths[1])})) != one


def test_records_of_language_models_say_nothing_about_tasks(write_grid, tmp_path) -> None:
    plan = read_plan(write_grid(), tmp_path / "runs", [])
    named = read_plan(write_grid(task="language_model"), tmp_path / "runs", [])
    assert ids(plan) == ids(named)
    assert "task" not in config_of(plan, plan.runs[0])
    record = record_study(plan, "", "").to_dict()
    assert "metrics" not in record and "task" not in record["data"]


def test_records_of_tasks_name_task_metrics_and_data(plan_of) -> None:
    plan = plan_of(**{**DIGITS, "task": {"name": "images", "metric": "loss"}})
    assert config_of(plan, plan.runs[0])["task"]["name"] == "images"
    record = record_study(plan, "", "").to_dict()
    assert record["metrics"] == [["val_loss", "lower"], ["val_accuracy", "higher"]]
    assert record["data"]["task"] == "images" and len(record["data"]["hash"]) == 64


# Models and axes


def test_the_model_takes_its_sizes_from_the_data(plan_of) -> None:
    (model,) = {arm.model for arm in plan_of(**DIGITS, matrix={"model.mlp": ["gelu"]}).arms}
    assert isinstance(model, ViTConfig)
    assert (model.image_size, model.n_channels, model.n_classes, model.context_length) == (8, 1, 10, 16)
    settings = task(source="copy_with_distractors", longest=6, noise=0.75, symbols=10)
    (model,) = {arm.model for arm in plan_of(**{**PAIRS, "task": settings}, matrix={"model.mlp": ["gelu"]}).arms}
    assert isinstance(model, EncoderDecoderConfig)
    assert (model.vocab_size, model.source_length, model.context_length) == (14, 4 * 6 + 6, 7)


def test_each_attention_is_an_axis(plan_of) -> None:
    plan = plan_of(
        **PAIRS,
        matrix={
            "attention": ["standard", "sink"],
            "cross_attention": ["standard", {"name": "differential", "head_norm": "none"}],
            "model.encoder_attention": ["standard", "gated"],
        },
        rules=[{"when": "decoder_attention == 'sink'", "set": {"model.mlp": "simba"}}],
    )
    models = [arm.model for arm in plan.arms]
    assert len(models) == 8
    assert {m.decoder_attention.name for m in models} == {"standard", "sink"}
    assert {m.cross_attention.name for m in models} == {"standard", "differential"}
    assert {m.encoder_attention.name for m in models} == {"standard", "gated"}
    assert all((m.decoder_attention.name == "sink") == (m.mlp.name == "simba") for m in models)
    assert {m.cross_attention.head_norm for m in models if m.cross_attention.name == "differential"} == {"none"}


@pytest.mark.parametrize("by", ["parameters", "flops"])
def test_sizes_are_matched_in_encoder_and_decoder(plan_of, by) -> None:
    matrix = {"attention": ["standard", "differential"], "model.mlp": ["swiglu", "gelu"]}
    plan = plan_of("model.d_model=64", **PAIRS, matrix=matrix, match=by)
    size = {"parameters": lambda m: m.num_params(), "flops": lambda m: m.flops_per_token()}[by]
    base, *others = [arm.model for arm in plan.arms]
    for model in others:
        assert size(model) == pytest.approx(size(base), rel=0.02)
        assert model.encoder.d_ff == model.d_ff == model.cross.d_ff
    assert len({model.d_ff for model in others}) > 1


def test_an_attention_from_a_file_can_be_that_of_the_decoder(plan_of, tmp_path) -> None:
    shutil.copy(STARTER, tmp_path)
    own = ["standard", {"name": "my_attention.py:MyAttention", "label": "mine"}]
    plan = plan_of(**PAIRS, matrix={"decoder_attention": own})
    assert [code.entry for code in plan.codes] == ["my_attention.py"]
    with pytest.raises(GridError, match="cannot be used in both directions"):
        plan_of(**PAIRS, matrix={"encoder_attention": own})


def test_trials_of_a_search_are_measured_on_the_same_data(plan_of) -> None:
    settings = {"task": task(source="copy_with_distractors"), "model": PAIRS["model"]}

    def pose(**space: Any) -> int:
        tune = {"space": {"train.learning_rate": [0.001, 0.01], **space}, "trials": 4, "seeds": [9]}
        plan = plan_of(**settings, tune={**tune, "sampler": "GridSampler"})
        return pose_tuning(plan.grid, plan.corpus).n_trials

    assert pose(**{"task.label_smoothing": [0.0, 0.1]}) == 8
    with pytest.raises(GridError, match="it changes the validation data, so its trials could not be compared"):
        pose(**{"task.noise": [0.1, 0.5]})


def test_arms_that_train_alike_are_merged(plan_of) -> None:
    settings = {"task.source": ["reverse", "copy_with_distractors"], "task.noise": [0.1, 0.5]}
    plan = plan_of(**PAIRS, matrix=settings, compare_within=["task.source", "task.noise"])
    assert len(plan.arms) == 3
    assert "task.noise has no effect: reverse has none" in " ".join(plan.notices)


def test_the_cost_of_a_run_counts_what_its_model_computes(plan_of) -> None:
    (arm, _) = plan_of(**PAIRS).arms
    assert arm.n_tokens == 20 * 8 * arm.model.context_length
    assert arm.flops_per_token == arm.model.flops_per_token() > arm.model.flops_per_target_token()
    assert isinstance(arm.setup, TaskSetup) and arm.setup.describe_horizon() == "20 steps of 8 pairs (160 pairs)"
    (arm, _) = plan_of(**DIGITS).arms
    assert arm.setup.describe_horizon() == "20 steps of 8 images (160 images, 0.111 epochs)"
    assert arm.setup.memory_bytes > 16 * arm.n_params


# Refusals


REFUSED: list[tuple[Mapping[str, Any], str]] = [
    ({"task": "imges"}, "task: there is no task 'imges'; did you mean 'images'?"),
    ({"task": 3}, "task: must be the name of a task, or a mapping with a name, got 3"),
    ({"task": {"name": "images", "crp": 1}}, "task.crp: unknown key 'crp'; did you mean 'crop'?"),
    ({"task": {"name": "images", "crop": 8}}, "task.crop 8 would shift images of 8 pixels away"),
    ({"task": {"name": "images", "source": "npz"}}, "task.path: the source npz needs one"),
    ({"task": {"name": "images", "source": "npz", "path": "gone.npz"}}, "task.path: gone.npz: there is no such file"),
    ({"task": {"name": "language_model", "crop": 1}}, "task: language_model has no settings here"),
    ({"data": {"source": "python-stdlib"}}, "data: images does not read it: its data are settings of `task`"),
    ({"train": {**TRAIN, "eval_tokens": 5}}, "train.eval_tokens: images does not read it"),
    ({"model": {**DIGITS["model"], "n_classes": 9}}, "model.n_classes: 9 does not fit the images, which need 10"),
    ({"model": {**DIGITS["model"], "patch_size": 3}}, "model.patch_size: must divide image_size = 8, got 3"),
    ({"matrix": {"attention": ["standard", "selective"]}}, "selective cannot be used in both directions"),
    ({"matrix": {"task.name": ["images"]}}, "all arms of a study have the same task"),
    ({"matrix": {"task.crp": [1]}}, "'task.crp': unknown key 'crp'; did you mean 'crop'?"),
    ({"matrix": {"cross_attention": ["standard"]}}, "unknown axis 'cross_attention'"),
    ({"task": task(bleu=True)}, "task.bleu: BLEU compares texts"),
    ({"task": task(shortest=9)}, "task.shortest: 9 is more than longest, which is 8"),
    ({"task": task(), "model": {**PAIRS["model"], "context_length": 8}}, "8 is less than the 9 tokens"),
    ({"task": task(), "model": {**PAIRS["model"], "vocab_size": 8}}, "8 is less than the 30 different tokens"),
    (
        {"task": task(source="copy_with_distractors"), "model": PAIRS["model"], "matrix": {"task.noise": [0, 0.5]}},
        "have other validation data: set `compare_within: task.noise`",
    ),
    (
        {"evaluations": ["bits_per_byte"]},
        "evaluations.0: bits_per_byte does not fit the task images: it evaluates models of kind gpt, but these are of "
        "kind vit (legal: a function in a file, as in my_eval.py:weight_norm)",
    ),
    (
        {"evaluations": ["recall", "outliers"], "task": "recall", "model": PAIRS["model"]},
        "evaluations.1: outliers does not fit the task recall: it needs a corpus (legal: needle, recall, order, ",
    ),
    ({"program": {"command": "echo"}, "task": "images"}, "task: the runs are those of a program"),
]


@pytest.mark.parametrize(("sections", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_what_cannot_work_is_refused_with_its_place(plan_of, sections, message) -> None:
    with pytest.raises(GridError) as error:
        plan_of(**{**DIGITS, **sections})
    assert message in str(error.value) and "grid.yaml" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("verb", ["bench", "data prepare"])
def test_verbs_about_language_models_refuse_other_tasks(call_ablate, plan_of, tmp_path, verb) -> None:
    plan_of(**DIGITS)
    code, _, err = call_ablate(*verb.split(), tmp_path / "grid.yaml", "--runs", tmp_path / "runs")
    assert code == 2 and "grid.yaml" in err and "task: " in err and "language models" in err


def test_the_schema_knows_tasks_and_their_models(write_grid) -> None:
    schema = jsonschema.Draft202012Validator(grid_schema())

    def problems(**sections: Any) -> list[str]:
        grid = yaml.safe_load(write_grid(data=None, train=TRAIN, **sections).read_text())
        return [error.message for error in schema.iter_errors(grid)]

    assert (
        not problems(**DIGITS)
        and not problems(**PAIRS)
        and not problems(**{**DIGITS, "task": {"name": "images", "crop": 2}})
    )
    assert any("patch_size" in text for text in problems(**{**DIGITS, "task": "language_model"}))
    assert problems(task={"name": "images", "crp": 2})
    assert json.dumps(grid_schema())


# Files


def write_pairs(folder: Path, kind: str, pairs: list[tuple[str, str]]) -> str:
    path = folder / f"pairs.{kind}"
    if kind == "tsv":
        path.write_text("".join(f"{source}\t{target}\n" for source, target in pairs))
    elif kind == "jsonl":
        path.write_text("".join(json.dumps({"from": s, "to": t}) + "\n" for s, t in pairs))
    else:
        pq.write_table(pa.table({"from": [s for s, _ in pairs], "to": [t for _, t in pairs]}), path)
    return str(path)


@pytest.mark.parametrize("kind", ["tsv", "jsonl", "parquet"])
def test_pairs_of_every_kind_of_file_are_the_same_data(plan_of, tmp_path, kind) -> None:
    pairs = [(f"süß {n}", f"sweet {n}") for n in range(120)]
    keys = {"source_key": "from", "target_key": "to"} if kind != "tsv" else {}
    settings = task(source=kind, path=write_pairs(tmp_path, kind, pairs), **keys)
    (arm, *_) = plan_of(**{**PAIRS, "task": settings}).arms
    data = arm.setup.data
    assert data.n_train + data.n_validation == 120 and 2 <= data.n_validation <= 30
    assert data.hash.startswith("d342ede9fac6c2ce")
    assert (arm.model.source_length, arm.model.context_length, arm.model.vocab_size) == (9, 10, 260)


@pytest.mark.parametrize(
    ("kind", "content", "message"),
    [
        ("tsv", b"a\tb\nno tab\n", "pairs.tsv: line 2: has 1 column, where a source, a tab and a target are expected"),
        ("tsv", b"a\tb\n\xff\tb\n", "pairs.tsv: line 2: is not UTF-8"),
        ("jsonl", b'{"source": "a", "target": "b"}\n{"source": "a"}\n', "line 2: there is no key 'target'"),
        ("jsonl", b'{"source": "a", "target": 3}\n', "line 1: 'target' must be text, got 3"),
        ("jsonl", b'{"source": "a", "target": "b"}\n[1]\n', "line 2: is not a JSON object: [1]"),
        ("parquet", b"PAR1", "pairs.parquet: is not a Parquet file"),
        ("tsv", b"a\tb\n", "task.path: the validation split has no pairs"),
    ],
)
def test_pairs_that_cannot_be_read_are_refused(plan_of, tmp_path, kind, content, message) -> None:
    (tmp_path / f"pairs.{kind}").write_bytes(content)
    with pytest.raises(GridError, match=r"grid\.yaml") as error:
        plan_of(**{**PAIRS, "task": task(source=kind, path=f"pairs.{kind}")})
    assert message in str(error.value)


def save_images(folder: Path, pixels: Any, classes: Any) -> None:
    from PIL import Image

    for index, (image, label) in enumerate(zip(pixels, classes, strict=True)):
        place = folder / f"class {label}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{index:03}.png")


def test_images_of_an_archive_and_of_folders_are_the_same(plan_of, tmp_path) -> None:
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (60, 6, 6, 3), dtype=np.uint8)
    classes = np.sort(draw.integers(0, 3, 60))
    np.savez(tmp_path / "images.npz", images=pixels, labels=classes)
    save_images(tmp_path / "images", pixels, classes)
    found = []
    for source, path in (("npz", "images.npz"), ("folder", "images")):
        (arm, *_) = plan_of(**{**DIGITS, "task": {"name": "images", "source": source, "path": path}}).arms
        found.append(arm.setup.data)
        assert (arm.model.image_size, arm.model.n_channels, arm.model.n_classes) == (6, 3, 3)
    assert found[0].hash == found[1].hash and found[0].n_train + found[0].n_validation == 60
    np.savez(tmp_path / "split.npz", x_train=pixels, y_train=classes[:, None], x_test=pixels[:9], y_test=classes[:9])
    (arm, *_) = plan_of(**{**DIGITS, "task": {"name": "images", "source": "npz", "path": "split.npz"}}).arms
    assert (arm.setup.data.n_train, arm.setup.data.n_validation) == (60, 9)


def test_images_that_cannot_be_read_are_refused(plan_of, tmp_path) -> None:
    def refusal(source: str, path: str, **knobs: Any) -> str:
        with pytest.raises(GridError, match=r"grid\.yaml") as error:
            plan_of(**{**DIGITS, "task": {"name": "images", "source": source, "path": path, **knobs}})
        return str(error.value)

    os.mkfifo(tmp_path / "pipe.npz")
    assert "this is a FIFO, not a file" in refusal("npz", "pipe.npz")
    with (tmp_path / "array.npz").open("wb") as file:
        np.save(file, np.zeros((4, 3, 3)))
    assert "array.npz: is a single NumPy array, not an archive of several" in refusal("npz", "array.npz")
    np.savez(tmp_path / "class.npz", images=np.zeros((4, 3, 3)), labels=np.arange(4) + 10**9)
    assert "class.npz: the class 1,000,000,003 is too large (legal: below 1,000,000)" in refusal("npz", "class.npz")
    (tmp_path / "text.npz").write_text("no archive")
    assert "text.npz: is not a NumPy archive" in refusal("npz", "text.npz")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    assert "other.npz: it holds a, but the arrays x_train, y_train, x_test, y_test or images, labels" in refusal(
        "npz", "other.npz"
    )
    np.savez(tmp_path / "flat.npz", images=np.zeros((4, 3, 5)), labels=np.zeros(4, int))
    assert "expected square images (n, y, x) or (n, y, x, channels), got (4, 3, 5, 1)" in refusal("npz", "flat.npz")
    save_images(tmp_path / "mixed", np.zeros((1, 6, 6), np.uint8), [0])
    save_images(tmp_path / "mixed", np.zeros((1, 8, 8), np.uint8), [1])
    assert "is 8 x 8 with 1 channel, but images before it are 6 x 6 with 1 channel: set task.size" in refusal(
        "folder", "mixed"
    )
    assert "has no images" in refusal("folder", "mixed", size=6)  # two equal images are in the same split
    (tmp_path / "mixed" / "class 1" / "bad.png").write_text("no image")
    assert "bad.png: is not an image that can be read" in refusal("folder", "mixed", size=6)
