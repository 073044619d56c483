"""Describe this machine: what it has for training, and what would go wrong."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import ablate

PACKAGES = ("ray", "mlflow", "optuna", "flash-attn-4")
LEAST_DISK_BYTES = 2**30
LONGEST_TMPDIR = 50
"""Ray puts its sockets under TMPDIR, and the path of a Unix socket is limited to about 100 characters."""

SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class Finding:
    """One fact about the machine, with advice if something is wrong."""

    name: str
    found: str
    advice: str = ""


def examine(folder: Path) -> Iterator[Finding]:
    """Examine this machine. `folder` is where the studies go. Starts and writes nothing."""
    yield Finding("ablate", ablate.__version__)
    yield Finding("python", f"{platform.python_version()}, {platform.platform()}")
    cards = list_nvidia_cards()
    yield examine_torch(cards)
    for package in PACKAGES:
        yield Finding(package, find_version(package))
    yield Finding("NVIDIA cards", "; ".join(cards) or "none")
    yield Finding("CPU cores", str(count_cores()))
    yield _examine_disk("disk", folder)
    if SHARED_MEMORY.is_dir():
        yield _examine_disk("shared memory", SHARED_MEMORY)
    yield _examine_tmpdir()


def describe(findings: Sequence[Finding]) -> Iterator[str]:
    """The findings as lines of text, with each advice below its finding."""
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        yield f"{finding.name:{width}}  {finding.found}"
        if finding.advice:
            yield f"{'':{width}}  ! {finding.advice}"


def find_version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def examine_torch(cards: list[str]) -> Finding:
    """The version and build of torch, with advice if it cannot use the NVIDIA `cards` of this machine."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return Finding("torch", f"cannot be imported: {error}", "install torch")
    hip = getattr(torch.version, "hip", None)
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else f"ROCm {hip}" if hip else "CPU only"
    n_usable = torch.cuda.device_count()
    usable = f"; uses {n_usable} of {len(cards)} NVIDIA cards" if cards else ""
    found = f"{torch.__version__} ({build}){usable}"
    if cards and not torch.version.cuda:
        return Finding(
            "torch", found, "this torch is CPU-only, but there is an NVIDIA card: install torch's CUDA build"
        )
    if cards and not n_usable:
        return Finding("torch", found, "torch cannot use the card: check the driver and CUDA_VISIBLE_DEVICES")
    return Finding("torch", found)


def list_nvidia_cards() -> list[str]:
    """Name, memory and driver of each NVIDIA card, from `nvidia-smi`. Empty without a card."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        told = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in told.stdout.splitlines() if line.strip()]


def count_cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _examine_disk(name: str, folder: Path) -> Finding:
    """The free space of the disk where `folder` is or will be."""
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    try:
        usage = shutil.disk_usage(place)
    except OSError as error:
        return Finding(name, f"{folder}: {error.strerror or error}", "choose another folder")
    advice = "less than 1 GiB is free" if usage.free < LEAST_DISK_BYTES else ""
    return Finding(name, f"{usage.free / 2**30:.1f} of {usage.total / 2**30:.1f} GiB free in {folder}", advice)


def _examine_tmpdir() -> Finding:
    try:
        folder = tempfile.gettempdir()
    except OSError as error:
        return Finding("TMPDIR", f"{error.strerror or error}", "set TMPDIR to a writable folder")
    advice = "too long for Ray's sockets: set TMPDIR to a shorter path" if len(folder) > LONGEST_TMPDIR else ""
    return Finding("TMPDIR", folder, advice)
