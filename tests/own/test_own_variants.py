"""Plain modules as variants: knobs, costs, causality, decoding, nGPT, resuming; and the full contract."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch

from ablate.evaluation.quantization import find_other_matrix, list_hidden_matrices, round_weights
from ablate.study.schema import TrainConfig
from ablate.training.optimizer import make_optimizer
from ablate.training.schedule import learning_rate
from ablate_model import GPT, Cache, ConfigError, ModelConfig
from ablate_model.contract_checks import check_variant
from ablate_model.own_checks import check_own
from own_files import ATTENTION, HELPERS

Write = Callable[[str, str], None]

SIZES = {"d_model": 32, "n_layers": 2, "n_heads": 4, "vocab_size": 50, "context_length": 48}
HEAD = "import torch\nfrom torch import nn\nfrom torch.nn import functional as F\n"
MIXER = f"""{HEAD}
class Mixer(nn.Module):
    def __init__(self, d_model):
        super().__init__()
        self.weight, self.out = nn.Parameter(torch.eye(d_model)), nn.Linear(d_model, d_model)

    def forward(self, x):
        return self.out(x @ self.weight)
"""
ROUNDING = 1e-6  # float32 logits, decoded in pieces


def parse(**changes: Any) -> ModelConfig:
    return ModelConfig.parse({**SIZES, **changes})


@pytest.fixture
def own(write: Write) -> str:
    write("my_attention.py", ATTENTION)
    write("helpers.py", HELPERS)
    return "my_attention.py:MyAttention"


def test_a_plain_module_costs_what_the_built_in_attention_costs(own: str) -> None:
    mine, standard = parse(attention=own), parse()
    assert mine.num_params() == standard.num_params() == sum(p.numel() for p in GPT(mine).parameters())
    assert mine.flops_per_token() == standard.flops_per_token()
    assert mine.notices() == ()
    check_own(mine)


def test_without_a_window_it_computes_what_the_built_in_attention_computes(own: str) -> None:
    """With `rotate`, a plain module has the positions of the model."""
    mine, standard = GPT(parse(attention=own)), GPT(parse())
    named = dict(standard.named_parameters())
    with torch.no_grad():
        for layer in range(2):
            theirs, ours = (model.stack.blocks[layer].attention for model in (standard, mine))
            rows = [parameter for name, parameter in theirs.named_parameters() if parameter.shape[1] == 32]
            assert sum(map(len, rows)) == 128
            ours.module.qkv.weight.copy_(torch.cat(rows)[:96])
            ours.module.out.weight.copy_(torch.cat(rows)[96:])
        for name, parameter in mine.named_parameters():
            if ".attention.module." not in name:
                parameter.copy_(named[name])
    ids_bt = torch.arange(40)[None] % 50
    torch.testing.assert_close(mine(ids_bt), standard(ids_bt), atol=1e-5, rtol=0)
    assert len([*list_hidden_matrices(mine)]) == 2 * 4  # its matrices stayed unrounded, and it looked robust
    plain = mine(ids_bt)
    with torch.no_grad(), round_weights(mine, 3), round_weights(standard, 3):
        torch.testing.assert_close(mine(ids_bt), standard(ids_bt), atol=1e-5, rtol=0)
        assert (mine(ids_bt) - plain).abs().max() > 1e-2


def test_matrices_that_cannot_be_rounded_are_named(write: Write) -> None:
    write("mixer.py", MIXER)
    assert find_other_matrix(GPT(parse(attention="mixer.py:Mixer"))) == "weight"


def test_decoding_and_pickling_and_seeds(own: str) -> None:
    config = parse(attention={"name": own, "window": 5}, normalization="ngpt")
    model, ids_bt, cache = GPT(config, seed=3), torch.arange(60).view(2, 30) % 50, Cache(2)
    decoded = torch.cat([model(piece, cache) for piece in torch.split(ids_bt, [7, 1, 2, 20], dim=1)], dim=1)
    torch.testing.assert_close(decoded, model(ids_bt), atol=ROUNDING, rtol=0)
    assert pickle.loads(pickle.dumps(config)) == config == ModelConfig.parse(config.to_dict())
    torch.manual_seed(5)
    state = torch.get_rng_state()
    same, other = GPT(config, seed=3), GPT(config, seed=4)
    assert torch.equal(torch.get_rng_state(), state)
    weight = "stack.blocks.1.attention.module.qkv.weight"
    assert torch.equal(same.state_dict()[weight], model.state_dict()[weight])
    assert not torch.equal(other.state_dict()[weight], model.state_dict()[weight])
    assert not torch.equal(model.state_dict()[weight], model.state_dict()[weight.replace(".1.", ".0.")])


def test_inside_ngpt_weights_stay_unit_along_d_model(own: str, write: Write) -> None:
    model = GPT(parse(attention=own, normalization="ngpt"))
    torch.optim.SGD(model.parameters(), 0.5)
    model.loss(torch.arange(20)[None], torch.arange(20)[None]).backward()
    torch.optim.SGD(model.parameters(), 0.5).step()
    model.post_step()
    part = model.stack.blocks[1].attention.module
    for norms in (part.qkv.weight.norm(dim=1), part.out.weight.norm(dim=0)):
        torch.testing.assert_close(norms, torch.ones_like(norms))
    square = HEAD + (
        "class Mine(nn.Module):\n"
        "    def __init__(self, d_model):\n"
        "        super().__init__()\n"
        "        self.w = nn.Parameter(torch.eye(d_model))\n"
        "    def forward(self, x):\n"
        "        return x @ self.w\n"
    )
    write("square.py", square)
    with pytest.raises(ConfigError, match="w is square, so nGPT cannot tell"):
        parse(attention="square.py:Mine", normalization="ngpt")
    write("square.py", square.replace("    def __init__", "    unit_axes = {'w': 0}\n    def __init__", 1))
    axes = [
        s.axis
        for n, _, s in GPT(parse(attention="square.py:Mine", normalization="ngpt")).walk_parameters()
        if n.endswith(".w")
    ]
    assert axes == [0, 0]


def layer(body: str, init: str = "", knobs: str = "") -> str:
    return HEAD + (
        "class Mine(nn.Module):\n"
        f"    def __init__(self, d_model{knobs}):\n"
        "        super().__init__()\n"
        f"        {init or 'pass'}\n"
        "    def forward(self, x):\n"
        f"        {body}\n"
    )


ZERO = "self.out = nn.Linear(d_model, d_model); nn.init.zeros_(self.out.weight); nn.init.zeros_(self.out.bias)"
NEXT = "torch.cat([x[:, 1:], x[:, -1:]], 1)"


@pytest.mark.parametrize(
    ("axis", "text", "message"),
    [
        ("attention", layer(f"return x + {NEXT}"), "is not causal: output 0 depends on input 1"),
        (
            "attention",
            layer(f"return self.out({NEXT})", ZERO),
            "output 0 depends on input 1 .*, with random parameters",
        ),
        ("attention", layer(f"return x + {NEXT}.detach().sign()"), "output 0 depends on input 1 .*largest change"),
        ("attention", layer("return x.cumsum(1) / x.shape[1]"), "output 0 differs between a sequence of length 1"),
        ("attention", layer("return x - x.mean(0, keepdim=True)"), "of another sequence in the batch"),
        ("attention", layer("return x if x.shape[1] < 90 else x + x[:, 80:].mean(1, keepdim=True)"), "is not causal"),
        (
            "attention",
            layer(f"return x + F.relu(-self.gate) * {NEXT}", "self.gate = nn.Parameter(torch.zeros(d_model))"),
            "output 0 depends on input 1 .*, with random parameters",
        ),
        ("attention", layer("return F.dropout(x)"), "its output changes between two calls with the same input"),
        ("attention", layer("self.n += 1\n        return x * self.n", "self.n = 0"), "changes between two calls"),
        (
            "attention",
            layer("self.n += self.training\n        return x * self.n", "self.n = 1"),
            "Mine: its output changes between two calls with the same input and the same seed",
        ),
        ("attention", layer("return x.half()"), "it maps float32 to float16"),
        ("attention", layer("x.data.mul_(2)\n        return x"), "it changes its input in place"),
        ("attention", layer("return x, None"), "it returns a tuple instead of a tensor"),
        ("mlp", layer("pass"), "it returns nothing instead of a tensor"),
        (
            "attention",
            layer("return x * self.w", "import random; self.w = nn.Parameter(torch.tensor(random.random()))"),
            "starts from different values each time",
        ),
        ("attention", layer("return x[:, :, :4]"), r"maps \(2, 2, 32\) to \(2, 2, 4\)"),
        ("attention", layer("return x / 0"), "its output is not finite"),
        (
            "attention",
            layer("return x + self.gone"),
            r"mine.py:\d+, in forward\n    return x \+ self.gone\nAttributeError",
        ),
        ("attention", layer("return x", "raise RuntimeError('no')"), r"in __init__\n .*\nRuntimeError: no"),
        ("attention", layer("return x", "raise SystemExit(3)"), r"in __init__\n .*\nSystemExit: 3"),
        ("attention", layer("raise SystemExit(3)"), r"in forward\n .*\nSystemExit: 3"),
        ("attention", layer("return x", "self.me = Mine(d_model)"), r"^(.+\n){2,4}RecursionError"),
        ("attention", layer("return x", knobs=", n_groups"), "needs 'n_groups', which has no default"),
        ("mlp", layer("return x.cumsum(1)"), "does not map each token by itself: output 1 depends on input 0"),
        (
            "normalization",
            layer("return self.norm(x.mT).mT", "self.norm = nn.BatchNorm1d(d_model)"),
            "does not map each",
        ),
        ("position", layer("return x"), "cannot be used here; write a subclass of ablate_model.contracts.Position"),
    ],
)
def test_a_module_that_cannot_be_right_is_refused_before_training(
    write: Write, axis: str, text: str, message: str
) -> None:
    write("mine.py", text)
    with pytest.raises(ConfigError, match=message):
        check_own(parse(**{axis: "mine.py:Mine", "context_length": 128}))


def test_a_buffer_that_training_updates_is_no_leak(write: Write) -> None:
    count = "self.n = self.n + self.training\n        return x * self.n"
    write("mine.py", layer(count, 'self.register_buffer("n", torch.ones(()))'))
    check_own(parse(attention="mine.py:Mine", context_length=128))


def test_a_leak_that_only_long_sequences_show_is_found(write: Write) -> None:
    write("mine.py", layer(f"return x if x.shape[1] < 200 else x + {NEXT}"))
    with pytest.raises(ConfigError, match=r"output 0 depends on input 1 \(.*256 tokens"):
        check_own(parse(attention="mine.py:Mine", context_length=256))


def test_the_products_of_torchs_own_attention_are_counted(write: Write) -> None:
    """In evaluation mode, nn.MultiheadAttention runs as one operation that torch's counter takes for free."""
    body = (
        "m = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)\n"
        "        return self.inner(x, x, x, attn_mask=m, need_weights=False)[0]"
    )
    write("mine.py", layer(body, "self.inner = nn.MultiheadAttention(d_model, 2, bias=False, batch_first=True)"))
    mine = parse(attention="mine.py:Mine", n_heads=2, context_length=64)
    assert mine.flops_per_token() == parse(n_heads=2, context_length=64).flops_per_token()


