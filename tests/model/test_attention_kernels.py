"""attention(): every backend against the explicit formula."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from cases import tiny
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from ablate_model import GPT
from ablate_model.attention_backend import report_attention
from ablate_model.kernels import flex
from ablate_model.kernels.attention import BACKENDS, choose
from ablate_model.kernels.call import BackendError, Call, DecayBias
from ablate_model.kernels.flex import attend_flex
from ablate_model.kernels.functional import attention
from ablate_model.kernels.sdpa import _align

# on a CPU, FlexAttention is eager: it warns that it is slow, and reads .grad of what it captures
pytestmark = pytest.mark.filterwarnings(
    "ignore:flex_attention called without torch.compile", "ignore:The .grad attribute of a Tensor"
)
FLOAT64 = 1e-12
ALONE: list[dict[str, Any]] = [
    {},
    {"causal": False},
    {"scale": 1.7},
    {"window": 3},
    {"softcap": 1.5},
    {"n_queries": 1},
    {"n_queries": 4},
    {"heads": 6, "key_heads": 2},
    {"bias": "dense"},
    {"bias": "decay"},
    {"sink": True},
    {"sink": True, "n_queries": 1},
]
TOGETHER: list[dict[str, Any]] = [
    {"window": 3, "causal": False},
    {"n_queries": 4, "window": 2},
    {"n_keys": 30, "n_queries": 5},
    {"heads": 6, "key_heads": 3, "v_width": 6, "scale": 1.7},
    {"v_width": 17, "softcap": 1.5},
    {"bias": "row"},
    {"bias": "blind"},
    {"sink": True, "heads": 6, "key_heads": 2, "n_queries": 4},
    {"sink": True, "window": 3, "bias": "dense"},
    {"sink": True, "bias": "decay"},
    {"sink": True, "causal": False},
    {"sink": True, "softcap": 1.5},
    {"seen": "some"},
    {"seen": "some", "n_keys": 9, "n_queries": 4, "window": 3, "heads": 6, "key_heads": 3},
    {"seen": "some", "causal": False, "n_queries": 4, "softcap": 1.5},
    {"seen": "none", "causal": False},
    {"seen": "none", "bias": "dense"},
    {"seen": "none", "sink": True, "causal": False},
    {"seen": "none", "sink": True, "bias": "decay"},
]
SETTINGS = ALONE + TOGETHER


def calls() -> Iterator[Any]:
    """Every backend with every setting. For flex, ALONE is left out: it is slow to trace, and TOGETHER covers it."""
    for backend, (index, settings) in itertools.product(["auto", *BACKENDS], enumerate(SETTINGS)):
        marks = [pytest.mark.slow] if backend == "flex" and settings in ALONE else []
        yield pytest.param(backend, index, id=f"{backend}-{settings}", marks=marks)


SHAPES = ("n_queries", "n_keys", "heads", "key_heads", "v_width")


def make(n_queries: int = 7, n_keys: int = 7, heads: int = 4, key_heads: int = 4, v_width: int = 4) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = [(2, n_queries, heads, 4), (2, n_keys, key_heads, 4), (2, n_keys, key_heads, v_width)]
    return [torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes]


def make_bias(kind: str | None, q: Tensor, k: Tensor) -> Tensor | DecayBias | None:
    generator = torch.Generator().manual_seed(2)
    b, t, h, _ = q.shape
    s = k.shape[1]
    match kind:
        case None:
            return None
        case "dense":
            return torch.randn(b, h, t, s, generator=generator, dtype=torch.float64).requires_grad_()
        case "row":
            return torch.randn(1, 1, t, s, generator=generator, dtype=torch.float64).requires_grad_()
        case "blind":  # the second query sees nothing at all
            bias = torch.zeros(1, 1, t, s, dtype=torch.float64)
            bias[:, :, 1] = -torch.inf
            return bias
        case _:
            steps = torch.rand(b, h, s, generator=generator, dtype=torch.float64).cumsum(-1).requires_grad_()
            return DecayBias(steps[..., s - t :], steps)


def make_seen(kind: str | None, n_keys: int) -> Tensor | None:
    """The second sequence is padded in front and behind, or altogether ("none")."""
    if kind is None:
        return None
    seen = torch.ones(2, n_keys, dtype=torch.bool)
    seen[1, :2] = seen[1, -1] = False
    return seen if kind == "some" else torch.tensor([[True], [False]]) & seen


def naive(q: Tensor, k: Tensor, v: Tensor, *, bias: Any, sink: Tensor | None, settings: dict[str, Any]) -> Tensor:
    """One number at a time."""
    b, t, h, _ = q.shape
    s, window, softcap = k.shape[1], settings.get("window"), settings.get("softcap")
    is_seen = make_seen(settings.get("seen"), s)
    out = []
    for i, n, j in itertools.product(range(b), range(t), range(h)):
        g, position = j * k.shape[2] // h, s - t + n
        terms, seen = [], []
        for m in range(s):
            z = (q[i, n, j] * k[i, m, g]).sum() * settings.get("scale", 0.5)
            z = z if softcap is None else softcap * torch.tanh(z / softcap)
            if isinstance(bias, DecayBias):
                z = z + bias.query_bht[i, j, n] - bias.key_bhs[i, j, m]
            elif bias is not None:
                z = z + bias[i % bias.shape[0], j % bias.shape[1], n, m]
            is_later = settings.get("causal", True) and m > position
            is_later = is_later or (is_seen is not None and not is_seen[i, m])
            if not (is_later or (window is not None and m <= position - window) or z == -torch.inf):
                terms.append(z.exp())
                seen.append(v[i, m, g])
        total = sum(terms) if sink is None else sum(terms) + sink[j].exp()
        out.append(sum((e * x / total for e, x in zip(terms, seen, strict=True)), torch.zeros_like(v[0, 0, 0])))
    return torch.stack(out).view(b, t, h, -1)


@dataclass(frozen=True)
class Case:
    """The inputs of a call, the formula's output, and its gradients with respect to the inputs."""

    knobs: dict[str, Any]
    inputs: list[Tensor]
    expected: Tensor
    gradients: tuple[Tensor, ...]


