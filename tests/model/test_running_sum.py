"""The running sum that torch.compile does not look into."""

from __future__ import annotations

import pytest
import torch

from ablate_model.kernels.running_sum import running_sum, sum_in_blocks


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_it_sums_and_differentiates_as_cumsum_does(dim: int) -> None:
    x = torch.randn(3, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.equal(running_sum(x, dim), x.cumsum(dim))
    weights = torch.randn(3, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    by_ours, by_torch = (torch.autograd.grad((y * weights).sum(), x)[0] for y in (running_sum(x, dim), x.cumsum(dim)))
    torch.testing.assert_close(by_ours, by_torch)


def test_it_is_an_operator_like_any_other() -> None:
    """The running sum of a non-contiguous tensor. torch checks shapes, strides, aliases and tracing."""
    x = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0)).transpose(0, 1).requires_grad_()
    torch.library.opcheck(running_sum, (x, 1))


def test_compiled_code_calls_it_whole() -> None:
    graphs = []

    def keep(module: torch.fx.GraphModule, _: object) -> object:
        graphs.append(module)
        return module.forward

    torch._dynamo.reset()
    torch.compile(lambda x: running_sum(x + 1, 1), fullgraph=True, backend=keep)(torch.ones(2, 3))
    targets = [str(node.target) for graph in graphs for node in graph.graph.nodes]
    assert any("ablate.running_sum" in target for target in targets)
    assert not any("cumsum" in target for target in targets)


@pytest.mark.parametrize(("shape", "dim"), [((2, 300, 3), 1), ((5, 128), -1), ((1, 3), 0)])
def test_sums_in_blocks_are_those_of_cumsum(shape: tuple[int, ...], dim: int) -> None:
    """Deterministic runs on a GPU add up in this way, because torch refuses its own kernel there."""
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(sum_in_blocks(x, dim), x.cumsum(dim))
    half = sum_in_blocks(x.bfloat16(), dim)
    assert half.dtype == torch.bfloat16 and half.is_contiguous()
    torch.testing.assert_close(half, x.bfloat16().double().cumsum(dim).bfloat16(), rtol=0.02, atol=0.02)
