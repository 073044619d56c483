"""True rotary embedding."""

from __future__ import annotations

import torch
from cases import tiny

from ablate_model.position.rotation import RopeEncoding, rotate_pairs

FLOAT64 = 1e-12


def scores(offset: int, length: int = 12, width: int = 8) -> torch.Tensor:
    """q . k of the same q and k at every pair of positions."""
    tables = RopeEncoding(10000.0, width).tables(offset, length, torch.device("cpu"), torch.float64)
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(width, generator=generator, dtype=torch.float64).expand(1, length, 1, width) for _ in range(2))
    return torch.einsum("bthk,bshk->ts", rotate_pairs(q, tables), rotate_pairs(k, tables))


def test_scores_depend_only_on_the_distance() -> None:
    table = scores(0)
    for distance in range(-11, 12):
        diagonal = table.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), atol=FLOAT64, rtol=FLOAT64)
    torch.testing.assert_close(scores(1000), table, atol=1e3 * FLOAT64, rtol=FLOAT64)  # angles of 1000 radians
    assert table[0].std() > 0.1  # and the products do depend on it


def test_rotation_keeps_norms() -> None:
    tables = RopeEncoding(10000.0, 8).tables(3, 5, torch.device("cpu"), torch.float64)
    x = torch.randn(2, 5, 3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(rotate_pairs(x, tables).norm(dim=-1), x.norm(dim=-1), atol=FLOAT64, rtol=FLOAT64)


def test_a_quarter_turn_by_hand() -> None:
    cos, sin = torch.zeros(1, 1, 2), torch.tensor([[[-1.0, 1.0]]])
    assert rotate_pairs(torch.tensor([[[[3.0, 5.0]]]]), (cos, sin)).flatten().tolist() == [-5.0, 3.0]


def test_the_base_is_a_knob() -> None:
    assert tiny(position={"name": "rope", "base": 640000}).position.to_dict()["base"] == 640000.0
