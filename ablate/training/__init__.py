"""The training loop, optimizers, checkpoints and benchmarks."""
