"""`ablate bench`: how fast the arms of a study train."""
