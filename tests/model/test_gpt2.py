"""GPT-2 checkpoints from other sources."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ablate_model import ConfigError, load_gpt2

FLOAT32 = 1e-5
CONFIG = {"model_type": "gpt2", "n_embd": 12, "n_layer": 2, "n_head": 3, "vocab_size": 17, "n_positions": 9}


def random_gpt2() -> dict[str, Tensor]:
    """Weights of a small GPT-2 with the names and layouts of Hugging Face's."""
    generator = torch.Generator().manual_seed(0)
    d, shapes = 12, {"wte.weight": (17, 12), "wpe.weight": (9, 12), "ln_f.weight": (12,), "ln_f.bias": (12,)}
    for layer in range(2):
        sizes = {"ln_1": (d,), "ln_2": (d,), "attn.c_attn": (d, 3 * d), "attn.c_proj": (d, d)}
        for name, size in {**sizes, "mlp.c_fc": (d, 4 * d), "mlp.c_proj": (4 * d, d)}.items():
            shapes |= {f"h.{layer}.{name}.weight": size, f"h.{layer}.{name}.bias": size[-1:]}
    return {name: torch.randn(shape, generator=generator) * 0.3 for name, shape in shapes.items()}


def gpt2_logits(w: dict[str, Tensor], ids_t: Tensor) -> Tensor:
    """An independent GPT-2 in float64 that follows the published code: x W + b, three heads of four."""
    w = {name: value.double() for name, value in w.items()}

    def norm(x: Tensor, name: str) -> Tensor:
        return torch.nn.functional.layer_norm(x, (12,), w[f"{name}.weight"], w[f"{name}.bias"], 1e-5)

    def dense(x: Tensor, name: str) -> Tensor:
        return x @ w[f"{name}.weight"] + w[f"{name}.bias"]

    length = len(ids_t)
    h = w["wte.weight"][ids_t] + w["wpe.weight"][:length]
    for layer in range(2):
        q, k, v = dense(norm(h, f"h.{layer}.ln_1"), f"h.{layer}.attn.c_attn").split(12, dim=1)
        heads = []
        for i in range(3):
            part = slice(4 * i, 4 * i + 4)
            z = (q[:, part] @ k[:, part].T / 2).masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf)
            heads.append(z.softmax(-1) @ v[:, part])
        h = h + dense(torch.cat(heads, dim=1), f"h.{layer}.attn.c_proj")
        hidden = torch.nn.functional.gelu(dense(norm(h, f"h.{layer}.ln_2"), f"h.{layer}.mlp.c_fc"), approximate="tanh")
        h = h + dense(hidden, f"h.{layer}.mlp.c_proj")
    return norm(h, "ln_f") @ w["wte.weight"].T


@pytest.mark.parametrize("prefix", ["", "transformer.", "transformer.transformer.", "_orig_mod.module.transformer."])
@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_gpt2_weights_load(prefix: str, file: str, tmp_path: Path) -> None:
    weights = random_gpt2()
    stored = {prefix + name: value for name, value in weights.items()}
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    if file.endswith("bin"):
        stored["lm_head.weight"] = stored[f"{prefix}wte.weight"]  # tied: written twice in pickled checkpoints
        torch.save(stored, tmp_path / file)
    else:
        save_file(stored, tmp_path / file)
    ids = torch.tensor([3, 1, 4, 1, 5, 9, 2])
    out = load_gpt2(tmp_path)(ids[None])[0]
    torch.testing.assert_close(out.double(), gpt2_logits(weights, ids), atol=FLOAT32, rtol=FLOAT32)


