"""Optuna searches over any dotted config path. Trials are runs: they are resumed, mirrored and packed like others."""
