"""Models on disk."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import scrambled, tiny, tokens
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from ablate_model import GPT, ConfigError, drop, generate, load, measure_importance, save


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
    with pytest.raises(ConfigError, match=r"model\.safetensors contains no weights: "):
        load(tmp_path)
    weights.unlink()
    with pytest.raises(ConfigError, match=r"there is no .*model\.safetensors"):
        load(tmp_path)
    config.write_text(config.read_text()[:-5])
    with pytest.raises(ConfigError, match=r"config\.json is not valid JSON: "):
        load(tmp_path)
    config.write_text("[]")
    with pytest.raises(ConfigError, match=r"config\.json contains a \w+ instead of a mapping"):
        load(tmp_path)


@pytest.fixture
def process_group() -> Iterator[None]:
    """A process group with a single process, without a network."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def compiled(model: nn.Module) -> nn.Module:
    return torch.compile(model, backend="eager")  # type: ignore[return-value]


def with_compiled_blocks(model: GPT) -> nn.Module:
    for layer, block in enumerate(model.stack.blocks):
        model.stack.blocks[layer] = compiled(block)
    return model


def with_one_tensor_twice(model: GPT) -> nn.Module:
    model.head.weight = model.embedding.weight
    return model


WRAPPERS: dict[str, Callable[[Any], nn.Module]] = {
    "compiled": compiled,
    "compiled in place": lambda model: (model.compile(backend="eager"), model)[1],
    "compiled blocks": with_compiled_blocks,
    "DDP": DistributedDataParallel,
    "DDP of compiled": lambda model: DistributedDataParallel(compiled(model)),
    "compiled DDP": lambda model: compiled(DistributedDataParallel(model)),
    "averaged": AveragedModel,
    "averaged DDP of compiled blocks": lambda model: AveragedModel(
        DistributedDataParallel(with_compiled_blocks(model))
    ),
    "one tensor twice": with_one_tensor_twice,
    "bfloat16": lambda model: model.bfloat16(),
    "float64": lambda model: model.double(),
}


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("wrapper", WRAPPERS)
@torch.no_grad()
def test_a_wrapped_model_was_saved_as_what_load_refuses(wrapper: str, tmp_path: Path) -> None:
    plain = GPT(tiny(attention="differential", normalization="ngpt", embedding_shortcut=True), seed=3)
    model = WRAPPERS[wrapper](copy.deepcopy(plain)).eval()
    save(model, str(tmp_path / "folder"))
    again = load(str(tmp_path / "folder")).eval()
    assert again.state_dict().keys() == plain.state_dict().keys()
    with torch.compiler.set_stance("force_eager"):  # otherwise each wrapper compiles for half a minute
        assert torch.equal(again(tokens()), model(tokens()))
        assert torch.equal(generate(model, tokens(3), 4), generate(again, tokens(3), 4))
        assert measure_importance(model, [tokens()]) == measure_importance(again, [tokens()])
        assert torch.equal(drop(model, ["mlp"], 1, [tokens()])(tokens()), drop(again, ["mlp"], 1, [tokens()])(tokens()))


