"""`--with`: what it may set, what overrides it, and errors that name the file and line of the value."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ablate.data import CorpusInfo
from ablate.errors import GridError
from ablate.plan import Plan, build_plan
from ablate.study import load_overlay, load_study

Lay = Callable[..., Plan]

BASE = {"d_model": 16, "n_layers": 1, "n_heads": 2, "context_length": 16}


@pytest.fixture
def lay(write_grid: Callable[..., Path], corpus_info: CorpusInfo, tmp_path: Path) -> Lay:
    """The plan of a tiny grid with the texts as overlays `0.yaml`, `1.yaml`, ..."""

    def plan(*texts: str, **changes: object) -> Plan:
        study = load_study(write_grid(**{"matrix": {"normalization": ["prenorm", "ngpt"]}, "baseline": None} | changes))
        overlays = []
        for index, text in enumerate(texts):
            path = tmp_path / f"{index}.yaml"
            path.write_text(text)
            overlays += load_overlay(path)
        return build_plan(study, corpus_info, overlays)

    return plan


def test_an_overlay_on_a_whole_number_that_the_grid_sets(lay: Lay) -> None:
    plan = lay("model.n_layers: 3\ntrain.steps: 20\nmodel.tie_embeddings: true\nmodel.d_ff: null\ntrain.beta1: 0.5")
    assert {(arm.model.n_layers, arm.train.steps, arm.model.tie_embeddings, arm.train.beta1) for arm in plan.arms} == {
        (3, 20, True, 0.5)
    }


@pytest.mark.parametrize("text", ["model.attention: gated", "attention: gated", "model.attention: {name: gated}"])
def test_a_variant_over_a_mapping_takes_the_knobs_that_it_has(lay: Lay, text: str) -> None:
    differential = {"name": "differential", "head_norm": "l2", "n_kv_heads": 1}
    for arm in lay(text, model={**BASE, "attention": differential}).arms:
        assert arm.model.attention.to_dict().items() >= {"name": "gated", "n_kv_heads": 1}.items()
        assert "gated has no knob 'head_norm': model.attention.head_norm is left out" in arm.notices


def test_a_group_of_knobs_never_changes_the_level_of_an_arm(lay: Lay) -> None:
    axis = "model.normalization.alpha_attn.init"
    model = {**BASE, "normalization": "ngpt"}
    plan = lay(
        "model.normalization.alpha_attn: {init: 0.3, mode: fixed}", model=model, matrix={axis: [0.1, 0.2]}, seeds=1
    )
    assert [arm.model.normalization.alpha_attn.init for arm in plan.arms] == [0.1, 0.2]
    assert any(f"{axis} is left out: a level of the arm sets it" in notice for notice in plan.notices)


@pytest.mark.parametrize(
    ("texts", "place", "words"),
    [
        (("train.beta1: 0.9", "\ntrain.steps: -3"), "1.yaml:2: train.steps", "greater than 0"),
        (("train.steps: -3", "train.beta1: 0.9"), "0.yaml:1: train.steps", "greater than 0"),
        (("train.beta1: 0.9", "train.warmup_steps: 90"), "1.yaml:1: train.warmup_steps", "leaves no step of 12"),
        (("train.warmup_steps: 90", "train.beta1: 0.9"), "0.yaml:1: train.warmup_steps", "leaves no step of 12"),
        (("model.d_model: 33",), "0.yaml:1: model.d_model", "must divide d_model = 33"),
        (("model.n_layers: 2.5",), "0.yaml:1: model.n_layers", "valid integer"),
        (("model.n_layers: {a: 1}",), "0.yaml:1: model.n_layers", "no parts"),
        (("model.n_layers.x: 1",), "0.yaml:1: model.n_layers.x", "no parts"),
        (("train.steps.x: 1",), "0.yaml:1: train.steps.x", "no parts"),
        (("train.learning_rate: '1e-3'",), "0.yaml:1: train.learning_rate", "valid number"),
        (("model: {n_layers: 2}",), "0.yaml:1: model", "a setting is a short name or a dotted path"),
        (("seeds: 3",), "0.yaml:1: seeds", "a setting is a short name or a dotted path"),
        (("data.path: x",), "0.yaml:1: data.path", "the same data"),
        (("",), "0.yaml", "an overlay is a mapping of dotted paths to values"),
        (("[1]",), "0.yaml", "an overlay is a mapping of dotted paths to values"),
        (("{}",), "0.yaml", "is empty"),
        (("overlay: []",), "0.yaml:1: overlay", "is empty"),
        (("search: x",), "0.yaml:1", "'overlay' is missing"),
        (("overlay: [{set: {}}]",), "0.yaml:1: overlay.0.set", "is empty"),
        (("overlay:\n- set: {train.steps: 2}\n- set: {train.stepz: 2}",), "0.yaml:3: overlay.1.set", "'steps'"),
        (("overlay:\n- set: {train.steps: 2}\n  when: 5",), "0.yaml:3: overlay.0.when", "valid string"),
        (("overlay:\n- set: {train.steps: 2}\n  when: open('x')",), "0.yaml:3: overlay.0.when", "is not allowed"),
        (("overlay:\n- set: {train.steps: 2}\n  when: model.n_layers < 'a'",), "0.yaml:3: overlay.0.when", "compared"),
        (("overlay:\n- set: {train.steps: 2}\n  when: nrm == 1",), "0.yaml:3: overlay.0.when", "unknown name 'nrm'"),
        (("a: &a [*a]",), "0.yaml", "not valid YAML"),
        (("!!python/object:os.system x",), "0.yaml:1", "unknown tag"),
    ],
)
def test_a_bad_overlay_is_one_message_with_its_line(
    lay: Lay, tmp_path: Path, texts: tuple[str, ...], place: str, words: str
) -> None:
    with pytest.raises(GridError) as refusal:
        lay(*texts)
    assert str(refusal.value).startswith(f"{tmp_path}/{place}")
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)
