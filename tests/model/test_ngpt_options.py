"""nGPT's options: several spheres, norms near 1, scales per layer, gates of their own, and orthogonality losses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import scrambled, tiny, tokens

from ablate_model import GPT, ConfigError
from ablate_model.normalization.spheres import Spheres

FLOAT32, FLOAT64 = 1e-5, 1e-12


@pytest.mark.parametrize(("n", "slack"), [(3, 0.0), (1, 0.1), (2, 0.05)])
def test_every_part_of_stream_and_weights_stays_near_its_sphere(n: int, slack: float) -> None:
    model = GPT(tiny(normalization={"name": "ngpt", "num_hyperspheres": n, "norm_eps": slack}))
    optimizer = torch.optim.AdamW(model.parameter_groups(0.0), lr=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        model.loss(tokens(), tokens().roll(-1, 1)).backward()
        optimizer.step()
        model.post_step()
    assert model.unit_axes() == {}  # an optimizer's kernel would project these to plain unit vectors
    found = [(model.encode(tokens()), -1), *model.projected_axes().items()]
    assert len(found) == 2 + 2 * 6 + 1
    for x, dim in found:
        norms = x.unflatten(dim, (n, -1)).norm(dim=dim if dim < 0 else dim + 1)
        assert (norms - 1).abs().max() <= slack + FLOAT32
        assert not slack or (norms - 1).abs().max() > slack / 10  # the slack is used


def test_one_sphere_without_slack_is_the_plain_norm_and_slack_keeps_its_values() -> None:
    x = torch.randn(4, 6, dtype=torch.float64)
    x = x / x.norm(dim=-1, keepdim=True) * torch.tensor([[0.5], [0.95], [1.05], [2.0]], dtype=torch.float64)
    torch.testing.assert_close(Spheres(1, 0.1).norm(x)[1:3], x[1:3], atol=FLOAT64, rtol=0)
    norms = Spheres(1, 0.1).norm(x).norm(dim=-1)
    torch.testing.assert_close(norms, torch.tensor([0.9, 0.95, 1.05, 1.1], dtype=torch.float64), atol=FLOAT64, rtol=0)
    assert Spheres(3).norm(x).view(4, 3, 2).norm(dim=-1).allclose(torch.ones(4, 3, dtype=torch.float64))


def test_orthogonality_losses_are_the_formulas_in_training_only() -> None:
    plain = scrambled(tiny(normalization="ngpt"))
    knobs = {"branch_orthogonality": 0.5, "embedding_orthogonality": 2.0}
    model = scrambled(tiny(normalization={"name": "ngpt", **knobs}))
    ids, targets = tokens(), tokens().roll(-1, 1)
    seen = []
    for block in plain.stack.blocks:
        for residual in (block.attention_residual, block.mlp_residual):
            write = residual.write
            residual.write = lambda h, y, write=write: seen.append((h, y)) or write(h, y)
    usual = plain.loss(ids, targets)
    overlaps = [((h * y / y.norm(dim=-1, keepdim=True)).sum(-1) ** 2).mean() for h, y in seen]
    vectors = plain.embedding.weight
    pairs = [(vectors[i] @ vectors[j]) ** 2 for i in range(11) for j in range(11) if i != j]
    expected = usual + 0.5 * sum(overlaps) + 2.0 * sum(pairs) / len(pairs)
    loss = model.train().loss(ids, targets)
    torch.testing.assert_close(loss, expected, atol=FLOAT64, rtol=FLOAT64)
    wanted, got = (torch.autograd.grad(x, m.embedding.weight)[0] for x, m in ((expected, plain), (loss, model)))
    torch.testing.assert_close(got, wanted, atol=FLOAT64, rtol=FLOAT64)
    model.recompute_blocks()
    torch.testing.assert_close(torch.autograd.grad(model.loss(ids, targets), model.embedding.weight)[0], wanted)
    torch.testing.assert_close(model.eval().loss(ids, targets), usual, atol=FLOAT64, rtol=FLOAT64)


def test_options_at_their_defaults_are_not_part_of_an_identity() -> None:
    names = {"s_gate", "num_hyperspheres", "norm_eps", "branch_orthogonality", "embedding_orthogonality"}
    assert not names & tiny(normalization="ngpt").to_dict()["normalization"].keys()
    spelled = {"name": "ngpt", "norm_eps": 0.0, "s_gate": None}
    assert tiny(normalization=spelled).to_dict() == tiny(normalization="ngpt").to_dict()
    assert tiny(normalization={"name": "ngpt", "norm_eps": 0.1}).to_dict()["normalization"]["norm_eps"] == 0.1


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"alpha_attn": {"init": [0.1]}}, "normalization.alpha_attn.init: needs one value per layer, got 1 (legal: 2 val"),
    ({"s_qk": {"scale": [1.0, 0.0]}}, "normalization.s_qk.scale: must not be 0"),
    ({"s_z": {"init": [1.0, 2.0]}}, "normalization.s_z.init: the logits have one scale, so give one number"),
    ({"num_hyperspheres": 5}, "normalization.num_hyperspheres: must divide d_model = 24 (legal: 1, 2, 3, 4, 6, 8"),
    ({"norm_eps": 1.0}, "normalization.norm_eps: must be less than 1, got 1.0"),
]


@pytest.mark.parametrize(("knobs", "message"), REFUSED, ids=str)
def test_what_cannot_be_built_is_refused_at_its_place(knobs: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        tiny(normalization={"name": "ngpt", **knobs})
    assert str(refused.value).startswith(message)


def test_a_scale_of_gates_needs_gates_and_several_spheres_need_vectors_along_the_stream() -> None:
    with pytest.raises(ConfigError, match=r"^normalization.s_gate: gelu has no gates"):
        tiny(normalization={"name": "ngpt", "s_gate": {}}, mlp="gelu")
    with pytest.raises(ConfigError, match=r"^normalization.num_hyperspheres: simba has weights"):
        tiny(normalization={"name": "ngpt", "num_hyperspheres": 2}, mlp="simba")
