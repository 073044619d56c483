"""flash-attn-4 as a custom operator, with a stand-in for the package, so no GPU is needed."""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ablate_model.kernels import flash
from ablate_model.kernels.call import Call
from ablate_model.kernels.math import attend_math

FLOAT64 = 1e-12


def written_out(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool, window: int, softcap: float) -> Tensor:
    cap, width = (softcap or None), (None if window < 0 else window + 1)
    return attend_math(Call(q, k, v, causal, scale, width, None, cap, None, False))


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """A stand-in for flash_attn.cute with the same signatures, which records its calls."""
    asked: dict[str, Any] = {}

    def flash_attn_func(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        softmax_scale: float,
        causal: bool,
        window_size: Any,
        softcap: float,
        **rest: Any,
    ) -> tuple[Tensor, Tensor]:
        asked.update(window_size=window_size, **rest)
        window = -1 if window_size[0] is None else window_size[0]
        out = written_out(q, k, v, softmax_scale, causal, window, softcap).contiguous()
        return out, q.new_zeros((q.shape[0], q.shape[2], q.shape[1]), dtype=torch.float32)

    def _flash_attn_bwd(
        q: Tensor, k: Tensor, v: Tensor, _out: Tensor, dout: Tensor, _lse: Tensor, *settings: Any, **rest: Any
    ) -> tuple[Tensor, ...]:
        scale, causal, softcap = settings
        window = -1 if rest["window_size_left"] is None else rest["window_size_left"]

        def differentiate() -> tuple[Tensor, ...]:
            inputs = [x.detach().requires_grad_() for x in (q, k, v)]
            return torch.autograd.grad(written_out(*inputs, scale, causal, window, softcap), inputs, dout)

        with ThreadPoolExecutor(1) as another:  # torch records no gradients on this thread inside an operator
            return tuple(gradient.contiguous() for gradient in another.submit(differentiate).result())

    cute, interface = types.ModuleType("flash_attn.cute"), types.ModuleType("flash_attn.cute.interface")
    cute.flash_attn_func = flash_attn_func
    interface._flash_attn_bwd = _flash_attn_bwd
    for module in (types.ModuleType("flash_attn"), cute, interface):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    flash.find_flash.cache_clear()
    yield asked
    flash.find_flash.cache_clear()


def inputs() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 5, 4, 8), (2, 5, 2, 8), (2, 5, 2, 8)]
    return [torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes]


@pytest.mark.parametrize("settings", [(0.3, True, -1, 0.0), (0.3, True, 2, 0.0), (1.0, False, -1, 1.5)])
def test_values_and_gradients_pass_through(package: dict[str, Any], settings: tuple[float, bool, int, float]) -> None:
    q, k, v = inputs()
    out, _ = flash.flash4(q, k, v, *settings, True)
    expected = written_out(q, k, v, *settings)
    torch.testing.assert_close(out, expected, atol=FLOAT64, rtol=FLOAT64)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    got, wanted = (torch.autograd.grad((x * weights).sum(), (q, k, v)) for x in (out, expected))
    torch.testing.assert_close(got, wanted, atol=FLOAT64, rtol=FLOAT64)
    assert package["deterministic"] is True
    assert package["window_size"] == ((None, None) if settings[2] < 0 else (2, 0))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.usefixtures("package")
def test_the_operator_is_one_for_the_compiler() -> None:
    """Fake shapes, autograd registration and schema, as torch checks them."""
    checked = torch.library.opcheck(flash.flash4, (*inputs(), 0.3, True, -1, 0.0, False))
    assert set(checked.values()) == {"SUCCESS"}


@pytest.mark.usefixtures("package")
def test_the_newer_package_is_found_by_its_function() -> None:
    found = flash.find_flash()
    assert found is not None
    assert found[0] == "flash-attn-4"


@pytest.mark.usefixtures("package")
def test_compiled_kernels_are_kept_where_they_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    names = [f"FLASH_ATTENTION_CUTE_DSL_CACHE_{name}" for name in ("ENABLED", "DIR")]
    (tmp_path / "file").touch()
    for home, expected in (
        (tmp_path / "file", [None, None]),
        (tmp_path, ["1", str(tmp_path / "ablate" / "flash-attn-4")]),
    ):
        for name in names:
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("XDG_CACHE_HOME", str(home))
        flash.find_flash.cache_clear()
        flash.find_flash()
        assert [os.environ.get(name) for name in names] == expected
    monkeypatch.setenv(names[0], "0")  # the user's choice
    flash.find_flash.cache_clear()
    flash.find_flash()
    assert os.environ[names[0]] == "0"


@pytest.mark.usefixtures("package")
def test_refusals_name_the_reason() -> None:
    q, k, v = (torch.empty(1, 4, 2, 64, dtype=torch.bfloat16, device="meta") for _ in range(3))
    plain = Call(q, k, v, True, 0.1, None, None, None, None, False)
    assert flash.explain_refusal(plain) == "it takes bfloat16 or float16 on a CUDA device, not torch.bfloat16 on meta"
