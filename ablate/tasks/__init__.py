"""What an arm trains: one module per task, which a worker chooses by the config of the run."""
