"""One training loop that knows a model, batches and a recorder."""
