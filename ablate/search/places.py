"""Where the values of a search stand. A search is checked as a study, whose axes come from `arm` and `space`."""

from __future__ import annotations

from dataclasses import dataclass

from ablate.study.yaml_source import KeyPath, Source


@dataclass(frozen=True)
class SearchSource(Source):
    """Points at `space`, `arm` and `budget` where a study would point at its matrix, conditions and `train`.

    `prefix` is empty for a search.yaml and `("tune",)` for a grid, whose own axes stay where they are.
    """

    prefix: KeyPath = ()
    space: frozenset[str] = frozenset()
    budget: frozenset[str] = frozenset()

    def locate(self, path: KeyPath) -> str:
        match path:
            case ("matrix", axis, *_) if axis in self.space:
                path = (*self.prefix, "space", axis)
            case ("matrix", axis, *_) if not self.prefix:
                path = ("arm", axis)
            case ("conditions", axis) if axis in self.space:
                path = (*self.prefix, "space", axis, "when")
            case ("sampler" | "trials",):
                path = (*self.prefix, *path)
            case ("train", key) if key in self.budget:
                path = (*self.prefix, "budget", key)
            case _:
                pass
        return super().locate(path)
