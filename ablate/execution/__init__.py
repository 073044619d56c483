"""Runs to processes on a Ray cluster. The driver holds no state: the plan and the run folders are enough to go on."""
