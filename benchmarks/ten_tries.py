"""Let a script improve a tiny GPT in ten tries, with one error rate of 5 % for all of them.

Each try changes one setting. If its study says that the change is better, at the level of the try, the change is kept
and is part of the baseline of all later tries; otherwise it is dropped. Before a try is trained, the campaign is asked
whether it was tested before: the last candidate is one of the dead ends, and costs nothing.

Everything happens through the command line, as another script or an agent would do it. The models are so small that
the answers say nothing about larger ones.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

CAMPAIGN = "tiny-gpt"
BASE: Mapping[str, Any] = {
    "data": {"source": "python-stdlib", "tokenizer": "bytes"},
    "model": {"d_model": 32, "n_layers": 2, "n_heads": 2, "context_length": 32},
    "train": {"steps": 60, "batch_size": 16, "learning_rate": 2.0e-3, "eval_every": 60, "eval_tokens": 16384},
    "seeds": 5,
    "resources": {"cpus": 1},
}
CANDIDATES = (  # axis, the usual level, and the change
    ("model.position", "rope", "none"),
    ("train.learning_rate", 2.0e-3, 8.0e-3),
    ("normalization", "prenorm", "peri"),
    ("model.mlp", "swiglu", "relu2"),
    ("model.tie_embeddings", False, True),
    ("attention", "standard", "gated"),
    ("train.beta2", 0.95, 0.99),
    ("model.value_residual", "none", "half"),
    ("train.warmup_steps", 6, 0),
    ("model.embedding_shortcut", False, True),
    ("model.embedding_shortcut", False, True),  # again
)


def call(*arguments: str | Path) -> Any:
    """Run a command of ablate, and return its JSON."""
    command = [sys.executable, "-m", "ablate", *map(str, arguments), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[2:])}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def declare(name: str, axis: str, levels: tuple[Any, Any], kept: Mapping[str, Any]) -> dict[str, Any]:
    """The grid of a try: one axis with two levels, and the changes that were kept, which have one level."""
    question = f"Does {axis} {levels[1]} end better than {levels[0]}?"
    others = {name: [level] for name, level in kept.items() if name != axis}
    return {"study": name, "question": question, **BASE, "matrix": {axis: list(levels), **others}}


def improve(folder: Path, seeds: int) -> None:
    """Try every candidate in turn, in a campaign in this folder."""
    runs = ("--runs", folder / "runs")
    call("campaign", CAMPAIGN, "--goal", "the lowest loss after 60 steps", *runs)
    kept: dict[str, Any] = {}
    for number, (axis, usual, change) in enumerate(CANDIDATES, 1):
        grid = folder / f"try-{number}.yaml"
        declared = declare(f"try-{number}", axis, (kept.get(axis, usual), change), kept)
        grid.write_text(yaml.safe_dump({**declared, "seeds": seeds}, sort_keys=False))
        checked = call("campaign", CAMPAIGN, "--check", grid, *runs)
        if known := [test for arm in checked["arms"] for test in arm["tests"]]:
            print(f"{axis} {change}: try {known[-1]['k']} tested it, {known[-1]['decision']}; nothing is trained")
            continue
        call("run", grid, "--quiet", *runs)
        state = call("campaign", CAMPAIGN, "--add", grid, *runs)
        (arm,) = state["tries"][-1]["arms"]
        is_better = arm["verdict"] == "better"
        if is_better:
            kept[axis] = change
        call("campaign", CAMPAIGN, "--keep" if is_better else "--drop", str(state["added"]), *runs)
        tested = "no test" if arm["p_value"] is None else f"p {arm['p_value']:.2g}"
        print(f"{axis} {change}: {arm['verdict']}, {tested} at {checked['alpha']:.2g}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ten_tries", description=__doc__)
    parser.add_argument("--folder", type=Path, help="folder for grids, runs and the campaign; default: a temporary one")
    parser.add_argument("--seeds", type=int, default=BASE["seeds"], help="seeds of each arm")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        improve(folder, options.seeds)
        subprocess.run([sys.executable, "-m", "ablate", "campaign", CAMPAIGN, "--runs", folder / "runs"], check=True)


if __name__ == "__main__":
    main()
