"""Write studies with a known speedup in the file format of real ones. The report benchmark and tests use them.

The loss is linear in the logarithm of the steps, L(x) = 6 - 0.5 ln(1 + speedup x / 10), and evaluations are dense. An
arm with `speedup` 2 therefore reaches each loss of its baseline in half the steps, except for interpolation error.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ablate.files import make_folder, write_atomic
from ablate.tracking.folders import StudyFolder
from ablate.tracking.json_files import write_json
from ablate.tracking.study_record import ArmRecord, RunRecord, Status, StudyRecord
from ablate.tracking.values import Value

BASELINE = "baseline"

_LAYERS = 4
_LINE = (
    '{{"step":%d,"tokens":%d,"flops":%.6g,"wall_s":%.6g,"train_loss":%.6f,"val_loss":{val},"learning_rate":%.6g,'
    '"grad_norm":%.4f,"tokens_per_s":%.6g,{diagnostics}}}\n'
)


@dataclass(frozen=True)
class SyntheticArm:
    """An arm that learns `speedup` times as fast per step as `speedup` 1. A step takes `step_s` seconds."""

    arm: str
    axes: Mapping[str, Value] = field(default_factory=dict)
    baseline: str = BASELINE
    within: Mapping[str, Value] = field(default_factory=dict)
    speedup: float = 1.0
    step_s: float = 0.1
    n_params: int = 1_000_000
    flops_per_token: int = 6_000_000
    n_steps: int | None = None


def write_study(
    store: StudyFolder,
    arms: Sequence[SyntheticArm],
    seeds: Sequence[int] = (0, 1, 2),
    n_steps: int = 400,
    eval_every: int = 20,
    log_every: int = 10,
    noise: float = 0.0,
    question: str = "Does it help?",
    design: str = "full",
) -> StudyRecord:
    """Write the study and all of its finished runs. The same arguments write the same files.

    `noise` is the standard deviation (nats) of an offset that each run adds to its losses.
    """
    records = tuple(
        ArmRecord(
            arm=arm.arm,
            axes=arm.axes,
            within=arm.within,
            baseline=arm.baseline,
            n_params=arm.n_params,
            flops_per_token=arm.flops_per_token,
            n_steps=arm.n_steps or n_steps,
            n_tokens=(arm.n_steps or n_steps) * _TOKENS_PER_STEP,
        )
        for arm in arms
    )
    runs = tuple(RunRecord(_name_run(arm.arm, seed), arm.arm, seed) for arm in arms for seed in seeds)
    axes: dict[str, dict[Value, None]] = {}
    for arm in arms:
        for axis, level in arm.axes.items():
            axes.setdefault(axis, {})[level] = None
    study = StudyRecord(
        study=store.path.name,
        question=question,
        design=design,
        match="none",
        compare_within=tuple(dict.fromkeys(axis for arm in arms for axis in arm.within)),
        baseline=next((arm.axes for arm in arms if arm.arm == arm.baseline), {}),
        axes={axis: tuple(levels) for axis, levels in axes.items()},
        data={"source": "synthetic", "hash": "0" * 16},
        train={"steps": n_steps, "schedule": "cosine", "precision": "float32"},
        arms=records,
        runs=runs,
        version="synthetic",
        command="python -m benchmarks.report",
    )
    store.write_study(study)
    for arm, record in zip(arms, records, strict=True):
        for seed in seeds:
            _write_run(store, arm, record, seed, eval_every, log_every, noise)
    return study


_TOKENS_PER_STEP = 4_096
_LEARNING_RATE = 1e-3


def true_loss(step_n: np.ndarray, speedup: float) -> np.ndarray:
    """The loss without noise (nats per token) after steps [n]."""
    return 6.0 - 0.5 * np.log1p(speedup * step_n / 10)


def _write_run(
    store: StudyFolder, arm: SyntheticArm, record: ArmRecord, seed: int, eval_every: int, log_every: int, noise: float
) -> None:
    run_id = _name_run(arm.arm, seed)
    rng = np.random.default_rng(int(run_id, 16))
    step = np.arange(log_every, record.n_steps + 1, log_every)
    loss = true_loss(step, arm.speedup) + noise * rng.standard_normal()
    tokens = step * _TOKENS_PER_STEP
    columns = [
        step,
        tokens,
        tokens * float(arm.flops_per_token),
        step * arm.step_s,
        loss + 0.01 * rng.standard_normal(step.size),
        loss,
        _LEARNING_RATE * (0.5 + 0.5 * np.cos(np.pi * step / record.n_steps)),
        np.exp(0.1 * rng.standard_normal(step.size)),
        np.full(step.size, _TOKENS_PER_STEP / arm.step_s),
        *(0.05 + 0.2 * (layer + 1) / _LAYERS * step / record.n_steps for layer in range(_LAYERS)),
    ]
    diagnostics = ",".join(f'"alpha_attn/{layer}":%.4f' for layer in range(_LAYERS))
    evaluated = _LINE.format(val="%.6f", diagnostics=diagnostics)
    logged = _LINE.format(val="%.0snull", diagnostics=diagnostics)  # the value is consumed, not printed
    lines = [
        (evaluated if row[0] % eval_every == 0 else logged) % row
        for row in zip(*map(np.ndarray.tolist, columns), strict=True)
    ]
    folder = store.run(run_id)
    make_folder(folder.path)
    write_atomic(folder.curve, "".join(lines).encode(), durable=False)
    folder.write_status(Status("finished", record.n_steps, record.n_steps))
    train = {"precision": "float32", "schedule": "cosine", "learning_rate": _LEARNING_RATE}
    write_json(folder.config, {"model": dict(arm.axes), "train": train, "seed": seed})
    device = {"kind": "cpu", "name": "synthetic", "host": "nowhere"}
    manifest = {"device": device, "threads": 1, "shared_by": 1, "seed": seed, "attention_backend": "reference"}
    write_json(folder.manifest, manifest | {"versions": {"ablate": "0"}, "peak_memory_bytes": 2**28})


def _name_run(arm: str, seed: int) -> str:
    return hashlib.sha256(json.dumps([arm, seed]).encode()).hexdigest()[:16]