MLP = layer(
    "return self.down(self.drop(F.gelu(self.up(x))))",
    "self.up, self.down, self.drop = nn.Linear(d_model, d_ff), nn.Linear(d_ff, d_model), nn.Dropout(dropout)",
    ", d_ff, dropout=0.1",
)
NORM = layer(
    "return self.norm(x)",
    "self.norm = nn.LayerNorm(d_model, eps); self.register_buffer('seen', torch.ones(3, dtype=torch.bool))",
    ", eps=1e-5",
)


FLOAT32_NORM = layer(
    "return (F.rms_norm(x.float(), (x.shape[-1],)) * self.gain).type_as(x)",
    "self.gain = nn.Parameter(torch.ones(d_model))",
)


@pytest.mark.parametrize(("axis", "text"), [("mlp", MLP), ("normalization", NORM), ("normalization", FLOAT32_NORM)])
def test_an_mlp_and_a_norm_pass_every_check(write: Write, axis: str, text: str, tmp_path: Any) -> None:
    from ablate_model import load, save

    write("mine.py", text)
    config = parse(**{axis: "mine.py:Mine"})
    check_own(config)
    model = GPT(config)
    assert config.num_params() == sum(p.numel() for p in model.parameters())
    found = {check.name: check for check in check_variant(config, axis, compiled=False)}
    assert {name for name, check in found.items() if check.outcome == "fail"} == set(), found
    save(model, tmp_path / "saved")
    kept = load(tmp_path / "saved").state_dict()
    assert all(torch.equal(kept[name], value) for name, value in model.state_dict().items())


