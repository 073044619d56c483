"""The variants of a training recipe: optimizers and schedules, each in one file, and one line of a table."""
