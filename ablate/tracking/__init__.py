"""What a run leaves behind: a folder with its config, manifest, curve, status and checkpoint, and the MLflow mirror."""