class Intruder:
    """A pickle that would write a file when loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_code_in_weight_files_is_not_executed(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    torch.save({**random_gpt2(), "extra": Intruder(tmp_path / "executed")}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"pytorch_model\.bin contains something other than tensors"):
        load_gpt2(tmp_path)
    assert not (tmp_path / "executed").exists()


def test_other_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, "model_type": "llama"}))
    with pytest.raises(ConfigError, match=r"model_type: .* describes 'llama' \(legal: gpt2\)"):
        load_gpt2(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(ConfigError, match=r"neither model\.safetensors nor pytorch_model\.bin"):
        load_gpt2(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, "activation_function": "swish"}))
    with pytest.raises(ConfigError, match=r"activation_function: 'swish' is not supported"):
        load_gpt2(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, "scale_attn_by_inverse_layer_idx": True}))
    with pytest.raises(ConfigError, match=r"scale_attn_by_inverse_layer_idx: True is not supported"):
        load_gpt2(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(ConfigError, match="n_embd: is missing"):
        load_gpt2(tmp_path)


def write_folder(folder: Path, weights: dict[str, Any], file: str = "model.safetensors", **changes: Any) -> Path:
    """A GPT-2's folder, with `changes` of its config.json."""
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    torch.save(weights, folder / file) if file.endswith("bin") else save_file(weights, folder / file)
    return folder


def assert_whole(folder: Path) -> None:
    ids = torch.tensor([3, 1, 4, 1, 5, 9, 2])
    out = load_gpt2(str(folder))(ids[None])[0]
    torch.testing.assert_close(out.double(), gpt2_logits(random_gpt2(), ids), atol=FLOAT32, rtol=FLOAT32)


def test_buffers_duplicates_and_a_tied_head_of_others_were_refused(tmp_path: Path) -> None:
    weights = {f"transformer.{name}": value for name, value in random_gpt2().items()}
    masks = {f"transformer.h.{i}.attn.bias": torch.ones(1, 1, 9, 9, dtype=torch.uint8) for i in range(2)}
    masks |= {f"transformer.h.{i}.attn.masked_bias": torch.tensor(-1e4) for i in range(2)}
    assert_whole(write_folder(tmp_path, {**weights, **masks}))
    assert_whole(write_folder(tmp_path, {**weights, "module.wte.weight": weights["transformer.wte.weight"].clone()}))
    weights["lm_head.weight"] = weights.pop(
        "transformer.wte.weight"
    )  # safetensors leaves out one of two names of a tensor
    assert_whole(write_folder(tmp_path, weights))


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_a_sharded_gpt2_was_refused(file: str, tmp_path: Path) -> None:
    weights, stem, suffix = random_gpt2(), *file.split(".")
    shards = {name: f"{stem}-0000{1 + ('h.1' in name)}-of-00002.{suffix}" for name in weights}
    for shard in set(shards.values()):
        write_folder(tmp_path, {name: value for name, value in weights.items() if shards[name] == shard}, shard)
    index = tmp_path / f"{file}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": shards}))
    assert_whole(tmp_path)
    for wrong in ("../model.safetensors", ["a"]):
        index.write_text(json.dumps({"weight_map": {**shards, "wte.weight": wrong}}))
        with pytest.raises(ConfigError, match=r"^weight_map\.wte\.weight: .* not a file beside it"):
            load_gpt2(tmp_path)
    index.write_text("{}")
    with pytest.raises(ConfigError, match=r"^weight_map: "):
        load_gpt2(tmp_path)
    index.write_text(json.dumps({"weight_map": shards}))
    (tmp_path / shards["h.1.ln_1.bias"]).unlink()
    with pytest.raises(ConfigError, match=r"there is no .*-00002-of-00002"):
        load_gpt2(tmp_path)


