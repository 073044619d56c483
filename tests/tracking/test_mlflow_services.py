"""The mirror with a real `mlflow server` that is killed during a run, and with a real PostgreSQL."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ablate.imports.mlflow import MlflowReader
from ablate.tracking.curve import CurveWriter
from ablate.tracking.folders import StudyFolder
from ablate.tracking.json_files import write_json
from ablate.tracking.mlflow_mirror import MlflowMirror
from ablate.tracking.mlflow_names import name_metric
from ablate.tracking.mlflow_run import LAST_STEP
from ablate.tracking.study_record import ArmRecord, RunRecord, Status, StudyRecord

# MLflow and SQLAlchemy use deprecated calls of their own and of each other.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

PATIENCE_S = 120.0
ARM = ArmRecord("a=1", {"a": 1}, {}, "a=1", 10, 60, 20, 100)
RECORD = StudyRecord(
    "s", "?", "full", "none", (), {"a": 1}, {"a": (1,)}, {}, {}, (ARM,), (RunRecord("0f", "a=1", 0),), "0"
)
LINES = [{"step": step, "wall_s": step / 8, "train_loss": 1 / step, "learning_rate": 0.5} for step in range(1, 21)]
PASSWORD = "hunter2"


@pytest.fixture
def store(tmp_path: Path) -> StudyFolder:
    store = StudyFolder(tmp_path / "s")
    store.write_study(RECORD)
    store.run("0f").path.mkdir()
    write_json(store.run("0f").config, {"train": {"steps": 20}})
    return store


def train(store: StudyFolder, mirror: MlflowMirror, half: int) -> None:
    """Half of the run's lines, delivered the way workers and drivers do."""
    with CurveWriter(store.run("0f").curve) as curve:
        for line in LINES[10 * half : 10 * half + 10]:
            curve.append(line)
            mirror.note_lines("0f")
    if half:
        store.run("0f").write_status(Status("finished", step=20, n_steps=20))
        mirror.note_end("0f", "finished")


def assert_has_all(uri: str) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("s")
    parent, run = sorted(client.search_runs([experiment.experiment_id]), key=lambda run: "seed" in run.data.tags)
    assert parent.info.status == "FINISHED"
    assert run.info.status == "FINISHED"
    assert run.data.params["train.steps"] == "20"
    for key in ("wall_s", "train_loss", "learning_rate"):
        points = client.get_metric_history(run.info.run_id, name_metric(key))
        assert {point.step: point.value for point in points} == {line["step"]: line[key] for line in LINES}
        assert len(points) == len(LINES)
    reader = MlflowReader(uri)
    experiment_id, runs = reader.read_runs("s")
    name = name_metric("train_loss")
    histories = reader.read_histories(experiment_id, runs, (name,)).values()
    (read,) = (history[name] for history in histories if name in history)  # the parent has none
    assert read.steps.tolist() == [line["step"] for line in LINES]
    assert read.values.tolist() == [line["train_loss"] for line in LINES]


def find_last_step(uri: str) -> int:
    """The last step of the run that MLflow has; 0 before it has the run."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("s")
    runs = client.search_runs([experiment.experiment_id]) if experiment is not None else []
    return max((int(run.data.tags.get(LAST_STEP, 0)) for run in runs), default=0)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def wait_for(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.2)


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[int, Callable[[], None], Callable[[], None]]]:
    """A port, with functions that start and kill the server on it."""
    port = free_port()
    running: list[subprocess.Popen[bytes]] = []
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path}/server.db"]

    def start() -> None:
        with (tmp_path / "server.log").open("ab") as log:
            running.append(subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, cwd=tmp_path))
        wait_for(lambda: answers(port))

    def kill() -> None:
        process = running.pop()
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    yield port, start, kill
    if running:
        kill()


def test_a_server_that_is_killed_in_mid_run_ends_up_with_all(
    store: StudyFolder,
    server: tuple[int, Callable[[], None], Callable[[], None]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    port, start, kill = server
    start()
    uri = f"http://127.0.0.1:{port}"
    mirror = MlflowMirror(uri, store, RECORD)
    train(store, mirror, 0)
    wait_for(lambda: find_last_step(uri) == 10)
    kill()
    train(store, mirror, 1)  # ends although the server only comes back later
    start()
    mirror.close(PATIENCE_S)
    if mirror.behind:
        again = MlflowMirror(uri, store, RECORD)
        again.close(PATIENCE_S)
        assert again.behind is None
    assert_has_all(uri)
    assert capsys.readouterr().out == ""


@pytest.fixture
def postgresql() -> Iterator[str]:
    """The address of a new database. PostgreSQL refuses to run as root."""
    places = [*Path("/usr/lib/postgresql").glob("*/bin"), *map(Path, os.environ["PATH"].split(os.pathsep))]
    folder = next((place for place in places if (place / "initdb").exists()), None)
    if folder is None:
        pytest.skip("no PostgreSQL on this machine; .ci/services installs it")
    pytest.importorskip("psycopg2")
    port, data = free_port(), Path("/tmp") / f"ablate-postgresql-{os.getpid()}"
    become = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []

    def call(*words: object) -> None:
        subprocess.run([*become, *map(str, words)], check=True, capture_output=True, cwd="/")

    readable = Path(f"{data}.password")
    readable.write_text(PASSWORD)
    readable.chmod(0o644)
    call(folder / "initdb", "-D", data, "-U", "ann", "--auth=scram-sha-256", f"--pwfile={readable}")
    options = f"-p {port} -k {data} -c listen_addresses=127.0.0.1"
    call(folder / "pg_ctl", "-D", data, "-w", "-l", data / "log", "-o", options, "start")
    try:
        yield f"postgresql+psycopg2://ann:{PASSWORD}@127.0.0.1:{port}/postgres"
    finally:
        call(folder / "pg_ctl", "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(data)
        readable.unlink()


def test_postgresql_gets_all_and_the_password_is_written_nowhere(store: StudyFolder, postgresql: str) -> None:
    mirror = MlflowMirror(postgresql, store, RECORD)
    train(store, mirror, 0)
    train(store, mirror, 1)
    mirror.close(PATIENCE_S)
    assert mirror.behind is None
    assert_has_all(postgresql)
    for path in store.path.rglob("*"):
        assert path.is_dir() or PASSWORD.encode() not in path.read_bytes(), path
