"""Results that others check and build on: verification of published reports, and leaderboards of benchmarks."""
