"""Runs that other programs logged, read as a study. Each program has one module here that fills `LoggedRun`."""
