"""Studies with `until: decided`: further seeds for the arms that the looks so far leave undecided."""
