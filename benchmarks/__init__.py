"""Measurements of the tool itself, run from a checkout and not installed. See README.md."""