@pytest.mark.slow
@pytest.mark.filterwarnings("default:The .grad attribute of a Tensor:UserWarning")  # torch's own, while it compiles
def test_dropout_does_not_make_compiled_differ_from_eager(write: Write) -> None:
    write("mine.py", MLP)
    found = {check.name: check for check in check_variant(parse(mlp="mine.py:Mine"), "mlp", compiled=True)}
    assert found["compiled"].outcome != "fail", found["compiled"]


def test_the_checks_name_what_is_wrong(write: Write) -> None:
    write(
        "mine.py",
        layer(
            "self.count += 1; return self.used(x) * (1 + 1 / self.count)",
            "self.used, self.idle, self.count = nn.Linear(d_model, d_model), nn.Linear(d_model, 3), 0",
        ),
    )
    found = {
        check.name: check.detail
        for check in check_variant(parse(attention="mine.py:Mine"), "attention", compiled=False)
        if check.outcome == "fail"
    }
    assert "changes between two calls" in found["any length"]
    assert "no gradient reaches" in found["gradients"]
    assert "idle.weight" in found["gradients"]
    assert "a resumed run differs" in found["resuming"]


def test_a_frozen_parameter_needs_no_gradient(write: Write) -> None:
    write(
        "mine.py",
        layer("return self.used(x)", "self.used = nn.Linear(d_model, d_model); self.used.bias.requires_grad = False"),
    )
    config = parse(mlp="mine.py:Mine")
    found = {check.name: check for check in check_variant(config, "mlp", compiled=False)}
    assert found["gradients"].outcome == "pass", found["gradients"]
    frozen = [p for p in GPT(config).parameters() if not p.requires_grad]
    n_trained = len([*GPT(config).parameters()]) - len(frozen)
    assert frozen and found["gradients"].detail == f"reach all {n_trained} trained parameter tensors"
    assert found["resuming"].outcome == "pass", found["resuming"]


