"""The fastest attention backend for a model's calls on this device, measured once and remembered on disk."""

from __future__ import annotations

import fcntl
import json
import math
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
from .flash import cache_folder, find_flash

REPEATS = 7  # timed runs of forward and backward; the median counts
METHOD = "kernels"  # what was timed; entries of another method are ignored
MAX_MATH_BYTES = 1 << 30  # of all T x T maps; the reference is not measured above it


def default_cache() -> Path:
    """Return the file of this user on this machine that remembers choices."""
    return cache_folder() / "attention.json"


def choose_fastest(calls: Sequence[Call], cache: Path) -> dict[str, float]:
    """Measure forward and backward of all `calls`: milliseconds by backend, fastest first, without backends that fail.

    Times in the cache for the same shapes, settings, device and versions are not measured again, so that all runs on a
    machine make the same choice. If several processes measure at once, the times of the first count for all.
    Times are not remembered if a backend ran out of memory, because it may have enough next time.
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
    """Return milliseconds by backend, and the errors of backends that could not be measured."""
    found: dict[str, float] = {}
    refused: dict[str, Exception] = {}
    for name in BACKENDS:
        try:
            found[name] = sum(_time(name, call) for call in calls)
        except (BackendError, MemoryError, RuntimeError) as error:
            if not isinstance(error, BackendError) and not _is_out_of_memory(error):
                raise
            refused[name] = error.with_traceback(None)  # because the frames hold the tensors
        if calls[0].q.is_cuda:
            torch.cuda.empty_cache()  # so that the next backend can use the memory
    return found, refused


def _is_out_of_memory(error: BaseException) -> bool:
    """Recognize lack of memory. PyTorch's CPU allocator and some GPU libraries raise a plain RuntimeError."""
    words = ("out of memory", "DefaultCPUAllocator", "ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    )


def _time(name: str, call: Call) -> float:
    b, t, h, _ = call.q.shape
    if name == "flex" and call.window is None and call.bias is None and call.softcap is None:
        raise BackendError("flex: compiling it for a plain call gains nothing")
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
    """Record `once` as a CUDA graph, so that only the kernels are timed and not Python's launches."""
    with torch.cuda.device(device):
        try:
            return capture_graph(once)
        except RuntimeError:  # it waits for the device, or memory is short, and then it raises again
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
    """Describe everything in a call that its speed can depend on."""
    shapes = [tuple(x.shape) for x in (call.q, call.k, call.v)]
    bias = type(call.bias).__name__ if call.bias is None or isinstance(call.bias, DecayBias) else tuple(call.bias.shape)
    flags = [call.causal, call.window, bias, call.softcap is not None, call.sink is not None, call.deterministic]
    flags += ["seen"] if call.seen is not None else []
    return f"{shapes} {call.v.dtype} {tuple(flags)}"


def _read(cache: Path) -> dict[str, dict[str, float]]:
    """Read the usable tables. A damaged or empty file or entry is ignored and measured again."""
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
    """Add an entry, unless another process was first. Without a writable home directory nothing is remembered."""
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
