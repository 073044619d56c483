"""What the tool itself costs, measured. Run from a checkout; no part of the installed package. See README.md."""
