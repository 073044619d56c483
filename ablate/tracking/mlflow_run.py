"""One training run in MLflow: its parameters, the lines of its curve, its evaluations and its state."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ablate.errors import RecordError
from ablate.tracking.evaluations import list_evaluations, read_evaluation
from ablate.tracking.folders import RunFolder
from ablate.tracking.json_files import read_mapping
from ablate.tracking.mlflow_client import PARENT_ID
from ablate.tracking.mlflow_names import EVERY_LINE, make_legal, name_metric, name_result
from ablate.tracking.study_record import State
from ablate.tracking.values import is_number

MAX_BATCH = 1000  # MLflow's limit on metrics per request
MAX_PARAMS = 100  # MLflow's limit on parameters per request
MAX_PARAM_LENGTH = 6000
LAST_STEP = "ablate.last_step"
EVALUATED = "ablate.evaluated."  # the beginning of a tag; the key of the result follows

_STATUS_OF_STATE: Mapping[State, str] = {
    "finished": "FINISHED",
    "diverged": "FINISHED",
    "failed": "FAILED",
    "queued": "KILLED",
}


class MirroredRun:
    """Knows what MLflow has of a run, and writes the rest."""

    def __init__(self, client: Any, run: Any) -> None:
        self._client, self.mlflow_id, self.status = client, run.info.run_id, run.info.status
        tags, keys = run.data.tags, run.data.metrics
        self._start_ms, self.has_parent = run.info.start_time, PARENT_ID in tags
        # The metrics of a program keep their names, and so do those that earlier versions wrote.
        self._keeps_names, self._has_params = any(key in keys for key in EVERY_LINE), False
        self._evaluated = {tag.removeprefix(EVALUATED) for tag in tags if tag.startswith(EVALUATED)}
        self.last_step = self._find_last_step(tags, keys)

    def _find_last_step(self, tags: Mapping[str, str], keys: Collection[str]) -> int:
        """Find how far MLflow has the run. The tag is one batch behind if a server died before writing it."""
        tagged = int(tags.get(LAST_STEP, -1))  # a program may begin with an evaluation at step 0
        known = next((key for key in (*EVERY_LINE, *map(name_metric, EVERY_LINE)) if key in keys), None)
        if self.status == "FINISHED" or known is None:
            return tagged
        return max(tagged, *(int(p.step) for p in self._client.get_metric_history(self.mlflow_id, known)))

    def log_params(self, folder: RunFolder, axes: Mapping[str, Any]) -> None:
        """Log the config by dotted path, once. MLflow accepts equal parameters again, as after a server died."""
        if self._has_params:
            return
        from mlflow.entities import Param

        try:
            config = _flatten("", read_mapping(folder.config))
        except RecordError:  # missing or damaged; `ablate run` reports it and writes it again
            config = {}
        self._keeps_names |= any(key.startswith("program.") for key in config)
        config |= {f"axis.{axis}": level for axis, level in axes.items()}
        params = [Param(key, str(value)[:MAX_PARAM_LENGTH]) for key, value in config.items()]
        for start in range(0, len(params), MAX_PARAMS):
            self._client.log_batch(self.mlflow_id, params=params[start : start + MAX_PARAMS])
        self._has_params = True

    def log_lines(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Log lines in requests of whole lines. A tag says how far MLflow has them."""
        from mlflow.entities import Metric, RunTag

        name = make_legal if self._keeps_names else name_metric
        points = []
        for line in lines:
            seconds = line.get("wall_s")
            moment = self._start_ms + (int(1000 * seconds) if seconds is not None and is_number(seconds) else 0)
            named = {name(key): float(value) for key, value in line.items() if key != "step" and is_number(value)}
            points.append([Metric(key, value, moment, line["step"]) for key, value in named.items()][:MAX_BATCH])
        n_lines = MAX_BATCH // max(1, *map(len, points))
        for start in range(0, len(lines), n_lines):
            batch = points[start : start + n_lines]
            step = lines[start + len(batch) - 1]["step"]
            tags = [RunTag(LAST_STEP, str(step))]
            self._client.log_batch(self.mlflow_id, metrics=[point for line in batch for point in line], tags=tags)
            self.last_step = step

    def log_evaluations(self, folder: RunFolder) -> None:
        """Log the results that MLflow does not have yet. A tag per result remembers them."""
        from mlflow.entities import Metric

        for path in list_evaluations(folder.path):
            if path.stem in self._evaluated:
                continue
            try:
                result = read_evaluation(path)
            except RecordError:
                continue
            if result.error:
                continue  # the next attempt replaces it
            moment = int(1000 * result.ended_at) or self._start_ms
            named = {make_legal(name_result(result.label, row)): row.value for row in result.rows}
            points = [Metric(key, value, moment, result.step) for key, value in named.items() if value is not None]
            log_points(self._client, self.mlflow_id, points)
            self._client.set_tag(self.mlflow_id, f"{EVALUATED}{path.stem}", result.label)
            self._evaluated.add(path.stem)

    def end(self, state: State) -> None:
        """Set the status of the run, unless it is still training."""
        status = _STATUS_OF_STATE.get(state)
        if status is not None and self.status != status:
            self._client.set_tag(self.mlflow_id, "state", state)
            self._client.set_terminated(self.mlflow_id, status)
            self.status = status


def log_points(client: Any, mlflow_id: str, points: Sequence[Any]) -> None:
    """Log metrics in requests of the size that MLflow accepts."""
    for start in range(0, len(points), MAX_BATCH):
        client.log_batch(mlflow_id, metrics=points[start : start + MAX_BATCH])


def _flatten(prefix: str, tree: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{prefix}.{key}" if prefix else key
        flat |= _flatten(path, value) if isinstance(value, Mapping) else {path: value}
    return flat
