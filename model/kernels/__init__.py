"""Backends of the operations that dominate a training step."""