@functools.cache
def write_out(index: int) -> Case:
    """The case of SETTINGS[index], computed once for all backends because the formula is slow."""
    settings = SETTINGS[index]
    q, k, v = make(**{key: value for key, value in settings.items() if key in SHAPES})
    bias = make_bias(settings.get("bias"), q, k)
    sink = torch.linspace(-1, 2, q.shape[2], dtype=torch.float64).requires_grad_() if "sink" in settings else None
    inputs = [x for x in (q, k, v, bias, sink) if isinstance(x, Tensor) and x.requires_grad]
    expected = naive(q, k, v, bias=bias, sink=sink, settings=settings)
    knobs = {key: settings.get(key) for key in ("window", "softcap")}
    knobs |= {"causal": settings.get("causal", True), "scale": settings.get("scale", 0.5)}
    knobs["seen"] = make_seen(settings.get("seen"), k.shape[1])
    gradients = torch.autograd.grad(expected.square().sum(), inputs, retain_graph=True)
    return Case({"q": q, "k": k, "v": v, "bias": bias, "sink": sink, **knobs}, inputs, expected.detach(), gradients)


@pytest.mark.parametrize(("backend", "index"), list(calls()))
def test_backends_equal_the_formula(backend: str, index: int) -> None:
    case = write_out(index)
    has_gradients = backend != "flex"  # torch has none for it on a CPU; GPU tests compare them
    try:
        with torch.set_grad_enabled(has_gradients):
            out = attention(**case.knobs, backend=backend)
    except BackendError as refusal:
        pytest.skip(f"refused by name, as promised: {refusal}")
    assert out.shape == case.expected.shape
    torch.testing.assert_close(out.detach(), case.expected, atol=FLOAT64, rtol=FLOAT64)
    if has_gradients:
        got = torch.autograd.grad(out.square().sum(), case.inputs, retain_graph=True)  # a decay's graph is shared
        torch.testing.assert_close(got, case.gradients, atol=10 * FLOAT64, rtol=10 * FLOAT64)


def test_auto_never_refuses() -> None:
    """Only a backend that was requested by name may be skipped above."""
    for settings in SETTINGS:
        q, k, v = make(n_queries=settings.get("n_queries", 7), n_keys=settings.get("n_keys", 7))
        attention(q, k, v, softcap=settings.get("softcap"), bias=make_bias(settings.get("bias"), q, k))


def test_a_backend_that_cannot_is_never_replaced_in_silence() -> None:
    q, k, v = make()
    with pytest.raises(BackendError, match="no logit softcap"):
        attention(q, k, v, softcap=1.0, backend="sdpa")
    with pytest.raises(BackendError, match="no gradients on a CPU"):
        attention(q, k, v, backend="flex")
    with pytest.raises(BackendError, match="did you mean 'math'"):
        attention(q, k, v, backend="maths")


def test_flash_says_why_it_cannot() -> None:
    q, k, v = (x.detach().float() for x in make())
    with pytest.raises(BackendError, match=r"^flash: (neither|it takes bfloat16 or float16 on a CUDA device)"):
        attention(q, k, v, backend="flash")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({}, "asked for by name"),
        (
            {"attention": {"name": "standard", "logit_softcap": 2.0}, "backend": "auto"},
            "sdpa has no logit softcap, and flex no gradients on a CPU",
        ),
        ({"attention": "linear_ensemble", "backend": "auto"}, "the fused kernel of a CPU"),
    ],
)
def test_the_choice_is_reported_with_its_reason(settings: dict[str, Any], reason: str) -> None:
    backend = settings.pop("backend", "sdpa")
    report = report_attention(GPT(tiny(**settings), backend=backend), torch.bfloat16)
    assert report["reason"] == reason
    assert report["requested"] == backend
    assert report["backend"] in BACKENDS
    assert report["kernel"] in ("math", "flash_attention", "efficient_attention", "cudnn_attention")


