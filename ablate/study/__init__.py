"""What the user declared: grid.yaml as a frozen `Study`. Pure: no torch, ray, mlflow, clock or randomness."""

from ablate.study.load import load_study, study_name
from ablate.study.schema import DataConfig, Resources, Study, TrainConfig

__all__ = ["DataConfig", "Resources", "Study", "TrainConfig", "load_study", "study_name"]
