"""Published configurations: their shapes and parameter counts."""

from __future__ import annotations

import pytest

from ablate_model import PRESETS, ConfigError, ModelConfig

MILLION = 1e6
COUNTS = {  # as published; the papers truncate after the first decimal
    "gpt_0.5b": 468.2,
    "ngpt_0.5b": 468.4,
    "gpt_1b": 1025.7,
    "ngpt_1b": 1026.1,
}


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_model(name: str) -> None:
    config = ModelConfig.preset(name)
    assert ModelConfig.parse(config.to_dict()) == config
    assert config.flops_per_token() > 6 * (config.num_params() - 2 * config.vocab_size * config.d_model)


@pytest.mark.parametrize(("name", "millions"), COUNTS.items())
def test_published_parameter_counts(name: str, millions: float) -> None:
    assert int(ModelConfig.preset(name).num_params() / MILLION * 10) / 10 == millions


@pytest.mark.parametrize("context_length", ["1k", "4k"])
def test_the_launchers_models_have_the_sizes_of_its_vocabulary(context_length: str) -> None:
    for normalization, millions in (("gpt", 505.73), ("ngpt", 506.00)):
        n_params = ModelConfig.preset(f"{normalization}_{context_length}ctx").num_params()
        assert round(n_params / MILLION, 2) == millions


def test_gpt2_has_exactly_its_parameters() -> None:
    assert ModelConfig.preset("gpt2_124m").num_params() == 124_439_808


@pytest.mark.parametrize(
    ("attention", "per_layer"),
    [  # d_model 1024, no biases: the table of attention parameters in the literature's notation
        ({"name": "standard"}, 4_194_304),
        ({"name": "standard", "n_kv_heads": 4}, 2_621_440),
        ({"name": "differential_v2"}, 5_259_264),
        ({"name": "differential_v2", "n_kv_heads": 4}, 3_686_400),
        ({"name": "gated"}, 5_242_880),
        ({"name": "gated", "gate": "headwise"}, 4_210_688),
        ({"name": "forgetting"}, 4_210_704),
    ],
)
def test_attention_parameters_at_sixteen_heads(attention: dict[str, object], per_layer: int) -> None:
    config = ModelConfig.preset("gpt_1kctx", attention=attention)
    assert config.attention.num_params(config) == per_layer


@pytest.mark.parametrize(
    ("attention", "per_layer"),
    [
        ({"name": "differential"}, 4_194_688),
        ({"name": "linear_ensemble", "num_maps": 2}, 4_194_435),
        ({"name": "linear_ensemble", "num_maps": 4}, 4_194_437),
        ({"name": "linear_ensemble", "num_maps": 3, "width": "full"}, 8_388_608 + 3 + 1 + 128),
    ],
)
def test_attention_parameters_at_eight_heads(attention: dict[str, object], per_layer: int) -> None:
    config = ModelConfig.preset("gpt_1kctx", n_heads=8, attention=attention)
    assert config.attention.num_params(config) == per_layer


@pytest.mark.parametrize(
    ("n_heads", "attention", "context_length", "mflops"),
    [
        (16, {"name": "standard"}, 1024, 2.10),
        (16, {"name": "standard"}, 4096, 8.39),
        (8, {"name": "differential"}, 1024, 3.15),
        (8, {"name": "differential"}, 4096, 12.58),
        (16, {"name": "differential_v2"}, 1024, 4.19),
        (8, {"name": "linear_ensemble", "num_maps": 4}, 1024, 5.24),
        (8, {"name": "linear_ensemble", "num_maps": 3, "width": "full"}, 1024, 6.29),
    ],
)
def test_core_flops(n_heads: int, attention: dict[str, object], context_length: int, mflops: float) -> None:
    config = ModelConfig.preset("gpt_1kctx", n_heads=n_heads, attention=attention)
    core = config.attention.flops_per_token(config, context_length) - config.attention.flops_per_token(config, 0)
    assert core / MILLION == pytest.approx(mflops, abs=0.006)


@pytest.mark.parametrize(("num_maps", "width"), [(3, 42), (5, 24)])
def test_three_and_five_maps_work_at_eight_heads(num_maps: int, width: int) -> None:
    """1024 / (3 * 8) and 1024 / (5 * 8) are not even numbers, so the public code could not run these."""
    name = "let_ngpt_1kctx" if num_maps == 3 else "let_ngpt_1kctx_maps5"
    config = ModelConfig.preset(name)
    assert config.attention.qk_width(config) == width
    features = num_maps * 8 * width
    assert any(f"{features} query features where d_model is 1024" in notice for notice in config.notices())
    assert any(f"{2 * (features - 1024) * 1024:+,} query and key weights" in notice for notice in config.notices())


def test_a_preset_can_be_changed_and_a_misspelt_one_is_answered() -> None:
    assert ModelConfig.preset("gpt2_124m", n_layers=2).n_layers == 2
    with pytest.raises(ConfigError, match="did you mean 'ngpt_1b'"):
        ModelConfig.preset("ngpt_1bn")
