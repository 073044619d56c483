"""Variants that an installed package offers, and files that lie outside of the grid's folder."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ablate.plan.json_schema import grid_schema
from ablate_model import ConfigError, ModelConfig, variants
from ablate_model.own_checks import check_own, own_codes
from ablate_model.own_code import LIBRARY
from ablate_model.own_variants import installed
from own_files import ATTENTION, HELPERS

SIZES = {"d_model": 16, "n_layers": 1, "n_heads": 2, "vocab_size": 50, "context_length": 16}
PACKAGE = "package_of_variants"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of installed packages with one that offers an attention and a line that is broken."""
    package, facts = tmp_path / PACKAGE, tmp_path / f"{PACKAGE}-1.0.dist-info"
    package.mkdir()
    facts.mkdir()
    (package / "__init__.py").write_text("")
    (package / "attention.py").write_text(ATTENTION.replace("from helpers", "from .helpers"))
    (package / "helpers.py").write_text(HELPERS)
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {PACKAGE}\nVersion: 1.0\n")
    lines = f"attention.windowed = {PACKAGE}.attention:MyAttention\nattention.gone = {PACKAGE}.nothing:Gone\n"
    (facts / "entry_points.txt").write_text(f"[ablate.variants]\n{lines}")
    monkeypatch.syspath_prepend(tmp_path)
    installed.cache_clear()
    yield package
    monkeypatch.undo()
    installed.cache_clear()
    for name in [name for name in sys.modules if name.split(".")[0] == PACKAGE]:
        del sys.modules[name]


def test_an_installed_package_offers_a_name(site: Path) -> None:
    listed = variants()["attention"]
    assert listed["windowed"]["knobs"]["window"]["default"] == 64
    assert "gone" not in listed
    config = ModelConfig.parse({**SIZES, "attention": {"name": "windowed", "window": 4}})
    check_own(config)
    (code,) = own_codes(config)
    assert sorted(code.files) == [f"{PACKAGE}/{name}.py" for name in ("__init__", "attention", "helpers")]
    recorded = config.to_dict()
    assert recorded["attention"]["version"] == code.version
    assert ModelConfig.parse(recorded) == config
    (site / "helpers.py").write_text(HELPERS + "# another release\n")
    with pytest.raises(ConfigError, match="was recorded as version"):
        ModelConfig.parse(recorded)


def test_a_file_may_lie_outside_of_the_grids_folder(tmp_path: Path, write: Callable[[str, str], None]) -> None:
    write("shared/mine.py", ATTENTION)
    write("shared/helpers.py", HELPERS)
    (tmp_path / "grids").mkdir()
    LIBRARY.look_in(tmp_path / "grids")
    config = ModelConfig.parse({**SIZES, "attention": "../shared/mine.py:MyAttention"})
    (code,) = own_codes(config)
    assert sorted(code.files) == ["helpers.py", "mine.py"]
    with pytest.raises(ConfigError, match="relative to the grid"):
        ModelConfig.parse({**SIZES, "attention": f"{tmp_path}/shared/mine.py:MyAttention"})


def test_editors_accept_a_file_wherever_one_can_stand() -> None:
    schema = grid_schema()
    train = schema["$defs"]["TrainConfig"]["properties"]
    for place in (train["optimizer"], train["schedule"]):
        assert any("pattern" in option for option in place["anyOf"])
    assert json.dumps(schema).count("FILE.py:CLASS") >= 6
