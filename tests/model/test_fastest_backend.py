"""The measured choice of an attention backend, and its cache."""

from __future__ import annotations

import json
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from cases import tiny, tokens

from ablate_model import GPT
from ablate_model.attention_backend import choose_backend, collect_calls, report_attention
from ablate_model.kernels import fastest


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "attention.json"


def test_the_fastest_that_can_is_taken_and_reported(cache: Path) -> None:
    model = GPT(tiny(attention="linear_ensemble"))
    before = model(tokens())
    choose_backend(model, 2, cache=cache)
    assert set(model.measured_ms) == {"sdpa", "math"}  # flash has no CPU kernels, and flex no gradients there
    assert list(model.measured_ms.values()) == sorted(model.measured_ms.values())
    assert model.backend == next(iter(model.measured_ms))
    torch.testing.assert_close(model(tokens()), before, atol=1e-5, rtol=1e-5)
    report = report_attention(model)
    assert (report["requested"], report["backend"]) == ("fastest", model.backend)
    assert report["reason"].startswith(f"measured: {model.backend} ")


def test_what_no_graph_can_hold_is_timed_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    replayed = SimpleNamespace(replay=lambda: None)
    monkeypatch.setattr(torch, "cuda", SimpleNamespace(
        CUDAGraph=lambda: replayed, current_stream=lambda: None, device=nullcontext, stream=nullcontext,
        graph=lambda *_, **__: nullcontext(),
    ))  # fmt: skip
    ran: list[int] = []
    once = partial(ran.append, 1)
    assert fastest._capture_or_keep(once, torch.device("cuda")) is replayed.replay and ran == [1]
    monkeypatch.setattr(torch.cuda, "graph", refuse)
    assert fastest._capture_or_keep(once, torch.device("cuda")) is once


def test_a_shape_is_measured_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = GPT(tiny())
    choose_backend(model, 2, cache=cache)
    monkeypatch.setattr(fastest, "_measure", lambda _calls: ({"math": 1.0, "sdpa": 2.0}, {}))
    other = GPT(tiny(normalization="ngpt"))  # the same shape
    other.choose_backend(2, cache=cache)  # the same, as a method
    assert other.measured_ms == model.measured_ms
    choose_backend(other, 3, cache=cache)
    assert (other.backend, other.measured_ms) == ("math", {"math": 1.0, "sdpa": 2.0})
    assert len(json.loads(cache.read_text())) == 2


def test_the_first_of_two_who_measure_at_once_counts(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = collect_calls(GPT(tiny()), 1, torch.float32)

    def measure_late(_calls: object) -> tuple[dict[str, float], dict[str, Exception]]:
        monkeypatch.setattr(fastest, "_measure", lambda _calls: ({"sdpa": 1.0, "math": 2.0}, {}))
        fastest.choose_fastest(calls, cache)
        return {"math": 1.0, "sdpa": 2.0}, {}

    monkeypatch.setattr(fastest, "_measure", measure_late)
    assert list(fastest.choose_fastest(calls, cache)) == ["sdpa", "math"]


def test_a_cache_that_is_torn_or_cannot_be_written_is_done_without(cache: Path) -> None:
    cache.parent.mkdir()
    cache.write_text('{"half')
    model = GPT(tiny())
    choose_backend(model, 1, cache=cache)
    assert json.loads(cache.read_text())
    choose_backend(model, 1, cache=cache / "a file is no folder")
    assert model.backend in model.measured_ms


def test_without_attention_there_is_nothing_to_choose(cache: Path) -> None:
    model = GPT(tiny(dropped=["attention/0", "attention/1"]))
    choose_backend(model, 1, cache=cache)
    assert (model.backend, model.measured_ms) == ("auto", {})


OUT_OF_MEMORY = (
    torch.OutOfMemoryError("CUDA out of memory"),
    MemoryError("no room"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"),
)


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_a_passing_lack_of_memory_removed_a_backend_for_good(
    error: Exception, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lack(_name: str, _call: object) -> float:
        raise error

    model, time = GPT(tiny()), fastest._time
    with monkeypatch.context() as patch:
        patch.setattr(fastest, "_time", lambda name, call: (lack if name == "sdpa" else time)(name, call))
        choose_backend(model, 1, cache=cache)
        assert "math" in model.measured_ms and "sdpa" not in model.measured_ms
        patch.setattr(fastest, "_time", lack)
        for _ in range(2):
            with pytest.raises(torch.OutOfMemoryError, match=f"no attention backend .*; math: .*{str(error)[-9:]}"):
                choose_backend(model, 1, cache=cache)
    assert not cache.exists()
    choose_backend(model, 1, cache=cache)
    assert "sdpa" in model.measured_ms and cache.exists()


def test_an_error_that_is_no_lack_of_memory_is_raised(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_name: str, _call: object) -> float:
        raise RuntimeError("a bug")

    monkeypatch.setattr(fastest, "_time", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        choose_backend(GPT(tiny()), 1, cache=cache)


@pytest.mark.parametrize("table", [{}, None, [], {"sdpa": "1"}, {"sdpa": -1.0}, {"sdpa": float("nan")}, {"gone": 1.0}])
def test_an_empty_table_on_disk_ended_in_stop_iteration(table: object, cache: Path) -> None:
    model = GPT(tiny())
    choose_backend(model, 1, cache=str(cache))
    (key,) = json.loads(cache.read_text())
    cache.write_text(json.dumps({key: table, "another machine": {"math": 1.0}}))
    choose_backend(model, 1, cache=cache)
    assert set(model.measured_ms) == {"sdpa", "math"}
    assert json.loads(cache.read_text()) == {key: model.measured_ms, "another machine": {"math": 1.0}}
    for whole in ("[]", "3", "[" * 200_000):
        cache.write_text(whole)
        choose_backend(model, 1, cache=cache)
        assert json.loads(cache.read_text()).keys() == {key}
