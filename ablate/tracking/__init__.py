"""Everything that a run leaves behind: its folder with config, manifest, curve and status, and the MLflow mirror."""
