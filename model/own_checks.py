"""The checks of a user's variant before anything trains: it can be built and called, and it does not look ahead."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .causality import Leak, OutputError, Reach, find_leak, run_seeded
from .config import TABLES, ModelConfig
from .context import Context
from .contracts import Variant
from .errors import ConfigError
from .own_code import Code
from .own_modules import as_own_error
from .parameters import SpecModel
from .plain import Plain

LENGTHS = (2, 5, 33, 129)
LONGEST = 1024  # of the whole context, so much is checked too
BRIEF = 33  # the last state is checked up to this length
WIDEST = 512  # wider modules are checked at a smaller width, if they can be built there
PREFIX_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}

_checked: dict[str, ConfigError | None] = {}


def own_variants(config: ModelConfig) -> dict[str, Variant]:
    """Return the variants of a model that come from files or packages of the user's, by axis."""
    return {axis: variant for axis in TABLES if (variant := getattr(config, axis)).code is not None}


def own_codes(config: ModelConfig) -> list[Code]:
    """Return the code that a model needs beside this package."""
    return [variant.code for variant in own_variants(config).values() if variant.code is not None]


def check_own(config: ModelConfig) -> None:
    """Check every variant of the user's in a model. Raises ConfigError with the output and the input that leaked.

    Each configuration is checked once per process.
    """
    for axis, variant in own_variants(config).items():
        key = f"{axis} {variant.to_dict()} {config!r}"
        if key not in _checked:
            try:
                _check(config, axis, variant)
                _checked[key] = None
            except ConfigError as error:
                _checked[key] = error if error.path else error.under(f"{axis}.name")
        if (found := _checked[key]) is not None:
            raise found


class Probe(SpecModel):
    """The part of a model with the variant, as a map of the stream (b, t, d) to itself."""

    has_unit_weights = False

    def __init__(self, config: ModelConfig, axis: str, layer: int) -> None:
        super().__init__()
        self.config, self.axis, self.layer = config, axis, layer
        self.position: Any = config.position.build(config)
        self.first, self.part, self.final = None, None, None
        if axis == "attention":
            if config.value_residual != "none" and layer > 0:
                self.first = config.attention.build(config, 0)
            self.part = config.attention.build(config, layer)
        elif axis == "mlp":
            self.part = config.mlp.build(config, layer)
        elif isinstance(config.normalization, Plain) and axis == "normalization":
            self.part = config.normalization.build_norm(config)
        else:
            self.part, self.final = config.topology.build(config), config.normalization.build_final(config)
        self.initialize(0)

    @property
    def reach(self) -> Reach:
        """What an output may depend on."""
        return "causal" if self.axis == "attention" or self.final is not None else "token"

    def forward(self, x_btd: Tensor) -> Tensor:
        part: Any = self.part
        if self.final is None and self.axis != "attention":
            return part(x_btd)  # type: ignore[no-any-return]
        h_btd, tables = self.position(x_btd, 0)
        source_btd = self.config.normalization.normalize_source(h_btd) if self.config.embedding_shortcut else None
        context = Context(tables, "math", source_btd)
        if self.first is not None:
            self.first(x_btd, context, None)
        out_btd: Tensor = part(x_btd if self.final is None else h_btd, context, None)
        return out_btd if self.final is None else self.final.read(out_btd)


def probes(config: ModelConfig, axis: str) -> Iterator[Probe]:
    """Build the probes of a variant: its first, second and last layer if they may differ."""
    variant = getattr(config, axis)
    depths = config.kept_depths("mlp" if axis == "mlp" else "attention") or [0]
    if axis not in ("attention", "mlp") or (isinstance(variant, Plain) and "layer" not in variant.facts):
        depths = [0]
    for layer in dict.fromkeys([depths[0], depths[min(1, len(depths) - 1)], depths[-1]]):
        yield _build(config, axis, layer)


def _build(config: ModelConfig, axis: str, layer: int) -> Probe:
    """Build a probe, in a smaller model where that is possible."""
    name = getattr(config, axis).name
    if config.n_layers > 2 and axis not in ("attention", "mlp") and not config.dropped:
        config = config.model_copy(update={"n_layers": 2})
    try:
        if config.d_model > WIDEST and isinstance(getattr(config, axis), Plain):
            n_heads = math.gcd(config.n_heads, 4)
            small = {"d_model": n_heads * config.head_dim, "n_heads": n_heads, "d_ff": 4 * n_heads * config.head_dim}
            try:
                return Probe(config.model_copy(update=small), axis, layer)
            except Exception:  # noqa: BLE001 - it does not fit its knobs, so the real width has to
                pass
        return Probe(config, axis, layer)
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:
        raise as_own_error(error, f"{name} cannot be built") from error


