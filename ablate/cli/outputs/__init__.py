"""What `--json` prints: one module per group of verbs.

Later versions may add keys; they do not rename, remove or reuse one.
"""
