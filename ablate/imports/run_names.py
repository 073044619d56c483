"""Read the names of folders, files and runs: the facts in `key=value`, the seed in `-seed3`, and the arm.

They are used only where the logs do not state these facts, and what was found is printed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace

from ablate.imports.log_files import natural
from ablate.imports.logged_run import LoggedRun
from ablate.imports.names import Names

_SEED = re.compile(r"(^|[-_. ,])(?:seed[-_= ]?(\d+)(?=$|[-_. ,])|s[-_=]?(\d+)$)", re.IGNORECASE | re.ASCII)
_VERSION = re.compile(r"version_\d+")  # Lightning numbers the attempts
_PAIR = re.compile(r"([A-Za-z_][\w./-]*)=([^=]+)")
_ID_LENGTH = 60


def make_id(place: Sequence[str]) -> str:
    """A run id of the place of a run: its last part that can be in the name of a folder, and a hash of all of it."""
    text = re.sub(r"[^A-Za-z0-9_+]+", "-", place[-1]).strip("-")[:_ID_LENGTH] or "run"
    return f"{text}-{hashlib.sha256(repr(tuple(place)).encode(errors='surrogateescape')).hexdigest()[:8]}"


def read_names(runs: Sequence[LoggedRun], names: Names) -> tuple[list[LoggedRun], bool]:
    """Add the facts that only the names tell, and put the runs in order. Tell whether the arms are from the names.

    The order is that of their starts if all are known, otherwise that of their names.
    """
    runs = [replace(run, facts={**_read_pairs(run.place), **run.facts}) for run in runs]
    short = dict(zip((run.run_id for run in runs), shorten([run.place for run in runs]), strict=True))
    seed_name, arm_names = names.of("seed")[0], names.of("arm")
    is_named = "arm" not in names.chosen and not any(run.facts.get(name) for run in runs for name in arm_names)
    found = []
    for run in runs:
        arm, seed = split_seed(short[run.run_id])
        added = {arm_names[0]: arm} if is_named else {}
        if seed is not None and "seed" not in names.chosen and not any(run.facts.get(n) for n in names.of("seed")):
            added[seed_name] = seed
        found.append(replace(run, facts={**run.facts, **added}))
    if all(run.start_s > 0 for run in found):
        return sorted(found, key=lambda run: run.start_s), is_named
    return sorted(found, key=lambda run: natural("/".join(run.place))), is_named


def shorten(places: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Leave out the parts that all places share. At least one part is left of each."""
    short = [list(place) for place in places]
    if len(set(places)) == 1:
        return [place[-1:] for place in places]
    for end in (0, -1):
        while all(len(place) > 1 for place in short) and len({place[end] for place in short}) == 1:
            for place in short:
                del place[end]
    if len({len(place) for place in short}) == 1:
        kept = [i for i in range(len(short[0])) if len({place[i] for place in short}) > 1]
        short = [[place[i] for i in kept] for place in short]
    for place in short:
        if len(place) > 1 and _VERSION.fullmatch(place[-1]):
            del place[-1]
    return [tuple(place) for place in short]


def split_seed(parts: Sequence[str]) -> tuple[str, str | None]:
    """Split a name into the arm and the seed: `gpt-seed3` and `gpt/s3` are seed 3 of gpt."""
    seed, kept = None, []
    for part in parts:
        if found := _SEED.search(part):
            seed = found[2] or found[3]
            part = (part[: found.start()] + part[found.end() :]).strip("-_. ,")
        kept.append(part)
    return "/".join(filter(None, kept)) or "runs", seed


def _read_pairs(place: Sequence[str]) -> dict[str, str]:
    """Read `key=value` in the names of folders and files: `attention=softmax,seed=1`."""
    pairs = [found for part in place for piece in part.split(",") if (found := _PAIR.fullmatch(piece.strip()))]
    return {found[1]: found[2] for found in pairs}
