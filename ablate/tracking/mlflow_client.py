"""Addresses of MLflow, and its client. MLflow itself is loaded only when a client is opened."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from ablate.errors import ResourceError, suggest

ALLOW_FOLDER = "MLFLOW_ALLOW_FILE_STORE"
SCHEMES = ("sqlite", "postgresql", "mysql", "mssql", "http", "https", "file", "databricks")
PARENT_ID = "mlflow.parentRunId"  # MLflow's own tag: its pages show a run below the run that this tag names

_PAGE = 1000  # runs per request
# MLflow's own retries would take minutes while a server is away, and the mirror retries by itself. MLflow also prints
# an address for each run that ends, on the standard output, which another program may read, and sends usage statistics.
_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


def open_client(uri: str, log_level: int = logging.ERROR) -> Any:
    """Load MLflow and return its client for this address."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    from mlflow.tracking import MlflowClient

    for name in ("alembic", "mlflow"):  # the import sets their levels
        logging.getLogger(name).setLevel(log_level)
    return MlflowClient(tracking_uri=uri)


def list_runs(client: Any, experiment_id: str, order_by: Sequence[str] = ()) -> list[Any]:
    """List all runs of an experiment except deleted ones; by default from the newest to the oldest."""
    runs: list[Any] = []
    token = None
    while True:
        page = client.search_runs([experiment_id], max_results=_PAGE, page_token=token, order_by=list(order_by))
        runs += page
        token = page.token
        if not token:
            return runs


def check_tracking_uri(uri: str) -> None:
    """Refuse an address whose scheme neither MLflow nor an installed plugin knows, without loading MLflow.

    Raises `ResourceError`. An address that passes may still turn out to be unreachable.
    """
    found = re.match(r"([a-z][a-z0-9.-]+)(\+[a-z0-9]+)?:", uri.lower())  # sqlite: or mysql+pymysql:; the rest are paths
    legal = (*SCHEMES, *entry_points(group="mlflow.tracking_store").names)
    if found is not None and found[1] not in legal:
        raise ResourceError(
            f"the tracking URI {redact(uri)}: MLflow has no scheme {found[1]!r}{suggest(found[1], legal)}"
        )


def sqlite_path(uri: str) -> Path | None:
    """Return the file of an SQLite database; None for any other address."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def folder_of(uri: str) -> Path | None:
    """Return the folder of files that an address names; None for a database or a server."""
    if uri.startswith("file:"):
        return Path(unquote(uri.removeprefix("file:").removeprefix("//")))
    is_path = not re.match(r"[a-z][a-z0-9.+-]+:", uri.lower()) and uri not in SCHEMES
    return Path(uri) if is_path else None


def find_mirror_obstacle(uri: str) -> str:
    """Say why MLflow accepts no runs at this address; empty if it does. Folders need an environment variable."""
    if folder_of(uri) is None or os.environ.get(ALLOW_FOLDER, "").lower() in ("true", "1"):
        return ""
    return (
        f"nothing is mirrored to MLflow: {uri} is a folder of files, which MLflow no longer accepts. Name a database "
        f"(--tracking-uri sqlite:///mlflow.db; `mlflow migrate-filestore` copies a folder into one), or set "
        f"{ALLOW_FOLDER}=true"
    )


def redact(uri: str) -> str:
    """Return the address without user name, password and query."""
    scheme, separator, rest = uri.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2].partition('?')[0]}" if separator else uri


def hide_secrets(text: str, uri: str) -> str:
    """Remove from a text what `redact` removes from the address, in every form in which an error may quote it."""
    rest = uri.partition("://")[2]
    credentials, _, place = rest.rpartition("@")
    secrets = [uri, rest, credentials, credentials.partition(":")[2], place.partition("?")[2]]
    for secret in secrets:
        for form in (secret, unquote(secret)):
            text = text.replace(form, redact(uri) if secret == uri else "***") if form else text
    return text