@pytest.mark.parametrize(
    ("settings", "dtype", "backend"),
    [
        ({}, torch.bfloat16, "sdpa"),
        ({"window": 3}, torch.float32, "flex"),
        ({"window": 3}, torch.float64, "sdpa"),
        ({"softcap": 2.0}, torch.float32, "flex"),
        ({"softcap": 2.0}, torch.float64, "math"),
        ({"softcap": 2.0, "n_queries": 1}, torch.float32, "math"),
        ({"bias": "decay"}, torch.bfloat16, "flex"),
        ({"bias": "decay"}, torch.float64, "sdpa"),
    ],
    ids=str,
)
def test_what_a_gpu_computes_on(settings: dict[str, Any], dtype: torch.dtype, backend: str) -> None:
    """The backend for tensors that only claim to be on a GPU."""
    with FakeTensorMode():
        q, k, v = (torch.empty(2, n, 4, 8, dtype=dtype, device="cuda:0") for n in (settings.get("n_queries", 7), 7, 7))
        decay = torch.empty(2, 4, 7, device="cuda:0")
        bias = DecayBias(decay, decay) if "bias" in settings else None
        window, softcap = settings.get("window"), settings.get("softcap")
        call = Call(q, k, v, True, 1.0, window, bias, softcap, None, False)
        assert choose(call)[0] == backend
        if dtype == torch.float64:
            with pytest.raises(BackendError, match="no float64 on a GPU"):
                attend_flex(call)


def test_flex_gets_no_head_too_narrow_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    widths: list[int] = []

    def note(*inputs: Tensor, **_: Any) -> Tensor:
        widths.extend(x.shape[-1] for x in inputs)
        return inputs[-1]

    monkeypatch.setattr(flex, "flex_attention", note)
    q, k, v = (x.detach() for x in make(v_width=17))
    assert attention(q, k, v, backend="flex").shape == v.shape
    assert widths == [16, 16, 17]


def test_a_model_without_attention_reports_none() -> None:
    report = report_attention(GPT(tiny(dropped=["attention/0", "attention/1"])))
    assert (report["backend"], report["reason"]) == ("none", "every attention is dropped")


@pytest.mark.parametrize(
    "settings", [{"window": 3, "softcap": 1.5, "bias": "dense"}, {"sink": True, "bias": "decay"}], ids=str
)
def test_flex_is_traced_whole(settings: dict[str, Any]) -> None:
    """Masks and score functions become part of a compiled model's graph."""
    q, k, v = (x.detach() for x in make())
    bias = make_bias(settings.get("bias"), q, k)
    bias = bias.detach() if isinstance(bias, Tensor) else bias
    sink = torch.zeros(4, dtype=torch.float64) if "sink" in settings else None
    knobs = {"window": settings.get("window"), "softcap": settings.get("softcap"), "bias": bias, "sink": sink}

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attention(q, k, v, backend="flex", **knobs)

    torch._dynamo.reset()
    with torch.no_grad():
        traced = torch.compile(call, backend="eager", fullgraph=True)(q, k, v)
        torch.testing.assert_close(traced, attention(q, k, v, backend="math", **knobs), atol=FLOAT64, rtol=FLOAT64)


def test_padding_to_an_even_multiple_of_eight_changes_nothing() -> None:
    """The backend that a GPU gets for maps of 42 features."""
    q, k, v = make(v_width=6)
    padded = attention(*(_align(x) for x in (q, k, v)), scale=0.5, backend="sdpa")
    torch.testing.assert_close(padded[..., :6], attention(q, k, v, scale=0.5), atol=FLOAT64, rtol=FLOAT64)
    assert padded.shape[-1] == _align(q).shape[-1] == 8
    assert (padded[..., 6:] == 0).all()


@pytest.mark.slow
def test_flex_takes_another_softcap_in_the_same_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile as on a GPU. torch replaces a number by a symbol once it changes between two calls."""
    q, k, v = (torch.randn(2, 128, 2, 16, generator=torch.Generator().manual_seed(i)) for i in range(3))
    torch._dynamo.reset()
    monkeypatch.setattr(flex, "flex_attention", torch.compile(flex.flex_attention))
    with torch.no_grad():
        for softcap in (2.0, 3.0):
            got, right = (attention(q, k, v, backend=backend, softcap=softcap) for backend in ("flex", "math"))
            torch.testing.assert_close(got, right, atol=1e-5, rtol=1e-5)
