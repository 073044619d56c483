"""Read the runs of other programs as studies. Each program has one module here that fills `LoggedRun`."""
