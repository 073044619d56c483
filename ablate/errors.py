"""Errors that a user can act on. The CLI prints each as one message, without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from ablate.formatting import quote

MOST_SHOWN = 100  # legal values in one message
LONGEST_WORD = 200  # characters; no suggestion is made for a longer word

# What other programs call these settings. Those of the model are in ablate_model.
_ELSEWHERE = {
    "attention": ("attn", "attention_type"),
    "batch_size": ("batch", "bs", "per_device_train_batch_size"),
    "context_length": ("block_size", "seq_len", "context", "ctx"),
    "d_ff": ("intermediate_size", "ffn_dim"),
    "d_model": ("n_embd", "hidden_size", "dim", "embed_dim"),
    "eval_every": ("eval_interval", "eval_steps", "val_every"),
    "grad_clip": ("clip", "max_grad_norm", "gradient_clip"),
    "learning_rate": ("lr", "max_lr"),
    "log_every": ("log_interval", "logging_steps"),
    "matrix": ("grid", "sweep", "axes"),
    "min_learning_rate": ("min_lr",),
    "n_heads": ("n_head", "heads", "num_heads"),
    "n_layers": ("n_layer", "layers", "num_layers"),
    "normalization": ("norm", "normalisation"),
    "optimizer": ("optim", "optimiser"),
    "precision": ("dtype",),
    "schedule": ("scheduler", "lr_schedule"),
    "seeds": ("seed", "n_seeds"),
    "steps": ("max_steps", "max_iters", "iters", "num_steps"),
    "warmup_steps": ("warmup", "warmup_iters"),
    "weight_decay": ("wd",),
}


class AblateError(Exception):
    """A problem with one clear message. The CLI exits with `exit_code`."""

    exit_code = 2


class GridError(AblateError):
    """The grid, or a value in it, cannot be used. The message names the file, the line and the key.

    `column`, from 0, is where the error is in the line, if only that is known.
    """

    def __init__(self, message: str, column: int | None = None) -> None:
        super().__init__(message)
        self.column = column


class DataError(AblateError):
    """The corpus is missing, unreadable, or too short."""


class ResourceError(AblateError):
    """The cluster, the disk or the device does not have what was asked for."""


class FailedRunsError(AblateError):
    """Runs failed, and later steps need their results."""

    exit_code = 1


class RecordError(AblateError):
    """A record of a run or study is missing or cannot be read."""


def suggest(wrong: object, legal: Iterable[object]) -> str:
    """The end of a message about a wrong word: the nearest legal value, then all of them."""
    values = [str(value) for value in legal]
    near = find_near(str(wrong), values)
    hint = f"; did you mean {quote(near)}?" if near else ""
    more = f", and {len(values) - MOST_SHOWN:,} more" if len(values) > MOST_SHOWN else ""
    return f"{hint} (legal: {', '.join(values[:MOST_SHOWN])}{more})" if values else hint


def find_near(word: str, legal: Iterable[str]) -> str | None:
    """The legal word that was probably meant: by its name elsewhere, or by its spelling without regard to case.

    In a dotted path, the last part is what others may call by another name.
    """
    if len(word) > LONGEST_WORD:
        return None
    plain = {name.lower().replace("-", "_"): name for name in legal}
    meant = word.lower().replace("-", "_")
    known = {name for name, others in _ELSEWHERE.items() if meant.rpartition(".")[2] in others}
    near = [name for name in plain if name.rpartition(".")[2] in known]
    near = near or difflib.get_close_matches(meant, plain, n=1, cutoff=0.6)
    return plain[near[0]] if near else None
