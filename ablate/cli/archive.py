"""The verbs that remove, pack and merge what runs left behind: `clean`, `pack` and `merge`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from ablate.cli.inputs import find_store
from ablate.cli.options import DEFAULT_RUNS, AsJson, DiskBudget, Keep, Runs, Study
from ablate.errors import RecordError


def clean(
    study: Study,
    runs: Runs = DEFAULT_RUNS,
    keep: Keep = "all",
    disk_budget: DiskBudget = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be removed without removing it.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove weights by a rule, checkpoints of ended runs, and half-written files. Curves always stay."""
    from ablate.cli.outputs.archive import Cleaned, Removal
    from ablate.cli.outputs.base import print_output
    from ablate.cli.tables import open_console, print_plain
    from ablate.formatting import count, format_count
    from ablate.tracking import cleaning

    budget = cleaning.parse_bytes(disk_budget) if disk_budget is not None else None
    choose = cleaning.plan_cleaning if dry_run else cleaning.clean
    store = find_store(study, runs)
    removals = choose(store, cleaning.parse_keep(keep), budget)
    n_bytes = sum(removal.n_bytes for removal in removals)
    if as_json:
        listed = tuple(Removal(path=str(row.path), n_bytes=row.n_bytes, reason=row.reason) for row in removals)
        print_output(Cleaned(study=store.path.name, dry_run=dry_run, n_bytes=n_bytes, removals=listed))
        return
    console = open_console()
    for removal in removals:
        print_plain(console, f"{format_count(removal.n_bytes):>6}B  {removal.path}  ({removal.reason})")
    total = format_count(n_bytes)
    print_plain(console, f"{total}B in {count(len(removals), 'file')} {'would be removed' if dry_run else 'removed'}")


def pack(
    study: Study,
    runs: Runs = DEFAULT_RUNS,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Archive to write. Default: STUDY.tar.gz in this folder."),
    ] = None,
    weights: Annotated[bool, typer.Option("--weights", help="Include the trained weights.")] = False,
    as_json: AsJson = False,
) -> None:
    """Pack the results of a study's finished runs into an archive that another machine can merge."""
    from ablate.cli.outputs.archive import PackedStudy
    from ablate.cli.outputs.base import print_output
    from ablate.formatting import count
    from ablate.tracking.archive import pack as write_archive

    store = find_store(study, runs)
    archive = out or Path(f"{store.path.name}.tar.gz")
    n_runs = write_archive(store, archive, weights=weights)
    if as_json:
        print_output(PackedStudy(study=store.path.name, archive=str(archive), n_runs=n_runs))
    else:
        print(f"{archive}: {count(n_runs, 'run')} of {store.path.name}")


def merge(
    archives: Annotated[list[Path], typer.Argument(metavar="ARCHIVE", help="Archives that `ablate pack` wrote.")],
    runs: Runs = DEFAULT_RUNS,
    reruns: Annotated[
        bool,
        typer.Option(
            "--reruns",
            help="If a run exists with different results, keep it, and note where the other one ended, so that reports "
            "say how far reruns differ. Default: refuse.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Merge archives from several machines into one study. Refuses a run that exists with different results."""
    from ablate.cli.outputs.archive import MergedStudy
    from ablate.cli.outputs.base import print_output
    from ablate.formatting import count
    from ablate.tracking.archive import merge as merge_archives
    from ablate.tracking.archive import read_study_name
    from ablate.tracking.folders import StudyFolder

    store = StudyFolder(runs / read_study_name(archives[0]))
    n_added, n_present = merge_archives(store, archives, check_model, keeps_reruns=reruns)
    if as_json:
        merged = MergedStudy(study=store.path.name, folder=str(store.path), n_added=n_added, n_present=n_present)
        print_output(merged)
    else:
        print(f"{store.path}: {count(n_added, 'run')} added, {n_present} already there")


def check_model(folder: Path) -> None:
    """Check that a run's weights fit its config and are numbers. Raises `RecordError` if they do not.

    A model that needs the user's code is not built: code from an archive never runs by itself.
    """
    from ablate.tracking.code import named_code
    from ablate.tracking.json_files import read_mapping
    from ablate_model import ConfigError, load
    from ablate_model.storage import read_safetensors

    try:
        is_own = any(named_code({"model": read_mapping(folder / "config.json").get("model")}))
        tensors = read_safetensors(folder / "model.safetensors").values() if is_own else load(folder).parameters()
    except (ConfigError, OSError, ValueError, TypeError, AttributeError) as error:
        text = str(error).replace(f"{folder}{os.sep}", "")
        raise RecordError(f"its weights do not fit its config: {text}") from None
    if any(bool(weights.isnan().any()) for weights in tensors):
        raise RecordError("its weights are not numbers, although the run finished")
