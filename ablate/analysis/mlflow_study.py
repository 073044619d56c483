"""A study that only MLflow knows: the runs of an experiment, whatever code made them."""

from __future__ import annotations

from ablate.analysis.curves import Results
from ablate.analysis.foreign import read_study
from ablate.analysis.foreign_names import Names
from ablate.tracking.mlflow_reader import MlflowReader


def read_mlflow_study(reader: MlflowReader, experiment: str, names: Names, command: str = "") -> Results:
    """The runs of an experiment as a study; see `foreign.read_study`.

    Raises `RecordError` where there is no such experiment, no run in it, no arm or no loss, naming what there is;
    `ResourceError` where MLflow cannot be reached.
    """
    return read_study(experiment, reader.read_logged(experiment, names.of_curves), names, "MLflow", command)
