"""The tasks that an arm can have, one module each. A worker chooses by the config of the run."""
