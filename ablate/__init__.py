"""ablate: declare an ablation study, train it, and learn whether the change helps, by how much, and how surely."""

__version__ = "0.1.0"
