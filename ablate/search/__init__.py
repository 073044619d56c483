"""Optuna over any dotted config path: trials are runs, so they are resumed, mirrored and packed like all others."""
