"""What the user declared: grid.yaml as a frozen `Study`. Pure: no torch, ray, mlflow, clock or randomness."""

from ablate.study.data_schema import DataConfig
from ablate.study.declaration import Study
from ablate.study.load import load_study, study_name
from ablate.study.overlay import Overlay, load_overlay
from ablate.study.schema import Resources, TrainConfig

__all__ = ["DataConfig", "Overlay", "Resources", "Study", "TrainConfig", "load_overlay", "load_study", "study_name"]
