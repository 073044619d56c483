"""A grid in a folder of its own with the files of a user, and the command that runs there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

HELPERS = """
import random  # the standard library's, although a file of that name lies beside the grid
import torch


def causal_window(length, window, device):
    assert random.random() < 1
    position = torch.arange(length, device=device)
    distance = position[:, None] - position
    return (distance >= 0) & (distance < window)
"""

ATTENTION = '''
from torch import nn
from torch.nn import functional as F

from helpers import causal_window


class MyAttention(nn.Module):
    """Attention over a sliding window."""

    def __init__(self, d_model, n_heads, window: int = 64):
        super().__init__()
        self.n_heads, self.window = n_heads, window
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.out = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x, rotate):
        b, t, d = x.shape
        q, k, v = (part.view(b, t, self.n_heads, -1) for part in self.qkv(x).chunk(3, -1))
        q, k, v = (part.transpose(1, 2) for part in (rotate(q), rotate(k), v))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=causal_window(t, self.window, x.device))
        return self.out(y.transpose(1, 2).reshape(b, t, d))
'''

GRID: dict[str, Any] = {
    "study": "mine",
    "question": "Does a window help?",
    "data": {"source": "text", "path": "words.txt"},
    "model": {"d_model": 16, "n_layers": 2, "n_heads": 2, "context_length": 16},
    "train": {
        "steps": 24,
        "batch_size": 4,
        "eval_every": 8,
        "eval_tokens": 128,
        "log_every": 4,
        "checkpoint_every": 4,
    },
    "matrix": {"attention": ["standard", {"name": "my_attention.py:MyAttention", "window": 4}]},
    "resources": {"cpus": 1},
}


def make_project(folder: Path, corpus: Path, **changes: Any) -> Path:
    """Write the files of a user and a grid into an empty folder, and return the grid."""
    (folder / "words.txt").write_bytes(corpus.read_bytes()[:60_000])
    (folder / "helpers.py").write_text(HELPERS)
    (folder / "my_attention.py").write_text(ATTENTION)
    (folder / "random.py").write_text("raise RuntimeError('this is the user\\'s random')\n")
    grid = folder / "grid.yaml"
    grid.write_text(yaml.safe_dump({**GRID, **changes}, sort_keys=False))
    return grid


def ablate(folder: Path, *arguments: object, code: int = 0) -> str:
    """Run the command in `folder`, and return what it printed."""
    done = subprocess.run(command(*arguments), cwd=folder, env=environment(), capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-P", "-m", "ablate", *map(str, arguments)]


def environment() -> dict[str, str]:
    return {**os.environ, "COLUMNS": "200", "NO_COLOR": "1"}


def run_ids(folder: Path) -> dict[str, str]:
    """The run id of each arm in the study's record."""
    record = json.loads((folder / "runs" / "mine" / "study.json").read_text())
    return {run["arm"]: run["run_id"] for run in record["runs"]}
