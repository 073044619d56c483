"""The type of a setting at a dotted path, and when two values are the same."""

from __future__ import annotations

from typing import Any

import pytest

from ablate.study.settings import Settings, is_same


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (1, 1.0, True),
        (1e-3, 0.001, True),
        (0, 0.0, True),
        (1, True, False),
        (0, False, False),
        (1, "1", False),
        ("auto", "auto", True),
        (None, False, False),
        ([1, 2], (1.0, 2), True),
        ([1], [True], False),
        ({"a": {"b": 1}}, {"a": {"b": 1.0}}, True),
        ({"a": 1}, {"a": True}, False),
    ],
)
def test_values_are_the_same_by_what_they_mean(one: Any, other: Any, expected: bool) -> None:
    assert is_same(one, other) is expected
    assert is_same(other, one) is expected


def test_a_setting_is_read_and_set_at_its_path() -> None:
    declared = {"model": {"attention": "gated", "n_layers": 2}, "rules": [{"set": {"train.beta1": 0.9}}]}
    settings = Settings(declared)
    assert settings.get("model.attention.name") == "gated"
    settings.set("model.attention.qk_norm", True, ("matrix", "attention", 0))
    settings.set(("rules", 0, "set", "train.beta1"), 0.8)
    assert settings.tree["model"]["attention"] == {"name": "gated", "qk_norm": True}
    assert settings.get(("rules", 0, "set", "train.beta1")) == 0.8
    assert settings.get("model.n_layers.x") is None
    assert [*settings.places_near("model.attention")] == [("matrix", "attention", 0)]
    unchanged = {"model": {"attention": "gated", "n_layers": 2}, "rules": [{"set": {"train.beta1": 0.9}}]}
    assert declared == unchanged
    with pytest.raises(ValueError, match="'n_layers' is 2, which has no parts"):
        settings.set("model.n_layers.x", 1)
    with pytest.raises(ValueError, match=r"1 is not the index of an entry .legal: 0 to 0"):
        settings.set(("rules", 1, "set"), {})
