"""Lightning's CSVLogger: `metrics.csv` with steps, epochs and many empty cells, and `hparams.yaml` beside it."""

from __future__ import annotations

from collections.abc import Sequence

from ablate.imports.hparams_yaml import read_hparams
from ablate.imports.log_files import LogFile, Notes
from ablate.imports.logged_run import LoggedRun
from ablate.imports.names import Names
from ablate.imports.table import match_columns, read_runs
from ablate.imports.table_files import read_header

SOURCE = "Lightning's metrics.csv"


def recognizes(file: LogFile) -> bool:
    if file.path.name != "metrics.csv":
        return False
    header = read_header(file)
    return header is not None and {"step", "epoch"} <= set(header.names) and "run" not in header.names


def read(files: Sequence[LogFile], names: Names, notes: Notes) -> list[LoggedRun]:
    """Read one run per file, with its hyperparameters."""
    runs = []
    for file in files:
        header = read_header(file)
        assert header is not None
        facts = read_hparams(file.path.parent, notes)
        runs += read_runs(file, header, match_columns(header, names), names, notes, file.folders, facts)
    return runs
