"""Run `ablate` in a subprocess, and read what it left behind."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil

from ablate.tracking.curve import read_curve
from ablate.tracking.folders import StudyFolder
from ablate.tracking.mlflow_names import name_metric

TIMES = frozenset({"wall_s", "tokens_per_s"})
PATIENCE_S = 120.0

Curves = dict[str, list[dict[str, Any]]]


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "ablate", *map(str, arguments)]


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=PATIENCE_S, check=False)


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_until(happened: Callable[[], Any], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not happened():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.02)


def is_in_mid_run(runs: Path) -> bool:
    """True if a run has a checkpoint and has trained further."""
    checkpoints = list(runs.glob("tiny/*/checkpoint.pt"))
    return any(len(read_curve(path.with_name("curve.jsonl"))) > 3 for path in checkpoints)


def children(process: subprocess.Popen[str], *words: str) -> list[psutil.Process]:
    """The descendants of this process with one of these words in their name or command line."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            text = f"{child.name()} {' '.join(child.cmdline())}"
        except psutil.Error:
            continue
        if any(word in text for word in words):
            found.append(child)
    return found


def curves(store: StudyFolder) -> Curves:
    """Curves by run, without values that depend on the clock."""
    return {
        entry.run_id: [
            {key: value for key, value in record.items() if key not in TIMES}
            for record in read_curve(store.run(entry.run_id).curve)
        ]
        for entry in store.read_study().runs
    }


def mirrored(database: Path) -> Mapping[str, dict[str, Any]]:
    """The contents of the MLflow database by run_id: tags, parameters, points."""
    with sqlite3.connect(database) as connection:
        tags = connection.execute("SELECT run_uuid, key, value FROM tags").fetchall()
        params = connection.execute("SELECT run_uuid, key, value FROM params").fetchall()
        points = connection.execute("SELECT run_uuid, key, step, value FROM metrics").fetchall()
        alive = {row[0] for row in connection.execute("SELECT run_uuid FROM runs WHERE lifecycle_stage = 'active'")}
    connection.close()
    by_uuid = {uuid: value for uuid, key, value in tags if key == "run_id" and uuid in alive}
    assert len(set(by_uuid.values())) == len(by_uuid), "a run stands twice"
    result: dict[str, dict[str, Any]] = {value: {"tags": {}, "params": {}, "points": []} for value in by_uuid.values()}
    for uuid, key, value in tags:
        if uuid in by_uuid:
            result[by_uuid[uuid]]["tags"][key] = value
    for uuid, key, value in params:
        if uuid in by_uuid:
            result[by_uuid[uuid]]["params"][key] = value
    for uuid, key, step, value in points:
        if uuid in by_uuid:
            result[by_uuid[uuid]]["points"].append((key, step, value))
    return result


def assert_is_mirrored(store: StudyFolder) -> None:
    """Check that MLflow has every point of every curve exactly once."""
    found = mirrored(store.mlflow_database)
    runs = store.read_study().runs
    assert len(found) == len(runs)
    for entry in runs:
        expected = {
            (name_metric(key), record["step"]): value
            for record in read_curve(store.run(entry.run_id).curve)
            for key, value in record.items()
            if key != "step" and value is not None
        }
        points = found[entry.run_id]["points"]
        assert sorted((key, step) for key, step, _ in points) == sorted(expected)
        for key, step, value in points:
            if key not in map(name_metric, TIMES):
                assert expected[key, step] == value
