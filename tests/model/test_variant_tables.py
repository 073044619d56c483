"""The tables of variants: every line resolves, every variant's file is registered, every variant is documented."""

from __future__ import annotations

import importlib
import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import label, scrambled, tiny, tokens, variants
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import ablate_model
from ablate_model import GPT, ConfigError, ModelConfig
from ablate_model import variants as describe_variants
from ablate_model.attention.heads import HeadAttention
from ablate_model.attention.standard import StandardAttention
from ablate_model.config import TABLES, broken_lines
from ablate_model.contracts import Neutral, Variant
from ablate_model.cost import count_forward_flops
from ablate_model.table import Table

ROOT = Path(ablate_model.__file__).parent
LINES = [pytest.param(table, name, id=f"{axis}-{name}") for axis, table in TABLES.items() for name in table]
CASES = [pytest.param(axis, case, id=f"{axis}-{label(case)}") for axis in TABLES for case in variants(axis)]
FLOAT64 = 1e-12  # the same operations in the same order, except for the number of heads per call


@pytest.mark.parametrize(("table", "name"), LINES)
def test_every_line_resolves_to_a_documented_variant(table: Table[Any], name: str) -> None:
    variant = table.resolve(name)
    assert issubclass(variant, Variant)
    assert not inspect.isabstract(variant)
    assert variant.name == name
    described = describe_variants()[table.axis][name]
    assert all(described[word] for word in ("summary", "paper", "equations", "deviations", "neutral", "version"))
    assert all(knob["description"] for knob in described["knobs"].values())
    json.dumps(described)


@pytest.mark.parametrize("axis", TABLES)
def test_no_variant_is_left_out_of_its_table(axis: str) -> None:
    listed = {TABLES[axis].resolve(name) for name in TABLES[axis]}
    found = set()
    for path in (path for path in (ROOT / axis).glob("*.py") if path.stem != "plain"):  # the frame of plain modules
        module = importlib.import_module(
            f"ablate_model.{axis}.{path.stem}" if path.stem != "__init__" else f"ablate_model.{axis}"
        )
        for _, cls in inspect.getmembers(module, inspect.isclass):
            if issubclass(cls, Variant) and not inspect.isabstract(cls) and cls.__module__ == module.__name__:
                found.add(cls)
    assert found == listed


@pytest.mark.parametrize("axis", TABLES)
def test_the_first_line_is_the_baseline(axis: str) -> None:
    assert TABLES[axis].default().neutral_point == Neutral()
    assert getattr(tiny(), axis).name == next(iter(TABLES[axis]))


class WithoutBuild(HeadAttention):
    """A variant without `build`, `query_heads` and any documentation."""


class NeedsKnob(StandardAttention):
    name = "bad"
    strength: float


BROKEN = {
    "standard:StandardAttention": r"a class whose own name is 'standard'",
    "standard:Gone": r"cannot be imported: AttributeError: ",
    "gone:Gone": r"cannot be imported: ModuleNotFoundError: ",
    "standard": r"cannot be imported: AttributeError: ",
    "layer:HeadLayer": r"is not a subclass of Attention",
    "standard:annotations": r"is not a subclass of Attention",
    "standard:WithoutBuild": r"lacks build, key_heads, query_heads, name, summary, paper, ",
    "standard:NeedsKnob": r"lacks a default of strength",
}


@pytest.mark.parametrize(("line", "message"), BROKEN.items())
def test_a_line_whose_class_lacks_part_of_the_contract_broke_every_variant(
    line: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for cls in (WithoutBuild, NeedsKnob):
        monkeypatch.setattr("ablate_model.attention.standard." + cls.__name__, cls, raising=False)
    before = describe_variants()
    monkeypatch.setitem(TABLES["attention"].lines, "bad", line)
    with pytest.raises(ConfigError, match=rf"^attention\.name: the line 'bad': '{line}' of the attention .*{message}"):
        tiny(attention={"name": "bad"})
    assert describe_variants() == before
    assert [str(error).split(": ")[0] for error in broken_lines()] == ["attention.name"]
    assert tiny().attention.name == "standard"


@pytest.mark.parametrize("axis", TABLES)
def test_a_misspelt_name_is_answered_with_the_nearest(axis: str) -> None:
    name = next(iter(TABLES[axis]))
    with pytest.raises(ConfigError) as refused:
        tiny(**{axis: name + "x"})
    assert refused.value.path == axis
    assert f"did you mean {name!r}?" in str(refused.value)
    assert refused.value.legal == tuple(TABLES[axis])


@pytest.mark.parametrize(("axis", "case"), CASES)
def test_plain_data_gives_the_same_config_again(axis: str, case: dict[str, Any]) -> None:
    config = tiny(**{axis: case})
    data = json.loads(json.dumps(config.to_dict()))
    assert ModelConfig.parse(data) == config
    assert ModelConfig.parse(data).to_dict() == data
    data[axis]["version"] += 1
    with pytest.raises(ConfigError, match=rf"^{axis}\.version: "):
        ModelConfig.parse(data)


@pytest.mark.parametrize(("axis", "case"), CASES)
def test_formulas_equal_the_module_and_the_flop_counter(axis: str, case: dict[str, Any]) -> None:
    """The counter counts full attention squares and the formula only halves, so add the other halves."""
    config = tiny(**{axis: {**case, "window": None} if "window" in case else case})
    model = GPT(config, backend="math")
    assert config.num_params() == sum(p.numel() for p in model.parameters())
    with FlopCounterMode(display=False) as counter:
        model(tokens(8))
    without_attention, halved = (count_forward_flops(config, length) for length in (0, 8))
    assert counter.get_total_flops() == 16 * (2 * halved - without_attention)
    assert config.flops_per_token() == 3 * halved


@pytest.mark.parametrize(("axis", "case"), CASES)
def test_every_parameter_has_a_gradient_and_a_role(axis: str, case: dict[str, Any]) -> None:
    model = scrambled(tiny(**{axis: case}))
    model.loss(tokens(), tokens().flip(0)).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert model.parameter_roles().keys() == dict(model.named_parameters()).keys()


@pytest.mark.parametrize(("table", "name"), LINES)
def test_neutral_point_equals_the_baseline(table: Table[Any], name: str) -> None:
    variant = table.resolve(name)
    if variant.neutral_point is None:
        assert variant.neutral.startswith("None: ")
        return
    point = variant.neutral_point
    config = tiny(**{table.axis: {"name": name, **point.knobs}})
    baseline = {"name": next(iter(table))}
    if table.axis == "attention":
        baseline["qk_head_dim"] = config.attention.qk_width(config)
    model, plain = scrambled(config), scrambled(tiny(**{table.axis: baseline}))
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if set(parameter_name.split(".")) & set(point.zeros):
                parameter.zero_()
            if set(parameter_name.split(".")) & set(point.ones):
                parameter.fill_(1.0)
        source = dict(model.named_parameters())
        for parameter_name, parameter in plain.named_parameters():
            every = _stride(parameter_name, point)
            parameter.copy_(_take_heads(source[parameter_name], every, config.attention.qk_width(config)))
    torch.testing.assert_close(model(tokens()), plain(tokens()), atol=FLOAT64, rtol=FLOAT64)


def _stride(parameter_name: str, point: Neutral) -> int:
    if ".attention.query." in parameter_name:
        return point.query_every
    return point.key_every if ".attention.key." in parameter_name else 1


def _take_heads(weight: Tensor, every: int, width: int) -> Tensor:
    return weight if every == 1 else weight.unflatten(0, (-1, width))[::every].flatten(0, 1)
