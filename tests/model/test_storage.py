"""Models on disk."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import scrambled, tiny, tokens
from safetensors.torch import save_file
from torch import Tensor

from ablate_model import ConfigError, load, load_gpt2, save

FLOAT32 = 1e-5


@pytest.mark.parametrize("settings", [{"attention": "differential", "normalization": "ngpt"}, {"tie_embeddings": True}])
def test_a_saved_model_comes_back(settings: dict[str, Any], tmp_path: Path) -> None:
    model = scrambled(tiny(**settings), torch.float32)
    save(model, tmp_path / "new" / "folder")
    again = load(tmp_path / "new" / "folder")
    assert again.config == model.config
    assert torch.equal(again(tokens()), model(tokens()))


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    save(scrambled(tiny(), torch.float32), tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(tiny(n_layers=1).to_dict()))
    with pytest.raises(ConfigError, match=r"stack\.blocks\.1\.\S+: .* where the model has nothing"):
        load(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"there is no .*config\.json"):
        load(tmp_path)


def test_torn_files_are_named(tmp_path: Path) -> None:
    save(scrambled(tiny(), torch.float32), tmp_path)
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ConfigError, match=r"model\.safetensors holds no weights: "):
        load(tmp_path)
    weights.unlink()
    with pytest.raises(ConfigError, match=r"there is no .*model\.safetensors"):
        load(tmp_path)
    config.write_text(config.read_text()[:-5])
    with pytest.raises(ConfigError, match=r"config\.json is no JSON: "):
        load(tmp_path)
    config.write_text("[]")
    with pytest.raises(ConfigError, match=r"config\.json holds no mapping"):
        load(tmp_path)


CONFIG = {"model_type": "gpt2", "n_embd": 12, "n_layer": 2, "n_head": 3, "vocab_size": 17, "n_positions": 9}


def random_gpt2() -> dict[str, Tensor]:
    """Weights of a small GPT-2, under the names and in the layouts of Hugging Face's."""
    generator = torch.Generator().manual_seed(0)
    d, shapes = 12, {"wte.weight": (17, 12), "wpe.weight": (9, 12), "ln_f.weight": (12,), "ln_f.bias": (12,)}
    for layer in range(2):
        sizes = {"ln_1": (d,), "ln_2": (d,), "attn.c_attn": (d, 3 * d), "attn.c_proj": (d, d)}
        for name, size in {**sizes, "mlp.c_fc": (d, 4 * d), "mlp.c_proj": (4 * d, d)}.items():
            shapes |= {f"h.{layer}.{name}.weight": size, f"h.{layer}.{name}.bias": size[-1:]}
    return {name: torch.randn(shape, generator=generator) * 0.3 for name, shape in shapes.items()}


def gpt2_logits(w: dict[str, Tensor], ids_t: Tensor) -> Tensor:
    """GPT-2 written out once more, in float64, from its published code's conventions: x W + b, three heads of four."""
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


@pytest.mark.parametrize("prefix", ["", "transformer."])
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
    with pytest.raises(pickle.UnpicklingError):
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
