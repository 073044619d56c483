"""ModelConfig: what it resolves, what it refuses, and its messages."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
import torch
import yaml
from cases import SIZES, tiny

from ablate_model import GPT, ConfigError, ModelConfig

REFUSED: list[tuple[dict[str, Any], str, str, tuple[object, ...]]] = [
    ({"n_heads": 5}, "n_heads", "must divide d_model = 24, got 5", (1, 2, 3, 4, 6, 8, 12, 24)),
    ({"n_layers": 0}, "n_layers", "greater than or equal to 1, got 0", ()),
    ({"n_layers": -1}, "n_layers", "greater than or equal to 1, got -1", ()),
    ({"n_heads": True}, "n_heads", "valid integer", ()),
    ({"d_model": "16"}, "d_model", "valid integer", ()),
    ({"d_ff": 0}, "d_ff", "greater than or equal to 1, got 0", ()),
    ({"bias": "yes"}, "bias", "valid boolean", ()),
    ({"weight_dtype": "float8"}, "weight_dtype", "'float32' or 'bfloat16'", ("float32", "bfloat16")),
    ({"attention": 3}, "attention", "expected a name or a mapping", ("standard",)),
    ({"attention": {"name": "diferential"}}, "attention.name", "did you mean 'differential'?", ("standard",)),
    (
        {"attention": {"name": "differential", "lambda_initt": 0}},
        "attention.lambda_initt",
        "'lambda_init'?",
        ("lambda_init",),
    ),
    ({"attention": {"qk_norm": "rmz"}}, "attention.qk_norm", "got 'rmz'", ("none", "rms", "l2")),
    ({"attention": {"n_kv_heads": 3}}, "attention.n_kv_heads", "must divide n_heads = 4", (1, 2, 4)),
    ({"attention": {"qk_head_dim": 5}}, "attention.qk_head_dim", "width of a query head is 5; make it even", ()),
    ({"n_heads": 8}, "n_heads", "width of a query head is 3", ()),
    (
        {"topology": "linear_gpt", "n_layers": 6, "n_heads": 4},
        "d_model",
        "after 12 features, 4 heads of whole width",
        (),
    ),
    (
        {"topology": "linear_gpt", "n_layers": 3, "n_heads": 4},
        "n_heads",
        "is 3; make it even (in the stage of width 12)",
        (),
    ),
    (
        {"topology": "conv_gpt", "value_residual": "half"},
        "value_residual",
        "conv_gpt changes the width of the stream",
        (),
    ),
    (
        {"attention": {"qk_norm": "l2"}, "normalization": "ngpt"},
        "attention.qk_norm",
        "ngpt normalizes queries and keys",
        ("none",),
    ),
    ({"attention": "differential", "n_heads": 24}, "n_heads", "no room for 48 query heads", ()),
    (
        {"normalization": {"name": "ngpt", "s_qk": {"inti": 1.0}}},
        "normalization.s_qk.inti",
        "'init'?",
        ("mode", "init"),
    ),
    (
        {"normalization": {"name": "ngpt", "s_z": {"mode": "tensor"}}},
        "normalization.s_z.mode",
        "",
        ("vector", "scalar"),
    ),
    ({"normalization": {"name": "ngpt", "s_z": {"scale": 0.0}}}, "normalization.s_z.scale", "must not be 0", ()),
    ({"normalization": {"name": "ngpt", "s_z": {"init": float("nan")}}}, "normalization.s_z.init", "finite", ()),
    (
        {"attention": {"name": "differential", "n_noise_heads": 3}},
        "attention.n_noise_heads",
        "must divide n_heads",
        (1, 2, 4),
    ),
    (
        {"attention": {"name": "differential", "n_noise_heads": 2, "n_kv_heads": 2}},
        "attention.n_noise_heads",
        "need as many key",
        (4,),
    ),
    ({"attention": {"name": "linear_ensemble", "num_maps": 0}}, "attention.num_maps", "greater than", ()),
    (
        {"attention": {"name": "linear_ensemble", "map_weight": "softmax"}},
        "attention.map_init",
        "only start uniform",
        ("uniform",),
    ),
    (
        {"attention": {"name": "linear_ensemble", "map_init": "differential"}},
        "attention.map_weight",
        "only free",
        ("free",),
    ),
    (
        {"attention": {"name": "linear_ensemble", "num_maps": 1, "map_init": "uniform"}},
        "attention.map_weight",
        "tanh never reaches",
        ("softmax", "free"),
    ),
    ({"topology": "parallel_gpt", "n_layers": 3}, "n_layers", "even number of blocks, got 3", ()),
    ({"dropped": ["attention/2"]}, "dropped", "no sub-layer 'attention/2'", ("attention/0", "mlp/1")),
    ({"dropped": ["attention/0"], "value_residual": "half"}, "dropped", "needs the values of attention/0", ()),
    ({"dropout": 1.0}, "dropout", "less than 1", ()),
    ({"logit_softcap": 0}, "logit_softcap", "greater than 0", ()),
    ({"widht": 1}, "widht", "unknown key 'widht'", ("d_model", "d_ff")),
]


@pytest.mark.parametrize(("settings", "path", "message", "legal"), REFUSED, ids=lambda value: str(value)[:40])
def test_refusals_name_the_place_and_what_is_legal(
    settings: dict[str, Any], path: str, message: str, legal: tuple[object, ...]
) -> None:
    with pytest.raises(ConfigError) as refused:
        ModelConfig.parse({**SIZES, **settings})
    assert refused.value.path == path
    assert message in str(refused.value)
    assert set(legal) <= set(refused.value.legal)


@pytest.mark.parametrize("size", ["d_model", "n_layers", "n_heads", "vocab_size", "context_length"])
def test_sizes_have_no_default(size: str) -> None:
    with pytest.raises(ConfigError, match=f"^{size}: is required: ."):
        ModelConfig.parse({key: value for key, value in SIZES.items() if key != size})


def test_errors_travel_between_processes() -> None:
    error = ConfigError("a.b", "is wrong", (1, 2))
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.path, copy.message, copy.legal, str(copy)) == (
        "a.b",
        "is wrong",
        (1, 2),
        "a.b: is wrong (legal: 1, 2)",
    )


def test_configs_are_frozen_hashable_and_travel() -> None:
    config = tiny(attention="differential", normalization="ngpt")
    assert pickle.loads(pickle.dumps(config)) == config
    assert hash(config) == hash(tiny(attention="differential", normalization="ngpt"))
    with pytest.raises(ValueError, match="frozen"):
        config.d_model = 32


@pytest.mark.parametrize("deep", [False, True])
def test_a_changed_copy_counts_its_own_sizes(deep: bool) -> None:
    config = tiny()
    counted = config.num_params(), config.flops_per_token()
    wider = config.model_copy(update={"d_ff": 2 * config.d_ff}, deep=deep)
    fresh = tiny(d_ff=2 * config.d_ff)
    assert (wider.num_params(), wider.flops_per_token()) == (fresh.num_params(), fresh.flops_per_token()) != counted
    assert config == tiny()
    assert (repr(config), config.model_dump()) == (repr(tiny()), tiny().model_dump())


def test_defaults_that_depend_on_sizes_become_numbers() -> None:
    config = tiny(d_ff=None, attention="differential", normalization="ngpt")
    data = config.to_dict()
    assert config.d_ff == data["d_ff"] == 96
    assert (data["attention"]["n_kv_heads"], data["attention"]["qk_head_dim"]) == (4, 2)
    assert data["normalization"]["alpha_attn"] == {"mode": "vector", "init": 0.05, "scale": pytest.approx(24**-0.5)}
    assert data["attention"]["head_norm"] == "l2"


def test_a_component_is_a_name_a_mapping_or_an_object() -> None:
    by_name = tiny(attention="differential")
    assert tiny(attention={"name": "differential"}) == by_name
    assert tiny(attention=by_name.attention) == by_name
    assert tiny(attention={"n_kv_heads": 2}).attention.name == "standard"


def test_a_width_that_does_not_divide_is_rounded_down_to_even_and_reported() -> None:
    config = tiny(d_model=40, n_heads=4, attention="differential")
    assert config.attention.qk_width(config) == 4
    (notice,) = config.notices()
    assert "8 query heads of width 4 make 32 query features where d_model is 40" in notice
    assert f"{-2 * 8 * 40:+,} query and key weights per layer" in notice


def test_the_constant_factor_is_reported_to_cancel_inside_ngpt() -> None:
    text = "(1 - lambda_init) cancels inside nGPT"
    assert any(text in notice for notice in tiny(attention="differential", normalization="ngpt").notices())
    assert not any(text in notice for notice in tiny(attention="differential").notices())
    assert tiny().notices() == ()


def test_quantised_unit_vectors_are_reported_as_an_extension() -> None:
    assert "extension" in tiny(linear="bitnet_b158", normalization="ngpt").notices()[0]
    assert tiny(linear="bitnet_b158").notices() == ()


def test_an_unquoted_off_of_yaml_is_understood() -> None:
    config = tiny(normalization=yaml.safe_load("{name: ngpt, normalize_weights: off, qk_norm: off}"))
    assert config.to_dict()["normalization"]["normalize_weights"] == "off"
    assert config.to_dict()["normalization"]["qk_norm"] is False


def test_recipes() -> None:
    assert tiny(normalization="ngpt").recipe() == {"weight_decay": 0.0, "warmup_fraction": 0.0}
    assert tiny().recipe() == {"weight_decay": 0.1, "warmup_fraction": 0.1}


def test_flops_of_the_standard_model_are_six_a_parameter_and_six_ldt() -> None:
    config = tiny()
    matmul_params = config.num_params() - SIZES["vocab_size"] * 24 - (2 * 2 + 1) * 24
    assert config.flops_per_token() == 6 * matmul_params + 6 * 2 * 24 * 8


@pytest.mark.parametrize("window", [1, 3, 8, 20])
def test_flops_of_a_window_count_the_keys_it_shows(window: int) -> None:
    """An integral by hand, in the continuous convention: the query at t sees t keys of a causal context."""
    length, steps = 8, 8000
    shown = sum(min((i + 0.5) * length / steps, window) for i in range(steps)) / steps
    config = tiny(attention={"name": "standard", "window": window})
    core = config.attention.flops_per_token(config, length) - config.attention.flops_per_token(config, 0)
    assert core == round(2 * shown * 4 * (6 + 6))


def test_schema_lists_every_name_and_every_knob() -> None:
    schema = ModelConfig.json_schema()
    json.dumps(schema)
    assert schema["required"] == ["d_model", "n_layers", "n_heads", "vocab_size", "context_length"]
    names, *mappings = schema["properties"]["normalization"]["anyOf"]
    ngpt = next(mapping for mapping in mappings if mapping["title"] == "ngpt")
    assert "ngpt" in names["enum"]
    assert {"alpha_attn", "s_z", "update"} <= ngpt["properties"].keys()
    assert "Scale" in schema["$defs"]


@pytest.mark.parametrize(("scale", "other"), [("alpha_attn", ("init", 0.05)), ("s_uv", ("scale", 1.0))])
def test_one_knob_of_a_scale_leaves_its_others_at_the_defaults_of_the_variant(scale, other) -> None:
    knob, default = other
    given = {"scale": 0.1} if knob == "init" else {"init": 0.5}
    sizes = {"d_model": 16, "n_layers": 1, "n_heads": 2, "context_length": 16, "vocab_size": 256}
    config = ModelConfig.parse({**sizes, "normalization": {"name": "ngpt", scale: given}})
    assert getattr(getattr(config.normalization, scale), knob) == default


def test_the_published_linear_gpt_ends_at_a_width_of_12() -> None:
    config = ModelConfig.preset("gpt2_124m", topology="linear_gpt", tie_embeddings=False)
    assert config.topology.end(config).d_model == 12
    assert [stage.head_dim for stage in config.topology.stages(config)] == [64, 32, 16, 8, 4, 2]
    with torch.device("meta"):
        assert config.num_params() == sum(p.numel() for p in GPT(config).parameters())
