"""Every knob of every variant changes the model or its training, or the config declares that it has no effect."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any

import pytest
import torch

from ablate_model import GPT, ConfigError, ModelConfig, variants

SIZES = {"d_model": 24, "n_layers": 2, "n_heads": 4, "vocab_size": 11, "context_length": 8, "d_ff": 20}
NO_ATTENTION = {"dropped": ["attention/0", "attention/1"]}
MODELS: dict[str, dict[str, Any]] = {
    "prenorm": {},
    "ngpt": {"normalization": "ngpt"},
    "peri": {"normalization": "peri"},
    "bitnet": {"linear": "bitnet_b158"},
    "dyt of bitnet": {"linear": "bitnet_b158", "normalization": "dyt"},
    "no position": {"position": "none"},
    "heads of width 2": {"n_heads": 12},
    "one head": {"n_heads": 1},
    "no attention": NO_ATTENTION,
    "no attention in ngpt": {**NO_ATTENTION, "normalization": "ngpt"},
    "no mlp": {"dropped": ["mlp/0", "mlp/1"]},
    "biased ngpt": {"normalization": "ngpt", "bias": True},
}
# Values for knobs without a list of legal values, by the end of the knob's name.
VALUES: dict[str, list[Any]] = {
    "window": [3, 8, 99],
    "logit_softcap": [0.5],
    "n_kv_heads": [1, 2, 4],
    "qk_head_dim": [2, 4, 6],
    "n_noise_heads": [1, 2, 4],
    "num_maps": [1, 2],
    "init": [0.7, -0.7],
    "embedding_scale": [0.7],
    "scaler_init": [0.7],
    "s_gate": [{}, {"init": 0.7}],
    "num_hyperspheres": [2, 3],
    "norm_eps": [0.1],
    "blocks_per_stage": [3],
    "memory_weight": [0.5],
    "memory_tau": [0.2],
    "branch_orthogonality": [0.3],
    "embedding_orthogonality": [0.3],
    "input_shift": [3.0],
    "bias_init": [1.0],
}
# These knobs have no effect beside certain others, which are listed here.
COMPANIONS: dict[str, list[dict[str, Any]]] = {
    "qk_norm_place": [{}, {"qk_norm": "rms"}, {"qk_norm": "l2"}],
    "init": [{}, {"sink": "off_by_one"}],
    "scope": [{}, {"num_maps": 1}, {"num_maps": 1, "map_weight": "softmax", "map_init": "uniform"}],
    "map_init": [{}, {"num_maps": 1}, {"map_weight": "free"}],
    "map_weight": [{}, {"num_maps": 1}, {"map_init": "uniform"}],
    "width": [{}, {"num_maps": 1}, {"qk_head_dim": 4}],
    "alpha_sign": [
        {},
        {"alpha_attn": {"mode": "fixed"}, "alpha_mlp": {"mode": "fixed"}},
        {"alpha_attn": {"mode": "fixed", "init": -0.1}, "alpha_mlp": {"mode": "fixed"}},
    ],
    "alpha_attn.scale": [{}, {"alpha_attn": {"mode": "fixed"}}],
    "memory_tau": [{}, {"memory_weight": 0.5}],
    "s_z.scale": [{}, {"s_z": {"mode": "fixed"}}],
}
OWN: list[tuple[str, Any]] = [
    ("value_residual", "half"),
    ("value_residual", "learned"),
    ("embedding_shortcut", True),
    ("d_ff", 32),
    ("d_ff", None),
    ("logit_softcap", 0.5),
    ("tie_embeddings", True),
    ("bias", True),
    ("dropout", 0.5),
]
SAME = 1e-9  # far above float64's rounding in three steps of a small model, and far below any real difference


@cache
def train(text: str) -> tuple[int, torch.Tensor]:
    """The number of parameters, and the losses of three steps of AdamW and the logits after them, in float64."""
    config = ModelConfig.parse(json.loads(text))
    model = GPT(config, seed=1).double()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    model.post_step()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    ids = torch.randint(0, 11, (2, 9), generator=generator)
    seen = []
    for step in range(3):
        torch.manual_seed(step)
        loss = model.train().loss(ids[:, :-1], ids[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.post_step()
        seen.append(loss.detach().view(1))
    seen.append(model.eval()(ids[:, :-1]).detach().flatten())
    return config.num_params(), torch.cat(seen)


def trains_alike(one: ModelConfig, other: ModelConfig) -> bool:
    (size, seen), (other_size, others) = (train(json.dumps(config.to_dict())) for config in (one, other))
    return size == other_size and bool(((seen - others).abs() <= SAME).all())


def nest(path: str, value: Any) -> dict[str, Any]:
    first, _, rest = path.partition(".")
    return {first: nest(rest, value) if rest else value}


def lay(tree: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """`tree` with the values of `more`."""
    both = {
        key: lay(tree[key], value) if isinstance(value, Mapping) and isinstance(tree.get(key), Mapping) else value
        for key, value in more.items()
    }
    return {**tree, **both}


def levels(knob: str, about: Mapping[str, Any]) -> list[Any]:
    kind, default = about["type"], about["default"]
    listed = [word.strip() for word in kind[kind.index("{") + 1 : kind.index("}")].split(",")] if "{" in kind else []
    if isinstance(default, bool):
        return [not default]
    by_factor = [default * 1.7] if isinstance(default, float) and default else []
    values = listed + VALUES.get(knob.rpartition(".")[2], by_factor)
    assert values, f"{knob} needs values in this test"
    return values


def cases() -> Iterator[tuple[str, str, str]]:
    for axis, table in variants().items():
        for name, entry in table.items():
            for knob in entry["knobs"]:
                yield axis, name, knob


def build(base: Mapping[str, Any], **more: Any) -> ModelConfig | None:
    try:
        return ModelConfig.parse({**SIZES, **base, **more})
    except ConfigError:
        return None


def check(one: ModelConfig, other: ModelConfig, label: str) -> None:
    assert (one == other) == trains_alike(one, other), label
    assert (hash(one) == hash(other)) >= (one == other), label
    usual = other.canonical()
    assert usual == other
    assert usual.canonical().to_dict() == usual.to_dict(), label
    assert not usual.idle_settings(), label


CASES = pytest.mark.parametrize(("axis", "name", "knob"), list(cases()))


@CASES
def test_a_knob_changes_the_training_or_is_known_to_decide_nothing(axis: str, name: str, knob: str) -> None:
    compare(axis, name, knob, ("prenorm",) if is_inherited(axis, name, knob) else ("prenorm", "ngpt"))


@pytest.mark.slow
@pytest.mark.timeout(600)
@CASES
def test_the_same_inside_every_kind_of_model(axis: str, name: str, knob: str) -> None:
    compare(axis, name, knob, [] if is_inherited(axis, name, knob) else MODELS)


def is_inherited(axis: str, name: str, knob: str) -> bool:
    """Tell if the knob is one that every attention has from the standard one."""
    return axis == "attention" and name != "standard" and knob in variants()[axis]["standard"]["knobs"]


def compare(axis: str, name: str, knob: str, models: Iterable[str]) -> None:
    """Every value of a knob with its default, in each model, beside each of its companions."""
    values = levels(knob, variants()[axis][name]["knobs"][knob])
    n_compared = 0
    for model in models:
        base = {key: value for key, value in MODELS[model].items() if key != axis}
        for companion in COMPANIONS.get(knob, COMPANIONS.get(knob.rpartition(".")[2], [{}])):
            one = build(base, **{axis: {"name": name, **companion}})
            for value in values:
                other = build(base, **{axis: {"name": name, **lay(companion, nest(knob, value))}})
                if one is not None and other is not None:
                    check(one, other, f"{model}: {companion} with {knob}={value}")
                    n_compared += 1
    assert n_compared or not models


@pytest.mark.parametrize(("key", "value"), OWN)
def test_a_setting_of_the_model_changes_the_training_or_is_known_to_decide_nothing(key: str, value: Any) -> None:
    nothing = {"dropped": ["attention/0", "attention/1", "mlp/0", "mlp/1"]}
    for base in (*MODELS.values(), nothing, {"dropped": ["attention/1"]}, {"n_layers": 1}):
        one, other = build(base), build(base, **{key: value})
        assert one is not None
        if other is not None:
            check(one, other, f"{base} with {key}={value}")