FULL = """
from ablate_model.attention.standard import StandardAttention


class Mine(StandardAttention):
    \"\"\"The built-in attention with another window.\"\"\"

    shift: int = 0
"""


def test_a_variant_with_the_full_contract_needs_no_words(write: Write) -> None:
    write("full.py", FULL)
    config = parse(attention={"name": "full.py:Mine", "shift": 2, "window": 4})
    check_own(config)
    described = config.to_dict()["attention"]
    assert described["name"] == "full.py:Mine"
    assert len(described["version"]) == 16
    assert (described["shift"], described["window"]) == (2, 4)
    assert config.num_params() == parse().num_params()


OPTIMIZER = """
import torch


class Sign(torch.optim.Optimizer):
    def __init__(self, params, lr, betas=(0.9, 0.99), weight_decay=0.0, gain: float = 1.0):
        super().__init__(params, dict(lr=lr, betas=betas, weight_decay=weight_decay, gain=gain))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                m.mul_(group["betas"][0]).add_(p.grad, alpha=1 - group["betas"][0])
                p.sub_(group["lr"] * (group["gain"] * m.sign() + group["weight_decay"] * p))


class Broken(Sign):
    def step(self):
        return self.nothing


def half(step, steps, *, floor=0.5):
    return max(floor, 1 - step / steps)


def nan(step):
    return float("nan")
"""


def test_an_optimizer_and_a_schedule_from_a_file(write: Write) -> None:
    write("recipes.py", OPTIMIZER)
    given = {
        "steps": 10,
        "warmup_steps": 2,
        "weight_decay": 0.1,
        "optimizer": "recipes.py:Sign",
        "gain": 2,
        "schedule": "recipes.py:half",
    }
    train = TrainConfig.model_validate(given)
    dumped = train.model_dump()
    assert dumped["optimizer_version"] == dumped["schedule_version"]
    assert (dumped["betas"], dumped["gain"], dumped["floor"]) == ((0.9, 0.99), 2.0, 0.5)
    assert TrainConfig.model_validate(dumped) == train
    assert [learning_rate(step, train) / train.learning_rate for step in (1, 9)] == [0.9, 0.5]
    (optimizer,) = make_optimizer(GPT(parse()), train).parts
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    for changes, message in (
        ({"optimizer": "recipes.py:Broken"}, r"recipes.py:\d+, in step\n    return self.nothing\nAttributeError"),
        ({"schedule": "recipes.py:nan"}, "gives nan at step 1 of 10"),
        ({"gian": 1}, "unknown key 'gian'; did you mean 'gain'"),
        ({"optimizer": "recipes.py:Sing"}, "has no 'Sing'"),
        ({"gain": "much"}, "valid number"),
    ):
        with pytest.raises(ValueError, match=message):
            TrainConfig.model_validate({**given, **changes})
