"""MLflow's database, read and prepared with SQL of our own. Everything else goes through MLflow's public client.

The statements name three tables that MLflow does not document: `experiments`, `runs` and `metrics`. They are here for
two reasons. The client returns the history of one metric of one run per request, while one statement returns a metric
of all runs. And some questions about a database have to be answered before MLflow is loaded, which takes seconds.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from ablate.errors import ResourceError
from ablate.files import check_regular, make_folder
from ablate.tracking.mlflow_client import hide_secrets, redact, sqlite_path

_HISTORIES = """
SELECT metrics.run_uuid, metrics.step, metrics.timestamp, metrics.value, metrics.is_nan
FROM metrics JOIN runs ON runs.run_uuid = metrics.run_uuid
WHERE runs.experiment_id = :experiment AND metrics.key = :key
"""


def prepare_sqlite(path: Path) -> None:
    """Create the folder of an SQLite database, and let readers read it while the mirror writes."""
    make_folder(path.parent)
    check_regular(path)
    with closing(sqlite3.connect(path, timeout=30)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")


def find_sqlite_problem(database: Path) -> str:
    """Say why MLflow cannot use this file as its SQLite database; empty if it can, or if there is no file."""
    try:
        check_regular(database)
        if not database.exists():
            return ""
        with closing(sqlite3.connect(database, timeout=1)) as connection:
            (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except (sqlite3.Error, OSError) as error:
        is_busy = getattr(error, "sqlite_errorname", "") in ("SQLITE_BUSY", "SQLITE_LOCKED")
        return "" if is_busy else f"{database}: {getattr(error, 'strerror', None) or error}"
    if found != "ok":
        return f"{database}: {found.splitlines()[-1]}"
    return f"{database}: this is not a database of MLflow" if tables and "experiments" not in tables else ""


def has_experiment(database: Path, name: str) -> bool:
    """Tell whether an SQLite database has an experiment of this name; False if it cannot be read."""
    try:
        with closing(
            sqlite3.connect(f"{Path(os.path.realpath(database)).as_uri()}?mode=rw", uri=True, timeout=1)
        ) as connection:
            return bool(connection.execute("SELECT 1 FROM experiments WHERE name = ?", (name,)).fetchone())
    except sqlite3.Error:
        return False


def check_database(uri: str) -> None:
    """Raise `ResourceError` unless a database is there and is MLflow's. MLflow itself would create what is missing."""
    path = Path(uri.removeprefix("sqlite:///").partition("?")[0])
    if uri.startswith("sqlite:") and not path.is_file():
        raise ResourceError(f"{redact(uri)}: there is no such file")
    with _connect(uri) as connection:
        from sqlalchemy import inspect

        if not inspect(connection).has_table("experiments"):
            raise ResourceError(f"{redact(uri)}: this database is not MLflow's: it has no experiments")


def read_histories(uri: str, experiment_id: str, keys: Iterable[str]) -> dict[tuple[str, str], list[Any]]:
    """Read metrics of all runs of an experiment.

    Returns rows of step, time (ms), value and whether it is nan, in no order, by the run's id and the metric's name.
    """
    from sqlalchemy import text

    found: dict[tuple[str, str], list[Any]] = {}
    with _connect(uri) as connection:
        for key in keys:
            parameters = {"experiment": int(experiment_id), "key": key}
            # Rows come from the driver's own cursor, because wrapping them in SQLAlchemy's takes longer than the query.
            for row in connection.execute(text(_HISTORIES), parameters).cursor.fetchall():
                found.setdefault((row[0], key), []).append(row[1:])
    return found


def explain(error: Exception, uri: str) -> str:
    """Describe in one line, without secrets, what MLflow raised. A damaged database is named with its remedy."""
    text = (hide_secrets(f"{type(error).__name__}: {error}", uri).splitlines() or [""])[0]
    database = sqlite_path(uri)
    if database is None or not (problem := find_sqlite_problem(database)):
        return text
    return f"{problem}; it is a copy of the curves, so nothing is lost: move it away, and `ablate run` writes it again"


def _connect(uri: str) -> Any:
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    return create_engine(uri, poolclass=NullPool).connect()
