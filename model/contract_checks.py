"""`ablate check`: the checks of a variant inside a model, one by one, each with the reason if it fails."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from .cache import Cache
from .causality import OutputError, run_seeded
from .config import ModelConfig
from .errors import ConfigError
from .gpt import GPT
from .own_checks import (
    LENGTHS,
    Probe,
    draw,
    find_any_leak,
    find_change,
    find_dtype,
    find_length_flaw,
    one_thread,
    probes,
    states_of,
)
from .own_modules import describe_error

Outcome = Literal["pass", "fail", "skip"]

FLOAT64 = 1e-9  # of logits of a small model, computed in another order
FLOAT32_COMPILED = 1e-3
BFLOAT16 = 0.1
N_STEPS = 30  # on one batch, whose loss any layer that learns can lower
UNIT = 1e-4  # float32 norms of nGPT's weights


class SkippedError(Exception):
    """The check cannot be made here; the message says why."""


class FailedError(ValueError):
    """The check found a fault; the message says which."""


@dataclass(frozen=True)
class Check:
    """One line of the table. `detail` is what was found, or why it failed or was skipped."""

    name: str
    outcome: Outcome
    detail: str


def check_variant(config: ModelConfig, axis: str, *, compiled: bool = True) -> Iterator[Check]:
    """Make every check of the variant on an axis of a small model, in order. An error of its code fails the check."""
    checks: list[tuple[str, Callable[[ModelConfig, str], str]]] = [
        ("output", _check_output),
        ("causality", _check_causality),
        ("any length", _check_lengths),
        ("bfloat16 autocast", _check_autocast),
        ("gradients", _check_gradients),
        ("decoding", _check_decoding),
        ("learning", _check_learning),
        ("resuming", _check_resuming),
        ("inside nGPT", _check_ngpt),
        ("compiled", _check_compiled),
    ]
    is_callable = True
    for name, check in checks:
        if name == "compiled" and not compiled:
            yield Check(name, "skip", "--no-compile")
        elif is_callable:
            found = run_check(name, partial(check, config, axis))
            is_callable = not (name == "output" and found.outcome == "fail")
            yield found
        else:
            yield Check(name, "skip", "it cannot be called")


def run_check(name: str, check: Callable[[], str]) -> Check:
    """Make one check: it returns what it found, or raises FailedError or SkippedError."""
    try:
        with torch.random.fork_rng(devices=[]), one_thread():
            return Check(name, "pass", check())
    except SkippedError as reason:
        return Check(name, "skip", str(reason))
    except (ConfigError, OutputError, FailedError) as error:
        return Check(name, "fail", getattr(error, "message", str(error)))
    except Exception as error:  # noqa: BLE001 - whatever the user's code raises
        return Check(name, "fail", describe_error(error) or f"{type(error).__name__}: {error}")


def _states(config: ModelConfig, axis: str) -> Iterator[tuple[Probe, torch.dtype, str, int]]:
    for probe in probes(config, axis):
        dtype = find_dtype(probe)
        probe.to(dtype)
        for state, longest in states_of(probe):
            yield probe, dtype, state, longest


def _check_output(config: ModelConfig, axis: str) -> str:
    for probe, dtype, *_ in _states(config, axis):
        for length in LENGTHS:
            run_seeded(probe, draw(probe, length, dtype))
    return "finite, and of the input's shape (b, t, d)"


def _check_causality(config: ModelConfig, axis: str) -> str:
    reach = "causal"
    for probe, dtype, state, longest in _states(config, axis):
        reach = probe.reach
        if leak := find_any_leak(probe, dtype, longest):
            raise FailedError(f"{leak}, with {state}")
    reads = "no later token" if reach == "causal" else "only its own token"
    return f"an output reads {reads}, by gradient and by changing inputs"


def _check_lengths(config: ModelConfig, axis: str) -> str:
    for probe, dtype, state, _ in _states(config, axis):
        if flaw := find_change(probe, dtype) or find_length_flaw(probe, dtype):
            raise FailedError(f"{flaw}, with {state}")
    return "a shorter sequence has the same outputs"


@torch.no_grad()
def _check_autocast(config: ModelConfig, axis: str) -> str:
    probe = next(probes(config, axis)).eval()
    x_btd = draw(probe, 33, torch.float32)
    exact_btd = run_seeded(probe, x_btd)
    with torch.autocast("cpu", torch.bfloat16):
        rounded_btd = run_seeded(probe, x_btd)
    difference = float((rounded_btd.float() - exact_btd).abs().max() / exact_btd.abs().max().clamp(min=1e-6))
    if difference > BFLOAT16:
        raise FailedError(f"it differs from float32 by {difference:.2g} of the largest output (legal: {BFLOAT16})")
    return f"{str(rounded_btd.dtype).removeprefix('torch.')} outputs, within {difference:.1g} of float32"


def _ids(config: ModelConfig, n_sequences: int, length: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(config.vocab_size, (n_sequences, length), generator=generator)


def _loss(model: GPT, config: ModelConfig) -> Tensor:
    ids_bt = _ids(config, 4, min(config.context_length, 64))
    return model.loss(ids_bt, ids_bt.roll(-1, 1))


def _check_gradients(config: ModelConfig, _axis: str) -> str:
    model = GPT(config)
    _scramble(model)
    _loss(model, config).backward()  # type: ignore[no-untyped-call]
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    missing = [name for name, p in parameters.items() if p.grad is None or not bool(p.grad.any())]
    if missing:
        raise FailedError(f"no gradient reaches {', '.join(missing[:5])}")
    bad = [name for name, p in parameters.items() if p.grad is not None and not bool(p.grad.isfinite().all())]
    if bad:
        raise FailedError(f"the gradient of {', '.join(bad[:5])} is not finite")
    return f"reach all {len(parameters)} trained parameter tensors"


@torch.no_grad()
def _scramble(model: GPT) -> None:
    generator = torch.Generator().manual_seed(4)
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    model.post_step()


@torch.no_grad()
def _check_decoding(config: ModelConfig, axis: str) -> str:
    model, length = GPT(config), min(config.context_length, 24)
    _scramble(model)
    model.eval()
    tolerance, ids_bt = 1e-4, _ids(config, 2, length)
    if find_dtype(next(probes(config, axis))) == torch.float64:
        model.double()
        tolerance = FLOAT64
    cache = Cache(config.n_layers)
    pieces = torch.split(ids_bt, [length // 2, 1, 1, length - length // 2 - 2], dim=1)
    decoded_btv = torch.cat([model(piece, cache) for piece in pieces], dim=1)
    difference_t = (decoded_btv - model(ids_bt)).abs().amax((0, 2))
    if float(difference_t.max()) > tolerance:
        t = int((difference_t > tolerance).nonzero()[0])
        raise FailedError(
            f"token by token, the logits at {t} differ by {float(difference_t[t]):.2g} from the full pass"
        )
    return "token by token gives the logits of the full pass"


def _train(model: GPT, config: ModelConfig, optimizer: torch.optim.Optimizer, n_steps: int) -> list[float]:
    losses = []
    for step in range(n_steps):
        torch.default_generator.manual_seed(step)
        loss = _loss(model, config)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        model.post_step()
        losses.append(loss.item())
    return losses


def _check_learning(config: ModelConfig, _axis: str) -> str:
    model = GPT(config)
    losses = _train(model, config, torch.optim.AdamW(model.parameters(), 3e-3), N_STEPS)
    if not losses[-1] < losses[0]:
        raise FailedError(f"the loss on one batch goes from {losses[0]:.3f} to {losses[-1]:.3f} in {N_STEPS} steps")
    return f"the loss on one batch falls from {losses[0]:.2f} to {losses[-1]:.2f} in {N_STEPS} steps"


def _check_resuming(config: ModelConfig, _axis: str) -> str:
    """Train 2 + 2 steps, with a new model in between that has only what a checkpoint keeps."""
    model = GPT(config)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    _train(model, config, optimizer, 2)
    resumed = GPT(config, seed=1)
    resumed.load_state_dict(copy.deepcopy(model.state_dict()))
    again = torch.optim.AdamW(resumed.parameters(), 3e-3)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    if _train(model, config, optimizer, 2) != _train(resumed, config, again, 2):
        raise FailedError("a resumed run differs: something that changes in training is neither parameter nor buffer")
    return "from a checkpoint, training continues bit by bit"


def _check_ngpt(config: ModelConfig, axis: str) -> str:
    if axis == "normalization":
        raise SkippedError("it takes the place of nGPT")
    try:
        inside = ModelConfig.parse({**config.to_dict(), "normalization": "ngpt"})
    except ConfigError as error:
        raise SkippedError(error.message) from None
    model = GPT(inside)
    _train(model, inside, torch.optim.AdamW(model.parameters(), 3e-3), 2)
    constrained = {name: spec.axis for name, _, spec in model.walk_parameters() if spec.axis is not None}
    parameters = dict(model.named_parameters())
    for name, dimension in constrained.items():
        norms = parameters[name].detach().norm(dim=dimension)
        if float((norms - 1).abs().max()) > UNIT:
            raise FailedError(f"{name} is not unit along its dimension {dimension} after a step")
    prefix = f"stack.blocks.0.{axis}.module."
    own = [f"{name.removeprefix(prefix)}: {at}" for name, at in constrained.items() if name.startswith(prefix)]
    dimensions = ", ".join(own)
    return "weights are unit after steps" + (f", along {{{dimensions}}}" if own else "")


def _check_compiled(config: ModelConfig, _axis: str) -> str:
    if not any(map(shutil.which, ("c++", "g++", "clang++"))) and not torch.cuda.is_available():
        raise SkippedError("there is no C++ compiler here")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, ids_bt = GPT(config).to(device).eval(), _ids(config, 2, min(config.context_length, 64)).to(device)
    _scramble(model.cpu())
    model.to(device)
    eager_btv = model(ids_bt)
    torch._dynamo.reset()
    model.compile_blocks()
    difference = float((model(ids_bt) - eager_btv).detach().abs().max())
    if difference > FLOAT32_COMPILED:
        raise FailedError(f"compiled logits differ by {difference:.2g} (legal: {FLOAT32_COMPILED})")
    return f"compiled logits are within {difference:.1g}"
