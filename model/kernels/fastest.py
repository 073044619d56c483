"""The attention backend that is fastest for a model's calls on this device: measured once, then remembered on disk."""

from __future__ import annotations

import fcntl
import json
import math
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from .attention import BACKENDS
from .call import BackendError, Call, DecayBias
from .cuda_graph import capture_graph
from .flash import find_flash

REPEATS = 7  # of forward and backward; the median counts
METHOD = "kernels"  # what was timed: an entry of another method is none
MAX_MATH_BYTES = 1 << 30  # of one T x T map a head and sequence, from which on the reference is no candidate


def default_cache() -> Path:
    """Where choices are remembered: a file of this user on this machine."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ablate" / "attention.json"


def choose_fastest(calls: Sequence[Call], cache: Path) -> dict[str, float]:
    """Milliseconds of forward and backward of all `calls` by backend, fastest first; backends that cannot are missing.

    What the cache holds for the same shapes, settings, device and versions is not measured again, so that all runs on a
    machine choose alike. If several processes measure at once, the figures of the first count for all.
    Lack of memory may pass, so the figures are not remembered if a backend ran out of it.
    Raises torch.OutOfMemoryError if no backend had enough memory, and BackendError if none can compute the calls.
    """
    key = json.dumps([_machine(calls[0]), sorted({_describe(call) for call in calls})])
    found = _read(cache).get(key)
    if found is None:
        found, refused = _measure(list({_describe(call): call for call in calls}.values()))
        lacks_memory = any(map(_is_out_of_memory, refused.values()))
        if not found:
            reasons = "; ".join(f"{name}: {error}" for name, error in refused.items())
            kind = torch.OutOfMemoryError if lacks_memory else BackendError
            raise kind(f"no attention backend could be measured: {reasons}")
        if not lacks_memory:
            found = _remember(cache, key, found)
    return dict(sorted(found.items(), key=lambda item: item[1]))


def _measure(calls: Sequence[Call]) -> tuple[dict[str, float], dict[str, Exception]]:
    """Milliseconds by backend, and why the others could not be measured."""
    found: dict[str, float] = {}
    refused: dict[str, Exception] = {}
    for name in BACKENDS:
        try:
            found[name] = sum(_time(name, call) for call in calls)
        except (BackendError, MemoryError, RuntimeError) as error:
            if not isinstance(error, BackendError) and not _is_out_of_memory(error):
                raise
            refused[name] = error.with_traceback(None)  # whose frames hold the tensors
        if calls[0].q.is_cuda:
            torch.cuda.empty_cache()  # what one backend took is not missing for the next
    return found, refused


def _is_out_of_memory(error: BaseException) -> bool:
    """PyTorch's CPU allocator raises a plain RuntimeError, and so do some libraries on a GPU."""
    words = ("out of memory", "DefaultCPUAllocator", "ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    )


def _time(name: str, call: Call) -> float:
    b, t, h, _ = call.q.shape
    if name == "flex" and call.window is None and call.bias is None and call.softcap is None:
        raise BackendError("flex: nothing to gain by compiling it for a plain call")
    if name == "math" and 4 * b * t * call.k.shape[1] * h > MAX_MATH_BYTES:
        raise BackendError("math: the maps would take more memory than the model")
    inputs = [x.detach().requires_grad_() for x in (call.q, call.k, call.v)]
    bias = DecayBias(*(x.detach() for x in call.bias)) if isinstance(call.bias, DecayBias) else call.bias
    bias = bias.detach() if isinstance(bias, Tensor) else bias
    sink = None if call.sink is None else call.sink.detach()
    call = replace(call, q=inputs[0], k=inputs[1], v=inputs[2], bias=bias, sink=sink)

    def once() -> None:
        out = BACKENDS[name](call)
        torch.autograd.grad(out, inputs, torch.ones_like(out))

    once()  # compiles and loads
    run = _capture_or_keep(once, call.q.device) if call.q.is_cuda else once
    times = []
    for _ in range(REPEATS):
        started = _now(call)
        run()
        times.append(1000 * (_now(call) - started))
    return statistics.median(times)


def _capture_or_keep(once: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """`once` as a CUDA graph, so that the kernels are timed and not what Python takes to launch them."""
    with torch.cuda.device(device):
        try:
            return capture_graph(once)
        except RuntimeError:  # it waits for the device in between, or memory is short, which it will say again
            return once


def _now(call: Call) -> float:
    if call.q.is_cuda:
        torch.cuda.synchronize(call.q.device)
    return time.perf_counter()


def _machine(call: Call) -> list[str]:
    device = torch.cuda.get_device_name(call.q.device) if call.q.is_cuda else call.q.device.type
    flash = find_flash()
    return [device, torch.__version__, "" if flash is None else flash[0], METHOD]


def _describe(call: Call) -> str:
    """All of a call that its speed can depend on."""
    shapes = [tuple(x.shape) for x in (call.q, call.k, call.v)]
    bias = type(call.bias).__name__ if call.bias is None or isinstance(call.bias, DecayBias) else tuple(call.bias.shape)
    flags = (call.causal, call.window, bias, call.softcap is not None, call.sink is not None, call.deterministic)
    return f"{shapes} {call.v.dtype} {flags}"


def _read(cache: Path) -> dict[str, dict[str, float]]:
    """The tables that can be used: a file, or an entry, that is damaged or empty is measured again."""
    try:
        content = json.loads(cache.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return {key: table for key, table in content.items() if _is_table(table)} if isinstance(content, dict) else {}


def _is_table(table: object) -> bool:
    return (
        isinstance(table, dict)
        and len(table) > 0
        and table.keys() <= BACKENDS.keys()
        and all(type(ms) in (int, float) and 0 < ms < math.inf for ms in table.values())
    )


def _remember(cache: Path, key: str, measured: Mapping[str, float]) -> dict[str, float]:
    """Add an entry, unless another process was first; a machine without a writable home remembers nothing."""
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with cache.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            known = _read(cache)
            entry = known.setdefault(key, dict(measured))
            partial = cache.with_suffix(".partial")
            partial.write_text(json.dumps(known, indent=1))
            partial.replace(cache)
    except OSError:
        return dict(measured)
    return entry