class Temperature(nn.Module):
    """A custom wrapper that computes something else."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, ids_bt: Tensor) -> Tensor:
        logits: Tensor = self.module(ids_bt) / 2
        return logits


def on_meta(_: GPT) -> nn.Module:
    with torch.device("meta"):
        return GPT(tiny())


def with_weight_norm(model: GPT) -> nn.Module:
    torch.nn.utils.parametrizations.weight_norm(model.head)
    return model


def sharded(model: GPT) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    return fully_shard(model, mesh=init_device_mesh("cpu", (1,)))


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda _: nn.Linear(2, 2), "expected a GPT, got Linear"),
        (lambda model: nn.Sequential(model), "expected a GPT, got Sequential"),
        (Temperature, "expected a GPT, got Temperature"),
        (lambda model: AveragedModel(Temperature(model)), "expected a GPT, got AveragedModel around Temperature"),
        (lambda model: model.state_dict(), "expected a GPT, got OrderedDict"),
        (on_meta, "its weights are on the meta device"),
        (with_weight_norm, r"head\.parametrizations\.weight\.original0: the model to save holds"),
        (sharded, "is a DTensor, not a whole dense tensor"),
    ],
)
def test_a_model_that_cannot_be_saved_left_a_weights_file(
    change: Callable[[GPT], nn.Module], message: str, tmp_path: Path
) -> None:
    good = scrambled(tiny(), torch.float32)
    save(good, tmp_path / "good")
    model = change(copy.deepcopy(good))
    for folder in (tmp_path / "good", tmp_path / "new" / "folder"):
        with pytest.raises(ConfigError, match=message):
            save(model, folder)
    assert [path.name for path in tmp_path.iterdir()] == ["good"]
    assert torch.equal(load(tmp_path / "good")(tokens()), good(tokens()))


FILES = ["model.safetensors", "config.json"]


@pytest.mark.parametrize("folder", ["good", "new"])
@pytest.mark.parametrize("failing", ["write_text", "replace"])
def test_a_save_that_fails_half_way_changed_the_folder(
    failing: str, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails at any one of the writes and renames."""
    old, new = scrambled(tiny(), torch.float32), scrambled(tiny(logit_softcap=0.5), torch.float32)
    save(old, tmp_path / "good")
    work: Callable[..., Any] = getattr(Path, failing)
    for n_good in range(9):
        left = iter([True] * n_good + [False])

        def fail_once(path: Path, *rest: Any, left: Iterator[bool] = left) -> Any:
            if not next(left, True):
                raise OSError(28, "No space left on device", str(path))
            return work(path, *rest)

        with monkeypatch.context() as patch:
            patch.setattr(Path, failing, fail_once)
            try:
                save(new, tmp_path / folder)
            except OSError:
                has_failed = True
            else:
                has_failed = False
        if not has_failed:
            break
        assert sorted(path.name for path in tmp_path.rglob("*")) == sorted(["good", *FILES])
        assert torch.equal(load(tmp_path / "good")(tokens()), old(tokens()))
    assert n_good > 0
    assert torch.equal(load(tmp_path / folder)(tokens()), new(tokens()))


def test_a_folder_in_place_of_a_file_was_swallowed(tmp_path: Path) -> None:
    (tmp_path / "config.json" / "deep").mkdir(parents=True)
    with pytest.raises(IsADirectoryError, match=r"config\.json"):
        save(GPT(tiny()), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (b"[" * 200_000, r"config\.json is nested too deeply"),
        (b"\xff\xfe", r"config\.json is not valid JSON"),
        (b"null", "contains a NoneType instead of a mapping"),
        (b'{"model": [1]}', "expected a mapping of a model's settings"),
        (b'{"model": {"d_model": 24}}', r"is required: .* \(in .*config\.json\)"),
        (b" " * 10_000_001, r"has 10,000,001 bytes; a configuration has at most"),
    ],
)
def test_a_bad_configuration_ended_in_a_traceback(config: bytes, message: str, tmp_path: Path) -> None:
    save(GPT(tiny()), tmp_path)
    (tmp_path / "config.json").write_bytes(config)
    with pytest.raises(ConfigError, match=message):
        load(tmp_path)


@pytest.mark.parametrize("name", ["x\0y", "x" * 300, "x\ny"])
def test_a_name_that_no_folder_has_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="there is no "):
        load(name)


def test_a_configuration_of_terabytes_was_allocated(tmp_path: Path) -> None:
    save(GPT(tiny()), tmp_path)
    for sizes in ({"d_model": 960_000}, {"n_layers": 10_000, "d_model": 4_800}, {"vocab_size": 1_000_000}):
        config = tiny(**sizes)
        (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
        with pytest.raises(
            ConfigError, match=rf"describes {config.num_params():,} parameters \(.* [A-Z]B in float32\)"
        ):
            load(tmp_path)


def test_a_changed_byte_in_the_weights_gave_other_numbers(tmp_path: Path) -> None:
    model = GPT(tiny())
    save(model, tmp_path)
    path = tmp_path / "model.safetensors"
    whole = path.read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    for place in range(start, len(whole), 997):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(
            ConfigError, match=r"model\.safetensors is damaged: its checksum is not that of its weights"
        ):
            load(tmp_path)
    save_file(dict(model.state_dict()), path)  # as earlier versions wrote it
    assert torch.equal(load(tmp_path)(tokens()), model(tokens()))


def test_weights_of_another_type_are_named(tmp_path: Path) -> None:
    save(GPT(tiny()), tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file({**weights, "head.weight": weights["head.weight"].to(torch.int8)}, tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match=r"head\.weight: .* stores it as torch\.int8 \(legal: float16, "):
        load(tmp_path)