def _check(config: ModelConfig, axis: str, variant: Variant) -> None:
    if isinstance(variant, Plain):
        variant.flops(config)
    for probe in probes(config, axis):
        try:
            with torch.random.fork_rng(devices=[]), one_thread():
                _check_probe(probe, variant.name)
        except ConfigError:
            raise
        except OutputError as error:
            raise ConfigError(f"{axis}.name", f"{variant.name}: {error}") from None
        except (Exception, SystemExit) as error:
            raise as_own_error(error, f"{variant.name} fails") from error


def _check_probe(probe: Probe, name: str) -> None:
    place = f"{probe.axis}.name"
    if not _are_equal(probe, Probe(probe.config, probe.axis, probe.layer)):
        raise ConfigError(
            place, f"{name} starts from different values each time; draw them with torch's random numbers"
        )
    dtype = find_dtype(probe)
    probe.to(dtype)
    if flaw := find_change(probe, dtype):
        raise ConfigError(place, f"{name}: {flaw}")
    for state, longest in states_of(probe):
        if leak := find_any_leak(probe, dtype, longest):
            what = "is not causal" if probe.reach == "causal" else "does not map each token by itself"
            raise ConfigError(place, f"{name} {what}: {leak}, with {state}")
        if flaw := find_length_flaw(probe, dtype):
            raise ConfigError(place, f"{name}: {flaw}, with {state}")


def states_of(probe: Probe) -> Iterator[tuple[str, int]]:
    """Put a probe into each state in which it is checked. Yields its name, and up to which length it is checked.

    Random parameters come with both signs, because a gate that starts closed may open on one side only.
    """
    yield "its initial parameters", LONGEST
    perturb(probe)
    yield "random parameters", LONGEST
    perturb(probe, -2.0)
    yield "random parameters of the opposite sign", BRIEF


def find_any_leak(probe: Probe, dtype: torch.dtype, longest: int) -> Leak | None:
    """Return the first forbidden effect at any of the lengths."""
    longest = min(longest, probe.config.context_length)
    for length in sorted({min(length, longest) for length in LENGTHS}):
        if leak := find_leak(probe, probe, draw(probe, length, dtype), probe.reach):
            return leak
    if longest <= LENGTHS[-1]:
        return None
    return find_leak(probe, probe, draw(probe, longest, dtype), probe.reach, is_brief=True)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute in this thread: others only wait for each other over tensors this small."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


def _are_equal(one: Probe, other: Probe) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


class _Rounding(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes whether an operation turns float64 into fewer digits, as the usual `x.float()` of a norm does."""

    is_found = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        dtypes = {x.dtype for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        if torch.float64 in dtypes and isinstance(out, Tensor) and out.is_floating_point():
            self.is_found |= out.dtype != torch.float64
        return out


def find_dtype(probe: Probe) -> torch.dtype:
    """Return float64, or float32 if the module cannot compute in float64, or rounds to fewer digits on the way."""
    probe.to(torch.float64)
    try:
        with _Rounding() as rounding:  # type: ignore[no-untyped-call]
            probe(draw(probe, 2, torch.float64))
        return torch.float32 if rounding.is_found else torch.float64
    except Exception:  # noqa: BLE001 - a module that insists on a type; its real errors come again in float32
        return torch.float32


def draw(probe: Probe, length: int, dtype: torch.dtype) -> Tensor:
    """Draw two sequences of token vectors."""
    generator = torch.Generator().manual_seed(length)
    shape = (2, min(length, probe.config.context_length), probe.config.d_model)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


@torch.no_grad()
def perturb(probe: Probe, size: float = 1.0) -> None:
    """Move every parameter, because a layer that starts at 0 would hide a leak."""
    generator = torch.Generator().manual_seed(2)
    for parameter in probe.parameters():
        width = parameter.shape[-1] if parameter.dim() > 1 else 4
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.add_(noise.to(parameter.dtype), alpha=size * width**-0.5)


@torch.no_grad()
def find_change(probe: Probe, dtype: torch.dtype) -> str:
    """Say that two calls with the same input differ in evaluation mode; empty if they do not."""
    probe.eval()
    x_btd = draw(probe, 2, dtype)
    if torch.equal(run_seeded(probe, x_btd), run_seeded(probe, x_btd, seed=1)):
        return ""
    return "its output changes between two calls with the same input in evaluation mode"


@torch.no_grad()
def find_length_flaw(probe: Probe, dtype: torch.dtype) -> str:
    """Say why the newest token cannot be decoded from the tokens before it; empty if it can."""
    probe.eval()
    longest = min(33, probe.config.context_length)
    x_btd = draw(probe, longest, dtype)
    whole_btd = run_seeded(probe, x_btd)
    for length in sorted({1, 2, longest // 2, longest - 1} - {0}):
        difference = (run_seeded(probe, x_btd[:, :length]) - whole_btd[:, :length]).abs().amax(-1).amax(0)
        if float(difference.max()) > PREFIX_TOLERANCE[dtype] * max(1.0, float(whole_btd.abs().max())):
            t = int(difference.argmax())
            return f"output {t} differs between a sequence of length {length} and the same one of length {longest}"
    return ""
