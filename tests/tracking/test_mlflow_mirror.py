"""The mirror against an MLflow on SQLite that is away, locked, or dies between two requests."""

from __future__ import annotations

import os
import re
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from ablate.cli.inputs import resolve_tracking_uri
from ablate.errors import ResourceError
from ablate.tracking.curve import CurveWriter
from ablate.tracking.evaluations import EvaluationRecord, EvaluationRow, write_evaluation
from ablate.tracking.folders import StudyFolder
from ablate.tracking.json_files import write_json
from ablate.tracking.mlflow_client import SCHEMES, check_tracking_uri, find_mirror_obstacle, hide_secrets, redact
from ablate.tracking.mlflow_database import explain, has_experiment
from ablate.tracking.mlflow_mirror import MlflowMirror, is_complete
from ablate.tracking.mlflow_names import name_metric
from ablate.tracking.mlflow_writer import MlflowWriter, publish
from ablate.tracking.study_record import ArmRecord, RunRecord, SeedRule, State, Status, StudyRecord

# MLflow and SQLAlchemy use deprecated calls of their own and of each other.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.timeout(120),
]

ARM = ArmRecord("a=1", {"a": 1}, {}, "a=1", 10, 60, 20, 100)
RECORD = StudyRecord(
    "s", "?", "full", "none", (), {"a": 1}, {"a": (1,)}, {}, {}, (ARM,), (RunRecord("0f", "a=1", 0),), "0"
)
LINES = [{"step": step, "wall_s": step / 8, "train_loss": 1 / step, "learning_rate": 0.5} for step in range(1, 21)]


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database, made once because it takes seconds."""
    path = tmp_path_factory.mktemp("mlflow") / "empty.db"
    MlflowWriter(f"sqlite:///{path}", RECORD)
    return path


@pytest.fixture
def store(tmp_path: Path, database: Path) -> StudyFolder:
    """A study with one finished run, and an MLflow that does not have it yet."""
    store = StudyFolder(tmp_path / "s")
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(store.mlflow_database)) as copy:
        source.backup(copy)
    store.write_study(RECORD)
    folder = store.run("0f")
    folder.path.mkdir()
    write_json(folder.config, {"train": {"steps": 20}})
    with CurveWriter(folder.curve) as curve:
        for line in LINES:
            curve.append(line)
    folder.write_status(Status("finished", step=20, n_steps=20))
    return store


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ablate.tracking.mlflow_mirror.RETRY_S", 0.1)


def uri(store: StudyFolder) -> str:
    return f"sqlite:///{store.mlflow_database}"


def points(store: StudyFolder) -> Counter[tuple[str, int]]:
    with sqlite3.connect(store.mlflow_database) as connection:
        rows = connection.execute(
            "SELECT m.key, m.step FROM metrics m JOIN runs r USING (run_uuid) WHERE r.lifecycle_stage = 'active'"
        ).fetchall()
    connection.close()
    return Counter(row for row in rows if not row[0].startswith(("arms/", "final_")))


def assert_has_all(store: StudyFolder) -> None:
    expected = {(name_metric(key), line["step"]) for line in LINES for key in line if key != "step"}
    assert points(store) == Counter(dict.fromkeys(expected, 1))


def mirror_all(store: StudyFolder, patience_s: float = 60.0) -> MlflowMirror:
    mirror = MlflowMirror(uri(store), store, RECORD)
    mirror.close(patience_s)
    return mirror


def test_a_batch_that_arrived_without_its_answer_is_not_written_twice(
    store: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient

    log, create, failures = MlflowClient.log_batch, MlflowClient.create_run, iter([True, False, True, True])

    def log_and_die(self, run_id, **content):
        log(self, run_id, **{key: value for key, value in content.items() if key != "tags"})
        if next(failures, False):
            raise ConnectionResetError("the server went away")
        log(self, run_id, **content)

    def create_and_die(self, *arguments, **options):
        made = create(self, *arguments, **options)
        if next(failures, False):
            raise ConnectionResetError("the server went away")
        return made

    monkeypatch.setattr(MlflowClient, "log_batch", log_and_die)
    monkeypatch.setattr(MlflowClient, "create_run", create_and_die)
    attempts = 1
    while mirror_all(store).behind:
        attempts += 1
    assert attempts > 1
    assert_has_all(store)


def test_a_locked_database_is_waited_for(store: StudyFolder) -> None:
    mirror_all(store)
    folder = store.run("0f")
    with CurveWriter(folder.curve) as curve:
        assert curve.rewind(0, 0)
        for line in LINES:
            curve.append(line)
    holder = sqlite3.connect(store.mlflow_database)
    holder.execute("BEGIN EXCLUSIVE")
    mirror = MlflowMirror(uri(store), store, RECORD)
    time.sleep(1.0)
    holder.rollback()
    holder.close()
    mirror.close()
    assert mirror.behind is None
    assert_has_all(store)


def test_an_mlflow_that_is_away_holds_nobody_up_and_names_no_secret(store: StudyFolder) -> None:
    address = "http://somebody:hunter2@127.0.0.1:9/?token=tell"
    mirror = MlflowMirror(address, store, RECORD)
    for _ in LINES:
        mirror.note_lines("0f")  # it would retry for minutes if it asked MLflow
    mirror.close(15.0)
    assert mirror.behind is not None
    assert "hunter2" not in mirror.behind
    assert "127.0.0.1:9" in mirror.behind
    assert mirror_all(store).behind is None  # later, in another MLflow: all of it
    assert_has_all(store)


def test_the_kinds_of_addresses_are_those_that_mlflow_knows() -> None:
    from mlflow.tracking._tracking_service.utils import _tracking_store_registry as known

    assert set(known._registry) - {"", "uc", "databricks-uc"} == set(SCHEMES)  # those two hold models, not runs
    for uri in (
        "mlruns",
        "databricks",
        "mysql+pymysql://a@b/c",
        "HTTP://[host",
        "./a:b",
        *(f"{name}://x" for name in SCHEMES),
    ):
        check_tracking_uri(uri)


@pytest.mark.parametrize("uri", ["./mlruns", "mlruns", "file:./mlruns", "file:///tmp/mlruns", "/tmp/mlruns"])
def test_of_a_folder_of_files_it_is_known_at_once_that_mlflow_accepts_nothing(
    uri: str, store: StudyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.rglob("*"))
    obstacle = find_mirror_obstacle(uri)
    assert uri in obstacle and "mlflow migrate-filestore" in obstacle and "MLFLOW_ALLOW_FILE_STORE=true" in obstacle
    mirror = MlflowMirror(uri, store, store.read_study())
    mirror.note_lines("0f")
    mirror.close()
    assert mirror.behind is None and set(tmp_path.rglob("*")) == before
    assert publish(uri, store.read_study(), {}, {}, "") == obstacle
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    assert find_mirror_obstacle(uri) == ""


@pytest.mark.parametrize(
    "uri", ["sqlite:///a.db", "http://host", "databricks", "databricks://profile", "mysql+pymysql://a/b"]
)
def test_a_database_or_a_server_is_no_folder(uri: str) -> None:
    assert find_mirror_obstacle(uri) == ""


@pytest.mark.parametrize("uri", ["foo://ann:hunter2@host/x", "htp://host", "postgres://db", "sqlite3:///a.db"])
def test_an_address_that_mlflow_cannot_have_is_refused(uri: str) -> None:
    with pytest.raises(ResourceError, match=f"{uri[:3]}.*legal: sqlite, postgresql") as caught:
        check_tracking_uri(uri)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql://ann:s%40cret@db:5432/mlflow?sslpassword=x1", "postgresql://db:5432/mlflow"),
        ("sqlite:////data/mlflow.db", "sqlite:////data/mlflow.db"),
        ("http://host:5000", "http://host:5000"),
        ("databricks", "databricks"),
    ],
)
def test_addresses_are_shown_without_secrets(uri: str, shown: str) -> None:
    assert redact(uri) == shown


def test_an_error_is_shown_without_secrets() -> None:
    uri = "postgresql://ann:s%40cret@db:5432/mlflow?sslpassword=x1"
    text = hide_secrets(f"cannot reach {uri}: wrong password s@cret or s%40cret, sslpassword=x1", uri)
    assert text == "cannot reach postgresql://db:5432/mlflow: wrong password *** or ***, ***"


def test_a_writer_made_anew_knows_what_is_there(store: StudyFolder) -> None:
    mirror_all(store)
    writer = MlflowWriter(uri(store), RECORD)
    assert {run_id: (run.last_step, run.status) for run_id, run in writer.runs.items()} == {"0f": (20, "FINISHED")}


def test_results_of_evaluations_are_written_once(store: StudyFolder) -> None:
    rows = (EvaluationRow("accuracy", 0.5, 10, {"needles": 2}), EvaluationRow("accuracy", None, 0, {"needles": 4}))
    result = EvaluationRecord("needle", "needle samples=3", 1, "w", 20, rows=rows)
    write_evaluation(store.run("0f"), "a" * 16, result)
    write_evaluation(store.run("0f"), "b" * 16, replace(result, rows=(), error="no luck"))
    for _ in range(2):
        MlflowWriter(uri(store), RECORD).catch_up(RECORD.runs[0], ARM, store)
    found = {key: n for key, n in points(store).items() if key[0].startswith("eval/")}
    assert found == {("eval/needle samples-3/accuracy/needles 2", 20): 1}


@pytest.mark.parametrize("name", ["x//y", "", "..", "/x", "x/", "a/./b", "acc@1", "x" * 300, "/" * 300])
def test_a_metric_of_any_name_reaches_mlflow(store: StudyFolder, name: str) -> None:
    rows = (EvaluationRow(name, 0.25, 1), EvaluationRow("fine", 0.5, 1))
    write_evaluation(store.run("0f"), "a" * 16, EvaluationRecord("own", "own", 1, "w", 20, rows=rows))
    MlflowWriter(uri(store), RECORD).catch_up(RECORD.runs[0], ARM, store)
    found = [key for key, _ in points(store) if key.startswith("eval/")]
    assert len(found) == 2 and "eval/own/fine" in found


def test_a_run_that_is_announced_later_is_mirrored_too(store: StudyFolder) -> None:
    mirror = MlflowMirror(uri(store), store, replace(RECORD, arms=(), runs=()))
    for _ in range(2):  # a driver that restarts it announces it again
        mirror.announce(RECORD.runs[0], ARM)
    mirror.note_lines("0f")
    mirror.note_end("0f", "finished")
    mirror.close()
    assert mirror.behind is None
    assert_has_all(store)
    assert MlflowWriter(uri(store), RECORD).runs["0f"].status == "FINISHED"


def write_run(store: StudyFolder, run_id: str, losses: Mapping[int, float], state: State = "finished") -> None:
    folder = store.run(run_id)
    folder.path.mkdir(exist_ok=True)
    write_json(folder.config, {})
    with CurveWriter(folder.curve) as curve:
        curve.rewind(0, 0)
        for step, loss in losses.items():
            curve.append({"step": step, "wall_s": step, "val_loss": loss})
    folder.write_status(Status(state, step=max(losses), n_steps=20))


def read_means(store: StudyFolder) -> dict[str, list[tuple[int, float]]]:
    """The points of the parent run by metric, in order of steps. A point that is there twice is listed twice."""
    client = MlflowWriter(uri(store), RECORD).client
    experiment = client.get_experiment_by_name("s").experiment_id
    (parent,) = (run for run in client.search_runs([experiment]) if "ablate.parent_of" in run.data.tags)
    histories = {key: client.get_metric_history(parent.info.run_id, key) for key in parent.data.metrics}
    return {key: sorted((point.step, point.value) for point in points) for key, points in histories.items()}


def read_statuses(store: StudyFolder) -> Counter[str]:
    client = MlflowWriter(uri(store), RECORD).client
    runs = client.search_runs([client.get_experiment_by_name("s").experiment_id])
    return Counter(run.info.status for run in runs)


def test_the_parent_run_has_the_mean_of_each_arm_once(store: StudyFolder) -> None:
    seeds = (RunRecord("10", "a=1", 0), RunRecord("11", "a=1", 1))
    record = replace(RECORD, runs=seeds)

    def mirror(record: StudyRecord) -> None:
        for _ in range(2):
            mirror = MlflowMirror(uri(store), store, record)
            mirror.close()
            assert mirror.behind is None

    write_run(store, "10", {10: 4.0, 20: 2.0})
    mirror(record)
    assert read_means(store) == {}  # one seed is no mean of two
    write_run(store, "11", {10: 5.0}, "running")
    mirror(record)
    assert read_means(store) == {"arms/a-1: mean val_loss of 2 seeds": [(10, 4.5)]}
    write_run(store, "11", {10: 5.0, 20: 3.0})
    mirror(record)
    complete = {"arms/a-1: mean val_loss of 2 seeds": [(10, 4.5), (20, 2.5)], "final_loss/a-1": [(0, 2.5)]}
    assert read_means(store) == complete
    for _ in range(2):
        assert publish(uri(store), record, {}, {"final_loss/a=1": 2.5, "speedup/tokens/a=1": 1.5}, "") == ""
    complete["speedup/tokens/a-1"] = [(0, 1.5)]
    assert read_means(store) == complete

    # A run that the study gave up takes part in no mean, and does not keep the study from being finished.
    write_run(store, "12", {10: 9.0}, "queued")
    open_arms = replace(record, runs=(*seeds, RunRecord("12", "a=1", 2)), seed_rule=SeedRule(2, 3))
    given_up = MlflowMirror(uri(store), store, open_arms)
    given_up.withdraw("12")
    given_up.close()
    assert given_up.behind is None and is_complete(uri(store), store, record)
    assert read_means(store) == complete and read_statuses(store) == {"FINISHED": 3, "KILLED": 1}

    # Other runs of the arm, such as those of a longer training, do not continue its curve.
    write_run(store, "20", {10: 6.0, 30: 1.0})
    write_run(store, "21", {10: 8.0, 30: 2.0}, "diverged")
    longer = replace(RECORD, runs=(RunRecord("20", "a=1", 0), RunRecord("21", "a=1", 1)))
    mirror(longer)
    complete["arms/a-1: mean val_loss of 2 seeds set 2"] = [(10, 7.0), (30, 1.5)]
    assert read_means(store) == complete
    mirror(record)
    assert read_means(store) == complete

    # The trials of a search are not averaged.
    write_run(store, "30", {10: 6.0})
    mirror(replace(RECORD, runs=(RunRecord("30", "a=1", 7),), tuning={"space": {}}))
    assert read_means(store) == complete


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _other_program(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE notes (x)")


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("damage", "is_named"),
    [
        (_cut, True),
        (_other_program, True),
        (lambda path: path.write_bytes(b"junk" * 1000), True),
        (lambda path: (path.unlink(), path.mkdir()), True),
        (lambda path: (path.unlink(), os.mkfifo(path)), True),
        (lambda path: (path.unlink(), path.symlink_to(path.name)), True),
        (lambda path: path.write_bytes(b""), False),  # MLflow fills it
        (Path.unlink, False),
        (Path.exists, False),
    ],
    ids=["cut", "other", "junk", "folder", "fifo", "loop", "empty", "gone", "whole"],
)
def test_a_damaged_database_named_no_remedy(tmp_path: Path, damage: Callable[[Path], object], is_named: bool) -> None:
    path = tmp_path / "mlflow.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE experiments (name)")
        connection.executemany("INSERT INTO experiments VALUES (?)", [("x" * 100,)] * 1000)
        connection.commit()
    damage(path)
    text = explain(RuntimeError("it failed"), f"sqlite:///{path}")
    remedy = (
        f"{path}: .*; it is a copy of the curves, so nothing is lost: move it away, and `ablate run` writes it again"
    )
    assert bool(re.fullmatch(remedy, text)) == is_named
    assert is_named or text == "RuntimeError: it failed"


def test_a_loop_of_links_in_place_of_the_database_ended_in_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    store = StudyFolder(tmp_path / "s")
    store.mlflow_database.symlink_to(store.mlflow_database.name)
    assert resolve_tracking_uri(None, store) == f"sqlite:///{store.mlflow_database}"
    assert not has_experiment(store.mlflow_database, "s")