def add_layer(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return weights | {f"h.2.{name[4:]}": value.clone() for name, value in weights.items() if name.startswith("h.1.")}


def without(weights: dict[str, Tensor], start: str) -> dict[str, Tensor]:
    return {name: value for name, value in weights.items() if not name.startswith(start)}


Change = Callable[[dict[str, Tensor]], dict[str, Any]]
BAD_WEIGHTS: list[tuple[Change, str]] = [
    (add_layer, "^n_layer: config.json says 2 layers, but .* contains weights of 3"),
    (lambda w: without(w, "h.1."), "^n_layer: config.json says 2 layers, but .* contains weights of 1"),
    (lambda w: without(w, "h.0."), r"^h\.0\.ln_1\.weight: is missing"),
    (lambda w: without(w, "h.1.mlp.c_fc.b"), r"^h\.1\.mlp\.c_fc\.bias: is missing"),
    (lambda w: without(w, "wte"), r"^wte\.weight: is missing"),
    (lambda w: without(w, ""), "^n_layer: "),
    (
        lambda w: {**w, "wpe.weight": w["wpe.weight"][:-1]},
        r"^wpe\.weight: .* contains shape \[8, 12\], but .* \[9, 12\]",
    ),
    (lambda w: {**w, "ln_f.bias": w["ln_f.bias"][0]}, r"^ln_f\.bias: .* contains shape \[\], but"),
    (lambda w: {n: v.T.contiguous() if "c_attn.w" in n else v for n, v in w.items()}, r"c_attn\.weight: .*\[36, 12\]"),
    (lambda w: {**w, "h.0.ln_1.bias": w["h.0.ln_1.bias"].to(torch.int8)}, r"^h\.0\.ln_1\.bias: .* torch\.int8"),
    (lambda w: {**w, "h.0.ln_1.bias": w["h.0.ln_1.bias"] * torch.nan}, r"^h\.0\.ln_1\.bias: .* not finite"),
    (
        lambda w: {**w, "x.wte.weight": w["wte.weight"] + 1},
        r"wte\.weight: .* different values under 'x?\.?wte\.weight'",
    ),
    (lambda w: {**w, "lm_head.weight": w["wte.weight"] + 1}, r"^lm_head\.weight: .* only a head tied to it"),
    (lambda w: {**w, "score.weight": torch.ones(2, 12)}, r"^score\.weight: .* not part of a GPT-2"),
    (lambda w: {**w, "h.0.crossattention.c_attn.weight": torch.ones(12, 24)}, r"^h\.0\.crossattention\.c_attn"),
    (lambda w: {**w, "h.0.attn.c_attn.lora_A": torch.ones(2, 12)}, r"^h\.0\.attn\.c_attn\.lora_A: .* not part"),
]


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize(("change", "message"), BAD_WEIGHTS)
def test_weights_that_are_no_whole_gpt2_ended_in_a_key_error_or_were_cut(
    change: Change, message: str, file: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        load_gpt2(write_folder(tmp_path, change(random_gpt2()), file))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": random_gpt2(), "iter_num": 3}, "^model: .* contains a dict under this name"),
        ([1, 2], "contains a list instead of tensors by name"),
        ({3: torch.ones(2)}, "^3: "),
        ({"wte.weight": torch.ones(2, 2).to_sparse()}, r"^wte\.weight: .* instead of a dense tensor"),
        (b"PK\x03\x04torn", r"pytorch_model\.bin cannot be read: "),
        (b"", r"pytorch_model\.bin cannot be read: "),
        (b"not a pickle", r"pytorch_model\.bin contains something other than tensors"),
    ],
)
def test_a_pickle_of_others_ended_in_an_attribute_error(content: Any, message: str, tmp_path: Path) -> None:
    write_folder(tmp_path, {} if isinstance(content, bytes) else content, "pytorch_model.bin")
    if isinstance(content, bytes):
        (tmp_path / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        load_gpt2(tmp_path)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"n_embd": "12"}, "n_embd"),
        ({"n_embd": True}, "n_embd"),
        ({"n_head": 5}, "n_head"),
        ({"n_layer": None}, "n_layer"),
        ({"n_layer": 10**9}, "n_layer"),
        ({"n_layer": 10**6}, "n_layer"),
        ({"vocab_size": 10**6}, r"wte\.weight"),
        ({"n_positions": None}, "n_positions"),
        ({"n_inner": 47}, r"h\.0\.mlp\.c_fc\.weight"),
        ({"n_inner": 0}, "n_inner"),
        ({"layer_norm_epsilon": 0}, "layer_norm_epsilon"),
        ({"activation_function": ["gelu"]}, "activation_function"),
        ({"model_type": ["gpt2"]}, "model_type"),
        ({"scale_attn_weights": False}, "scale_attn_weights"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings"),
        ({"add_cross_attention": [True]}, "add_cross_attention"),
    ],
)
def test_a_bad_key_of_config_json_is_named_as_it_is_written_there(
    changes: dict[str, Any], key: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=f"^{key}: "):
        load_gpt2(write_folder(tmp_path, random_gpt2(), **changes))
